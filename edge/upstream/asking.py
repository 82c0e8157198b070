"""Asking upstreams: one request to one of them, and the race of those requests that one fetch sends.

A fetch asks one source after another. Where the first takes longer to answer than it usually does, an equal one is
asked beside it; whichever answers first is listened to, and the other is let go of at once. A budget keeps such second
requests few, so that they help when one server stumbles and do no harm when all of them are slow.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass

from cdn.errors import SlowPeerError
from cdn.transport.base import Request, Response
from edge.routing import Source
from edge.upstream.supplies import UpstreamSupplies


@asynccontextmanager
async def asked(supplies: UpstreamSupplies, source: Source, request: Request) -> AsyncIterator[Response]:
    """Sends a request to an upstream when it is its turn, and keeps count of how the upstream does.

    Raises:
        TransportError: no answer came.
    """
    health = supplies.health.of(source.server)
    async with supplies.turns.hold(health, source.url) if health is not None else nullcontext():
        supplies.statistics.fetches[source.server] += 1
        sending = supplies.fetcher.send(request)
        response = await _answer(supplies, source, request, sending)
        try:
            yield response
        except BaseException as error:
            await sending.__aexit__(type(error), error, error.__traceback__)
            raise
        await sending.__aexit__(None, None, None)


async def _answer(
    supplies: UpstreamSupplies, source: Source, request: Request, sending: AbstractAsyncContextManager[Response]
) -> Response:
    """The answer's head; how long that took counts for or against the upstream."""
    clock = supplies.clock
    # A body goes up as fast as the client sends it.
    health = supplies.health.of(source.server) if request.body is None else None
    started = clock.monotonic()
    try:
        if source.is_sibling:
            async with asyncio.timeout(supplies.siblings.timeout_seconds):
                response = await sending.__aenter__()
        else:
            response = await sending.__aenter__()
    except TimeoutError:
        raise SlowPeerError(source.url, f"no answer in {supplies.siblings.timeout_seconds:g} s") from None
    except asyncio.CancelledError:
        if health is not None:
            health.overtaken(clock.monotonic() - started, clock.monotonic())
        raise
    if health is not None:
        health.answered(clock.monotonic() - started, clock.monotonic())
    return response


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request to be sent.

    Args:
        source: to whom.
        wants_fresh_copy: whether caches on the way are told to look again.
        is_repeated: whether it is for the second time.
    """

    source: Source
    wants_fresh_copy: bool
    is_repeated: bool = False


Send = Callable[[Attempt], AbstractAsyncContextManager[Response]]


class Asking:
    """A request under way: its answer, once that comes, until it is let go of.

    Args:
        attempt: what is asked of whom.
        send: sends it.
        now: when, in seconds since the epoch.
    """

    def __init__(self, attempt: Attempt, send: Send, now: float) -> None:
        self.attempt = attempt
        self.asked_at = now
        self.answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self.is_hedge = False
        self._over = asyncio.Event()
        self._task = asyncio.create_task(self._ask(send))

    async def _ask(self, send: Send) -> None:
        try:
            async with send(self.attempt) as response:
                self.answer.set_result(response)
                await self._over.wait()
        except Exception as error:  # noqa: BLE001 -- raised where the answer is waited for
            if not self.answer.done():
                self.answer.set_exception(error)
        finally:
            self.answer.cancel()

    async def end(self) -> None:
        """Lets go of the answer; its connection may be used again."""
        self._over.set()
        await asyncio.wait((self._task,))

    async def cancel(self) -> None:
        """Gives up, and the connection with it."""
        self._task.cancel()
        await asyncio.wait((self._task,))
        if self.answer.done() and not self.answer.cancelled():
            self.answer.exception()  # looked at, so that nobody complains that it was not


class Race:
    """The requests of one fetch.

    Args:
        supplies: what it works with.
        attempts: the requests to send, in this order.
        send: sends one.
        may_hedge: whether a second one may be sent beside a slow one.
    """

    def __init__(self, supplies: UpstreamSupplies, attempts: Iterable[Attempt], send: Send, *, may_hedge: bool) -> None:
        self._with = supplies
        self._waiting = deque(attempts)
        self._running: list[Asking] = []
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
            self._begin()
            self._with.health.earn_hedges()
        while True:
            answers = {asking.answer for asking in self._running}
            done, _ = await asyncio.wait(answers, timeout=self._patience(), return_when=asyncio.FIRST_COMPLETED)
            for asking in self._running:
                if asking.answer in done:
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
        asking = Asking(self._waiting.popleft(), self._send, self._with.clock.now())
        self._running.append(asking)
        return asking

    def _patience(self) -> float | None:
        """How long to wait before one more is asked; None for as long as it takes."""
        if not self._may_hedge or len(self._running) != 1 or not self._waiting:
            return None
        first, second = self._running[0].attempt.source, self._waiting[0].source
        if first.is_sibling or (first.group == second.group and first.origin != second.origin):
            return self._with.health.hedge_seconds(first.server)
        return None

    def _hedge(self) -> None:
        if self._with.health.may_hedge():
            self._begin().is_hedge = True
        else:
            self._may_hedge = False
