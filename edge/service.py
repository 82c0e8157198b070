"""What an edge does with a request: find what is stored, decide, fetch together with others, answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Final

from cdn.errors import CdnError, DocumentError, HashMismatchError, TransportError
from cdn.hashing import Hasher
from cdn.telemetry import event
from cdn.transport.base import Request as UpstreamRequest
from cdn.transport.slots import HostSlots
from edge.answering import Answer, CacheStatus, Representation, answer_from, error_answer, kept_fields
from edge.collapsing import Arriving, Complete, Flight, Flights, FlightStopped, Kept
from edge.content import Content, ContentKind
from edge.disk_cache import OpenFile
from edge.fetching import Fetch, FetchOrder, Supplies, UpstreamsFailedError
from edge.headers import Headers
from edge.http_caching import (
    Decision,
    Lifetime,
    StoredHead,
    conditional_fields,
    decide,
    may_stand_in,
    selects,
    wants_validation,
)
from edge.memory_cache import MemoryEntry
from edge.protocol import Exchange
from edge.request import Request, RequestError
from edge.revisions import read_manifest
from edge.routing import Destination, Routes
from edge.statistics import Result
from edge.target import parse_target

ROUNDS_MAX: Final = 3
"""How often a request begins anew after what it waited for came to nothing that it has seen."""
DESTINATIONS_MAX: Final = 8192
LOADS_MAX: Final = 32
RETRY_SECONDS: Final = 5.0
"""How long a stale answer is given before failed upstreams are asked again."""
_DISK_READ_BYTES: Final = 128 << 10
_NOT_PASSED_ON: Final = (
    "Authorization",
    "Cache-Control",
    "Expect",
    "Host",
    "If-Match",
    "If-Modified-Since",
    "If-None-Match",
    "If-Range",
    "If-Unmodified-Since",
    "Pragma",
    "Range",
    "Via",
)


class StoredFile:
    """A stored response whose body stays on disk."""

    def __init__(self, file: OpenFile, content: Content, lifetime: Lifetime) -> None:
        self.file = file
        self.head = file.facts.head
        self.content = content
        self.lifetime = lifetime

    def representation(self) -> Representation:
        """What answers are made from."""
        return Representation(self.head, self.content, self.lifetime, self.file.facts.size)


Stored = MemoryEntry | StoredFile


class EdgeService:
    """Answers requests.

    Args:
        supplies: caches, fetcher and clock.
        routes: what is served from where.
        flights: fetches under way.
    """

    def __init__(self, supplies: Supplies, routes: Routes, flights: Flights) -> None:
        self._with = supplies
        self._routes = routes
        self._flights = flights
        self._destinations: dict[str, Destination] = {}
        self._loading = HostSlots(LOADS_MAX, 1)
        self.is_draining = False

    def replace_routes(self, routes: Routes) -> None:
        """Serves from other upstreams from now on."""
        self._routes = routes
        self._destinations.clear()

    # ------------------------------------------------------------------------------------------------ the short way

    def hit(self, request: Request, now: float) -> tuple[bytes, bytes] | None:
        """Head and body for a plain request, if they are ready."""
        destination = self._destinations.get(request.target)
        entry = self._with.memory.get(destination.key) if destination is not None else None
        if entry is None or now >= entry.fresh_until:
            return None
        statistics = self._with.statistics
        statistics.memory_hits += 1
        statistics.memory_hit_bytes += len(entry.body)
        return entry.plain_head(request, now, self._with.edge_name), entry.body

    # ------------------------------------------------------------------------------------------------ the long way

    async def serve(self, request: Request, exchange: Exchange) -> None:
        """Answers any request."""
        if request.target == "/healthz":
            await self._serve_health(exchange)
            return
        try:
            destination = self._locate(request)
        except RequestError as error:
            await self._refuse(exchange, error)
            return
        try:
            await self._serve_content(request, exchange, destination)
        except UpstreamsFailedError as error:
            await self._serve_failure(exchange, destination, error)
        except (CdnError, FlightStopped) as error:
            event("edge.answer.broken", level="warning", key=destination.key, reason=str(error))
            exchange.abort()

    def _locate(self, request: Request) -> Destination:
        known = self._destinations.get(request.target)
        if known is None:
            known = self._routes.locate(parse_target(request.target))
            if len(self._destinations) >= DESTINATIONS_MAX:
                self._destinations.clear()
            self._destinations[request.target] = known
        name = self._with.edge_name
        if any(name in via.split() for via in (request.headers.joined("Via") or "").split(",")):
            raise RequestError(508, "it has been here before: edges ask one another in a circle")
        return known

    async def _serve_health(self, exchange: Exchange) -> None:
        status = 503 if self.is_draining else 200
        answer, body = self._error(status, "stopping" if self.is_draining else "serving")
        await exchange.send(answer, body)

    async def _serve_content(self, request: Request, exchange: Exchange, destination: Destination) -> None:
        for _ in range(ROUNDS_MAX):
            stored = await self._stored(destination)
            try:
                if await self._serve_once(request, exchange, destination, stored):
                    return
            finally:
                if isinstance(stored, StoredFile):
                    stored.file.close()
        raise TransportError(destination.key, "it failed again and again")

    async def _serve_once(
        self, request: Request, exchange: Exchange, destination: Destination, stored: Stored | None
    ) -> bool:
        """One round; False if it came to nothing, and the client has seen nothing of it."""
        now, lifetime = self._with.clock.now(), stored.lifetime if stored is not None else Lifetime()
        decision = decide(request.headers, stored.head if stored is not None else None, lifetime, now)
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
            await self._serve_head(request, exchange, destination)
            return True
        validated = stored if decision is Decision.VALIDATE else None
        order = replace(self._order(request, exchange, destination, validated), reason=_reason(request, stored))
        try:
            return await self._serve_fetched(request, exchange, order)
        except UpstreamsFailedError:
            if stored is None or exchange.status or not may_stand_in(request.headers, stored.head, lifetime, now):
                raise
            if isinstance(stored, MemoryEntry):
                stored.retry_at = now + RETRY_SECONDS
            await self._serve_stale(request, exchange, stored)
            return True

    def _order(
        self, request: Request, exchange: Exchange, destination: Destination, stored: Stored | None
    ) -> FetchOrder:
        """What to fetch for a request; credentials make it this client's alone."""
        passed = Headers()
        if destination.content.kind is ContentKind.OTHER:
            passed = request.headers.end_to_end().without(*_NOT_PASSED_ON)
        elif destination.content.kind is ContentKind.GEO:
            passed = Headers((("X-Forwarded-For", exchange.client),))
        authorization = request.headers.get("Authorization")
        if authorization is not None:
            passed = Headers((*passed.pairs, ("Authorization", authorization)))
        validated = stored.head if stored is not None and conditional_fields(stored.head) else None
        via = request.headers.joined("Via") or ""
        return FetchOrder(
            destination,
            passed,
            validated,
            is_shared=authorization is None,
            wants_fresh_copy=wants_validation(request.headers),
            via=via if via.isascii() else "",
        )

    # ------------------------------------------------------------------------------------------------ fetching

    async def _serve_fetched(self, request: Request, exchange: Exchange, order: FetchOrder) -> bool:
        key = order.destination.key
        flight = self._flights.find(key) if order.is_shared else None
        is_collapsed = flight is not None
        if flight is None:
            flight = self._start(order)
        with self._flights.joined(flight):
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

        return self._flights.start(order.destination.key, run, is_shared=order.is_shared)

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
        source = Representation(head, content, lifetime, body.size, is_complete=body.size is not None)
        answer = self._answer(source, request, status)
        with body.open(answer.start, answer.stop) as reader:
            async with aclosing(reader.pieces()) as pieces:
                await self._stream(exchange, content, answer, pieces, result)

    async def _serve_confirmed(
        self, request: Request, exchange: Exchange, order: FetchOrder, kept: Kept, *, is_collapsed: bool
    ) -> bool:
        """Serves what was stored after an upstream confirmed it; False if it has vanished meanwhile."""
        stored = await self._stored(order.destination)
        if stored is None or not selects(stored.head, request.headers):
            return False
        try:
            stored.head = kept.head
            status = CacheStatus(forwarded=order.reason, status=304, is_collapsed=is_collapsed, is_stored=True)
            await self._serve_stored(request, exchange, stored, status, Result.REVALIDATED)
        finally:
            if isinstance(stored, StoredFile):
                stored.file.close()
        return True

    async def _serve_head(self, request: Request, exchange: Exchange, destination: Destination) -> None:
        """Passes a HEAD request on; nothing is stored."""
        order = self._order(request, exchange, destination, None)
        fields = order.fields(self._with.edge_name)
        causes: list[Exception] = []
        best: StoredHead | None = None
        length: str | None = None
        for source in self._with.health.ordered(destination.sources, self._with.clock.monotonic()):
            asked_at = self._with.clock.now()
            try:
                async with self._with.fetcher.send(UpstreamRequest(source.url, "HEAD", fields)) as response:
                    headers = Headers.of(response.headers.items())
                    length = headers.get("Content-Length")
                    headers = kept_fields(destination.content, headers)
                    best = StoredHead(response.status, headers, asked_at, self._with.clock.now())
            except TransportError as error:
                self._with.health.note_failure(source.server, str(error), self._with.clock.monotonic())
                causes.append(error)
                continue
            if best.status < 500 and best.status not in {404, 410}:
                break
        if best is None:
            raise UpstreamsFailedError(destination.sources[0].url, tuple(causes), None)
        size = int(length) if length is not None and length.isascii() and length.isdigit() else None
        lifetime = self._with.lifetimes.of(destination.content.kind, best.status)
        source_of_answer = Representation(best, destination.content, lifetime, size)
        answer = self._answer(source_of_answer, request, CacheStatus(forwarded="miss", status=best.status))
        await self._send(exchange, destination.content, answer, b"", Result.PASSED)

    # ------------------------------------------------------------------------------------------------ what is stored

    async def _stored(self, destination: Destination) -> Stored | None:
        """What is stored for a destination; a `StoredFile` is to be closed by the caller."""
        key, content = destination.key, destination.content
        known = self._with.memory.get(key) or self._fresh_negative(key)
        if known is not None:
            return known
        async with self._loading.hold(key):
            entry = self._with.memory.get(key)  # what others waited for as well
            if entry is not None:
                return entry
            file = await asyncio.to_thread(self._with.disk.load, key, content.digest, pinned=content.is_pinned)
        if file is None:
            return None
        lifetime = self._with.lifetimes.of(content.kind, file.facts.head.status)
        if file.body is None:
            return StoredFile(file, content, lifetime)
        file.close()
        if not self._is_acceptable(destination, file.body):
            return None
        entry = MemoryEntry(key, file.facts.head, file.body, content, lifetime, self._with.clock.now())
        self._with.memory.put(entry)
        return entry

    def _fresh_negative(self, key: str) -> MemoryEntry | None:
        entry = self._with.memory.negative(key)
        return entry if entry is not None and self._with.clock.now() < entry.fresh_until else None

    def _is_acceptable(self, destination: Destination, body: bytes) -> bool:
        """Lets a manifest from an earlier run count as seen, so that time goes forward over restarts too."""
        if destination.content.kind is not ContentKind.MANIFEST:
            return True
        try:
            manifest = read_manifest(body, destination.content.repository, self._with.clock.now())
        except DocumentError:
            return False
        self._with.revisions.note(destination.key, manifest)
        return True

    async def _serve_stored(
        self, request: Request, exchange: Exchange, stored: Stored, status: CacheStatus, result: Result
    ) -> None:
        answer = self._answer(stored.representation(), request, status)
        if isinstance(stored, MemoryEntry):
            await self._send(exchange, stored.content, answer, stored.body, result)
            return
        async with aclosing(self._disk_pieces(stored, answer)) as pieces:
            await self._stream(exchange, stored.content, answer, pieces, result)

    async def _serve_stale(self, request: Request, exchange: Exchange, stored: Stored) -> None:
        """Serves what is stored because no upstream gave anything newer."""
        status = CacheStatus(is_hit=True, detail="upstreams-failed")
        await self._serve_stored(request, exchange, stored, status, Result.STALE)

    async def _disk_pieces(self, stored: StoredFile, answer: Answer) -> AsyncGenerator[bytes, None]:
        """The body of a file, hashed again while it is sent whole; its last piece waits for the digest.

        Raises:
            HashMismatchError: the disk changed it after it was verified.
        """
        file, digest = stored.file, stored.content.digest
        size = file.facts.size
        stop = size if answer.stop is None else answer.stop
        hasher = Hasher(digest.algorithm) if digest is not None and (answer.start, stop) == (0, size) else None
        position = answer.start
        while position < stop:
            piece = await asyncio.to_thread(_read, file, position, min(_DISK_READ_BYTES, stop - position), hasher)
            position += len(piece)
            is_last = position >= stop or not piece
            if is_last and hasher is not None and (not piece or hasher.digest() != digest):
                self._with.statistics.disk_failures += 1
                await asyncio.to_thread(self._with.disk.remove, file.facts.key, pinned=stored.content.is_pinned)
                raise HashMismatchError(file.facts.key, hasher.digest().text)
            if not piece:
                return
            yield piece

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
        self._with.statistics.requests[result, content.kind.value] += 1

    async def _refuse(self, exchange: Exchange, error: RequestError) -> None:
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


def _reason(request: Request, stored: Stored | None) -> str:
    """Why what is stored does not do (RFC 9211 §2.2)."""
    if stored is None:
        return "miss"
    if not selects(stored.head, request.headers):
        return "vary-miss"
    return "request" if wants_validation(request.headers) else "stale"


def _is_for(outcome: Arriving | Complete, request: Request) -> bool:
    """Whether a client that only joined may have this answer, too."""
    head = outcome.head if isinstance(outcome, Arriving) else outcome.entry.head
    is_error = head.status >= 500
    return (outcome.is_shareable or is_error) and selects(head, request.headers)


def _read(file: OpenFile, start: int, size: int, hasher: Hasher | None) -> bytes:
    piece = file.read(start, size)
    if hasher is not None:
        hasher.update(piece)
    return piece
