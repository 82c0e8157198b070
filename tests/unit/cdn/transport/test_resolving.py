"""Addresses that change, name servers that fail, and answers that are none."""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest

from cdn.clock import ManualClock
from cdn.transport.base import Request
from cdn.transport.http import HttpFetcher
from cdn.transport.lean_http import LeanHttpFetcher
from cdn.transport.resolving import CachingResolver, ResolvingSettings
from tests.fakes.edge import until
from tests.fakes.name_server import running_name_server
from tests.fakes.origin import Reply, running_origin

HOST = "stratum1.example.org"


@asynccontextmanager
async def resolving(**changes):
    """A resolver, its name server and its clock; c-ares itself keeps nothing, since the TTL is 0."""
    async with running_name_server() as (server, address):
        clock = ManualClock()
        limits = {"timeout_seconds": 0.05, "tries": 1, "seconds_min": 10.0, "name_servers": (address,), **changes}
        resolver = CachingResolver(ResolvingSettings(**limits), clock=clock)
        server.addresses[HOST] = ["127.0.0.1"]
        try:
            yield resolver, server, clock
        finally:
            await resolver.close()


async def test_an_answer_is_used_until_its_time_has_passed_and_then_a_new_one():
    async with resolving() as (resolver, server, clock):
        assert await resolver(HOST, 80) == ("127.0.0.1",)
        asked = len(server.asked)
        server.addresses[HOST] = ["127.0.0.2", "127.0.0.3"]
        clock.advance(9)
        assert await resolver(HOST, 80) == ("127.0.0.1",)
        assert len(server.asked) == asked
        clock.advance(1)
        assert set(await resolver(HOST, 80)) == {"127.0.0.2", "127.0.0.3"}


@pytest.mark.parametrize(("ttl", "seconds"), [(20, 20), (100_000, 300)])
async def test_a_lifetime_is_kept_to_within_bounds(ttl, seconds):
    async with resolving() as (resolver, server, clock):
        server.ttl = ttl
        await resolver(HOST, 80)
        entry = resolver._known[HOST]
        assert entry.ask_again_at - clock.monotonic() == seconds


async def test_many_who_need_a_name_cause_one_question():
    async with resolving() as (resolver, server, _):
        answers = await asyncio.gather(*(resolver(HOST, 80) for _ in range(50)))
        assert set(answers) == {("127.0.0.1",)}
        assert len(server.asked) <= 2  # one for each family


@pytest.mark.parametrize("trouble", ["mute", "nonsense", "gone"])
async def test_while_no_answer_comes_the_last_one_is_used_for_a_while(trouble, monkeypatch):
    async with resolving(stale_seconds=100.0) as (resolver, server, clock):
        monkeypatch.setattr("cdn.transport.resolving._system", _knows_nothing)
        await resolver(HOST, 80)
        server.is_mute = trouble == "mute"
        server.nonsense = b"\xff" * 40 if trouble == "nonsense" else None
        if trouble == "gone":
            server.addresses.clear()
        clock.advance(50)
        assert await resolver(HOST, 80) == ("127.0.0.1",)
        asked = len(server.asked)
        assert await resolver(HOST, 80) == ("127.0.0.1",)
        assert len(server.asked) == asked  # not again at once
        clock.advance(61)
        with pytest.raises(OSError, match="nothing"):
            await resolver(HOST, 80)


async def _knows_nothing(host: str):
    raise OSError(f"nothing is known of {host}")


@pytest.mark.parametrize(
    "nonsense", [b"", b"\x00", b"\x81\x80" + b"\xff" * 8, b"\x81\x80\0\1\0\1\0\0\0\0" + b"\xc0\x0c" * 30]
)
async def test_answers_that_are_none_are_an_error(nonsense, monkeypatch):
    async with resolving() as (resolver, server, _):
        monkeypatch.setattr("cdn.transport.resolving._system", _knows_nothing)
        server.nonsense = nonsense
        with pytest.raises(OSError, match="nothing"):
            await resolver(HOST, 80)


@pytest.mark.parametrize("host", ["a" * 300, "a..b", "\u00fc" * 70, "x\0y"])
async def test_names_that_are_none_are_an_error(host):
    async with resolving() as (resolver, _, _):
        with pytest.raises((OSError, UnicodeError)):
            await resolver(host, 80)


async def test_what_dns_does_not_know_the_system_may():
    async with resolving() as (resolver, _, _):
        assert set(await resolver("localhost", 80)) <= {"127.0.0.1", "::1"}
        assert await resolver("127.0.0.7", 80) == ("127.0.0.7",)


async def test_where_aiodns_cannot_start_the_system_is_asked(monkeypatch):
    def broken(_):
        raise ImportError("no aiodns")

    monkeypatch.setattr("cdn.transport.resolving._new_resolver", broken)
    resolver = CachingResolver()
    assert set(await resolver("localhost", 80)) <= {"127.0.0.1", "::1"}
    await resolver.close()


async def test_no_more_names_are_remembered_than_allowed():
    async with resolving(names_max=3) as (resolver, server, _):
        for number in range(10):
            server.addresses[f"host{number}.example.org"] = ["127.0.0.1"]
            await resolver(f"host{number}.example.org", 80)
        assert list(resolver._known) == ["host7.example.org", "host8.example.org", "host9.example.org"]


async def test_a_fetcher_follows_a_server_to_its_new_address():
    async with resolving() as (resolver, server, clock), running_origin() as origin:
        origin.replies["/x"] = Reply(b"hello")
        port = origin.url.rpartition(":")[2]
        fetcher = HttpFetcher(resolver=resolver)
        server.addresses[HOST] = ["127.0.0.1"]
        async with fetcher.send(Request(f"http://{HOST}:{port}/x")) as response:
            assert response.status == 200
        await fetcher.close()
        server.addresses[HOST] = ["127.0.0.9"]  # where nobody listens
        clock.advance(10)
        assert await resolver(HOST, 80) == ("127.0.0.9",)
        server.addresses[HOST] = ["127.0.0.9", "127.0.0.1"]
        clock.advance(10)
        fetcher = HttpFetcher(resolver=resolver)
        async with fetcher.send(Request(f"http://{HOST}:{port}/x")) as response:  # the next address is tried
            assert response.status == 200
        await fetcher.close()


class Speaker:
    """A server that gives each request the same word and keeps connections; counts those it has had."""

    def __init__(self, word: bytes) -> None:
        self._word = word
        self.connections = 0
        self.open = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(self._word), self._word))
        self.open -= 1
        writer.close()


@pytest.mark.parametrize("make", [HttpFetcher, LeanHttpFetcher], ids=["general", "lean"])
async def test_kept_connections_follow_their_host_to_another_address(make):
    old, new = Speaker(b"old"), Speaker(b"new")
    async with AsyncExitStack() as stack:
        resolver, server, clock = await stack.enter_async_context(resolving())
        first = await stack.enter_async_context(await asyncio.start_server(old.serve, "127.0.0.1", 0))
        port = first.sockets[0].getsockname()[1]
        await stack.enter_async_context(await asyncio.start_server(new.serve, "127.0.0.2", port))
        fetcher = make(resolver=resolver)
        stack.push_async_callback(fetcher.close)

        async def get() -> bytes:
            async with fetcher.send(Request(f"http://{HOST}:{port}/x")) as response:
                return b"".join([piece async for piece in response.chunks()])

        for _ in range(3):  # the same answer of DNS again and again
            assert [await get() for _ in range(2)] == [b"old"] * 2
            clock.advance(20)
            await until(lambda: not resolver._asking)
        assert old.connections == 1
        server.addresses[HOST] = ["127.0.0.2"]
        clock.advance(20)
        for _ in range(2):  # it takes a request to find out that it is time to look again, and one may be under way
            await get()
            await until(lambda: not resolver._asking)
        assert [await get() for _ in range(3)] == [b"new"] * 3
        await until(lambda: old.open == 0)
        server.is_mute = True
        clock.advance(60)
        assert [await get() for _ in range(3)] == [b"new"] * 3
        assert (old.connections, new.connections) == (1, 1)
