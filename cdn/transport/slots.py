"""How many transfers may run at once, in all and to one host."""

from __future__ import annotations

import asyncio
from types import TracebackType


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
        self._hosts: dict[str, _Host] = {}

    def hold(self, host: str) -> Slot:
        """Holds one slot for this host while the block runs."""
        return Slot(self._hosts, host, self._per_host, self._total)


class _Host:
    __slots__ = ("semaphore", "users")

    def __init__(self, slots: int) -> None:
        self.semaphore = asyncio.Semaphore(slots)
        self.users = 0


class Slot:
    """One slot; a block that holds it, written out since most requests pass through two of them."""

    __slots__ = ("_host", "_hosts", "_known", "_per_host", "_total")

    def __init__(self, hosts: dict[str, _Host], host: str, per_host: int, total: asyncio.Semaphore) -> None:
        self._hosts = hosts
        self._host = host
        self._per_host = per_host
        self._total = total

    async def __aenter__(self) -> None:
        known = self._hosts.get(self._host)
        if known is None:
            known = self._hosts[self._host] = _Host(self._per_host)
        self._known = known
        known.users += 1
        try:
            await known.semaphore.acquire()
            try:
                await self._total.acquire()
            except BaseException:
                known.semaphore.release()
                raise
        except BaseException:
            self._leave(known)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._total.release()
        self._known.semaphore.release()
        self._leave(self._known)

    def _leave(self, known: _Host) -> None:
        known.users -= 1
        if not known.users:
            self._hosts.pop(self._host, None)  # nothing is kept of hosts nobody talks to
