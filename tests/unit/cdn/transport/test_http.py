"""Fetching over HTTP, the general and the short way: the contract against a real server, and what peers get wrong."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from aiohttp import web

from cdn.errors import (
    MalformedAnswerError,
    ShortTransferError,
    SlowPeerError,
    StatusError,
    TooLargeError,
    TransportError,
    UnreachableError,
)
from cdn.transport.base import Request
from cdn.transport.download import read_body
from cdn.transport.http import USER_AGENT, HttpFetcher, HttpSettings
from cdn.transport.lean_http import LeanHttpFetcher
from cdn.transport.speed import SpeedLimit
from tests.contracts.fetcher import LARGE, SITE, SMALL, FetcherContract, body_of, closing
from tests.fakes.hostile_server import (
    HostileServer,
    answering,
    closing_at_once,
    dripping,
    endless,
    in_turn,
    resetting,
    silent,
)

OK = b"HTTP/1.1 200 OK\r\n"
IMPATIENT = HttpSettings(
    connect_timeout_seconds=5,
    idle_timeout_seconds=0.2,
    head_timeout_seconds=1,
    speed=SpeedLimit(bytes_per_second=10_000, window_seconds=0.2),
)


@asynccontextmanager
async def serving(handler, ssl_context: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """A real server on loopback whose every request goes to the handler; gives its base URL."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(application, shutdown_timeout=1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=ssl_context)
        await site.start()
        port = runner.addresses[0][1]
        yield f"{'https' if ssl_context else 'http'}://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


async def serve_site(request: web.Request) -> web.Response:
    body = SITE.get(request.match_info["path"])
    return web.Response(status=404, text="not found") if body is None else web.Response(body=body)


async def get(fetcher: HttpFetcher, url: str, size_max: int = 1000) -> bytes:
    return await read_body(fetcher, Request(url), size_max=size_max)


@pytest.fixture(params=[HttpFetcher, LeanHttpFetcher], ids=["general", "lean"])
def http(request):
    return request.param


class TestHttpFetcher(FetcherContract):
    @pytest.fixture
    async def base_url(self):
        async with serving(serve_site) as url:
            yield url

    @pytest.fixture
    async def fetcher(self, http):
        async with closing(http()) as fetcher:
            yield fetcher


# ------------------------------------------------------------------------------------------------------- what is sent


async def test_a_request_is_plain_and_says_who_asks(http) -> None:
    async with HostileServer(answering(OK + b"Content-Length: 0\r\n\r\n")) as server, closing(http()) as fetcher:
        await get(fetcher, server.url + "/a%5B[x],~%20b")
        lines = server.requests[0].decode().split("\r\n")
        assert lines[0] == "GET /a%5B[x],~%20b HTTP/1.1"
        fields = dict(line.split(": ", 1) for line in lines[1:] if line)
        assert fields == {"Host": f"127.0.0.1:{server.port}", "User-Agent": USER_AGENT, "Accept": "*/*"}


async def test_headers_of_the_settings_and_of_the_request_are_sent_and_not_shown(http) -> None:
    settings = HttpSettings(headers={"Authorization": "Bearer secret"}, user_agent="mine/1")
    assert "secret" not in repr(settings)
    answer = answering(OK + b"Content-Length: 0\r\n\r\n")
    async with HostileServer(answer) as server, closing(http(settings)) as fetcher:
        await read_body(fetcher, Request(server.url, headers={"Cache-Control": "no-cache"}), size_max=1)
        head = server.requests[0]
        assert b"Authorization: Bearer secret\r\n" in head
        assert b"User-Agent: mine/1\r\n" in head
        assert b"Cache-Control: no-cache\r\n" in head


async def test_through_a_proxy_the_whole_url_is_asked_for(http) -> None:
    answer = answering(OK + b"Content-Length: 5\r\n\r\nproxy")
    async with HostileServer(answer) as proxy, closing(http()) as fetcher:
        request = Request("http://origin.invalid:8000/cvmfs/x?y", proxy=proxy.url)
        assert await read_body(fetcher, request, size_max=5) == b"proxy"
        assert proxy.requests[0].startswith(b"GET http://origin.invalid:8000/cvmfs/x?y HTTP/1.1\r\n")
        assert b"Host: origin.invalid:8000\r\n" in proxy.requests[0]


async def test_proxies_of_the_environment_are_not_used(http, monkeypatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with serving(serve_site) as url, closing(http()) as fetcher:
        assert await get(fetcher, f"{url}/small") == SMALL


async def test_connections_are_kept_for_the_next_request(http) -> None:
    peers = set()

    async def note(request: web.Request) -> web.Response:
        peers.add(request.transport.get_extra_info("peername"))
        return await serve_site(request)

    async with serving(note) as url, closing(http()) as fetcher:
        for path in ("small", "absent", "large", "small", "absent"):
            with suppress(StatusError):
                await get(fetcher, f"{url}/{path}", len(LARGE))
    assert len(peers) == 1


async def test_no_more_connections_than_allowed_go_to_one_host(http) -> None:
    peers = set()
    inside = most = 0

    async def note(request: web.Request) -> web.Response:
        nonlocal inside, most
        peers.add(request.transport.get_extra_info("peername"))
        inside += 1
        most = max(most, inside)
        for _ in range(5):
            await asyncio.sleep(0)  # a turn in which others could come in
        inside -= 1
        return web.Response(body=b"x")

    async with serving(note) as url, closing(http(HttpSettings(connections_per_host=3))) as fetcher:
        await asyncio.gather(*[get(fetcher, url + "/") for _ in range(30)])
    assert most <= 3
    assert len(peers) <= 3


async def test_waiting_for_ones_turn_is_not_blamed_on_the_peer(http) -> None:
    settings = HttpSettings(connections_per_host=1, head_timeout_seconds=0.2, connect_timeout_seconds=0.2)
    async with serving(serve_site) as url, closing(http(settings)) as fetcher:
        async with fetcher.send(Request(f"{url}/small")) as response:
            waiting = asyncio.create_task(get(fetcher, f"{url}/small"))
            await asyncio.sleep(0.5)  # longer than both limits
            assert await body_of(response) == SMALL
        assert await waiting == SMALL


# ------------------------------------------------------------------------------------------------ bodies and encodings


async def test_bodies_are_handed_out_as_they_are_sent(http) -> None:
    raw = b"\x1f\x8b not really gzip"
    head = OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(raw)
    async with HostileServer(answering(head + raw)) as server, closing(http()) as fetcher:
        assert await get(fetcher, server.url) == raw


async def test_a_body_in_chunks_has_no_known_size(http) -> None:
    raw = OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nTrailer: x\r\n\r\n"
    async with (
        HostileServer(answering(raw)) as server,
        closing(http()) as fetcher,
        fetcher.send(Request(server.url)) as response,
    ):
        assert response.size is None
        assert await body_of(response) == b"abcde"


async def test_a_body_that_ends_with_the_connection_is_whole(http) -> None:
    async with HostileServer(answering(b"HTTP/1.0 200 OK\r\n\r\nabc")) as server, closing(http()) as fetcher:
        assert await get(fetcher, server.url) == b"abc"


async def test_redirects_are_answers_unless_allowed(http) -> None:
    async def redirect(request: web.Request) -> web.Response:
        if request.path == "/target":
            return web.Response(body=b"target")
        hops = int(request.match_info["path"] or 1)
        raise web.HTTPFound("/target" if hops == 1 else f"/{hops - 1}")

    async with serving(redirect) as url:
        async with closing(http()) as fetcher:
            with pytest.raises(StatusError) as caught:
                await get(fetcher, f"{url}/1")
            assert caught.value.status == 302
        async with closing(http(HttpSettings(redirects_max=4))) as fetcher:
            assert await get(fetcher, f"{url}/4") == b"target"
            with pytest.raises(StatusError) as caught:
                await get(fetcher, f"{url}/5")
            assert caught.value.status == 302


# --------------------------------------------------------------------------------------------- peers that are not there


async def test_a_refused_connection_is_unreachable(http) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))  # bound and not listening: refused
        async with closing(http()) as fetcher:
            with pytest.raises(UnreachableError, match=r": no connection \(Connection refused\)$"):
                await get(fetcher, f"http://127.0.0.1:{listener.getsockname()[1]}/")


async def test_a_proxy_that_refuses_connections_is_named_but_not_who_uses_it(http) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{listener.getsockname()[1]}"
        async with closing(http()) as fetcher:
            for proxy in (f"http://{place}", f"http://user:secret@{place}"):
                with pytest.raises(UnreachableError) as refused:
                    await read_body(fetcher, Request("http://origin.invalid/x", proxy=proxy), size_max=5)
                said = f"http://origin.invalid/x: no connection to the proxy {place} (Connection refused)"
                assert str(refused.value) == said


async def test_a_connection_that_is_not_accepted_in_time_is_unreachable(http) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        try:
            for each in waiting:  # fill the queue, so that the kernel drops what comes next
                each.setblocking(False)
                each.connect_ex(address)
            async with closing(http(HttpSettings(connect_timeout_seconds=0.3))) as fetcher:
                with pytest.raises(UnreachableError, match="in time"):
                    await get(fetcher, f"http://127.0.0.1:{address[1]}/")
        finally:
            for each in waiting:
                each.close()


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "http:///x",
        "gopher://x/",
        "http://[::1/",
        "http://x:99999/",
        "",
        "x",
        "http://a\x00b/",
        "http://.../",
    ],
)
async def test_what_is_no_url_is_unreachable(http, url) -> None:
    async with closing(http()) as fetcher:
        with pytest.raises(TransportError):
            await get(fetcher, url)


async def test_hosts_are_found_by_the_resolver_handed_in(http) -> None:
    asked = []

    async def resolve(host: str, port: int) -> list[str]:
        asked.append((host, port))
        return ["127.0.0.1"]

    async with serving(serve_site) as url, closing(http(resolver=resolve)) as fetcher:
        port = int(url.rpartition(":")[2])
        assert await get(fetcher, f"http://edge.example:{port}/small") == SMALL
        assert asked == [("edge.example", port)]


@pytest.mark.parametrize("problem", [OSError("NXDOMAIN"), None])
async def test_a_host_without_address_is_unreachable(http, problem) -> None:
    async def resolve(host: str, port: int) -> list[str]:
        if problem is not None:
            raise problem
        return []

    async with closing(http(resolver=resolve)) as fetcher:
        with pytest.raises(UnreachableError):
            await get(fetcher, "http://edge.example/")


async def test_a_resolver_that_hangs_costs_the_connect_timeout(http) -> None:
    async def resolve(host: str, port: int) -> list[str]:
        await asyncio.Event().wait()
        raise AssertionError

    async with closing(http(HttpSettings(connect_timeout_seconds=0.1), resolver=resolve)) as fetcher:
        with pytest.raises(UnreachableError, match="in time"):
            await get(fetcher, "http://edge.example/")


async def test_a_second_address_is_tried_when_the_first_refuses(http) -> None:
    async def resolve(host: str, port: int) -> list[str]:
        return ["127.0.0.2", "127.0.0.1"]

    async with serving(serve_site) as url, closing(http(resolver=resolve)) as fetcher:
        assert await get(fetcher, f"http://edge.example:{url.rpartition(':')[2]}/small") == SMALL


async def test_a_certificate_that_nobody_vouches_for_is_refused(http, tmp_path) -> None:
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "certificate")]
    command = ["openssl", "req", "-x509", "-newkey", "ed25519", "-nodes", "-days", "1", *subject, *files]
    await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificate", tmp_path / "key")
    async with serving(serve_site, context) as url, closing(http()) as fetcher:
        with pytest.raises(UnreachableError, match=r"(?i)certificate"):
            await get(fetcher, f"{url}/small")


# ------------------------------------------------------------------------------------------------- peers that misbehave

HOSTILE = [
    ("garbage", answering(b"\x00\xff garbage \r\n\r\n"), MalformedAnswerError),
    ("no status", answering(b"HTTP/1.1 \r\n\r\n"), MalformedAnswerError),
    ("status too long", answering(b"HTTP/1.1 2000 OK\r\n\r\n"), MalformedAnswerError),
    ("another protocol", answering(b"SSH-2.0-OpenSSH_9.0\r\n"), TransportError),
    ("header without colon", answering(OK + b"nonsense\r\n\r\n"), MalformedAnswerError),
    ("one long header", answering(OK + b"X: " + b"x" * 100_000 + b"\r\n\r\n"), MalformedAnswerError),
    ("endless header line", endless(OK + b"X: ", b"x" * 1000), MalformedAnswerError),
    ("endless headers", endless(OK, b"X: y\r\n" * 100), MalformedAnswerError),
    ("endless interim answers", endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 10), TransportError),
    ("dripping head", dripping(OK, b"X-Drip: 1\r\n", 0.05), SlowPeerError),
    ("size no number", answering(OK + b"Content-Length: five\r\n\r\nabcde"), MalformedAnswerError),
    ("negative size", answering(OK + b"Content-Length: -5\r\n\r\nabcde"), MalformedAnswerError),
    ("two sizes", answering(OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef"), MalformedAnswerError),
    ("huge size", answering(OK + b"Content-Length: 99999999999999999999\r\n\r\nabc"), TransportError),
    ("body too short", answering(OK + b"Content-Length: 5\r\n\r\nabc"), ShortTransferError),
    ("body stops", answering(OK + b"Content-Length: 5\r\n\r\nabc", then_hang=True), SlowPeerError),
    ("chunk size no number", answering(OK + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\nabc\r\n"), TransportError),
    ("chunk size negative", answering(OK + b"Transfer-Encoding: chunked\r\n\r\n-3\r\nabc\r\n"), TransportError),
    ("chunk size huge", answering(OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 40 + b"\r\nabc"), TransportError),
    (
        "chunk longer than it says",
        answering(OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nabcd\r\n0\r\n\r\n"),
        TransportError,
    ),
    ("no last chunk", answering(OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"), ShortTransferError),
    ("endless chunk extension", endless(OK + b"Transfer-Encoding: chunked\r\n\r\n3;", b"x" * 1000), TransportError),
    ("endless body", endless(OK + b"\r\n", b"x" * 10_000), TooLargeError),
    ("endless chunks", endless(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"5\r\nabcde\r\n" * 100), TooLargeError),
    ("larger than allowed", answering(OK + b"Content-Length: 1001\r\n\r\n" + b"x" * 1001), TooLargeError),
    ("dripping body", dripping(OK + b"Content-Length: 1000\r\n\r\n", b"x", 0.02), SlowPeerError),
    ("dripping chunks", dripping(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n", 0.02), SlowPeerError),
    ("closes at once", closing_at_once, ShortTransferError),
    ("resets", resetting, ShortTransferError),
    ("silent", silent, SlowPeerError),
]


@pytest.mark.parametrize(("behaviour", "error"), [each[1:] for each in HOSTILE], ids=[each[0] for each in HOSTILE])
async def test_a_peer_that_misbehaves_costs_one_documented_error(http, behaviour, error) -> None:
    async with HostileServer(behaviour) as server, closing(http(IMPATIENT)) as fetcher:
        with pytest.raises(error) as caught:
            async with asyncio.timeout(30):
                await get(fetcher, server.url + "/x")
        assert server.url + "/x" in str(caught.value)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 500


async def test_bytes_after_the_body_never_become_the_next_answer(http) -> None:
    smuggled = OK + b"Content-Length: 3\r\n\r\nabc" + OK + b"Content-Length: 4\r\n\r\nevil"
    honest = OK + b"Content-Length: 6\r\n\r\nhonest"
    behaviour = in_turn(answering(smuggled, then_hang=True), answering(honest))
    async with HostileServer(behaviour) as server, closing(http()) as fetcher:
        assert await get(fetcher, server.url) == b"abc"
        assert await get(fetcher, server.url) == b"honest"
        assert server.connections == 2


async def test_an_unread_body_is_not_taken_for_the_next_answer(http) -> None:
    behaviour = in_turn(
        answering(OK + b"Content-Length: 1000000\r\n\r\n" + b"x" * 500_000, then_hang=True),
        answering(OK + b"Content-Length: 6\r\n\r\nhonest"),
    )
    async with HostileServer(behaviour) as server, closing(http()) as fetcher:
        with pytest.raises(TooLargeError):
            await get(fetcher, server.url)
        assert await get(fetcher, server.url) == b"honest"


async def test_a_kept_connection_that_died_meanwhile_is_replaced(http) -> None:
    answer = answering(OK + b"Content-Length: 1\r\n\r\nx")  # closes afterwards without saying so
    async with HostileServer(answer) as server, closing(http()) as fetcher:
        for _ in range(5):
            assert await get(fetcher, server.url) == b"x"


@pytest.mark.parametrize(("method", "body"), [("PUT", b"new"), ("POST", b"new"), ("POST", None), ("PATCH", b"")])
async def test_what_cannot_be_repeated_is_not_sent_on_a_connection_that_the_peer_may_be_closing(
    http, method, body
) -> None:
    async def answers_once(reader, writer) -> None:  # and closes at the instant of a second request
        writer.write(OK + b"Content-Length: 1\r\n\r\nx")
        await reader.read(1)

    async with HostileServer(answers_once) as server, closing(http()) as fetcher:
        await get(fetcher, server.url)
        for _ in range(3):
            request = Request(server.url, method, body=None if body is None else _pieces(body))
            async with fetcher.send(request) as response:
                assert await body_of(response) == b"x"
        assert server.connections == 4
        assert [head.split()[0].decode() for head in server.requests] == ["GET"] + 3 * [method]


@pytest.mark.parametrize("method", ["DELETE", "OPTIONS", "PUT"])
async def test_what_may_be_repeated_is_sent_again_when_a_kept_connection_proves_dead(http, method) -> None:
    async with HostileServer(answering(OK + b"Content-Length: 1\r\n\r\nx")) as server, closing(http()) as fetcher:
        for _ in range(3):
            async with fetcher.send(Request(server.url, method)) as response:
                assert await body_of(response) == b"x"


async def test_a_slow_reader_is_not_blamed_on_the_peer(http) -> None:
    async with serving(serve_site) as url, closing(http(IMPATIENT)) as fetcher:
        async with fetcher.send(Request(f"{url}/large")) as response:
            received = 0
            async for piece in response.chunks():
                received += len(piece)
                await asyncio.sleep(0.05)  # the whole takes longer than any window
        assert received == len(LARGE)


async def test_closing_gives_up_what_is_under_way(http) -> None:
    async with HostileServer(silent) as server:
        fetcher = http()
        task = asyncio.create_task(get(fetcher, server.url))
        while server.connections == 0:  # noqa: ASYNC110  the server is in this loop
            await asyncio.sleep(0.001)
        await fetcher.close()
        with pytest.raises(TransportError):
            async with asyncio.timeout(10):
                await task


async def _pieces(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


@pytest.mark.parametrize(
    ("headers", "framing"), [({"Content-Length": "11"}, "content-length"), ({}, "transfer-encoding")]
)
async def test_a_body_is_sent_as_it_comes(http, headers, framing) -> None:
    async def echo(request: web.Request) -> web.Response:
        names = {name.lower() for name in request.headers}
        return web.Response(body=await request.read(), headers={"X-Framing": " ".join(sorted(names))})

    async with serving(echo) as url, closing(http()) as fetcher:
        request = Request(url + "/x", "PUT", headers, body=_pieces(b"hello ", b"", b"world"))
        async with fetcher.send(request) as response:
            assert await body_of(response) == b"hello world"
            sent = set(response.headers["X-Framing"].split())
    assert {"content-length", "transfer-encoding"} & sent == {framing}
    assert "content-type" not in sent


async def test_the_time_to_answer_begins_when_the_body_is_sent(http) -> None:
    first_taken, patience = asyncio.Event(), HttpSettings(head_timeout_seconds=1, idle_timeout_seconds=30)

    async def reading(request: web.Request) -> web.Response:
        await request.content.readexactly(1)
        first_taken.set()
        return web.Response(body=await request.read())

    async def late() -> AsyncIterator[bytes]:
        yield b"a"
        await first_taken.wait()
        await asyncio.sleep(1.5)  # the client's time, of which the peer has none to answer for
        yield b"b"

    async with (
        serving(reading) as url,
        closing(http(patience)) as fetcher,
        fetcher.send(Request(url + "/x", "POST", body=late())) as response,
    ):
        assert await body_of(response) == b"b"


async def test_a_body_that_fails_is_never_whole_at_the_peer(http) -> None:
    arrived = []

    async def reading(request: web.Request) -> web.Response:
        arrived.append(await request.read())
        return web.Response()

    async def failing() -> AsyncIterator[bytes]:
        yield b"a"
        raise ValueError

    async with serving(reading) as url, closing(http()) as fetcher:
        for headers in ({}, {"Content-Length": "2"}):
            with pytest.raises(TransportError):
                async with fetcher.send(Request(url + "/x", "POST", headers, body=failing())):
                    pass
    assert arrived == []


async def test_interim_answers_are_told_to_whoever_wants_to_know(http) -> None:
    hints = b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\nLink: </b>\r\n\r\n"
    behaviour = answering(hints + OK + b"Content-Length: 2\r\n\r\nok")
    async with HostileServer(behaviour) as server, closing(http()) as fetcher:
        told: list[tuple[int, tuple[tuple[str, str], ...]]] = []
        request = Request(server.url + "/x", on_interim=lambda status, fields: told.append((status, fields)))
        async with fetcher.send(request) as response:
            assert (response.status, await body_of(response)) == (200, b"ok")
        assert told == [(102, ()), (103, (("Link", "</a>"), ("Link", "</b>")))]
        assert await get(fetcher, server.url + "/x") == b"ok"
        assert len(told) == 2
