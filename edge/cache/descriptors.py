"""File descriptors: how many this process may have, and what they are for."""

from __future__ import annotations

import resource
from dataclasses import dataclass
from typing import Final

from cdn.telemetry import event

RESERVED: Final = 512
"""For cached files, upstreams, other workers and the operator."""
_ENOUGH: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class DescriptorShares:
    """What descriptors are for, so that clients never take the last one.

    Args:
        connections: for connections.
        second_sockets: for second descriptors of those that get files.
    """

    connections: int
    second_sockets: int

    @classmethod
    def of(cls, count: int, connections_max: int) -> DescriptorShares:
        """Shares out so many, among as many connections as are wanted if there is room."""
        room = max(count - RESERVED, count // 2)
        connections = min(connections_max, room * 3 // 4)
        return cls(connections, room - connections)


def descriptors_max() -> int:
    """How many this process may have now."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _ENOUGH if soft == resource.RLIM_INFINITY else soft


def take_all_descriptors(connections_max: int) -> None:
    """Raises the soft limit as far as the hard one, and warns if that is not enough for all clients.

    Args:
        connections_max: how many connections there may be.
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    count = descriptors_max()
    connections = DescriptorShares.of(count, connections_max).connections
    if connections < connections_max:
        reason = f"{count} file descriptors are enough for {connections} of {connections_max} connections"
        event(
            "edge.descriptors.few",
            level="warning",
            reason=f"{reason}; raise LimitNOFILE or lower connections_max",
        )
