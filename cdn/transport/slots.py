"""How many transfers may run at once, in all and to one host."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class HostSlots:
    """Lets through only so many holders at a time; the others wait, in the order they came.

    This is done here and not by the connection pool, so that waiting for one's turn does not count as waiting for the
    peer.

    Args:
        total: how many may hold a slot at once.
        per_host: how many of them for the same host.
    """

    def __init__(self, total: int, per_host: int) -> None:
        self._total = asyncio.Semaphore(total)
        self._per_host = per_host
        self._hosts: dict[str, tuple[asyncio.Semaphore, set[object]]] = {}

    @asynccontextmanager
    async def hold(self, host: str) -> AsyncIterator[None]:
        """Holds one slot for this host while the block runs."""
        semaphore, users = self._hosts.setdefault(host, (asyncio.Semaphore(self._per_host), set()))
        user = object()
        users.add(user)
        try:
            async with semaphore, self._total:
                yield
        finally:
            users.discard(user)
            if not users:
                self._hosts.pop(host, None)  # nothing is kept of hosts nobody talks to
