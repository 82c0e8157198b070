"""The fetch that nearly every miss needs: a small object, of one server that is well, whose name proves what comes.

While all goes well such a fetch has no task: it is begun where the request is read, and ends where the last bytes of
the answer arrive. Whatever else happens (a large body, another status, a damaged one, a slow or failing server) is left
to a `Fetch` in a task of its own, which goes on with the request that is under way.
"""

from __future__ import annotations

import asyncio
from typing import Final

from cdn.transport.base import Request, Response
from edge.content import ContentKind
from edge.fetch.collapsing import Complete, Flight, Flights, FlightStopped
from edge.fetch.fetching import HOLD_BYTES, HOLD_SECONDS, Fetch, answer_head
from edge.fetch.keeping import Keeping
from edge.fetch.orders import FetchOrder
from edge.fetch.supplies import Supplies
from edge.http.alike import object_answer
from edge.http.answering import object_tag
from edge.routing import Source
from edge.upstream.asking import Asked, Attempt, Sent

WAITED_BYTES_MAX: Final = 128 << 10
"""How large an object may be whose parts are waited for; of a larger one clients get what has come."""


def begun_at_once(supplies: Supplies, flights: Flights, order: FetchOrder) -> Flight | None:
    """Begins to fetch an object that is stored nowhere; None if that takes more than sending a request.

    Args:
        supplies: what it works with.
        flights: where others find the fetch.
        order: what to fetch: an object, as any client may have it.
    """
    fetch = _PlainFetch(supplies, flights, order)
    return fetch.flight if fetch.is_begun() else None


class _PlainFetch:
    __slots__ = (
        "_asked",
        "_asked_at",
        "_flights",
        "_is_left",
        "_later",
        "_order",
        "_source",
        "_timer",
        "_with",
        "flight",
    )

    def __init__(self, supplies: Supplies, flights: Flights, order: FetchOrder) -> None:
        self._with = supplies
        self._flights = flights
        self._order = order
        self._later: list[Source] = []
        self._timer: asyncio.TimerHandle | None = None
        self._is_left = False
        """Whether the answer was taken, or left to somebody else."""

    def is_begun(self) -> bool:
        """Sends the request, if that can be done at once."""
        supplies, order = self._with, self._order
        sources = supplies.health.ordered(order.destination.sources, supplies.clock.monotonic())
        if not sources or order.destination.content.kind is not ContentKind.OBJECT:
            return False
        self._source = source = sources[0]
        self._later = sources[1:]
        fields = order.fields(supplies.edge_name)
        self._asked = Asked(supplies, source, Request(source.url, headers=fields, proxy=source.proxy))
        if not self._asked.is_begun(self._changed):
            return False
        supplies.health.earn_hedges()
        self._asked_at = supplies.clock.now()
        key = order.destination.key
        loop = asyncio.get_running_loop()
        self.flight = Flight(order.flight_key or key, key, is_miss=True, loop=loop)
        self._flights.add(self.flight, self._stop)
        patience = min(HOLD_SECONDS, supplies.health.hedge_seconds(source.server)) if self._later else HOLD_SECONDS
        self._timer = loop.call_later(patience, self._leave_to_task)
        return True

    # ------------------------------------------------------------------------------------------------ what comes

    def _changed(self) -> None:
        """Takes the answer if it is whole; the outermost edge of what the connection calls."""
        if self._is_left:
            return
        try:
            response = self._asked.taken_whole()
            body = response.whole() if response is not None else None
            if response is not None and body is not None and self._is_right(response, body):
                self._take(response, body)
            elif not self._asked.is_worth_waiting(WAITED_BYTES_MAX):
                self._leave_to_task()
        except Exception as error:  # noqa: BLE001 -- a mistake of ours costs one fetch, not the connection's callers
            self._flights.crashed(self.flight, error)
            self._give_up()

    def _is_right(self, response: Response, body: bytes) -> bool:
        digest = self._order.destination.content.digest
        return response.status == 200 and len(body) <= HOLD_BYTES and digest is not None and digest.is_of_at_once(body)

    def _take(self, response: Response, body: bytes) -> None:
        supplies, flight = self._with, self.flight
        self._is_left = True
        self._stop_timer()
        keeping = Keeping(supplies, self._order, flight)
        answer = object_answer(response.fields, supplies.lifetimes.of(ContentKind.OBJECT, 200))
        if answer is None:
            head = answer_head(self._order, response, self._asked_at, supplies.clock.now())
            is_shareable = keeping.may_share(head)
        else:
            tag = object_tag(self._order.destination.content)
            head = answer.stored_head(tag, self._asked_at, supplies.clock.now())
            is_shareable = answer.common.is_shareable
        self._asked.finish(is_answered=True)
        supplies.statistics.bytes_fetched += len(body)
        is_stored = is_shareable and len(body) <= supplies.object_bytes_max
        entry = keeping.entry(head, body)
        keeping.remember(entry, is_stored=is_stored)
        flight.publish(Complete(entry, is_stored, is_shareable, answer))
        if is_stored:
            flight.is_storing = True
            keeping.store_behind(body, head, self._end)
        else:
            self._end()

    def _end(self) -> None:
        self._flights.end(self.flight)

    # ------------------------------------------------------------------------------------------------ otherwise

    def _leave_to_task(self) -> None:
        """Has a task go on with the request."""
        if self._is_left:
            return
        self._is_left = True
        self._stop_timer()
        first = Attempt(self._source, wants_fresh_copy=False, sent=Sent(self._asked, self._asked_at))
        others = [Attempt(source, wants_fresh_copy=False) for source in self._later]
        fetch = Fetch(self._with, self._order, self.flight, [first, *others])
        self._flights.carry(self.flight, lambda _: fetch.run())

    def _stop(self) -> None:
        """Ends it early: the edge stops."""
        self.flight.fail(FlightStopped())
        self._give_up()

    def _give_up(self) -> None:
        self._is_left = True
        self._stop_timer()
        if self._asked.is_under_way:
            self._asked.finish(is_answered=False)
        self._end()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
