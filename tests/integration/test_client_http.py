"""The client over real sockets: several servers of which some are dead, slow, lying or going away."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest
from aiohttp import web

from cdn.client.config import ClientSettings
from cdn.client.pace import HedgePolicy
from cdn.client.repository import open_repository
from cdn.client.sources import SourcePolicy
from cdn.clock import ManualClock
from cdn.errors import AllSourcesFailedError, CdnError
from cdn.transport.retry import RetryPolicy
from tests.fakes.repositories import Publication
from tests.fakes.signer import NOW

POLICY = SourcePolicy(
    rounds=RetryPolicy(1), hedge=HedgePolicy(delay_seconds_initial=0.05, delay_seconds_min=0.05, delay_seconds_max=0.05)
)
TREE = {f"/d/{number}": b"content %d" % number for number in range(40)} | {"/n/file": b"nested"}


@pytest.fixture(scope="module")
def publication():
    made = Publication()
    made.publish({**TREE, "/big": made.chunked(bytes(range(256)) * 2000)}, ["/n"])
    return made


@dataclass
class HttpServer:
    """A server on loopback whose manners can change while it runs."""

    served: dict[str, bytes]
    manner: Callable[[web.Request, bytes], Awaitable[web.StreamResponse]] | None = None
    url: str = ""
    asked: list[str] = field(default_factory=list)
    runner: web.AppRunner | None = None

    async def answer(self, request: web.Request) -> web.StreamResponse:
        path = request.match_info["path"]
        self.asked.append(path)
        if path not in self.served:
            return web.Response(status=404)
        if self.manner is not None:
            return await self.manner(request, self.served[path])
        return web.Response(body=self.served[path])


@asynccontextmanager
async def serving(*servers: HttpServer) -> AsyncIterator[str]:
    for server in servers:
        application = web.Application()
        application.router.add_get("/cvmfs/sw.example.org/{path:.*}", server.answer)
        server.runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await server.runner.setup()
        await web.TCPSite(server.runner, "127.0.0.1", 0).start()
        server.url = f"http://127.0.0.1:{server.runner.addresses[0][1]}/cvmfs/sw.example.org"
    try:
        yield ";".join(server.url for server in servers)
    finally:
        for server in servers:
            assert server.runner is not None
            await server.runner.cleanup()


async def opened(publication, servers: str, **options):
    return await open_repository(
        publication.fqrn,
        servers=servers,
        keys=publication.keys,
        clock=ManualClock(NOW + 100),
        settings=ClientSettings(policy=POLICY),
        **options,
    )


async def flip(request: web.Request, body: bytes) -> web.StreamResponse:
    return web.Response(body=body[:-1] + bytes([body[-1] ^ 1]))


async def stall(request: web.Request, body: bytes) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": str(len(body))})
    await response.prepare(request)
    await response.write(body[:1])
    await asyncio.Event().wait()
    return response


async def cut(request: web.Request, body: bytes) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": str(len(body) + 10)})
    await response.prepare(request)
    await response.write(body)
    assert request.transport is not None
    request.transport.close()
    return response


async def unavailable(request: web.Request, body: bytes) -> web.StreamResponse:
    return web.Response(status=503)


async def read_all(repository) -> None:
    for path, content in TREE.items():
        assert await repository.files.read(path) == content
    assert await repository.files.read("/big") == bytes(range(256)) * 2000


@pytest.mark.parametrize("manner", [flip, stall, cut, unavailable])
async def test_a_bad_server_before_a_good_one_does_not_stop_any_read(publication, manner):
    bad, good = HttpServer(publication.served, manner), HttpServer(publication.served)
    async with serving(bad, good) as servers, await opened(publication, servers) as repository:
        await read_all(repository)
        assert len(bad.asked) < 20, "it is used less once it is known"


async def test_a_port_where_nobody_listens_does_not_stop_any_read(publication):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        dead = f"http://127.0.0.1:{taken.getsockname()[1]}/cvmfs/sw.example.org"
    good = HttpServer(publication.served)
    async with serving(good) as servers, await opened(publication, f"{dead};{servers}") as repository:
        await read_all(repository)


async def test_a_server_that_dies_in_the_middle_of_reading_is_left(publication):
    first, second = HttpServer(publication.served), HttpServer(publication.served)
    async with serving(first, second) as servers, await opened(publication, servers) as repository:
        for number, (path, content) in enumerate(TREE.items()):
            if number == 10:
                assert first.runner is not None
                await first.runner.cleanup()
            assert await repository.files.read(path) == content
        assert second.asked


@pytest.mark.parametrize("manner", [flip, cut, unavailable])
async def test_when_all_are_bad_nothing_is_returned(publication, manner):
    servers = [HttpServer(publication.served) for _ in range(2)]
    async with serving(*servers) as urls, await opened(publication, urls) as repository:
        for server in servers:
            server.manner = manner
        with pytest.raises(AllSourcesFailedError) as caught:
            await repository.files.read("/d/1")
        assert len(caught.value.causes) == 2
    async with serving(*(replace(server, manner=manner) for server in servers)) as urls:
        with pytest.raises(CdnError):
            await opened(publication, urls)


async def test_names_may_be_resolved_by_the_caller(publication):
    server = HttpServer(publication.served)
    asked = []

    async def resolver(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"]

    async with serving(server) as url:
        named = url.replace("127.0.0.1", "edge.example.invalid")
        async with await opened(publication, named, resolver=resolver) as repository:
            assert await repository.files.read("/n/file") == b"nested"
    assert set(asked) == {"edge.example.invalid"}


async def test_a_proxy_is_asked_with_the_whole_url(publication):
    seen = []

    async def proxy(request: web.BaseRequest) -> web.Response:
        seen.append(str(request.url))
        path = (
            str(request.rel_url).partition("/cvmfs/sw.example.org/")[2] or request.path.partition("sw.example.org/")[2]
        )
        body = publication.served.get(path)
        return web.Response(status=404) if body is None else web.Response(body=body)

    runner = web.ServerRunner(web.Server(proxy))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        address = runner.addresses[0]
        origin = "http://origin.example.invalid/cvmfs/sw.example.org"
        async with await opened(publication, origin, proxies=f"http://127.0.0.1:{address[1]}") as repository:
            assert await repository.files.read("/n/file") == b"nested"
    finally:
        await runner.cleanup()
    assert any("origin.example.invalid" in url for url in seen)
