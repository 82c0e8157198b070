"""Asking upstreams: one request to one of them, and the race of those requests that one fetch sends.

A fetch asks one source after another. Where the first takes longer to answer than it usually does, an equal one is
asked beside it; whichever answers first is listened to, and the other is let go of at once. A budget keeps such second
requests few, so that they help when one server stumbles and do no harm when all of them are slow.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from types import TracebackType

from cdn.errors import SlowPeerError
from cdn.transport.base import Begun, Request, Response
from edge.routing import Source
from edge.upstream.supplies import UpstreamSupplies


class Asked:
    """A request to an upstream, sent when it is its turn, and how the upstream does; a block that has its answer.

    Written out, since there is one for each fetch.

    Args:
        supplies: what it works with.
        source: whom to ask.
        request: what for.
    """

    __slots__ = ("_begun", "_health", "_request", "_sending", "_source", "_started", "_with")

    def __init__(self, supplies: UpstreamSupplies, source: Source, request: Request) -> None:
        self._with = supplies
        self._source = source
        self._request = request
        self._health = supplies.health.of(source.server)
        self._begun: Begun | None = None
        self._sending: AbstractAsyncContextManager[Response]

    # ------------------------------------------------------------------------------------------------ at once

    def is_begun(self, on_change: Callable[[], None]) -> bool:
        """Sends the request if nobody has to be waited for and the server is well; see `PromptFetcher.begin`.

        Then either `taken_whole` and `finish` end it, or it is entered as a block, which goes on from here.
        """
        health, supplies = self._health, self._with
        if supplies.prompt is None or health is None or not supplies.turns.is_free(health):
            return False
        self._started = supplies.clock.monotonic()
        if health.share(self._started) < 1.0:
            return False
        self._begun = supplies.prompt.begin(self._request, on_change)
        if self._begun is None:
            return False
        health.begin(self._started)
        supplies.statistics.fetches[self._source.server] += 1
        self._sending = self._begun
        return True

    def is_worth_waiting(self, size_max: int) -> bool:
        """Whether nothing went wrong yet; see `Begun`."""
        return self._begun is not None and self._begun.is_worth_waiting(size_max)

    @property
    def is_under_way(self) -> bool:
        """Whether it was begun and `finish` was not called."""
        return self._begun is not None

    def taken_whole(self) -> Response | None:
        """The answer, if all of it is here."""
        return None if self._begun is None else self._begun.taken_whole()

    def finish(self, *, is_answered: bool) -> None:
        """Ends it.

        Args:
            is_answered: whether the answer was taken, so that it counts for the server; else nobody wants it any more.
        """
        assert self._begun is not None
        self._begun.finish()
        self._begun = None
        if self._health is not None:
            now = self._with.clock.monotonic()
            if is_answered:
                self._health.answered(now - self._started, now)
                self._health.succeeded(now)
            else:
                self._health.overtaken(now - self._started, now)
        self._end()

    # ------------------------------------------------------------------------------------------------ as a block

    async def __aenter__(self) -> Response:
        """Gives the answer's head.

        Raises:
            TransportError: no answer came.
        """
        supplies, health = self._with, self._health
        if self._begun is None and health is not None and not supplies.turns.is_at_once(health):
            await supplies.turns.wait(health, self._source.url)
        try:
            if self._begun is None:
                supplies.statistics.fetches[self._source.server] += 1
                self._sending = supplies.fetcher.send(self._request)
                self._started = supplies.clock.monotonic()
            return await self._answer()
        except BaseException:
            self._end()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._sending.__aexit__(kind, error, trace)
        finally:
            self._end()

    def _end(self) -> None:
        if self._health is not None:
            self._with.turns.end(self._health)

    async def _answer(self) -> Response:
        """The answer's head; how long that took counts for or against the upstream."""
        clock, source = self._with.clock, self._source
        # A body goes up as fast as the client sends it.
        health = self._health if self._request.body is None else None
        try:
            if source.is_sibling:
                async with asyncio.timeout(self._with.siblings.timeout_seconds):
                    response = await self._sending.__aenter__()
            else:
                response = await self._sending.__aenter__()
        except TimeoutError:
            raise SlowPeerError(source.url, f"no answer in {self._with.siblings.timeout_seconds:g} s") from None
        except asyncio.CancelledError:
            if health is not None:
                health.overtaken(clock.monotonic() - self._started, clock.monotonic())
            raise
        if health is not None:
            now = clock.monotonic()
            health.answered(now - self._started, now)
        return response


@dataclass(frozen=True, slots=True)
class Sent:
    """A request that was begun at once.

    Args:
        asked: the block that goes on with it.
        at: when it was sent, in seconds since the epoch.
    """

    asked: Asked
    at: float


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request to be sent.

    Args:
        source: to whom.
        wants_fresh_copy: whether caches on the way are told to look again.
        is_repeated: whether it is for the second time.
        sent: it is under way already.
    """

    source: Source
    wants_fresh_copy: bool
    is_repeated: bool = False
    sent: Sent | None = None


Send = Callable[[Attempt], AbstractAsyncContextManager[Response]]


class Asking:
    """A request under way: its answer, once that comes, until it is let go of.

    Args:
        attempt: what is asked of whom.
        sending: the block that has the answer.
        now: when, in seconds since the epoch.
    """

    def __init__(self, attempt: Attempt, sending: AbstractAsyncContextManager[Response], now: float) -> None:
        self.attempt = attempt
        self.asked_at = now
        self.is_hedge = False
        self._sending = sending
        self._response: Response | None = None
        self._error: Exception | None = None

    @property
    def response(self) -> Response:
        """The answer, or what is known of why there is none."""
        if self._error is not None:
            raise self._error
        assert self._response is not None
        return self._response

    async def ask(self) -> None:
        """Waits for the answer, or until it is certain that there is none."""
        try:
            self._response = await self._sending.__aenter__()
        except Exception as error:  # noqa: BLE001 -- raised where the answer is used
            self._error = error

    async def end(self) -> None:
        """Lets go of the answer; its connection may be used again."""
        if self._response is not None:
            self._response = None
            await self._sending.__aexit__(None, None, None)

    async def cancel(self) -> None:
        """Gives up, and the connection with it."""
        if self._response is not None:
            self._response = None
            await self._sending.__aexit__(asyncio.CancelledError, asyncio.CancelledError(), None)


class AskingBeside(Asking):
    """One that others may be asked beside: in a task of its own."""

    def begin(self) -> None:
        """Sends it."""
        self.task = asyncio.create_task(super().ask())

    async def cancel(self) -> None:
        """Gives up, whether the answer has come or not."""
        self.task.cancel()
        await asyncio.wait((self.task,))
        await super().cancel()


class Race:
    """The requests of one fetch.

    Args:
        supplies: what it works with.
        attempts: the requests to send, in this order.
        send: sends one.
        may_hedge: whether a second one may be sent beside a slow one.
    """

    def __init__(
        self,
        supplies: UpstreamSupplies,
        attempts: Iterable[Attempt],
        send: Send,
        *,
        may_hedge: bool,
    ) -> None:
        self._with = supplies
        self._waiting = deque(attempts)
        self._running: list[AskingBeside] = []
        self._send = send
        self._may_hedge = may_hedge

    @property
    def is_last(self) -> bool:
        """Whether nobody is left to ask."""
        return not self._waiting and not self._running

    def again(self, attempt: Attempt) -> None:
        """Sends this one next."""
        self._waiting.appendleft(attempt)

    def skip(self, origin: str) -> None:
        """Asks a server no more that has said all it knows."""
        self._waiting = deque(each for each in self._waiting if each.source.origin != origin)

    async def next(self) -> Asking | None:
        """The next request whose answer came, or which failed; None when there are no more."""
        if not self._running:
            if not self._waiting:
                return None
            self._with.health.earn_hedges()
            if not self._is_alone():
                self._begin()
        if not self._running:
            asking = Asking(*self._sent_next())
            await asking.ask()
            return asking
        return await self._first()

    async def _first(self) -> Asking:
        """The first of those under way that comes to something; one more is asked when that takes long."""
        while True:
            tasks = {asking.task for asking in self._running}
            done, _ = await asyncio.wait(tasks, timeout=self._patience(), return_when=asyncio.FIRST_COMPLETED)
            for asking in self._running:
                if asking.task in done:
                    self._running.remove(asking)
                    return asking
            self._hedge()

    async def settle(self, winner: Asking) -> None:
        """Lets go of all others: this answer is listened to. Should it break off, they are asked anew."""
        losers, self._running, self._may_hedge = self._running, [], False
        for asking in losers:
            await asking.cancel()
            self.again(asking.attempt)
        if winner.is_hedge:
            self._with.health.hedges_won += 1
        elif losers:
            self._with.health.hedges_lost += 1

    async def close(self) -> None:
        """Lets go of all."""
        running, self._running = self._running, []
        for asking in running:
            await asking.cancel()

    def _begin(self) -> Asking:
        asking = AskingBeside(*self._sent_next())
        asking.begin()
        self._running.append(asking)
        return asking

    def _sent_next(self) -> tuple[Attempt, AbstractAsyncContextManager[Response], float]:
        """The next attempt, the block that has its answer, and when it was sent."""
        attempt = self._waiting.popleft()
        if attempt.sent is None:
            return attempt, self._send(attempt), self._with.clock.now()
        return replace(attempt, sent=None), attempt.sent.asked, attempt.sent.at

    def _is_alone(self) -> bool:
        """Whether nobody is asked beside the next one, which then needs no task of its own."""
        return not self._may_hedge or len(self._waiting) < 2 or not _are_equal(self._waiting[0], self._waiting[1])

    def _patience(self) -> float | None:
        """How long to wait before one more is asked; None for as long as it takes."""
        if not self._may_hedge or len(self._running) != 1 or not self._waiting:
            return None
        first = self._running[0]
        if not _are_equal(first.attempt, self._waiting[0]):
            return None
        waited = max(0.0, self._with.clock.now() - first.asked_at)
        return max(0.0, self._with.health.hedge_seconds(first.attempt.source.server) - waited)

    def _hedge(self) -> None:
        if self._with.health.may_hedge():
            self._begin().is_hedge = True
        else:
            self._may_hedge = False


def _are_equal(first: Attempt, second: Attempt) -> bool:
    """Whether the second source may be asked beside the first."""
    one, other = first.source, second.source
    return one.is_sibling or (one.group == other.group and one.origin != other.origin)
