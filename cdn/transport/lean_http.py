"""The short way for plain requests: GET and HEAD over HTTP/1.1 without TLS, at a fraction of the processor time.

Most of what tiers ask each other are small objects, and a general client spends more on its machinery than on the
object. Everything that is not plain (HTTPS, bodies, redirects, credentials in URLs) goes to that general client, within
the same limits.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Final

from multidict import CIMultiDict

from cdn.errors import MalformedAnswerError, ShortTransferError, SlowPeerError, UnreachableError
from cdn.transport.answer_reader import AnswerHead, AnswerReader
from cdn.transport.base import Begun, Request, Response
from cdn.transport.connection import Connection, Pool
from cdn.transport.http import (
    DRAIN_SECONDS,
    DRAINED_BYTES_MAX,
    NEXT_ADDRESS_SECONDS,
    FollowingResolver,
    HttpFetcher,
    HttpSettings,
    Resolver,
    no_connection,
    system_said,
)
from cdn.transport.plain_request import Host, PlainRequests
from cdn.transport.slots import HostSlots
from cdn.transport.speed import SpeedGauge

if TYPE_CHECKING:
    from aiohappyeyeballs import AddrInfoType

_SILENT: Final = "the peer sent nothing for too long"


class LeanHttpFetcher:
    """Sends plain requests itself, and all others through an `HttpFetcher`; a `Fetcher`, used within one event loop.

    Args:
        settings: the limits of both.
        resolver: finds addresses in place of the system's resolver.
    """

    def __init__(self, settings: HttpSettings | None = None, *, resolver: Resolver | None = None) -> None:
        self.settings = settings or HttpSettings()
        self.slots = HostSlots(self.settings.connections_max, self.settings.connections_per_host)
        self.pool = Pool(self.settings.connections_max, self.settings.keepalive_seconds)
        self.in_use: set[Connection] = set()
        self.is_closed = False
        self._resolver = resolver
        self._following = resolver if isinstance(resolver, FollowingResolver) else None
        self._general: HttpFetcher | None = None
        self.plain = PlainRequests({"User-Agent": self.settings.user_agent, "Accept": "*/*", **self.settings.headers})

    def send(self, request: Request) -> AbstractAsyncContextManager[Response]:
        """Sends a request; see `Fetcher`."""
        host = self.plain.host_of(request) if self.settings.redirects_max == 0 else None
        return self._general_fetcher(request.url).send(request) if host is None else _Exchange(self, request, host)

    def begin(self, request: Request, on_change: Callable[[], None]) -> Begun | None:
        """Sends a request at once; see `PromptFetcher`."""
        host = self.plain.host_of(request) if self.settings.redirects_max == 0 and not self.is_closed else None
        if host is None:
            return None
        exchange = _Exchange(self, request, host)
        return exchange if exchange.is_begun_at_once(on_change) else None

    async def close(self) -> None:
        """Gives up all connections; see `Fetcher`."""
        self.is_closed = True
        self.pool.close()
        for connection in list(self.in_use):
            connection.close()
        if self._general is not None:
            await self._general.close()

    def _general_fetcher(self, url: str) -> HttpFetcher:
        """The general client, made when it is first needed: most edges never ask anything that is not plain."""
        if self.is_closed:
            raise UnreachableError(url, "this fetcher is closed")
        if self._general is None:
            self._general = HttpFetcher(self.settings, resolver=self._resolver, slots=self.slots)
        return self._general

    def kept(self, host: Host) -> Connection | None:
        """A connection that waits for a request, to where the host still is."""
        while (connection := self.pool.take(host)) is not None:
            if self._following is None or self._following.is_current(host.name, connection.address):
                return connection
            connection.close()
        return None

    async def connect(self, host: Host, url: str, proxy: str | None) -> Connection:
        """A new connection to a host.

        Raises:
            UnreachableError: there is none in time.
        """
        try:
            async with asyncio.timeout(self.settings.connect_timeout_seconds):
                connection = await self._connect(host)
        except TimeoutError:
            raise no_connection(url, proxy, "in time") from None
        except OSError as error:
            raise no_connection(url, proxy, f"({system_said(error)[:300]})") from error
        except ValueError as error:
            raise no_connection(url, proxy, f"({error})") from error
        if self.is_closed:
            connection.close()
            raise UnreachableError(url, "this fetcher is closed")
        return connection

    async def _connect(self, host: Host) -> Connection:
        from aiohappyeyeballs import start_connection

        infos = [_address_info(address, host.port) for address in await self._addresses(host)]
        if not infos:
            raise OSError(f"{host.name} has no address")
        loop = asyncio.get_running_loop()
        sock = await start_connection(infos, happy_eyeballs_delay=NEXT_ADDRESS_SECONDS, interleave=1, loop=loop)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            address = str(sock.getpeername()[0])
            _, connection = await loop.create_connection(lambda: Connection(host, self.pool, address), sock=sock)
        except BaseException:
            sock.close()
            raise
        return connection

    async def _addresses(self, host: Host) -> list[str]:
        try:
            return [str(ipaddress.ip_address(host.name))]
        except ValueError:
            pass
        if self._resolver is not None:
            return list(await self._resolver(host.name, host.port))
        rows = await asyncio.get_running_loop().getaddrinfo(host.name, host.port, type=socket.SOCK_STREAM)
        return list(dict.fromkeys(str(row[4][0]) for row in rows))


class _Exchange:
    """One request and its answer: what `LeanHttpFetcher.send` gives, and the `Response` inside it."""

    def __init__(self, fetcher: LeanHttpFetcher, request: Request, host: Host) -> None:
        self._fetcher = fetcher
        self._request = request
        self._host = host
        self._slot = fetcher.slots.hold(host.text)
        self._connection: Connection | None = None
        self._reader: AnswerReader | None = None
        self._head: AnswerHead | None = None
        self._headers: CIMultiDict[str] | None = None
        self._is_begun = False

    # ------------------------------------------------------------------------------------------------ at once

    def is_begun_at_once(self, on_change: Callable[[], None]) -> bool:
        """Sends the request on a kept connection, if there is one and nobody has to be waited for."""
        if not self._slot.is_taken_at_once():
            return False
        kept = self._fetcher.kept(self._host)
        if kept is None:
            self._slot.give_back()
            return False
        try:
            self._send(kept, self._fetcher.plain.head_of(self._request))
        except ValueError:
            self._fetcher.pool.put(kept)
            self._slot.give_back()
            return False
        kept.on_change = on_change
        self._is_begun = True
        return True

    def is_worth_waiting(self, size_max: int) -> bool:
        """Whether all of a small body may still come; see `Begun`."""
        connection, reader = self._connection, self._reader
        if connection is None or reader is None or connection.is_lost or reader.is_complete:
            return False
        return reader.head is None or (reader.head.size is not None and reader.head.size <= size_max)

    def taken_whole(self) -> Response | None:
        """The answer, if all of it is here; see `Begun`."""
        if self._reader is None or self.whole() is None:
            return None
        self._head = self._reader.head
        return self

    def finish(self) -> None:
        """Ends it; see `Begun`."""
        if self._connection is not None:
            self._connection.on_change = None
        self._give_back()
        self._drop()
        self._slot.give_back()

    # ------------------------------------------------------------------------------------------------ the block

    async def __aenter__(self) -> Response:
        if not self._is_begun:
            await self._slot.__aenter__()
        try:
            await self._ask()
        except BaseException:
            self._drop()
            await self._slot.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None or not issubclass(kind, asyncio.CancelledError | GeneratorExit):
                await self._let_go()
        finally:
            self._drop()
            await self._slot.__aexit__(None, None, None)

    async def _ask(self) -> None:
        """Sends the request, on a kept connection if there is one, and once more if that proves to be dead."""
        fetcher, url = self._fetcher, self._request.url
        if fetcher.is_closed:
            raise UnreachableError(url, "this fetcher is closed")
        try:
            head = fetcher.plain.head_of(self._request)
        except ValueError as error:
            raise UnreachableError(url, str(error)) from None
        kept = self._connection if self._is_begun else fetcher.kept(self._host)
        if kept is not None:
            if self._is_begun:
                kept.on_change = None
            else:
                self._send(kept, head)
            if await self._is_answered(kept, is_kept=True):
                return
        connection = await fetcher.connect(self._host, url, self._request.proxy)
        self._send(connection, head)
        await self._is_answered(connection, is_kept=False)

    def _send(self, connection: Connection, head: bytes) -> None:
        settings = self._fetcher.settings
        self._connection = connection
        self._fetcher.in_use.add(connection)
        reader = self._reader = AnswerReader(
            has_body=self._request.method != "HEAD",
            line_bytes_max=settings.header_bytes_max,
            fields_max=settings.header_fields_max,
            on_interim=self._request.on_interim,
        )
        connection.ask(head, reader)

    async def _is_answered(self, connection: Connection, *, is_kept: bool) -> bool:
        """Waits for the head of the answer; False if a kept connection was closed before any of it came."""
        settings, reader = self._fetcher.settings, self._reader
        assert reader is not None
        loop, deadline = asyncio.get_running_loop(), connection.asked_at + settings.head_timeout_seconds
        while (answer := reader.answer()) is None:
            if connection.malformed is not None or connection.is_lost:
                if is_kept and not connection.has_heard and not self._fetcher.is_closed:
                    self._drop()
                    return False
                raise self._failure(connection)
            until = min(deadline, connection.heard_at + settings.idle_timeout_seconds)
            if loop.time() >= until:
                reason = "the answer did not come in time" if until == deadline else _SILENT
                raise SlowPeerError(self._request.url, reason)
            await self._changes(connection, until)
        self._head = answer
        return True

    async def _let_go(self) -> None:
        """Gives the connection back for the next request if little is left to read, such as an error page."""
        connection, reader = self._connection, self._reader
        if connection is None or reader is None:
            return
        if not reader.is_complete:
            await self._drain(connection, reader)
        self._give_back()

    def _give_back(self) -> None:
        connection, reader = self._connection, self._reader
        if connection is None or reader is None:
            return
        if reader.is_reusable and not connection.is_lost and not self._fetcher.is_closed:
            self._connection = None
            self._fetcher.in_use.discard(connection)
            self._fetcher.pool.put(connection)

    async def _drain(self, connection: Connection, reader: AnswerReader) -> None:
        deadline, taken = asyncio.get_running_loop().time() + DRAIN_SECONDS, reader.left or 0
        while taken <= DRAINED_BYTES_MAX and not (reader.is_complete or connection.is_lost):
            while connection.pieces:
                taken += len(connection.take())
            if not await self._changes(connection, deadline):
                break

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._fetcher.in_use.discard(connection)
            connection.close()

    # ------------------------------------------------------------------------------------------------ the answer

    @property
    def status(self) -> int:
        """The HTTP status code."""
        assert self._head is not None
        return self._head.status

    @property
    def headers(self) -> Mapping[str, str]:
        """The header fields; keys compare without regard to case."""
        assert self._head is not None
        if self._headers is None:
            self._headers = CIMultiDict(self._head.fields)
        return self._headers

    @property
    def fields(self) -> tuple[tuple[str, str], ...]:
        """The header fields in the order they came."""
        assert self._head is not None
        return self._head.fields

    @property
    def size(self) -> int | None:
        """The body's size in bytes, where the peer said it."""
        assert self._head is not None
        return self._head.size

    def whole(self) -> bytes | None:
        """The whole body, if all of it is here already; see `Response`."""
        connection, reader = self._connection, self._reader
        if connection is None or reader is None or not reader.is_complete or connection.malformed is not None:
            return None
        return connection.pieces[0] if len(connection.pieces) == 1 else b"".join(connection.pieces)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body, piece by piece; see `Response`."""
        connection, reader = self._connection, self._reader
        assert connection is not None
        assert reader is not None
        gauge, loop = SpeedGauge(self._fetcher.settings.speed), asyncio.get_running_loop()
        idle_seconds, waited = self._fetcher.settings.idle_timeout_seconds, 0.0
        while True:
            if connection.pieces:
                piece = connection.take()
                if gauge.is_too_slow(len(piece), waited):
                    raise self._too_little()
                waited = 0.0
                yield piece
            elif reader.is_complete and connection.malformed is None:
                return
            elif connection.is_lost:
                raise self._failure(connection)
            else:
                started = loop.time()
                if not await self._changes(connection, started + idle_seconds):
                    self._drop()
                    raise SlowPeerError(self._request.url, _SILENT)
                waited += loop.time() - started

    async def _changes(self, connection: Connection, until: float) -> bool:
        """Waits until something has changed; False if nothing has by then."""
        change = connection.next_change()
        timer = asyncio.get_running_loop().call_at(until, connection.give_up)
        try:
            return await change
        finally:
            timer.cancel()

    # ------------------------------------------------------------------------------------------------ what went wrong

    def _failure(self, connection: Connection) -> MalformedAnswerError | ShortTransferError:
        url = self._request.url
        if connection.malformed is not None:
            return MalformedAnswerError(url, f"the answer is no HTTP ({connection.malformed})")
        reason = connection.reason or "the peer closed it"
        return ShortTransferError(url, f"the connection ended early ({reason[:300]})")

    def _too_little(self) -> SlowPeerError:
        self._drop()
        limit = self._fetcher.settings.speed
        reason = f"the peer sent less than {limit.bytes_per_second} bytes/s for {limit.window_seconds:g} s"
        return SlowPeerError(self._request.url, reason)


def _address_info(address: str, port: int) -> AddrInfoType:
    if ipaddress.ip_address(address).version == 6:
        return (socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port, 0, 0))
    return (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port))
