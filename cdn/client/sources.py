"""Asking servers and proxies until one gives what is needed: the loop around `failover` and `pace`.

A read fails only when every source fails. One dead, slow, lying or stale source costs a bounded delay: its fault is
judged (`fault_of`), the next pair of server and proxy is asked at once, and a pair that is merely slow gets company
after the usual time. Waiting happens only when all failed and some failure may pass, and not for long where the caller
has something to fall back on.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Generic, NoReturn, TypeVar

from cdn.client.failover import (
    Attempts,
    Fault,
    Pair,
    RestPolicy,
    SourceEvent,
    SourceHealth,
    fault_of,
    is_lasting,
)
from cdn.client.pace import Deadline, HedgePolicy, Pace
from cdn.client.source_list import ONLY_DIRECT, ProxyGroups
from cdn.clock import Clock, SystemClock
from cdn.errors import AllSourcesFailedError, CdnError, SlowPeerError, without_login
from cdn.telemetry import event
from cdn.transport.base import Request
from cdn.transport.download import NO_CACHE
from cdn.transport.retry import RetryPolicy, backoff_seconds, is_transient
from cdn.transport.urls import url_of

T = TypeVar("T")

_CAUSES_MAX: Final = 32
_DOUBLINGS_MAX: Final = 16
_NO_HEADERS: Final[Mapping[str, str]] = {}


@dataclass(frozen=True, slots=True)
class Route:
    """How one attempt goes: to which server, through which proxy, and whether caches on the way must look again."""

    base_url: str
    proxy: str | None = None
    no_cache: bool = False

    def request(self, path: str, *, method: str = "GET", headers: Mapping[str, str] = _NO_HEADERS) -> Request:
        """The request for a path below the base URL."""
        every = {**headers, **(NO_CACHE if self.no_cache else {})}
        return Request(url_of(self.base_url, path), method, every, self.proxy)

    def __str__(self) -> str:
        return without_login(f"{self.base_url} through {self.proxy}" if self.proxy else self.base_url)


Operation = Callable[[Route], Awaitable[T]]
"""A whole transfer over one route, its verification included; run anew for each attempt."""


@dataclass(frozen=True, slots=True)
class SourcePolicy:
    """How patiently sources are asked.

    Args:
        rounds: when all failed and some failure may pass, how often they are asked in all, and the wait between.
        servers: how long a server rests.
        proxies: how long a proxy rests.
        hedge: when a second one is asked while the first is slow.
        fallback_seconds: how long they are waited for in all where what is kept from before would do. It is more than a
            far server needs for a few small documents, and less than silent ones need to be given up one by one.
    """

    rounds: RetryPolicy = field(default_factory=lambda: RetryPolicy(2, 2.0, 10.0))
    servers: RestPolicy = field(default_factory=RestPolicy)
    proxies: RestPolicy = field(default_factory=lambda: RestPolicy(failed_seconds_max=300.0))
    hedge: HedgePolicy = field(default_factory=HedgePolicy)
    fallback_seconds: float = 6.0


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """How one source is, for people to read."""

    name: str
    state: str


class Sources:
    """The servers of one repository and the proxies to them; for use in one event loop.

    Args:
        servers: base URLs, the preferred first.
        proxies: groups, the preferred first; within a group they are put in random order, once.
        policy: how patiently they are asked.
        clock: times rests and transfers.
        sleep: waits between rounds.
        chance: draws numbers from 0 to 1.
    """

    def __init__(
        self,
        servers: tuple[str, ...],
        proxies: ProxyGroups = ONLY_DIRECT,
        *,
        policy: SourcePolicy | None = None,
        clock: Clock | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.servers = servers
        self.policy = policy or SourcePolicy()
        self.proxies = tuple(proxy for group in proxies for proxy in sorted(group, key=lambda _: chance()))
        self._clock = clock or SystemClock()
        self._sleep = sleep
        self._chance = chance
        self._server_health = [SourceHealth(self.policy.servers) for _ in servers]
        self._proxy_health = [SourceHealth(self.policy.proxies) for _ in self.proxies]
        self._pace = Pace(self.policy.hedge)

    async def fetch(self, what: str, operation: Operation[T], *, size: int = 0, has_fallback: bool = False) -> T:
        """What the operation returns, from whichever source gives it.

        Args:
            what: what is fetched, for messages.
            operation: the whole transfer over one route. It must leave nothing behind when cancelled.
            size: how many bytes are expected, where that is known.
            has_fallback: whether the caller can do without, so that nobody is waited for longer than
                `SourcePolicy.fallback_seconds`.

        Raises:
            AllSourcesFailedError: every source failed, or was not waited for.
            CdnError: this machine's own trouble, such as a full disk.
        """
        causes: list[Exception] = []
        rounds = self.policy.rounds
        deadline = Deadline(self.policy.fallback_seconds if has_fallback else None, self._clock.monotonic())
        for number in range(1, rounds.attempts + 1):
            transfer = _Transfer(self, what, operation, size, deadline)
            try:
                return await transfer.run()
            except _RoundFailedError:
                causes = [*causes, *transfer.causes][-_CAUSES_MAX:]
            if number == rounds.attempts or not any(is_transient(cause) for cause in transfer.causes):
                break
            wait = backoff_seconds(rounds, number, None, self._chance())
            left = deadline.left(self._clock.monotonic())
            if left is not None and wait >= left:
                break
            await self._sleep(wait)
        raise AllSourcesFailedError(what, tuple(causes))

    def status(self) -> list[SourceStatus]:
        """How every server and proxy is."""
        now = self._clock.monotonic()
        named = [*zip(self.servers, self._server_health, strict=True)]
        named += [(proxy or "DIRECT", health) for proxy, health in zip(self.proxies, self._proxy_health, strict=True)]
        return [SourceStatus(without_login(name), health.state(now).value) for name, health in named]

    def begin(self) -> Attempts:
        """The order in which a new transfer tries them."""
        return Attempts(self._ranked(self._server_health), self._ranked(self._proxy_health))

    def route(self, pair: Pair) -> Route:
        """The route of a pair; a transfer begins on it."""
        now = self._clock.monotonic()
        self._server_health[pair.server].chosen(now)
        self._proxy_health[pair.proxy].chosen(now)
        base_url = self.servers[pair.server]
        return Route(base_url, None if base_url.startswith("file:") else self.proxies[pair.proxy])

    def learn(self, pair: Pair, what: SourceEvent, *, blames_proxy: bool = False) -> None:
        """Takes what an attempt learned about its server, or about its proxy."""
        now = self._clock.monotonic()
        if what is SourceEvent.SUCCEEDED or blames_proxy:
            self._proxy_health[pair.proxy].learn(what, now)
        if not blames_proxy:
            self._server_health[pair.server].learn(what, now)

    @property
    def clock(self) -> Clock:
        """Times rests and transfers."""
        return self._clock

    @property
    def pace(self) -> Pace:
        """What is known about how long transfers take."""
        return self._pace

    def _ranked(self, healths: list[SourceHealth]) -> list[int]:
        now = self._clock.monotonic()
        return sorted(range(len(healths)), key=lambda place: healths[place].rank(now))


class _RoundFailedError(CdnError):
    """Every pair failed once."""


@dataclass(frozen=True, slots=True)
class _Attempt:
    """An attempt under way; attempts are numbered in the order in which they began."""

    pair: Pair
    route: Route
    number: int


class _Transfer(Generic[T]):
    """One round of one fetch: attempts one after another, and beside one another where the first is slow."""

    def __init__(self, sources: Sources, what: str, operation: Operation[T], size: int, deadline: Deadline) -> None:
        self._sources = sources
        self._what = what
        self._operation = operation
        self._size = size
        self._deadline = deadline
        self._attempts = sources.begin()
        self._started = 0
        self._running: dict[asyncio.Task[T], _Attempt] = {}
        self.causes: list[Exception] = []

    async def run(self) -> T:
        try:
            self._start_next()
            while True:
                for task in await self._ended():
                    attempt = self._running.pop(task)
                    error = task.exception()
                    if error is None:
                        self._won(attempt)
                        return task.result()
                    self._lost(attempt, error)
                if not self._running:
                    self._start_next()
        finally:
            await self._cancel_rest()

    async def _ended(self) -> set[asyncio.Task[T]]:
        """Those attempts that ended; none if it was time for company instead."""
        clock = self._sources.clock
        waits = [wait for wait in (self._patience(), self._deadline.left(clock.monotonic())) if wait is not None]
        done, _ = await asyncio.wait(
            self._running, timeout=min(waits, default=None), return_when=asyncio.FIRST_COMPLETED
        )
        if not done:
            if self._deadline.has_passed(clock.monotonic()):
                self._give_up()
            if self._attempts.has_next and self._sources.pace.may_hedge(clock.monotonic()):
                self._start_company()
        return done

    def _give_up(self) -> NoReturn:
        reason = f"no answer in {self._deadline.seconds:g} s, after which what is kept from before has to do"
        self.causes += [SlowPeerError(str(attempt.route), reason) for attempt in self._running.values()]
        raise _RoundFailedError(self._what)

    def _patience(self) -> float | None:
        """How long to wait before asking one more, twice as long with each that was asked; None if there is none."""
        if not self._attempts.has_next:
            return None
        return self._sources.pace.delay(self._size) * 2.0 ** min(len(self._running) - 1, _DOUBLINGS_MAX)

    def _start_next(self) -> None:
        pair = self._attempts.next()
        if pair is None:
            raise _RoundFailedError(self._what)
        self._start(pair)

    def _start_company(self) -> None:
        pair = self._attempts.next(besides=[attempt.pair for attempt in self._running.values()])
        if pair is not None:
            event("client.source.hedged", level="debug", what=self._what, server=self._sources.servers[pair.server])
            self._start(pair)

    def _start(self, pair: Pair) -> None:
        attempt = _Attempt(pair, self._sources.route(pair), self._started)
        self._started += 1
        self._running[asyncio.create_task(self._transferred(attempt.route))] = attempt

    async def _transferred(self, route: Route) -> T:
        """The operation, repeated once where the content was wrong: the damage may sit in a cache on the way."""
        started = self._sources.clock.monotonic()
        try:
            result = await self._operation(route)
        except CdnError as error:
            if fault_of(error, through_proxy=route.proxy is not None) is not Fault.CONTENT:
                raise
            event("client.source.damaged", level="warning", what=self._what, source=str(route), reason=str(error))
            return await self._operation(Route(route.base_url, route.proxy, no_cache=True))
        self._sources.pace.took(self._sources.clock.monotonic() - started, self._size)
        return result

    def _won(self, winner: _Attempt) -> None:
        self._sources.learn(winner.pair, SourceEvent.SUCCEEDED)
        slow = [a.pair for task, a in self._running.items() if a.number < winner.number and not task.done()]
        # Of two proxies to the same server, the proxy is the slow one; what else is slow through it proves nothing.
        slow_proxies = {pair.proxy for pair in slow if pair.server == winner.pair.server}
        for pair in slow:
            blames_proxy = pair.server == winner.pair.server
            if blames_proxy or pair.proxy not in slow_proxies:
                self._sources.learn(pair, SourceEvent.WAS_SLOW, blames_proxy=blames_proxy)

    def _lost(self, attempt: _Attempt, error: BaseException) -> None:
        if not isinstance(error, CdnError):
            raise error
        fault = fault_of(error, through_proxy=attempt.route.proxy is not None)
        if fault is Fault.NOBODY:
            raise error
        self.causes.append(error)
        self._attempts.failed(attempt.pair, fault)
        event("client.source.failed", level="debug", what=self._what, fault=fault.value, reason=str(error))
        if is_lasting(error):
            self._sources.learn(attempt.pair, SourceEvent.FAILED, blames_proxy=fault is Fault.PROXY)

    async def _cancel_rest(self) -> None:
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running)
        for task in self._running:
            if not task.cancelled():
                task.exception()  # looked at, so that nobody complains that it was not
