"""Fetching over HTTP/1.1 and HTTPS, with every wait and every size bounded.

The library underneath (aiohttp) is imported when a fetcher is made, not before: it costs more than a whole `cdn
--help`. All its errors are turned into ours at one place, `_mapped`.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import os
import socket
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable
from urllib.parse import urlsplit

import cdn
from cdn.errors import (
    CdnError,
    MalformedAnswerError,
    ShortTransferError,
    SlowPeerError,
    StatusError,
    TransportError,
    UnreachableError,
)
from cdn.transport.base import Request
from cdn.transport.slots import HostSlots
from cdn.transport.speed import SpeedGauge, SpeedLimit
from cdn.transport.surplus import AnswerEnd

if TYPE_CHECKING:
    import aiohttp
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.connector import Connection

USER_AGENT: Final = f"stratocast/{cdn.__version__}"
READ_BYTES: Final = 256 << 10
DRAINED_BYTES_MAX: Final = 16 << 10
DRAIN_SECONDS: Final = 0.5
NEXT_ADDRESS_SECONDS: Final = 0.25
"""How long one address may take to connect before the next one is tried beside it."""
_HOSTS_MAX: Final = 4096
_IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""Methods that do no more when they are done twice (RFC 9110 §9.2.2)."""


class Resolver(Protocol):
    """Finds the addresses of a host; the demonstration's clients ask our own GeoDNS this way."""

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """Addresses of the host, the preferred one first.

        Raises:
            OSError: there are none.
        """
        ...


@runtime_checkable
class FollowingResolver(Resolver, Protocol):
    """A resolver that knows more than it is asked for, and follows hosts to other addresses."""

    def is_current(self, host: str, address: str) -> bool:
        """Whether an address is still one of a host; looks again behind when that has not been done for long."""
        ...


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """Limits of an `HttpFetcher`.

    Args:
        connect_timeout_seconds: for finding the address and connecting, TLS included.
        idle_timeout_seconds: how long the peer may send nothing at all.
        head_timeout_seconds: for the whole head of an answer, from the request on.
        speed: the least it must send of a body.
        connections_per_host: requests under way to one host, or through one proxy.
        connections_max: requests under way in all.
        keepalive_seconds: how long an unused connection is kept.
        redirects_max: how many redirects are followed; with 0 a redirect is an answer like any other.
        header_bytes_max: size of one line of an answer's head.
        header_fields_max: number of its fields.
        user_agent: what to call ourselves.
        headers: sent with every request, such as ``Authorization``; never shown.
    """

    connect_timeout_seconds: float = 10.0
    idle_timeout_seconds: float = 10.0
    head_timeout_seconds: float = 30.0
    speed: SpeedLimit = field(default_factory=SpeedLimit)
    connections_per_host: int = 16
    connections_max: int = 256
    keepalive_seconds: float = 30.0
    redirects_max: int = 0
    header_bytes_max: int = 8190
    header_fields_max: int = 128
    user_agent: str = USER_AGENT
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)


class HttpFetcher:
    """Sends requests over HTTP; a `Fetcher`, used within one event loop.

    Args:
        settings: its limits.
        resolver: finds addresses in place of the system's resolver.
        slots: limits requests under way together with another fetcher's.
    """

    def __init__(
        self,
        settings: HttpSettings | None = None,
        *,
        resolver: Resolver | None = None,
        slots: HostSlots | None = None,
    ) -> None:
        import aiohttp  # noqa: F401  the cost is paid here, not in the middle of the first request

        self._settings = settings or HttpSettings()
        self._resolver = resolver
        self._slots = slots or HostSlots(self._settings.connections_max, self._settings.connections_per_host)
        self._sessions: dict[bool, aiohttp.ClientSession] = {}
        """By whether their requests may be repeated."""
        self._hosts: dict[str, str] = {}
        """By the addresses that were found for them."""
        self._is_closed = False

    @asynccontextmanager
    async def send(self, request: Request) -> AsyncIterator[HttpResponse]:
        """Sends a request; see `Fetcher`."""
        async with self._slots.hold(_route(request)):
            answer = await self._ask(request)
            try:
                yield HttpResponse(answer, request.url, self._settings)
            except (asyncio.CancelledError, GeneratorExit):
                answer.close()
                raise
            finally:
                await _let_go(answer)

    async def close(self) -> None:
        """Gives up all connections; see `Fetcher`."""
        self._is_closed = True
        for session in self._sessions.values():
            await session.close()

    async def _ask(self, request: Request) -> aiohttp.ClientResponse:
        """The answer, its head read."""
        from yarl import URL

        settings = self._settings
        told = _INTERIM.set(request.on_interim)
        try:
            with _mapped(request.url, request.proxy):
                async with asyncio.timeout(settings.head_timeout_seconds) as deadline:
                    return await self._opened_session(request).request(
                        request.method,
                        URL(request.url, encoded=True),  # as it is: peers and caches compare URLs byte by byte
                        headers=request.headers,
                        data=_timed(request.body, deadline, settings) if request.body is not None else None,
                        proxy=request.proxy,
                        allow_redirects=settings.redirects_max > 0,
                        max_redirects=settings.redirects_max + 1,  # there, the one that fails is counted too
                    )
        finally:
            _INTERIM.reset(told)

    def _opened_session(self, request: Request) -> aiohttp.ClientSession:
        if self._is_closed:
            raise UnreachableError(request.url, "this fetcher is closed")
        may_repeat = request.body is None and request.method in _IDEMPOTENT
        if may_repeat not in self._sessions:
            self._sessions[may_repeat] = self._new_session(keeps_connections=may_repeat)
        return self._sessions[may_repeat]

    def _new_session(self, *, keeps_connections: bool) -> aiohttp.ClientSession:
        """A session; without kept connections for requests that are sent once.

        The peer may close a kept connection at any time, also while a request is on its way to it (RFC 9112 §9.5).
        Whether it was read then nobody can say, so a request that cannot be repeated is not sent on one.
        """
        import aiohttp

        settings = self._settings
        keeping: dict[str, Any] = {"keepalive_timeout": settings.keepalive_seconds}
        connector = aiohttp.TCPConnector(
            limit=0,  # `HostSlots` limits
            **(keeping if keeps_connections else {"force_close": True}),
            resolver=_adapted(self._resolve) if self._resolver else None,
            use_dns_cache=self._resolver is None,
            happy_eyeballs_delay=NEXT_ADDRESS_SECONDS,  # RFC 8305: one dead address, or family, costs only this
            interleave=1,
        )
        loop, make = asyncio.get_running_loop(), _cutting_protocol()
        connector._factory = functools.partial(make, loop, self._is_current)  # noqa: SLF001 -- there is no other way
        return aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(
                total=None,
                connect=settings.connect_timeout_seconds,
                sock_connect=settings.connect_timeout_seconds,
                sock_read=settings.idle_timeout_seconds,
            ),
            headers={"User-Agent": settings.user_agent, **settings.headers},
            response_class=_interim_aware(),
            # Objects are served as they are stored (spec §4); what a body is, its sender says.
            skip_auto_headers=("Accept-Encoding", "Content-Type"),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            read_bufsize=READ_BYTES,
            max_line_size=settings.header_bytes_max,
            max_field_size=settings.header_bytes_max,
            max_headers=settings.header_fields_max,
        )

    def _is_current(self, address: str) -> bool:
        """Whether a connection to an address can be kept: the host that it was found for still has it."""
        host = self._hosts.get(address)
        return (
            host is None
            or not isinstance(self._resolver, FollowingResolver)
            or self._resolver.is_current(host, address)
        )

    async def _resolve(self, host: str, port: int) -> Sequence[str]:
        """Finds addresses, and remembers for which host."""
        assert self._resolver is not None
        addresses = await self._resolver(host, port)
        if len(self._hosts) > _HOSTS_MAX:
            self._hosts.clear()
        self._hosts |= dict.fromkeys(addresses, host)
        return addresses


class HttpResponse:
    """An answer over HTTP; a `Response`."""

    def __init__(self, answer: aiohttp.ClientResponse, url: str, settings: HttpSettings) -> None:
        self._answer = answer
        self._url = url
        self._settings = settings

    @property
    def status(self) -> int:
        """The HTTP status code."""
        return self._answer.status

    @property
    def headers(self) -> Mapping[str, str]:
        """The header fields; keys compare without regard to case."""
        return self._answer.headers

    @property
    def size(self) -> int | None:
        """The body's size in bytes, where the peer said it."""
        if "Transfer-Encoding" in self._answer.headers:  # it overrides Content-Length (RFC 9112 §6.3)
            return None
        return self._answer.content_length

    @property
    def fields(self) -> tuple[tuple[str, str], ...]:
        """The header fields in the order they came."""
        return tuple(self.headers.items())

    def whole(self) -> bytes | None:
        """Nothing, since the body is not read before it is wanted."""
        return None

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body, piece by piece; see `Response`."""
        gauge = SpeedGauge(self._settings.speed)
        while piece := await self._piece(gauge):
            yield piece

    async def _piece(self, gauge: SpeedGauge) -> bytes:
        """The next piece of the body, empty at its end."""
        started = time.monotonic()
        try:
            with _mapped(self._url):
                # The library's own limit is on bytes from the socket; chunk extensions without end would pass it.
                async with asyncio.timeout(self._settings.idle_timeout_seconds):
                    piece = await self._answer.content.readany()
            if piece and gauge.is_too_slow(len(piece), time.monotonic() - started):
                limit = self._settings.speed
                reason = f"the peer sent less than {limit.bytes_per_second} bytes/s for {limit.window_seconds:g} s"
                raise SlowPeerError(self._url, reason)
        except TransportError:
            self._answer.close()
            raise
        return piece


async def _timed(body: AsyncIterable[bytes], deadline: asyncio.Timeout, settings: HttpSettings) -> AsyncIterator[bytes]:
    """A body on its way up: the time to answer begins when it is sent, and the peer must take each piece in time."""
    loop = asyncio.get_running_loop()

    def allow(seconds: float | None) -> None:
        with suppress(RuntimeError):  # the answer came before the whole body was sent
            deadline.reschedule(None if seconds is None else loop.time() + seconds)

    allow(None)
    async for piece in body:
        allow(settings.idle_timeout_seconds)
        yield piece
        allow(None)
    allow(settings.head_timeout_seconds)


_Told = Callable[[int, tuple[tuple[str, str], ...]], None]
_INTERIM: ContextVar[_Told | None] = ContextVar("interim", default=None)
"""Who wants to know of interim answers to the request that this task is sending."""


@functools.cache
def _interim_aware() -> type[aiohttp.ClientResponse]:
    """The library's class of answers, which by itself drops interim ones in silence."""
    import aiohttp

    class Answer(aiohttp.ClientResponse):
        async def start(self, connection: Connection) -> Answer:
            told, protocol = _INTERIM.get(), connection.protocol
            if told is None or protocol is None:
                await super().start(connection)
                return self
            read = protocol.read

            async def read_and_tell() -> tuple[Any, Any]:
                message, payload = await read()
                if 100 < message.code < 200 and message.code != 101:
                    told(message.code, tuple(message.headers.items()))
                return message, payload

            protocol.read = read_and_tell  # type: ignore[method-assign]  # aiohttp has no hook for it
            try:
                await super().start(connection)
            finally:
                del protocol.read
            return self

    return Answer


@functools.cache
def _cutting_protocol() -> Callable[[asyncio.AbstractEventLoop, Callable[[str], bool]], ResponseHandler]:
    """The library's class of connections, taught to let go of what comes after an answer."""
    from aiohttp.client_proto import ResponseHandler

    class Cutting(ResponseHandler):
        _end = AnswerEnd()

        def __init__(self, loop: asyncio.AbstractEventLoop, is_current: Callable[[str], bool]) -> None:
            super().__init__(loop)
            self._is_current = is_current

        @property
        def should_close(self) -> bool:
            """Asked when a connection comes back: one to where its host is no more is not kept."""
            peer = self.transport.get_extra_info("peername") if self.transport is not None else None
            return super().should_close or (isinstance(peer, tuple) and not self._is_current(peer[0]))

        def set_response_params(self, **settings: Any) -> None:
            super().set_response_params(**settings)
            self._end = AnswerEnd(has_body=not settings.get("skip_payload"))

        def data_received(self, data: bytes) -> None:
            kept = self._end.take(data)
            if kept or not data:
                super().data_received(kept)
            if self._end.has_surplus and self.transport is not None:
                self.transport.close()

    return Cutting


async def _let_go(answer: aiohttp.ClientResponse) -> None:
    """Gives the connection back for the next request if little is left to read, such as an error page."""
    if not answer.closed and answer.connection is not None and (answer.content_length or 0) <= DRAINED_BYTES_MAX:
        with suppress(Exception):  # whatever happens to what nobody wants, the connection is closed below
            async with asyncio.timeout(DRAIN_SECONDS):
                left = DRAINED_BYTES_MAX
                while left > 0 and (piece := await answer.content.readany()):
                    left -= len(piece)
    answer.close()


def _route(request: Request) -> str:
    """The host that the request's connection goes to."""
    try:
        return urlsplit(request.proxy or request.url).netloc
    except ValueError:
        raise UnreachableError(request.url, "this is no URL") from None


def _adapted(resolver: Resolver) -> Any:
    """The resolver as the library wants it."""
    from aiohttp.abc import AbstractResolver, ResolveResult

    class Adapted(AbstractResolver):
        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
        ) -> list[ResolveResult]:
            addresses = await resolver(host, port)
            if not addresses:
                raise OSError(f"{host} has no address")
            return [
                ResolveResult(
                    hostname=host,
                    host=address,
                    port=port,
                    family=socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET,
                    proto=0,
                    flags=socket.AI_NUMERICHOST,
                )
                for address in addresses
            ]

        async def close(self) -> None:
            pass

    return Adapted()


@contextmanager
def _mapped(url: str, proxy: str | None = None) -> Iterator[None]:
    """Turns the errors of the library and of sockets into ours."""
    try:
        yield
    except CdnError:
        raise
    except Exception as error:
        raise _translated(url, proxy, error) from error


def system_said(error: OSError) -> str:
    """The operating system's own words, such as `Connection refused`; the event loop's name sockets and tuples."""
    if error.errno and not isinstance(error, socket.gaierror):  # which has numbers of its own
        return os.strerror(error.errno)
    return error.strerror or str(error)


def no_connection(url: str, proxy: str | None, why: str) -> UnreachableError:
    """Says that nobody could be connected to, and if that was a proxy, so."""
    where = f" to the proxy {urlsplit(proxy).netloc.rpartition('@')[2]}" if proxy else ""
    return UnreachableError(url, f"no connection{where} {why}")


def _translated(url: str, proxy: str | None, error: Exception) -> TransportError:
    import aiohttp
    from aiohttp.http_exceptions import HttpProcessingError

    reason = " ".join(str(error).split())[:300] or type(error).__name__
    match error:
        case aiohttp.ConnectionTimeoutError():
            return no_connection(url, proxy, "in time")
        case aiohttp.ServerTimeoutError():
            return SlowPeerError(url, "the peer sent nothing for too long")
        case TimeoutError():
            return SlowPeerError(url, "the answer did not come in time")
        case aiohttp.ClientHttpProxyError():
            return UnreachableError(url, f"the proxy refused to connect ({error.status})")
        case aiohttp.ClientSSLError() | aiohttp.ServerFingerprintMismatch():
            return no_connection(url, proxy, f"({reason})")
        case aiohttp.ClientConnectorError():
            return no_connection(url, proxy, f"({system_said(error.os_error)})")
        case aiohttp.TooManyRedirects():
            return StatusError(url, error.history[-1].status if error.history else error.status)
        case aiohttp.InvalidURL() | aiohttp.NonHttpUrlClientError():
            return UnreachableError(url, "this is no URL that HTTP can fetch")
        case aiohttp.ClientResponseError() | HttpProcessingError():
            return MalformedAnswerError(url, f"the answer is no HTTP ({reason})")
        case aiohttp.ClientPayloadError() | aiohttp.ClientConnectionError():
            return ShortTransferError(url, f"the connection ended early ({reason})")
        case OSError() | ValueError():
            return no_connection(url, proxy, f"({reason})")
        case _:
            return MalformedAnswerError(url, f"the exchange failed ({type(error).__name__}: {reason})")
