"""How many transfers may run at once, in all and to one host."""

from __future__ import annotations

import asyncio
from collections import deque
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
        self._total = _Gate(total)
        self._per_host = per_host
        self._hosts: dict[str, _Host] = {}

    def hold(self, host: str) -> Slot:
        """Holds one slot for this host while the block runs."""
        return Slot(self._hosts, host, self._per_host, self._total)


class _Gate:
    """A semaphore that costs next to nothing while it is open: what is given back goes to who waits longest."""

    __slots__ = ("_free", "_waiting")

    def __init__(self, free: int) -> None:
        self._free = free
        self._waiting: deque[asyncio.Future[None]] | None = None

    def is_passed(self) -> bool:
        """Takes a place if there is one; nobody waits then."""
        if not self._free:
            return False
        self._free -= 1
        return True

    async def passed(self) -> None:
        """Waits for a place."""
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._waiting is None:
            self._waiting = deque()
        self._waiting.append(place)
        try:
            await place
        except BaseException:
            if place.done() and not place.cancelled():  # it came, but nobody is there any more
                self.give_back()
            elif place in self._waiting:
                self._waiting.remove(place)
            raise

    def give_back(self) -> None:
        """Gives a place back."""
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                return
        self._free += 1


class _Host(_Gate):
    __slots__ = ("users",)

    def __init__(self, slots: int) -> None:
        super().__init__(slots)
        self.users = 0


class Slot:
    """One slot; a block that holds it, written out since most requests pass through two of them."""

    __slots__ = ("_host", "_hosts", "_known", "_per_host", "_total")

    def __init__(self, hosts: dict[str, _Host], host: str, per_host: int, total: _Gate) -> None:
        self._hosts = hosts
        self._host = host
        self._per_host = per_host
        self._total = total

    def is_taken_at_once(self) -> bool:
        """Holds the slot without a block if nobody has to be waited for; then `give_back` ends that."""
        known = self._users_of_host()
        if known.is_passed():
            if self._total.is_passed():
                return True
            known.give_back()
        self._leave(known)
        return False

    def _users_of_host(self) -> _Host:
        """Counts as one of the host's users."""
        known = self._hosts.get(self._host)
        if known is None:
            known = self._hosts[self._host] = _Host(self._per_host)
        self._known = known
        known.users += 1
        return known

    async def __aenter__(self) -> None:
        known = self._users_of_host()
        try:
            if not known.is_passed():
                await known.passed()
            try:
                if not self._total.is_passed():
                    await self._total.passed()
            except BaseException:
                known.give_back()
                raise
        except BaseException:
            self._leave(known)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.give_back()

    def give_back(self) -> None:
        """Lets the next one have the slot."""
        self._total.give_back()
        self._known.give_back()
        self._leave(self._known)

    def _leave(self, known: _Host) -> None:
        known.users -= 1
        if not known.users:
            self._hosts.pop(self._host, None)  # nothing is kept of hosts nobody talks to
