"""Looks up host names that strangers mention, within bounds: so many at once, so long each, so many remembered."""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol

from cdn.clock import Clock
from geodns.geo import packed_address

NAMES_KEPT_MAX: Final = 10_000
KEPT_SECONDS: Final = 3600.0
FAILURE_KEPT_SECONDS: Final = 300.0


class NameLookup(Protocol):
    """Says which addresses a host name has."""

    async def addresses(self, name: str) -> tuple[bytes, ...]:
        """Returns packed addresses, IPv4 first; none where there is no such name or no answer in time."""
        ...


class SystemNameLookup:
    """Asks the system's resolver (and so the hosts file), in threads of its own, and remembers what it said.

    Args:
        clock: for forgetting.
        timeout_seconds: how long to wait, the wait for a free thread included.
        concurrent_max: how many threads.
    """

    def __init__(self, clock: Clock, *, timeout_seconds: float, concurrent_max: int) -> None:
        self._clock = clock
        self._timeout_seconds = timeout_seconds
        self._at_once = asyncio.Semaphore(concurrent_max)
        self._threads = ThreadPoolExecutor(concurrent_max, thread_name_prefix="geodns-lookup")
        self._kept: dict[str, tuple[float, tuple[bytes, ...]]] = {}
        self.count = 0

    async def addresses(self, name: str) -> tuple[bytes, ...]:
        """Returns packed addresses, IPv4 first; none where there is no such name or no answer in time."""
        expiry, kept = self._kept.get(name, (0.0, ()))
        if expiry > self._clock.monotonic():
            return kept
        found = await self._ask(name)
        lifetime_seconds = KEPT_SECONDS if found else FAILURE_KEPT_SECONDS
        self._kept.pop(name, None)
        if len(self._kept) >= NAMES_KEPT_MAX:
            del self._kept[next(iter(self._kept))]  # the one kept longest
        self._kept[name] = (self._clock.monotonic() + lifetime_seconds, found)
        return found

    async def _ask(self, name: str) -> tuple[bytes, ...]:
        try:
            async with asyncio.timeout(self._timeout_seconds), self._at_once:
                self.count += 1
                loop = asyncio.get_running_loop()
                found = await loop.run_in_executor(self._threads, _system_addresses, name)
        except (TimeoutError, OSError, UnicodeError):
            return ()
        return tuple(sorted(found, key=len))

    def close(self) -> None:
        """Lets the threads end; one that still waits for a resolver is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _system_addresses(name: str) -> tuple[bytes, ...]:
    entries = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(packed_address(str(entry[4][0])) for entry in entries))
