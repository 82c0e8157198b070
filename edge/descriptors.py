"""File descriptors: how many this process may have, and what they are for."""

from __future__ import annotations

import resource
from typing import Final

from cdn.telemetry import event

RESERVED: Final = 512
"""For cached files, upstreams, other workers and the operator."""


def take_all_descriptors(connections_max: int) -> None:
    """Raises the soft limit as far as the hard one, and warns if that is not enough for all clients.

    Args:
        connections_max: how many clients there may be.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard not in {soft, resource.RLIM_INFINITY}:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if (count := descriptors_max()) < connections_max + RESERVED:
        reason = f"{count} file descriptors are too few for {connections_max} connections; raise LimitNOFILE"
        event("edge.descriptors.few", level="warning", reason=reason)


def descriptors_max() -> int:
    """How many this process may have now."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def second_sockets_max(connections_max: int, count: int | None = None) -> int:
    """How many connections may have a second descriptor, so that enough are left for all others.

    Args:
        connections_max: how many connections there may be.
        count: how many descriptors there may be; those of this process if None.
    """
    count = descriptors_max() if count is None else count
    return max(count - RESERVED - connections_max, count // 4)
