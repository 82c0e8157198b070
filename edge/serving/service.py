"""What an edge does with a request: find what is stored, decide, fetch together with others, answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Final

from cdn.errors import CdnError, DocumentError, HashMismatchError, TransportError
from edge.cache.disk_cache import OpenFile
from edge.cache.memory_entry import MemoryEntry
from edge.cache.open_files import OpenFiles
from edge.cache.shards import WHOLE, Share
from edge.connection.exchange import Exchange
from edge.connection.file_sender import is_in_memory
from edge.content import Content, ContentKind
from edge.fetch.collapsing import Arriving, Complete, Flight, Flights, FlightStopped, Kept, Outcome
from edge.fetch.fetching import Fetch
from edge.fetch.orders import FetchOrder, UpstreamsFailedError
from edge.fetch.supplies import Supplies
from edge.http.answering import Answer, CacheStatus, Representation, answer_from, error_answer
from edge.http.caching import (
    Decision,
    Lifetime,
    decide,
    lasts_for_ever,
    selects,
    wants_validation,
)
from edge.http.request import READING, Request, RequestError, method_refused
from edge.http.request_id import named
from edge.http.target import parse_target
from edge.relaying.relay import Relay
from edge.relaying.relayed_head import found_on_disk
from edge.routing import Destination, Routes
from edge.serving.body_pieces import arriving_pieces, file_pieces
from edge.serving.finding import Finder, Found, Stored
from edge.serving.ordering import Ordering
from edge.serving.passing import Passing
from edge.serving.plain_misses import AwaitedObject, PlainMisses
from edge.watching.statistics import Result

ROUNDS_MAX: Final = 3
"""How often a request begins anew after what it waited for came to nothing that it has seen."""
DESTINATIONS_MAX: Final = 8192
DESTINATIONS_BYTES_MAX: Final = 4 << 20
"""How long their targets are together; each is there several times, in the key and the URLs of all servers."""
RETRY_SECONDS: Final = 5.0
"""How long a stale answer is given before failed upstreams are asked again."""


class EdgeService:
    """Answers requests.

    Args:
        supplies: caches, fetcher and clock.
        routes: what is served from where.
        flights: fetches under way.
        share: which responses are this worker's.
        relay: has another worker answer what is its.
    """

    def __init__(
        self,
        supplies: Supplies,
        routes: Routes,
        flights: Flights,
        share: Share = WHOLE,
        relay: Relay | None = None,
    ) -> None:
        self._share = share
        self._relay = relay
        self._with = supplies
        self._memory, self._edge_name = supplies.memory, supplies.edge_name
        self._routes = routes
        self._flights = flights
        self._destinations: dict[str, Destination] = {}
        self._destination_bytes = 0
        self._finder = Finder(supplies, flights)
        self._ordering = Ordering(supplies, flights)
        self._passing = Passing(supplies, flights)
        self._plain_misses = PlainMisses(supplies, flights, share, self._go_on)
        self._open_files = OpenFiles()
        self.is_draining = False

    def replace_routes(self, routes: Routes) -> None:
        """Serves from other upstreams from now on."""
        self._routes = routes
        self.forget_destinations()

    def forget_destinations(self) -> None:
        """Looks again where requests are counted."""
        self._destinations.clear()
        self._destination_bytes = 0

    def locate(self, url: str) -> Destination:
        """What a URL is about, as a client asks for it.

        Raises:
            RequestError: it is nothing that this edge serves.
        """
        return self._routes.locate(parse_target(url))

    # ------------------------------------------------------------------------------------------------ the short way

    def hit(self, request: Request, now: float) -> tuple[bytes, bytes] | None:
        """Head and body for a plain request, if they are ready."""
        destination = self._destinations.get(request.target)
        if destination is None:
            return None
        entry = self._memory.get(destination.key)
        if entry is None or now >= entry.fresh_until:
            return None
        tally, body = destination.tally, entry.body
        tally.hits += 1
        tally.hit_bytes += len(body)
        return entry.plain_head(request, now, self._edge_name), body

    def hit_file(self, request: Request, now: float) -> tuple[bytes, OpenFile] | None:
        """Head and body for a plain request, if the body is in a file that is open; the caller closes it."""
        self._open_files.let_go_before(self._with.purges.generation)
        destination = self._destinations.get(request.target)
        found = self._open_files.get(destination.key, now) if destination is not None else None
        if found is None or destination is None:
            return None
        tally = destination.tally
        self._with.statistics.requests[Result.HIT, tally.label] += 1
        tally.requests += 1
        tally.bytes += found.file.facts.size
        return found.plain_head(request, now, self._with.edge_name), found.file.keep()

    def awaited(self, request: Request) -> AwaitedObject | None:
        """What a plain request waits for, if that is an object that is being fetched or can be at once."""
        try:
            return self._plain_misses.awaited(self._locate(request))
        except RequestError:
            return None

    async def _go_on(self, request: Request, exchange: Exchange, awaited: AwaitedObject) -> None:
        await self._serve_located(request, exchange, awaited.order.destination, awaited)

    def confirm(self, file: OpenFile) -> bool:
        """Hashes a file again, and says whether it is right; called in a thread."""
        return self._with.disk.confirm(file)

    def tidy(self) -> None:
        """Lets go of files that are no longer cached; to be called about once a second."""
        self._open_files.tidy(self._with.clock.now())

    def close(self) -> None:
        """Lets go of all files."""
        self._open_files.close()

    # ------------------------------------------------------------------------------------------------ the long way

    async def serve(self, request: Request, exchange: Exchange) -> None:
        """Answers any request."""
        if request.target == "/healthz":
            await self._serve_health(exchange)
            return
        if request.target == "*" and request.method == "OPTIONS":
            await self._passing.tell_options(exchange)
            return
        try:
            destination = self._locate(request)
        except RequestError as error:
            await self._refuse(exchange, error)
            return
        await self._serve_located(request, exchange, destination)

    async def _serve_located(
        self, request: Request, exchange: Exchange, destination: Destination, awaited: AwaitedObject | None = None
    ) -> None:
        """Answers a request, or goes on with one that waited for something which this way alone can deal with."""
        try:
            if awaited is not None:
                if await self._serve_fetched(request, exchange, awaited.order, awaited):
                    return
            elif self._relay is not None and await self._relay.serve(request, exchange, destination):
                return
            if request.method in READING:
                await self._serve_content(request, exchange, destination)
            else:
                await self._passing.serve(request, exchange, destination)
        except RequestError as error:
            await self._refuse(exchange, error)
        except UpstreamsFailedError as error:
            await self._serve_failure(exchange, destination, error)
        except (CdnError, FlightStopped) as error:
            request_id = named(exchange.request_id)
            self._with.warn("edge.answer.broken", "", key=destination.key, reason=str(error), **request_id)
            exchange.abort()

    def _locate(self, request: Request) -> Destination:
        known = self._destinations.get(request.target)
        if known is None:
            target = parse_target(request.target)
            if request.method not in READING and not self._routes.is_general(target):
                raise method_refused(request.method)
            known = self._routes.locate(target, self._with.statistics.tallies.of)
            self._remember(request.target, known)
        name = self._with.edge_name
        if not request.is_plain and any(
            name in via.split() for via in (request.headers.joined("Via") or "").split(",")
        ):
            raise RequestError(508, "it has been here before: edges ask one another in a circle")
        if request.method not in READING and not known.is_general:
            raise method_refused(request.method)
        return known

    def _remember(self, target: str, destination: Destination) -> None:
        """Has the place of a target at hand from now on."""
        if len(self._destinations) >= DESTINATIONS_MAX or self._destination_bytes > DESTINATIONS_BYTES_MAX:
            self.forget_destinations()
        self._destinations[target] = destination
        self._destination_bytes += len(target)

    async def _serve_health(self, exchange: Exchange) -> None:
        status = 503 if self.is_draining else 200
        answer, body = self._error(status, "stopping" if self.is_draining else "serving")
        await exchange.send(answer, body)

    async def _serve_content(self, request: Request, exchange: Exchange, destination: Destination) -> None:
        for _ in range(ROUNDS_MAX):
            found = await self._finder.find(destination, request)
            try:
                if await self._serve_once(request, exchange, destination, found):
                    return
            finally:
                found.close()
        raise TransportError(destination.key, "it failed again and again")

    async def _serve_once(self, request: Request, exchange: Exchange, destination: Destination, found: Found) -> bool:
        """One round; False if it came to nothing, and the client has seen nothing of it."""
        now, stored = self._with.clock.now(), found.fitting(request)
        lifetime = stored.lifetime if stored is not None else Lifetime()
        head, is_outdated = (stored.head, stored.is_outdated) if stored is not None else (None, False)
        decision = decide(request.headers, head, lifetime, now, is_outdated=is_outdated)
        if decision is Decision.SERVE and stored is not None:
            await self._serve_stored(request, exchange, stored, CacheStatus(is_hit=True), Result.HIT)
            return True
        if decision is Decision.FAIL:
            answer, body = self._error(504, "it is not cached", detail="only-if-cached")
            await self._send(exchange, destination.content, answer, body, Result.REFUSED)
            return True
        if isinstance(stored, MemoryEntry) and now < stored.retry_at and not wants_validation(request.headers):
            await self._serve_stale(request, exchange, stored)
            return True
        if request.method == "HEAD" and stored is None:
            await self._passing.serve_head(
                request, exchange, self._ordering.order(request, exchange, destination, found)
            )
            return True
        order = self._ordering.order(request, exchange, destination, found, is_validated=decision is not Decision.FETCH)
        if decision is Decision.SERVE_AND_VALIDATE and stored is not None:
            if order.is_shared and self._flights.find(order.flight_key) is None:
                self._renew_behind(order, stored, now)
            await self._serve_stale(request, exchange, stored, detail="stale-while-revalidate")
            return True
        try:
            return await self._serve_fetched(request, exchange, order)
        except UpstreamsFailedError:
            if stored is None or exchange.status or not order.has_stand_in:
                raise
            if isinstance(stored, MemoryEntry):
                stored.retry_at = now + RETRY_SECONDS
            await self._serve_stale(request, exchange, stored)
            return True

    # ------------------------------------------------------------------------------------------------ fetching

    async def _serve_fetched(
        self, request: Request, exchange: Exchange, order: FetchOrder, awaited: AwaitedObject | None = None
    ) -> bool:
        if awaited is not None:
            flight, is_collapsed = awaited.flight, awaited.is_collapsed
        else:
            found = self._flights.find(order.flight_key) if order.is_shared else None
            flight, is_collapsed = found or self._start(order), found is not None
            if found is not None:
                exchange.waited_for = found.request_id
        is_site = order.destination.content.kind is ContentKind.OTHER  # of others no interim answers are passed on
        with self._flights.joined(flight, exchange.tell_interim if is_site else None):
            if awaited is not None:
                awaited.leave()
            try:
                outcome = await asyncio.shield(flight.outcome)
                if isinstance(outcome, Kept):
                    return await self._serve_confirmed(request, exchange, order, outcome, is_collapsed=is_collapsed)
                if not is_collapsed or _is_for(outcome, request):
                    await self._serve_outcome(request, exchange, order, outcome, is_collapsed=is_collapsed)
                    return True
            except (HashMismatchError, DocumentError, TransportError, FlightStopped) as error:
                if exchange.sent or exchange.status or isinstance(error, UpstreamsFailedError):
                    raise
                return False
        return await self._serve_fetched(request, exchange, replace(order, is_shared=False))

    def _start(self, order: FetchOrder) -> Flight:
        async def run(flight: Flight) -> None:
            await Fetch(self._with, order, flight).run()

        resource = order.destination.key
        flight = self._flights.start(
            order.flight_key or resource,
            run,
            is_shared=order.is_shared,
            resource=resource,
            is_miss=order.reason == "miss",
        )
        flight.request_id = order.request_id
        if not self._share.owns(resource) and not order.destination.content.is_pinned:
            flight.is_outdated = True  # its owner is down, and alone may keep it; but time must go forward for it, too
        return flight

    def _renew_behind(self, order: FetchOrder, stored: Stored, now: float) -> None:
        """Asks for something new while what is stored is given; after a failure not again at once."""
        flight = self._start(order)

        def note(outcome: asyncio.Future[Outcome]) -> None:
            if isinstance(stored, MemoryEntry) and not outcome.cancelled() and outcome.exception() is not None:
                stored.retry_at = now + RETRY_SECONDS

        flight.outcome.add_done_callback(note)

    async def _serve_outcome(
        self,
        request: Request,
        exchange: Exchange,
        order: FetchOrder,
        outcome: Arriving | Complete,
        *,
        is_collapsed: bool,
    ) -> None:
        result = Result.COLLAPSED if is_collapsed else Result.MISS if outcome.is_shareable else Result.PASSED
        head = outcome.head if isinstance(outcome, Arriving) else outcome.entry.head
        status = CacheStatus(
            forwarded=order.reason,
            status=head.status,
            is_stored=outcome.is_stored,
            is_collapsed=is_collapsed,
        )
        if isinstance(outcome, Complete):
            answer = self._answer(outcome.entry.representation(), request, status)
            await self._send(exchange, outcome.entry.content, answer, outcome.entry.body, result)
            return
        body, content = outcome.body, outcome.content
        lifetime = self._with.lifetimes.of(content.kind, head.status)
        source = Representation(head, content, lifetime, body.size, is_complete=body.size is not None, is_arriving=True)
        answer = self._answer(source, request, status)
        async with aclosing(arriving_pieces(body, answer)) as pieces:
            await self._stream(exchange, content, answer, pieces, result)

    async def _serve_confirmed(
        self, request: Request, exchange: Exchange, order: FetchOrder, kept: Kept, *, is_collapsed: bool
    ) -> bool:
        """Serves what was stored after an upstream confirmed it; False if it has vanished meanwhile."""
        found = await self._finder.find(order.destination, request)
        try:
            stored = found.fitting(request)
            if stored is None:
                return False
            stored.head = kept.head
            status = CacheStatus(forwarded=order.reason, status=304, is_collapsed=is_collapsed, is_stored=True)
            await self._serve_stored(request, exchange, stored, status, Result.REVALIDATED)
        finally:
            found.close()
        return True

    async def _serve_stored(
        self, request: Request, exchange: Exchange, stored: Stored, status: CacheStatus, result: Result
    ) -> None:
        answer = self._answer(stored.representation(), request, status)
        if isinstance(stored, MemoryEntry):
            await self._send(exchange, stored.content, answer, stored.body, result)
            return
        if exchange.is_relayed and result is Result.HIT and stored.lifetime.is_immutable and not stored.is_outdated:
            await exchange.send(found_on_disk(), b"")
            return
        if result is Result.HIT and not stored.is_outdated and lasts_for_ever(stored.head, stored.lifetime):
            self._open_files.let_go_before(self._with.purges.generation)
            stored.file = self._open_files.instead_of(stored.file, stored.file.facts.key, self._with.clock.now())
            self._open_files.put(stored.file.facts.key, stored.file, stored.representation(), self._with.clock.now())
        if exchange.can_send_files and is_in_memory(stored.file, answer.start, answer.stop or stored.file.facts.size):
            self._count(exchange, stored.content, result)
            await exchange.send_file(answer, stored.file)
            return
        async with aclosing(file_pieces(stored.file, answer, self._with.disk, lambda: exchange.piece_bytes)) as pieces:
            await self._stream(exchange, stored.content, answer, pieces, result)

    async def _serve_stale(
        self, request: Request, exchange: Exchange, stored: Stored, *, detail: str = "upstreams-failed"
    ) -> None:
        """Serves what is stored although it is stale, as when no upstream gave anything newer."""
        status = CacheStatus(is_hit=True, detail=detail)
        await self._serve_stored(request, exchange, stored, status, Result.STALE)

    # ------------------------------------------------------------------------------------------------ answers

    def _answer(self, source: Representation, request: Request, status: CacheStatus) -> Answer:
        return answer_from(source, request, self._with.clock.now(), status, self._with.edge_name)

    def _error(self, status: int, reason: str, *, detail: str = "", proxy_error: str = "") -> tuple[Answer, bytes]:
        now, name = self._with.clock.now(), self._with.edge_name
        return error_answer(status, reason, name, now, detail=detail, proxy_error=proxy_error)

    async def _send(self, exchange: Exchange, content: Content, answer: Answer, body: bytes, result: Result) -> None:
        self._count(exchange, content, result)
        await exchange.send(answer, body)

    async def _stream(
        self, exchange: Exchange, content: Content, answer: Answer, pieces: AsyncIterator[bytes], result: Result
    ) -> None:
        self._count(exchange, content, result)
        await exchange.stream(answer, pieces)

    def _count(self, exchange: Exchange, content: Content, result: Result) -> None:
        exchange.result = result.value
        if exchange.is_counted:
            tally = exchange.tally = self._with.statistics.tallies.of(content)
            tally.requests += 1
            self._with.statistics.requests[result, tally.label] += 1

    async def _refuse(self, exchange: Exchange, error: RequestError) -> None:
        if error.status in {400, 405, 501}:
            exchange.keeps_alive = False  # whoever sends such, where its next request begins is not certain
        answer, body = self._error(error.status, error.reason, detail="refused")
        await self._send(exchange, Content(ContentKind.OTHER), answer, body, Result.REFUSED)

    async def _serve_failure(self, exchange: Exchange, destination: Destination, error: UpstreamsFailedError) -> None:
        """Says that the upstreams failed: with the answer of one, if one answered, else with 502 or 504."""
        if exchange.status:
            exchange.abort()
            return
        if error.answer is not None:
            entry = error.answer.entry
            status = CacheStatus(forwarded="miss", status=entry.head.status)
            answer = self._answer(entry.representation(), exchange.request, status)
            await self._send(exchange, destination.content, answer, entry.body, Result.FAILED)
            return
        status_code, kind = (504, "connection_read_timeout") if error.is_timeout else (502, "destination_unavailable")
        answer, body = self._error(status_code, str(error), detail="upstreams-failed", proxy_error=kind)
        await self._send(exchange, destination.content, answer, body, Result.FAILED)


def _is_for(outcome: Arriving | Complete, request: Request) -> bool:
    """Whether a client that only joined may have this answer, too."""
    head = outcome.head if isinstance(outcome, Arriving) else outcome.entry.head
    is_error = head.status >= 500
    return (outcome.is_shareable or is_error) and selects(head, request.headers)
