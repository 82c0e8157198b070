"""The short way for plain requests: its connections, and what goes the general way; the rest is in `test_http`."""

from __future__ import annotations

import asyncio
import socket
import threading
import time

import pytest
import uvloop

from cdn.errors import MalformedAnswerError, ShortTransferError, UnreachableError
from cdn.transport.base import Begun, Request
from cdn.transport.connection import READ_BYTES
from cdn.transport.http import HttpSettings
from cdn.transport.lean_http import LeanHttpFetcher
from cdn.transport.plain_request import PlainRequests
from tests.contracts.fetcher import body_of, closing
from tests.fakes.hostile_server import HostileServer, answering, endless

OK = b"HTTP/1.1 200 OK\r\n"
X = OK + b"Content-Length: 1\r\n\r\nx"


def repeating(*answers: bytes):
    """Answers one request after another on each connection, and closes it in silence after the last."""

    async def behave(reader, writer) -> None:
        for number, answer in enumerate(answers):
            if number:
                await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)

    return behave


async def get(fetcher: LeanHttpFetcher, url: str) -> bytes:
    async with fetcher.send(Request(url)) as response:
        return await body_of(response)


@pytest.mark.parametrize(
    ("answer", "is_kept"),
    [
        (X, True),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", True),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", True),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\nx", True),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx", False),
        (OK + b"Connection: close\r\nContent-Length: 1\r\n\r\nx", False),
        (OK + b"Content-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", False),
        (OK.replace(b"\r", b"") + b"Content-Length: 1\n\nx", False),
        (X + b"\r\n", False),
    ],
)
async def test_a_connection_is_used_again_only_after_an_answer_without_doubt(answer, is_kept) -> None:
    behaviour = repeating(answer, answer, answer)
    async with HostileServer(behaviour) as server, closing(LeanHttpFetcher()) as fetcher:
        for _ in range(2):
            await get(fetcher, server.url)
        assert server.connections == (1 if is_kept else 2)


async def test_a_kept_connection_that_is_closed_before_it_answers_is_replaced_once() -> None:
    async with HostileServer(repeating(X)) as server, closing(LeanHttpFetcher()) as fetcher:
        for _ in range(5):
            assert await get(fetcher, server.url) == b"x"


async def test_a_kept_connection_that_breaks_off_in_the_middle_of_its_answer_is_an_error() -> None:
    behaviour = repeating(X, b"HTTP/1.1 200 O")
    async with HostileServer(behaviour) as server, closing(LeanHttpFetcher()) as fetcher:
        assert await get(fetcher, server.url) == b"x"
        with pytest.raises(ShortTransferError):
            await get(fetcher, server.url)
        assert server.connections == 1


async def test_what_comes_unasked_ends_a_kept_connection() -> None:
    told = asyncio.Event()

    async def behave(reader, writer) -> None:
        writer.write(X)
        await told.wait()
        writer.write(OK + b"Content-Length: 4\r\n\r\nevil")
        await reader.read()  # until the other side closes

    async with HostileServer(behave) as server, closing(LeanHttpFetcher()) as fetcher:
        assert await get(fetcher, server.url) == b"x"
        told.set()
        async with asyncio.timeout(30):
            while len(fetcher.pool):  # noqa: ASYNC110 -- the server is in this loop
                await asyncio.sleep(0.001)
        assert await get(fetcher, server.url) == b"x"
        assert server.connections == 2


async def test_only_so_many_connections_are_kept() -> None:
    settings, most = HttpSettings(connections_max=3), 0
    async with HostileServer(repeating(X, X)) as one, HostileServer(repeating(X, X)) as other:
        async with closing(LeanHttpFetcher(settings)) as fetcher:
            for server in (one, other):
                await asyncio.gather(*[get(fetcher, server.url) for _ in range(3)])
                most = max(most, len(fetcher.pool))
            assert (most, len(fetcher.pool)) == (3, 3)
        assert len(fetcher.pool) == 0


async def test_a_connection_is_kept_only_for_a_while() -> None:
    behaviour, settings = repeating(X, X), HttpSettings(keepalive_seconds=0.0)
    async with HostileServer(behaviour) as server, closing(LeanHttpFetcher(settings)) as fetcher:
        for _ in range(2):
            await get(fetcher, server.url)
        assert server.connections == 2


async def test_a_peer_sends_no_faster_than_it_is_read() -> None:
    behaviour = endless(OK + b"\r\n", b"x" * 100_000)
    async with HostileServer(behaviour) as server, closing(LeanHttpFetcher()) as fetcher:
        async with fetcher.send(Request(server.url)) as response:
            await anext(response.chunks())
            (connection,) = fetcher.in_use
            for _ in range(200):
                await asyncio.sleep(0.001)
                assert sum(map(len, connection.pieces)) <= 3 * READ_BYTES
        assert not fetcher.in_use


@pytest.mark.parametrize("value", ["a\r\nX: b", "a\nb", "a\0b"])
async def test_a_field_that_would_be_two_is_never_sent(value) -> None:
    async with HostileServer(answering(X)) as server, closing(LeanHttpFetcher()) as fetcher:
        with pytest.raises(UnreachableError):
            async with fetcher.send(Request(server.url, headers={"A": value})):
                pass
        assert server.requests == []


@pytest.mark.parametrize(
    "request_",
    [
        Request("https://a/"),
        Request("http://user:secret@a/"),
        Request("http://a/", "POST"),
        Request("http://a/ b"),
        Request("http://a/b#c"),
        Request("http://a?b"),
        Request("http://a:0/"),
        Request("http://a:65536/"),
        Request("http://\u00e9/"),
        Request("http://a/\u00e9"),
        Request("http://a/", proxy="http://user:secret@b"),
        Request("http://a/", proxy="https://b"),
    ],
)
def test_what_is_not_plain_goes_the_general_way(request_) -> None:
    assert PlainRequests({}).host_of(request_) is None


def test_own_fields_take_the_place_of_those_sent_with_every_request() -> None:
    plain = PlainRequests({"User-Agent": "ours", "Accept": "*/*"})
    request = Request("http://[::1]:80/a?b", headers={"user-agent": "theirs", "via": "1.1 x"})
    host = plain.host_of(request)
    assert host is not None
    assert (host.name, host.port) == ("::1", 80)
    assert plain.head_of(request) == (
        b"GET /a?b HTTP/1.1\r\nHost: [::1]\r\nAccept: */*\r\nuser-agent: theirs\r\nvia: 1.1 x\r\n\r\n"
    )


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_peer_is_not_silent_because_this_loop_was_busy(run) -> None:
    idle_seconds, is_busy, has_sent = 0.2, threading.Event(), threading.Event()

    def serve(listener: socket.socket) -> None:
        with listener.accept()[0] as peer:
            peer.recv(65536)
            peer.sendall(OK + b"Content-Length: 2\r\n\r\na")
            is_busy.wait()
            peer.sendall(b"b")
            has_sent.set()
            peer.recv(1)

    async def main(port: int) -> bytes:
        request, settings = Request(f"http://127.0.0.1:{port}/"), HttpSettings(idle_timeout_seconds=idle_seconds)
        async with closing(LeanHttpFetcher(settings)) as fetcher, fetcher.send(request) as response:
            pieces = response.chunks()
            first = await anext(pieces)
            second = asyncio.ensure_future(anext(pieces))
            await asyncio.sleep(0)  # it waits for more now
            is_busy.set()
            has_sent.wait()
            time.sleep(2 * idle_seconds)  # noqa: ASYNC251 -- this is what keeps the loop busy
            return first + await second

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        assert run(main(listener.getsockname()[1])) == b"ab"
        thread.join()


# ------------------------------------------------------------------------------------------------------------- at once


async def begun(fetcher: LeanHttpFetcher, url: str) -> tuple[Begun, asyncio.Event]:
    """A request that was begun at once, and what is set at each change."""
    changed = asyncio.Event()
    found = fetcher.begin(Request(url), changed.set)
    assert found is not None
    return found, changed


async def whole_of(found: Begun, changed: asyncio.Event) -> bytes:
    """Waits for the whole answer."""
    while (response := found.taken_whole()) is None:
        assert found.is_worth_waiting(1 << 20)
        changed.clear()
        await changed.wait()
    body = response.whole()
    assert body is not None
    return body


async def test_what_needs_nobody_to_be_waited_for_is_sent_at_once_and_gives_its_connection_back() -> None:
    async with HostileServer(repeating(*[X] * 9)) as server, closing(LeanHttpFetcher()) as fetcher:
        assert fetcher.begin(Request(server.url), lambda: None) is None  # there is no connection yet
        await get(fetcher, server.url)
        for _ in range(3):
            found, changed = await begun(fetcher, server.url)
            assert fetcher.begin(Request(server.url), lambda: None) is None  # it is in use
            assert await whole_of(found, changed) == b"x"
            found.finish()
            assert len(fetcher.pool) == 1
        assert server.connections == 1
        assert await get(fetcher, server.url) == b"x"


async def test_what_was_begun_goes_on_as_a_block() -> None:
    large = OK + b"Content-Length: 400000\r\n\r\n" + bytes(400_000)
    async with HostileServer(repeating(X, large, X)) as server, closing(LeanHttpFetcher()) as fetcher:
        await get(fetcher, server.url)
        found, changed = await begun(fetcher, server.url)
        while found.is_worth_waiting(100_000):
            changed.clear()
            await changed.wait()
        assert found.taken_whole() is None
        async with found as response:
            assert await body_of(response) == bytes(400_000)
        assert await get(fetcher, server.url) == b"x"
        assert server.connections == 1


async def test_what_was_begun_on_a_dead_connection_is_sent_again_by_the_block() -> None:
    async with HostileServer(repeating(X)) as server, closing(LeanHttpFetcher()) as fetcher:
        await get(fetcher, server.url)
        found, changed = await begun(fetcher, server.url)
        await changed.wait()
        assert not found.is_worth_waiting(1 << 20)
        async with found as response:
            assert await body_of(response) == b"x"
        assert server.connections == 2


@pytest.mark.parametrize("answer", [b"nonsense\r\n\r\n", OK + b"Content-Length: 9\r\n\r\nx"])
async def test_what_goes_wrong_after_it_was_begun_is_told_by_the_block(answer) -> None:
    async with HostileServer(repeating(X, answer)) as server, closing(LeanHttpFetcher()) as fetcher:
        await get(fetcher, server.url)
        found, changed = await begun(fetcher, server.url)
        while found.is_worth_waiting(1 << 20):
            changed.clear()
            await changed.wait()
        assert found.taken_whole() is None
        with pytest.raises((MalformedAnswerError, ShortTransferError)):
            async with found as response:
                await body_of(response)


async def test_what_nobody_wants_any_more_takes_its_connection_with_it_and_says_nothing_more() -> None:
    settings, told = HttpSettings(connections_per_host=1), []
    async with HostileServer(repeating(X, b"HTTP/1.1 200")) as server, closing(LeanHttpFetcher(settings)) as fetcher:
        await get(fetcher, server.url)
        found = fetcher.begin(Request(server.url), lambda: told.append(1))
        assert found is not None
        found.finish()
        assert not told
        assert await get(fetcher, server.url) == b"x"  # whose turn has come
        assert server.connections == 2


async def test_only_what_is_plain_and_whose_turn_it_is_is_sent_at_once() -> None:
    settings = HttpSettings(connections_per_host=1)
    async with HostileServer(repeating(*[X] * 9)) as server, closing(LeanHttpFetcher(settings)) as fetcher:
        await get(fetcher, server.url)
        assert fetcher.begin(Request(server.url, headers={"A": "b\nc"}), lambda: None) is None
        assert fetcher.begin(Request(server.url, method="POST"), lambda: None) is None
        async with fetcher.slots.hold(server.url.removeprefix("http://").partition("/")[0]):
            assert fetcher.begin(Request(server.url), lambda: None) is None
        found, changed = await begun(fetcher, server.url)
        assert await whole_of(found, changed) == b"x"
        found.finish()
        await fetcher.close()
        assert fetcher.begin(Request(server.url), lambda: None) is None
