"""Finding the addresses of servers that may move while a long-lived process runs: DNS with its own lifetimes.

Answers live as long as their TTL says, within bounds. When no answer comes, the last one goes on being used for a while
(RFC 8767), so a name server that is down takes no upstream with it. What DNS does not know, the system's resolver is
asked for: it may have other sources. Many who need the same name cause one question.

aiodns is asked first and not the system's resolver, which tells no TTL and occupies a thread; where aiodns is not
installed or cannot start, the system's resolver is all there is.
"""

from __future__ import annotations

import asyncio
import functools
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cdn.clock import Clock, SystemClock
from cdn.telemetry import event

if TYPE_CHECKING:
    import aiodns

SYSTEM_SECONDS: Final = 30.0
"""How long an answer of the system's resolver is used, which says nothing about that."""


@dataclass(frozen=True, slots=True)
class ResolvingSettings:
    """Limits of a `CachingResolver`.

    Args:
        seconds_min, seconds_max: an answer is used no shorter and no longer, whatever its TTL.
        stale_seconds: how much longer while no new answer comes.
        patience_seconds: how long a new answer is waited for where there is a stale one.
        retry_seconds: how long a stale answer is given before DNS is asked again.
        names_max: how many names are remembered.
        timeout_seconds, tries: how long one name server is waited for, and how often it is asked.
        name_servers: with their ports; those of the system if empty.
    """

    seconds_min: float = 1.0
    seconds_max: float = 300.0
    stale_seconds: float = 86400.0
    patience_seconds: float = 0.5
    retry_seconds: float = 5.0
    names_max: int = 1024
    timeout_seconds: float = 1.0
    tries: int = 2
    name_servers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """Addresses of a host, and for how many seconds they are right."""

    addresses: tuple[str, ...]
    seconds: float


@dataclass(slots=True)
class _Entry:
    found: Found
    asked_at: float
    ask_again_at: float


class CachingResolver:
    """Finds addresses, and remembers them; used within one event loop.

    Args:
        settings: its limits.
        clock: the time.
        uses_dns: whether to ask DNS, or the system's resolver alone.
    """

    def __init__(
        self, settings: ResolvingSettings | None = None, *, clock: Clock | None = None, uses_dns: bool = True
    ) -> None:
        self._settings = settings or ResolvingSettings()
        self._clock = clock or SystemClock()
        self._dns = _Dns(self._settings) if uses_dns else None
        self._known: dict[str, _Entry] = {}
        self._asking: dict[str, asyncio.Task[Found]] = {}

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """Addresses of the host, the preferred one first.

        Raises:
            OSError: there are none.
        """
        entry, now = self._known.get(host), self._clock.monotonic()
        if entry is not None and now < entry.ask_again_at:
            return entry.found.addresses
        is_stale = entry is not None and now < entry.asked_at + entry.found.seconds + self._settings.stale_seconds
        asking = self._ask(host)
        try:
            async with asyncio.timeout(self._settings.patience_seconds if is_stale else None):
                return (await asyncio.shield(asking)).addresses
        except OSError as error:  # a timeout is one, too
            if entry is None or not is_stale:
                raise
            entry.ask_again_at = now + self._settings.retry_seconds
            event("transport.resolver.stale", level="warning", host=host, reason=str(error) or "no answer in time")
            return entry.found.addresses

    def is_current(self, host: str, address: str) -> bool:
        """Whether the last answer about a host has an address; when its time has passed, a new one is asked for behind.

        Whoever keeps connections finds out so where a host is now, since it never needs to ask for its addresses.
        """
        entry, now = self._known.get(host), self._clock.monotonic()
        if entry is None:
            return True
        if now >= entry.ask_again_at:
            entry.ask_again_at = now + self._settings.retry_seconds
            _ = self._ask(host)
        return address in entry.found.addresses

    async def close(self) -> None:
        """Asks nobody any more."""
        asking = list(self._asking.values())
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        if self._dns is not None:
            await self._dns.close()

    def _ask(self, host: str) -> asyncio.Task[Found]:
        """The question about a host that is under way."""
        task = self._asking.get(host)
        if task is None:
            task = self._asking[host] = asyncio.create_task(self._find(host))
            task.add_done_callback(functools.partial(self._take, host))
        return task

    def _take(self, host: str, task: asyncio.Task[Found]) -> None:
        self._asking.pop(host, None)
        if task.cancelled() or task.exception() is not None:
            return
        settings, now, found = self._settings, self._clock.monotonic(), task.result()
        seconds = min(max(found.seconds, settings.seconds_min), settings.seconds_max)
        self._known.pop(host, None)
        self._known[host] = _Entry(Found(found.addresses, seconds), now, now + seconds)
        while len(self._known) > settings.names_max:
            del self._known[next(iter(self._known))]

    async def _find(self, host: str) -> Found:
        if self._dns is not None:
            try:
                return await self._dns.find(host)
            except OSError as error:
                event("transport.resolver.failed", level="debug", host=host, reason=str(error))
        return await _system(host)


class _Dns:
    """DNS through aiodns, which knows /etc/hosts and the search list of the system as well."""

    def __init__(self, settings: ResolvingSettings) -> None:
        self._settings = settings
        self._resolver: aiodns.DNSResolver | None = None
        self._cannot_start = False

    async def find(self, host: str) -> Found:
        """Asks.

        Raises:
            OSError: there are no addresses, or no answer came.
        """
        resolver = self._started()
        if resolver is None:
            raise OSError("aiodns cannot be used")
        from aiodns.error import DNSError

        try:
            result = await resolver.getaddrinfo(host, type=socket.SOCK_STREAM)
        except (DNSError, UnicodeError) as error:
            raise OSError(f"{host}: {error.args[-1]}") from error
        addresses = tuple(dict.fromkeys(_text(node.addr[0]) for node in result.nodes))
        if not addresses:
            raise OSError(f"{host} has no address")
        return Found(addresses, float(min(node.ttl for node in result.nodes)))

    async def close(self) -> None:
        """Gives up all questions."""
        if self._resolver is not None:
            await self._resolver.close()
            self._resolver = None

    def _started(self) -> aiodns.DNSResolver | None:
        if self._resolver is None and not self._cannot_start:
            try:
                self._resolver = _new_resolver(self._settings)
            except Exception as error:  # noqa: BLE001 -- no library, no descriptors, no configuration: there is another way
                self._cannot_start = True
                event("transport.resolver.unusable", level="warning", reason=f"{type(error).__name__}: {error}")
        return self._resolver


def _new_resolver(settings: ResolvingSettings) -> aiodns.DNSResolver:
    import aiodns

    servers = list(settings.name_servers) or None
    return aiodns.DNSResolver(servers, timeout=settings.timeout_seconds, tries=settings.tries)


async def _system(host: str) -> Found:
    """What the system's resolver says."""
    rows = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return Found(tuple(dict.fromkeys(str(row[4][0]) for row in rows)), SYSTEM_SECONDS)


def _text(address: str | bytes) -> str:
    return address.decode() if isinstance(address, bytes) else address
