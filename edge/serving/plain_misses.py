"""The answer to a plain request for an object that has to be fetched, without a task for the client.

What comes of a fetch is nearly always the whole object, and then there is nothing left to decide: the connection is
told when it has come, and answers. All else is left to the long way, which goes on with the fetch that the client waits
for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from edge.cache.shards import Share
from edge.connection.exchange import Exchange
from edge.content import ContentKind
from edge.fetch.collapsing import Complete, Flight, Flights, Outcome
from edge.fetch.orders import FetchOrder
from edge.fetch.plain_fetch import begun_at_once
from edge.fetch.supplies import Supplies
from edge.http.answering import CacheStatus, answer_from, render_head
from edge.http.request import Request
from edge.routing import Destination
from edge.watching.statistics import Result

GoOn = Callable[[Request, Exchange, "AwaitedObject"], Awaitable[None]]


class AwaitedObject:
    """A client's part in a fetch, from its request to `leave`.

    Args:
        supplies: clock and counters.
        order: what is fetched.
        flight: the fetch.
        go_on: answers the long way.
        is_collapsed: whether another client caused it.
    """

    __slots__ = ("_go_on", "_has_left", "_with", "flight", "is_collapsed", "order")

    def __init__(
        self, supplies: Supplies, order: FetchOrder, flight: Flight, go_on: GoOn, *, is_collapsed: bool
    ) -> None:
        self._with = supplies
        self._go_on = go_on
        self.order = order
        self.flight = flight
        self.is_collapsed = is_collapsed
        self._has_left = False
        flight.join()

    def tell(self, callback: Callable[[object], object]) -> None:
        """Calls back once something has come of the fetch, with nothing of use."""
        self.flight.outcome.add_done_callback(callback)

    def leave(self) -> None:
        """Waits no more; what is called again changes nothing."""
        if not self._has_left:
            self._has_left = True
            self.flight.leave()

    async def serve(self, request: Request, exchange: Exchange) -> None:
        """Answers the request with whatever has come, or will."""
        await self._go_on(request, exchange, self)

    def answered(self, request: Request) -> tuple[bytes, bytes, Result] | None:
        """Head and body for the request, and what to call that; None if the long way must go on."""
        outcome = _outcome_of(self.flight.outcome)
        if not isinstance(outcome, Complete) or outcome.entry.head.status != 200:
            return None
        if self.is_collapsed and not outcome.is_shareable:
            return None
        supplies, entry, tally = self._with, outcome.entry, self.order.destination.tally
        result = Result.COLLAPSED if self.is_collapsed else Result.MISS if outcome.is_shareable else Result.PASSED
        tally.requests += 1
        tally.bytes += len(entry.body)
        supplies.statistics.requests[result, tally.label] += 1
        return self._head(outcome, request), entry.body, result

    def _head(self, outcome: Complete, request: Request) -> bytes:
        entry, now, name = outcome.entry, self._with.clock.now(), self._with.edge_name
        is_stored, is_collapsed = outcome.is_stored, self.is_collapsed
        if outcome.answer is not None:
            size = len(entry.body)
            head = outcome.answer.sent_head(entry.head, size, now, name, is_stored=is_stored, is_collapsed=is_collapsed)
            if head is not None:
                return head
        status = CacheStatus(forwarded="miss", status=200, is_stored=is_stored, is_collapsed=is_collapsed)
        return render_head(answer_from(entry.representation(), request, now, status, name), request, keeps_alive=True)


def _outcome_of(future: asyncio.Future[Outcome]) -> Outcome | None:
    if not future.done() or future.cancelled() or future.exception() is not None:
        return None
    return future.result()


class PlainMisses:
    """Begins or joins fetches for plain requests.

    Args:
        supplies: caches, fetcher and clock.
        flights: fetches under way.
        share: which responses are this worker's.
        go_on: answers the long way what waited here.
    """

    def __init__(self, supplies: Supplies, flights: Flights, share: Share, go_on: GoOn) -> None:
        self._go_on = go_on
        self._with = supplies
        self._flights = flights
        self._share = share

    def awaited(self, destination: Destination) -> AwaitedObject | None:
        """What a plain request for an object waits for; None if it has to go the long way."""
        supplies, key = self._with, destination.key
        if (
            destination.content.kind is not ContentKind.OBJECT
            or supplies.siblings.has_others
            or not self._share.owns(key)
            or supplies.memory.peek(key) is not None
        ):
            return None
        order = FetchOrder(destination, flight_key=key)
        flight = self._flights.find(key)
        if flight is not None:
            return AwaitedObject(supplies, order, flight, self._go_on, is_collapsed=True)
        if supplies.memory.negative(key) is not None or not supplies.disk.lacks(key):
            return None
        flight = begun_at_once(supplies, self._flights, order)
        return None if flight is None else AwaitedObject(supplies, order, flight, self._go_on, is_collapsed=False)
