"""Where clients come in: IPv6, Unix sockets, and TLS with certificates that are replaced under way."""

import asyncio
import os
import socket
import ssl
from contextlib import AsyncExitStack, suppress

import pytest

from cdn.clock import ManualClock, SystemClock
from edge.connection.listeners import open_listeners
from edge.server import EdgeServer
from edge.settings.limits import LimitSettings
from edge.settings.listen import ListenSettings, TlsSettings
from tests.fakes.certificates import client_context, write_certificate
from tests.fakes.edge import Client, Received, edge_config, edge_world, object_of, stored_object, until
from tests.fakes.origin import Reply, running_origin


class OtherClient(Client):
    """A client that comes by another way than TCP in plain text."""

    def __init__(self, **way) -> None:
        super().__init__(("", 0))
        self._way = way

    async def __aenter__(self):
        if "path" in self._way:
            self.reader, self.writer = await asyncio.open_unix_connection(**self._way, limit=1 << 20)
        else:
            self.reader, self.writer = await asyncio.open_connection(**self._way, limit=1 << 20)
        return self


class TlsWorld:
    """An edge that speaks TLS at its second address."""

    def __init__(self, edge: EdgeServer, origin, certificate, key) -> None:
        self.edge, self.origin, self.certificate, self.key = edge, origin, certificate, key
        self.host, self.port = edge.addresses[1]
        self.target, self.stored = stored_object(b"content")
        origin.replies[self.target] = Reply(self.stored)

    def client(self, context: ssl.SSLContext | None = None) -> OtherClient:
        return OtherClient(host=self.host, port=self.port, ssl=context or client_context(self.certificate))

    async def get(self, context: ssl.SSLContext | None = None) -> Received:
        async with self.client(context) as client:
            return await client.get(self.target)

    @property
    def failed(self) -> int:
        return self.edge.statistics.handshakes_failed


@pytest.fixture
async def tls(tmp_path, request):
    """An edge that speaks TLS, with limits that a test may change."""
    certificate, key = write_certificate(tmp_path)
    listen = ListenSettings(("127.0.0.1:0",), tls=(TlsSettings("[::1]:0", certificate, key),))
    limits = LimitSettings(**getattr(request, "param", {}))
    async with running_origin() as origin:
        edge = EdgeServer(edge_config(tmp_path / "cache", origin.url, listen=listen, limits=limits))
        await edge.start()
        yield TlsWorld(edge, origin, certificate, key)
        await edge.stop(drain_seconds=0)


async def test_ipv6_and_unix_sockets_are_served_like_ipv4(tmp_path):
    listen = ListenSettings(("127.0.0.1:0", "[::1]:0", f"unix:{tmp_path}/s"))
    async with edge_world(tmp_path, listen=listen) as world:
        target, stored = world.publish(b"content")
        ways = ({"host": "::1", "port": world.edge.addresses[1][1]}, {"path": f"{tmp_path}/s"})
        assert (await world.get(target)).body == stored
        for way in ways:
            async with OtherClient(**way) as client:
                for _ in range(2):
                    answer = await client.get(target)
                    assert (answer.status, answer.body) == (200, stored)
                    assert "hit" in answer.headers["cache-status"]
        assert world.edge.status()["listen"][2] == f"unix:{tmp_path}/s"
        assert world.edge.places[2] == f"unix:{tmp_path}/s"


async def test_an_edge_serves_from_sockets_that_are_given_to_it(tmp_path):
    config = edge_config(tmp_path / "cache", "http://127.0.0.1:1")
    ((listener,),) = open_listeners(config.listen)
    edge = EdgeServer(config, listeners=(listener,), clock=ManualClock())
    await edge.start()
    assert edge.address == listener.sock.getsockname()
    async with Client(edge.address) as client:
        assert (await client.get("/healthz")).status == 200
    await edge.stop(drain_seconds=0)
    assert listener.sock.fileno() == -1
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(edge.address)


@pytest.mark.parametrize("tls", [{"connections_max": 128, "unsent_bytes_max": 2 << 20}], indirect=True)
async def test_a_crowd_that_takes_a_large_body_over_tls_costs_none_of_its_clients_the_connection(tls):
    body, count = os.urandom(4 << 20), 40
    target = object_of(body)
    tls.origin.replies[target] = Reply(body)
    context = client_context(tls.certificate)

    async def client() -> OtherClient:
        sock = socket.socket(socket.AF_INET6)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (tls.host, tls.port))
        return OtherClient(sock=sock, ssl=context, server_hostname=tls.host)

    async with AsyncExitStack() as stack:
        async with tls.client(context) as first:
            assert (await first.get(target)).body == body
        clients = [await stack.enter_async_context(await client()) for _ in range(count)]
        for each in clients:
            await each.ask(target)
        for each in clients:
            assert (await each.receive_head())[0] == 200
        await until(lambda: tls.edge.parts.shared.slow_readers.waiting_bytes)
        tls.edge.check_connections()
        received = await asyncio.gather(*(each.reader.readexactly(len(body)) for each in clients))
        assert [each == body for each in received] == [True] * count
        assert tls.edge.statistics.slow_readers_cut == 0


async def test_a_hit_over_tls_is_one_like_any_other(tls):
    context = client_context(tls.certificate)
    async with tls.client(context) as client:
        assert (await client.get(tls.target)).body == tls.stored
        answer = await client.get(tls.target)
        assert (answer.body, answer.status) == (tls.stored, 200)
        assert tls.edge.statistics.memory_hits == 1
        secure = client.writer.get_extra_info("ssl_object")
        assert secure.selected_alpn_protocol() == "http/1.1"
        assert secure.version() == "TLSv1.3"
    assert tls.failed == 0


async def test_a_request_in_the_same_packet_as_the_end_of_the_handshake_is_answered(tls):
    context, incoming, outgoing = client_context(tls.certificate), ssl.MemoryBIO(), ssl.MemoryBIO()
    secure = context.wrap_bio(incoming, outgoing, server_hostname="::1")
    reader, writer = await asyncio.open_connection(tls.host, tls.port)
    while True:
        try:
            secure.do_handshake()
            break
        except ssl.SSLWantReadError:
            writer.write(outgoing.read())
            incoming.write(await reader.read(65536))
    secure.write(b"GET /healthz HTTP/1.1\r\nHost: edge\r\n\r\n")
    writer.write(outgoing.read())  # the client's Finished and its first request together
    while True:
        incoming.write(await reader.read(65536))
        try:
            assert secure.read(65536).startswith(b"HTTP/1.1 200")
            break
        except ssl.SSLWantReadError:
            continue
    writer.transport.abort()


async def test_a_large_body_arrives_whole_over_tls(tls):
    target, stored = stored_object(os.urandom(3_000_000))
    tls.origin.replies[target] = Reply(stored)
    for _ in range(2):
        async with tls.client() as client:
            assert (await client.get(target)).body == stored


async def test_what_is_no_request_is_refused_over_tls_and_the_connection_closed(tls):
    async with tls.client() as client:
        await client.send(b"NONSENSE\r\n\r\n")
        assert (await client.receive_head())[0] == 400


async def test_old_versions_of_tls_are_refused(tls):
    context = client_context(tls.certificate)
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await tls.get(context)
    await until(lambda: tls.failed == 1)


async def test_plain_http_at_a_port_for_tls_is_counted_and_closed(tls):
    async with Client((tls.host, tls.port)) as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: edge\r\n\r\n")
        await client.is_closed()
    await until(lambda: tls.failed == 1)
    assert (await tls.get()).body == tls.stored


async def test_a_client_that_goes_away_in_its_handshake_is_counted(tls):
    async with Client((tls.host, tls.port)) as client:
        await client.send(b"\x16\x03\x01")
    await until(lambda: tls.failed == 1)


@pytest.mark.parametrize("tls", [{"handshake_timeout": 0.05, "connections_max": 3}], indirect=True)
async def test_slow_handshakes_count_as_connections_and_end_in_time(tls):
    attackers = [Client((tls.host, tls.port)) for _ in range(4)]
    for attacker in attackers:
        await attacker.__aenter__()
        with suppress(ConnectionError):
            await attacker.send(b"\x16")
    for attacker in attackers:
        assert await attacker.is_closed()
        await attacker.__aexit__()
    await until(lambda: tls.failed + tls.edge.statistics.connections_refused == 4)
    assert tls.edge.statistics.connections_refused >= 1 or tls.failed == 4
    assert (await tls.get()).body == tls.stored


@pytest.mark.parametrize("tls", [{"handshake_timeout": 60, "connections_max": 2}], indirect=True)
async def test_when_handshakes_take_all_connections_more_are_refused(tls):
    async with Client((tls.host, tls.port)), Client((tls.host, tls.port)):
        await until(lambda: len(tls.edge._handshakes) == 2)
        async with Client((tls.host, tls.port)) as third:
            assert await third.is_closed()
        assert tls.edge.statistics.connections_refused == 1


async def test_a_renewed_certificate_greets_new_connections_and_old_ones_stay(tls, tmp_path):
    async with tls.client() as old:
        await old.get(tls.target)
        renewed, _ = write_certificate(tmp_path)  # to the same files
        assert renewed == tls.certificate
        tls.edge.reload(tls.edge.config)
        assert (await old.get(tls.target)).body == tls.stored
        assert (await tls.get(client_context(renewed))).body == tls.stored


async def test_a_broken_new_certificate_leaves_the_old_one(tls):
    before = client_context(tls.certificate)
    tls.key.write_text("nonsense")
    tls.edge.reload(tls.edge.config)
    assert tls.edge.statistics.reloads_failed == 1
    assert (await tls.get(before)).body == tls.stored


async def test_stopping_ends_handshakes_under_way(tls):
    async with Client((tls.host, tls.port)) as client:
        await until(lambda: len(tls.edge._handshakes) == 1)
        await tls.edge.stop(drain_seconds=0)
        assert await client.is_closed()


def test_uvloop_serves_all_of_it_too(tmp_path):
    uvloop = pytest.importorskip("uvloop")

    async def everything():
        certificate, key = write_certificate(tmp_path)
        listen = ListenSettings(
            ("127.0.0.1:0", f"unix:{tmp_path}/s"),
            tls=(TlsSettings("[::1]:0", certificate, key),),
        )
        async with running_origin() as origin:
            edge = EdgeServer(
                edge_config(tmp_path / "cache", origin.url, listen=listen, limits=LimitSettings(handshake_timeout=0.2)),
                clock=SystemClock(),
            )
            await edge.start()
            world = TlsWorld(edge, origin, certificate, key)
            await test_a_hit_over_tls_is_one_like_any_other(world)
            await test_a_request_in_the_same_packet_as_the_end_of_the_handshake_is_answered(world)
            await test_a_large_body_arrives_whole_over_tls(world)
            await test_plain_http_at_a_port_for_tls_is_counted_and_closed(world)
            await test_what_is_no_request_is_refused_over_tls_and_the_connection_closed(world)
            async with Client((world.host, world.port)) as slow:
                await slow.send(b"\x16\x03\x01")
                assert await slow.is_closed()
            await until(lambda: world.failed == 2)
            await test_a_renewed_certificate_greets_new_connections_and_old_ones_stay(world, tmp_path)
            async with OtherClient(path=f"{tmp_path}/s") as client:
                assert (await client.get(world.target)).body == world.stored
            await edge.stop(drain_seconds=0)

    uvloop.run(everything())
    assert (tmp_path / "s").exists()
