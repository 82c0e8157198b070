"""Requests whose answers are passed on and not stored: methods other than GET, and HEAD for what is not cached.

Bodies go up and come down as fast as the slower side takes them, and no more of them is in memory than a connection's
buffers hold. A request that may have changed something is sent once: to the next server only if the first one could not
even be connected to.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext, suppress
from typing import Final

from cdn.errors import TransportError, UnreachableError
from cdn.transport.base import Request as UpstreamRequest
from cdn.transport.base import Response
from edge.connection.exchange import ClientGone, Exchange
from edge.fetch.collapsing import Flights
from edge.fetch.orders import FetchOrder, UpstreamsFailedError
from edge.fetch.supplies import Supplies
from edge.http.answering import Answer, CacheStatus, Representation, answer_from, kept_fields, passed_answer
from edge.http.caching import StoredHead, also_invalidated, dated, invalidates
from edge.http.headers import Headers, http_date, upstream_fields
from edge.http.request import Request, RequestError
from edge.http.request_id import named
from edge.http.target import parse_target
from edge.routing import Destination, Source
from edge.upstream.asking import Asked
from edge.upstream.health import UpstreamBusyError
from edge.watching.statistics import Result

_NOT_PASSED_ON: Final = ("Expect", "Host", "Via")


class _Upload:
    """A request's body on its way up; remembers what went wrong on the client's side."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self.failure: RequestError | ClientGone | None = None

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body, piece by piece."""
        try:
            async for piece in self._exchange.body():
                yield piece
        except (RequestError, ClientGone) as error:
            self.failure = error
            raise


class Passing:
    """Passes requests on.

    Args:
        supplies: caches, fetcher and clock.
        flights: fetches under way, which a change overtakes.
    """

    def __init__(self, supplies: Supplies, flights: Flights) -> None:
        self._with = supplies
        self._flights = flights

    async def serve(self, request: Request, exchange: Exchange, destination: Destination) -> None:
        """Passes a request of any method but GET and HEAD on.

        Raises:
            RequestError: its body is malformed.
            UpstreamsFailedError: no upstream answered.
            TransportError: the answer broke off.
        """
        if request.method == "OPTIONS" and request.headers.get("Max-Forwards") == "0":  # RFC 9110 §7.6.2
            self._count(exchange, destination)
            await self.tell_options(exchange)
            return
        health, now = self._with.health, self._with.clock.monotonic()
        causes = health.pausing(destination.sources, now)
        for source in health.ordered(destination.sources, now):
            upload = _Upload(exchange)
            try:
                async with self._turn(request, source):
                    await self._pass(request, exchange, destination, source, upload)
                return
            except TransportError as error:
                if upload.failure is not None:
                    raise upload.failure from error
                self._with.statistics.fetch_failures[source.server] += 1
                self._note_failure(source, error, exchange.request_id)
                if exchange.status:
                    raise
                causes.append(error)
                if not isinstance(error, UnreachableError | UpstreamBusyError):
                    break
        raise UpstreamsFailedError(destination.sources[0].url, tuple(causes), None)

    def _turn(self, request: Request, source: Source) -> AbstractAsyncContextManager[None]:
        """While it lasts a request with a body may be sent."""
        health = self._with.health.of(source.server)
        if health is None or not request.has_body:
            return nullcontext()
        return self._with.turns.uploading(source.server, health.connections_max, source.url)

    async def tell_options(self, exchange: Exchange) -> None:
        """Says which methods the edge itself knows (RFC 9110 §9.3.7)."""
        fields = (("Date", http_date(self._with.clock.now())), ("Allow", "GET, HEAD, OPTIONS"))
        await exchange.send(Answer(204, Headers(fields)), b"")

    async def _pass(
        self, request: Request, exchange: Exchange, destination: Destination, source: Source, upload: _Upload
    ) -> None:
        asked_at = self._with.clock.now()
        request_up = UpstreamRequest(
            source.url,
            request.method,
            self._fields(request, exchange.request_id),
            proxy=source.proxy,
            body=upload.pieces() if request.has_body else None,
            on_interim=lambda status, fields: exchange.tell_interim(status, Headers(fields).end_to_end()),
        )
        async with Asked(self._with, source, request_up) as response:
            headers = kept_fields(destination.content, Headers(response.fields))
            now = self._with.clock.now()
            head = StoredHead(response.status, dated(headers, now), asked_at, now)
            self._with.health.note_success(source.server, self._with.clock.monotonic())
            if invalidates(request.method, head.status):
                await self._invalidate(request, destination, head.headers)
            self._count(exchange, destination)
            answer = passed_answer(head, response.size, self._with.edge_name)
            async with aclosing(self._down(response)) as pieces:
                await exchange.stream(answer, pieces)

    async def _down(self, response: Response) -> AsyncGenerator[bytes, None]:
        """The answer's body."""
        async for piece in response.chunks():
            self._with.statistics.bytes_fetched += len(piece)
            yield piece

    def _fields(self, request: Request, request_id: str) -> dict[str, str]:
        headers = request.headers.end_to_end().without(*_NOT_PASSED_ON)
        hops = request.headers.get("Max-Forwards")
        if request.method == "OPTIONS" and hops is not None and hops.isascii() and hops.isdigit():
            headers = headers.replaced("Max-Forwards", str(int(hops[:9]) - 1))
        via = request.headers.joined("Via") or ""
        return upstream_fields(headers, via if via.isascii() else "", self._with.edge_name, request_id)

    async def _invalidate(self, request: Request, destination: Destination, headers: Headers) -> None:
        """Forgets what a change has made out of date: of the URL itself, and of those that the answer names."""
        target = destination.target
        base = target.origin or f"http://{request.headers.get('Host') or ''}"
        keys = [destination.key]
        for url in also_invalidated(base + target.path_and_query, headers):
            with suppress(RequestError):
                keys.append(destination.key_of(parse_target(url if target.origin else url[len(base) :])))
        for key in dict.fromkeys(keys):
            self._flights.outdate(key)
            async with self._with.storing.hold(key):
                await self._with.variants.forget_everywhere(key)

    async def serve_head(self, request: Request, exchange: Exchange, order: FetchOrder) -> None:
        """Passes a HEAD request on.

        Raises:
            UpstreamsFailedError: no upstream answered.
        """
        content, fields = order.destination.content, order.fields(self._with.edge_name)
        health, now = self._with.health, self._with.clock.monotonic()
        causes = health.pausing(order.destination.sources, now)
        best: StoredHead | None = None
        length: str | None = None
        for source in health.ordered(order.destination.sources, now):
            asked_at = self._with.clock.now()
            try:
                request_up = UpstreamRequest(source.url, "HEAD", fields, source.proxy)
                async with Asked(self._with, source, request_up) as response:
                    headers = Headers(response.fields)
                    length = headers.get("Content-Length")
                    headers = kept_fields(content, headers)
                    best = StoredHead(response.status, headers, asked_at, self._with.clock.now())
            except TransportError as error:
                self._note_failure(source, error, order.request_id)
                causes.append(error)
                continue
            if best.status < 500 and best.status not in {404, 410}:
                break
        if best is None:
            raise UpstreamsFailedError(order.destination.sources[0].url, tuple(causes), None)
        size = int(length) if length is not None and length.isascii() and length.isdigit() else None
        source_of_answer = Representation(best, content, self._with.lifetimes.of(content.kind, best.status), size)
        status = CacheStatus(forwarded="miss", status=best.status)
        answer = answer_from(source_of_answer, request, self._with.clock.now(), status, self._with.edge_name)
        self._count(exchange, order.destination)
        await exchange.send(answer, b"")

    def _note_failure(self, source: Source, error: TransportError, request_id: str) -> None:
        self._with.health.note_failure(source.server, error, self._with.clock.monotonic())
        self._with.warn("edge.upstream.failed", source.server, url=source.url, reason=str(error), **named(request_id))

    def _count(self, exchange: Exchange, destination: Destination) -> None:
        exchange.result = Result.PASSED.value
        tally = exchange.tally = self._with.statistics.tallies.of(destination.content)
        tally.requests += 1
        self._with.statistics.requests[Result.PASSED, tally.label] += 1
