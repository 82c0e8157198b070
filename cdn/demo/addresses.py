"""Addresses and ports on loopback that nobody uses."""

from __future__ import annotations

import random
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Final

from cdn.demo.report import DemoFailedError

PORTS: Final = range(10_240, 32_000)
"""Below the ports that systems give to outgoing connections, so that none of ours takes a port between two starts."""
_ATTEMPTS: Final = 200


def check_addresses(addresses: Sequence[str]) -> None:
    """Makes sure that this machine has all the loopback addresses.

    Raises:
        DemoFailedError: it has not; what can be done is said.
    """
    missing = [address for address in addresses if not _has(address)]
    if missing:
        advice = "; ".join(f"sudo ifconfig lo0 alias {address} up" for address in missing)
        raise DemoFailedError(
            f"this machine does not listen on {', '.join(missing)}, which the edges need: Linux has all of 127.0.0.0/8 "
            f"by itself; on macOS and BSD run `{advice}` once"
        )


def free_port(addresses: Sequence[str], *, datagrams: bool = False) -> int:
    """A port that is free on all the addresses, for now.

    Args:
        addresses: where it is needed.
        datagrams: whether UDP is needed besides TCP.

    Raises:
        DemoFailedError: there is none.
    """
    kinds = (socket.SOCK_STREAM, socket.SOCK_DGRAM) if datagrams else (socket.SOCK_STREAM,)
    for _ in range(_ATTEMPTS):
        port = random.choice(PORTS)
        if all(_is_free(address, port, kind) for address in addresses for kind in kinds):
            return port
    raise DemoFailedError(f"no port was found that is free on {', '.join(addresses)}")


def _is_free(address: str, port: int, kind: socket.SocketKind) -> bool:
    with ExitStack() as stack:
        probe = stack.enter_context(socket.socket(socket.AF_INET, kind))
        try:
            probe.bind((address, port))
        except OSError:
            return False
        return True


def _has(address: str) -> bool:
    return _is_free(address, 0, socket.SOCK_STREAM)
