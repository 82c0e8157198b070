"""A GeoDNS server on real sockets, asked by an independent resolver library."""

import asyncio
import json
import socket
from contextlib import asynccontextmanager
from dataclasses import replace

import aiohttp
import dns.asyncquery
import dns.edns
import dns.flags
import dns.message
import dns.rcode
import pytest
import uvloop
from aiohttp import web

from cdn.errors import CdnError, ConfigError, UsageError
from geodns.config import (
    AdminSettings,
    EdgeSettings,
    GeoApiSettings,
    GeoDnsConfig,
    GeographySettings,
    HealthSettings,
    HostSettings,
    LimitSettings,
    ListenSettings,
    NetworkSettings,
)
from geodns.edge_health import EdgeState
from geodns.server import GeoDnsServer
from tests.fakes.geodns import CHICAGO, GENEVA, TOKYO, ZONE, ScriptedProbe, geodns_config, query

EDGE = f"edge.{ZONE}"


@asynccontextmanager
async def serving(config: GeoDnsConfig | None = None, probe: ScriptedProbe | None = None):
    server = GeoDnsServer(config or geodns_config(), probe=probe)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def near(place: str) -> dns.edns.ECSOption:
    network = {"geneva": "192.0.2.0", "chicago": "198.51.100.0", "tokyo": "203.0.113.0"}[place]
    return dns.edns.ECSOption(network, 24)


async def ask(server, name=EDGE, kind="A", *, how="udp", address=None, **options):
    host, port = address or server.address
    message = dns.message.make_query(name, kind, **options)
    send = {"udp": dns.asyncquery.udp, "tcp": dns.asyncquery.tcp}[how]
    return await send(message, host, port=port, timeout=10)


def addresses(reply) -> set[str]:
    return {str(record) for rrset in reply.answer for record in rrset if rrset.rdtype in (1, 28)}


@pytest.mark.parametrize("how", ["udp", "tcp"])
@pytest.mark.parametrize(("place", "expected"), [("geneva", GENEVA), ("chicago", CHICAGO), ("tokyo", TOKYO)])
async def test_a_resolver_gets_the_site_nearest_to_its_client(how, place, expected):
    async with serving() as server:
        reply = await ask(server, how=how, options=[near(place)])
    assert addresses(reply) == set(expected)
    assert reply.flags & dns.flags.AA
    assert reply.options[0].scopelen == 24


async def test_a_client_without_a_subnet_is_located_by_its_own_address():
    here = GeographySettings((NetworkSettings("127.0.0.0/8", 35.0, 139.0),))
    async with serving(geodns_config(geography=here)) as server:
        assert addresses(await ask(server)) == set(TOKYO)


async def test_both_families_are_answered_on_one_port():
    config = geodns_config(listen=ListenSettings(("127.0.0.1", "::1"), 0))
    async with serving(config) as server:
        assert len({port for _, port in server.addresses}) == 1
        for address in server.addresses:
            for how in ("udp", "tcp"):
                assert addresses(await ask(server, how=how, address=address)) == set(GENEVA)


async def test_a_truncated_answer_is_completed_over_tcp():
    async with serving() as server:
        message = dns.message.make_query(f"huge.{ZONE}", "TXT", use_edns=True)
        reply, by_tcp = await dns.asyncquery.udp_with_fallback(
            message, *server.address[:1], port=server.address[1], timeout=10
        )
    assert by_tcp
    assert len(reply.answer[0]) == 10


async def test_a_dead_edge_leaves_the_answers_and_a_recovered_one_returns():
    probe = ScriptedProbe()
    config = geodns_config(
        health=HealthSettings(interval_seconds=0.005, timeout_seconds=1, slow_seconds=1, fall=2, rise=2)
    )
    sites = tuple(
        replace(site, edges=tuple(replace(edge, check=f"tcp://{edge.addresses[0]}:80") for edge in site.edges))
        for site in config.sites
    )
    async with serving(replace(config, sites=sites), probe) as server:
        assert addresses(await ask(server, options=[near("chicago")])) == set(CHICAGO)
        probe.says[f"tcp://{CHICAGO[0]}:80"] = OSError("connection refused")
        await until_answered(server, near("chicago"), set(GENEVA))
        assert server.health["c1"].reason == "connection refused"
        del probe.says[f"tcp://{CHICAGO[0]}:80"]
        await until_answered(server, near("chicago"), set(CHICAGO))


async def until_answered(server, subnet, expected: set[str]) -> None:
    async with asyncio.timeout(20):
        while addresses(await ask(server, options=[subnet])) != expected:  # noqa: ASYNC110 -- as a resolver would see it
            await asyncio.sleep(0.005)


async def test_a_server_that_starts_knows_at_once_which_edges_are_dead():
    async def well(_request: web.Request) -> web.Response:
        return web.Response()

    application = web.Application()
    application.router.add_get("/healthz", well)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        edges = (
            EdgeSettings("well", ("10.9.0.1",), f"http://127.0.0.1:{port}/healthz"),
            EdgeSettings("sick", ("10.9.0.2",), f"http://127.0.0.1:{port}/nothing"),
            EdgeSettings("dead", ("10.9.0.3",), f"tcp://127.0.0.1:{held.getsockname()[1]}"),
        )
        async with serving(geodns_config(sites=tuple(
            replace(site, edges=edges) if site.name == "geneva" else site for site in geodns_config().sites
        ))) as server:  # fmt: skip
            assert addresses(await ask(server)) == {"10.9.0.1"}
            assert {name: mark.state for name, mark in server.health.items()} == {
                "well": EdgeState.UP,
                "sick": EdgeState.DOWN,
                "dead": EdgeState.DOWN,
            }
    await runner.cleanup()


class TestHostileDatagrams:
    async def test_silence_for_replies_and_stumps_and_an_answer_for_the_next(self):
        async with serving() as server:
            loop = asyncio.get_running_loop()
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.setblocking(False)
                client.connect(server.address)
                for packet in (b"", b"\0" * 11, query(EDGE, 1, flags=0x8000), query(EDGE, 1, identifier=7)):
                    client.send(packet)
                reply = await asyncio.wait_for(loop.sock_recv(client, 4096), 10)
                assert reply[:2] == b"\0\7"  # packets of one sender stay in order: the others got none
            assert server.statistics.dropped == 3

    async def test_every_kind_of_garbage_gets_its_code(self):
        wrong = {
            query(EDGE, 1, flags=0x2800): dns.rcode.NOTIMP,
            query(EDGE, 1)[:-1]: dns.rcode.FORMERR,
            query(EDGE, 1) + b"x": dns.rcode.FORMERR,
            query("example.com", 1): dns.rcode.REFUSED,
            query(ZONE, 252): dns.rcode.REFUSED,
            query(EDGE, 1)[:12] + b"\xc0\x0c\0\1\0\1": dns.rcode.FORMERR,
        }
        async with serving() as server:
            loop = asyncio.get_running_loop()
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.setblocking(False)
                client.connect(server.address)
                for packet, code in wrong.items():
                    await loop.sock_sendall(client, packet)
                    reply = await asyncio.wait_for(loop.sock_recv(client, 4096), 10)
                    assert reply[3] & 0xF == code


def framed(message: bytes) -> bytes:
    return len(message).to_bytes(2, "big") + message


async def read_reply(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(10):
        return await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))


class TestStreams:
    async def test_many_pipelined_queries_are_all_answered_in_order(self):
        async with serving() as server:
            reader, writer = await asyncio.open_connection(*server.address)
            number = 3000
            writer.write(b"".join(framed(query(EDGE, 1, identifier=i)) for i in range(number)))
            assert [int.from_bytes((await read_reply(reader))[:2], "big") for _ in range(number)] == list(range(number))
            writer.close()

    async def test_a_query_may_come_a_byte_at_a_time(self):
        async with serving() as server:
            reader, writer = await asyncio.open_connection(*server.address)
            for byte in framed(query(EDGE, 1, identifier=9)):
                writer.write(bytes((byte,)))
                await writer.drain()
                await asyncio.sleep(0)  # the server, in this loop, reads it
            assert (await read_reply(reader))[:2] == b"\0\x09"
            writer.close()

    async def test_a_client_that_closes_its_half_still_gets_its_answers(self):
        async with serving() as server:
            reader, writer = await asyncio.open_connection(*server.address)
            writer.write(framed(query(EDGE, 1, identifier=1)) * 200)
            writer.write_eof()
            assert len([await read_reply(reader) for _ in range(200)]) == 200
            assert await asyncio.wait_for(reader.read(), 10) == b""
            writer.close()

    @pytest.mark.parametrize(
        "sent",
        [
            framed(b""),
            framed(b"\0" * 5),
            framed(query(EDGE, 1, flags=0x8000)),
            b"\xff\xff" + b"x" * 100,
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        ],
    )
    async def test_what_is_no_query_ends_the_connection(self, sent):
        async with serving() as server:
            reader, writer = await asyncio.open_connection(*server.address)
            writer.write(sent)
            assert await ended(reader)
            writer.close()

    async def test_a_client_that_sends_slowly_is_cut_off(self):
        async with serving(geodns_config(limits=LimitSettings(tcp_idle_seconds=0.05))) as server:
            reader, writer = await asyncio.open_connection(*server.address)
            writer.write(framed(query(EDGE, 1))[:-1])
            assert await ended(reader)
            writer.close()

    async def test_a_client_that_never_reads_is_cut_off_and_holds_no_memory(self):
        async with serving(geodns_config(limits=LimitSettings(tcp_idle_seconds=0.3))) as server:
            _, writer = await asyncio.open_connection(*server.address, limit=1024)
            writer.transport.pause_reading()
            with pytest.raises(ConnectionError):
                await send_for_ever(writer, framed(query(f"huge.{ZONE}", 16)) * 500)
            assert server.statistics.tcp_open == 0
            writer.close()

    async def test_connections_are_limited_in_all_and_by_client(self):
        limits = LimitSettings(tcp_connections_max=3, tcp_connections_per_client_max=2)
        async with serving(geodns_config(limits=limits)) as server:
            opened = []
            for source in ("127.0.0.1", "127.0.0.1", "127.0.0.1", "127.0.0.2", "127.0.0.3"):
                stream = await asyncio.open_connection(*server.address, local_addr=(source, 0))
                stream[1].write(framed(query(EDGE, 1)))
                opened.append(stream)
            outcomes = [not await refused(reader) for reader, _ in opened]
            assert outcomes == [True, True, False, True, False]
            opened[0][1].close()
            async with asyncio.timeout(10):
                while server.statistics.tcp_open == 3:  # noqa: ASYNC110 -- the server has to notice
                    await asyncio.sleep(0.001)
            reader, writer = await asyncio.open_connection(*server.address, local_addr=("127.0.0.3", 0))
            writer.write(framed(query(EDGE, 1)))
            assert await read_reply(reader)
            for _, stream in (*opened, (reader, writer)):
                stream.close()


async def send_for_ever(writer: asyncio.StreamWriter, data: bytes) -> None:
    while True:
        writer.write(data)
        await writer.drain()


async def ended(reader: asyncio.StreamReader) -> bool:
    try:
        return await asyncio.wait_for(reader.read(), 10) == b""
    except ConnectionError:
        return True


async def refused(reader: asyncio.StreamReader) -> bool:
    try:
        await read_reply(reader)
    except (ConnectionError, asyncio.IncompleteReadError):
        return True
    return False


class TestReload:
    async def test_another_configuration_counts_from_then_on(self):
        async with serving() as server:
            await ask(server)
            config = geodns_config()
            await server.reload(replace(config, sites=tuple(reversed(config.sites))))
            assert addresses(await ask(server)) == set(TOKYO)  # the client is unknown: the first site counts

    async def test_a_bad_map_is_refused_and_the_old_one_stays(self, tmp_path):
        path = tmp_path / "networks.map"
        path.write_text("127.0.0.0/8 35 139\n")
        config = geodns_config(geography=GeographySettings(map=path))
        async with serving(config) as server:
            path.write_text("127.0.0.0/8 135 139\n")
            with pytest.raises(ConfigError, match=r"networks\.map:1"):
                await server.reload(config)
            assert addresses(await ask(server)) == set(TOKYO)
            assert (server.statistics.reloads_failed, server.statistics.reloads_good) == (1, 0)

    async def test_a_damaged_database_is_refused_and_the_old_map_stays(self, tmp_path):
        (tmp_path / "city.mmdb").write_bytes(b"damaged")
        config = geodns_config()
        async with serving(config) as server:
            with pytest.raises(CdnError, match="damaged"):
                await server.reload(replace(config, geography=GeographySettings(database=tmp_path / "city.mmdb")))
            assert addresses(await ask(server, options=[near("tokyo")])) == set(TOKYO)


class TestStarting:
    async def test_a_taken_port_is_told_in_one_sentence_and_nothing_stays_open(self):
        async with serving() as first:
            taken = geodns_config(listen=ListenSettings(("127.0.0.1",), first.address[1]))
            with pytest.raises(
                UsageError, match=f"cannot listen on 127.0.0.1:{first.address[1]}: Address already in use"
            ):
                await GeoDnsServer(taken).start()

    async def test_a_failure_half_way_gives_back_what_was_taken(self):
        async with serving(geodns_config(admin=AdminSettings("127.0.0.1:0"))) as first:
            assert first.admin_address is not None
            again = geodns_config(admin=AdminSettings(f"127.0.0.1:{first.admin_address[1]}"))
            half = GeoDnsServer(again)
            with pytest.raises(UsageError):
                await half.start()
        assert half._datagrams == []
        async with serving(geodns_config(listen=ListenSettings(("127.0.0.1",), half.address[1]))):
            pass


class TestHttp:
    async def get(self, address, path, **headers):
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://{address[0]}:{address[1]}{path}", headers=headers) as reply,
        ):
            return reply.status, await reply.text(), reply.headers

    async def test_the_operator_sees_metrics_and_state(self):
        config = geodns_config(admin=AdminSettings("127.0.0.1:0"))
        site = replace(config.sites[1], edges=(replace(config.sites[1].edges[0], check="tcp://127.0.0.1:1"),))
        async with serving(replace(config, sites=(config.sites[0], site, config.sites[2]))) as server:
            for _ in range(3):
                await ask(server)
            status, metrics, _ = await self.get(server.admin_address, "/metrics")
            assert status == 200
            assert 'geodns_replies_total{transport="udp"} 3.0' in metrics
            assert 'geodns_replies_by_site_total{site="geneva"} 3.0' in metrics
            assert 'geodns_edge_usable{edge="c1"} 0.0' in metrics
            _, text, _ = await self.get(server.admin_address, "/status")
            assert json.loads(text)["edges"]["c1"]["state"] == "down"
            assert (await self.get(server.admin_address, "/healthz"))[0] == 200

    @pytest.fixture
    async def geo_api(self):
        hosts = (HostSettings("eu.example.org", 46.2, 6.1), HostSettings("US.example.org", 41.9, -87.6))
        loopback = NetworkSettings("127.0.0.0/8", 35.0, 139.0)
        config = geodns_config(geo_api=GeoApiSettings("127.0.0.1:0", hosts))
        geography = replace(config.geography, networks=(*config.geography.networks, loopback))
        async with serving(replace(config, geography=geography)) as server:
            yield server.geo_api_address

    PATH = "/cvmfs/sw.example.org/api/v1.0/geo"
    UUID = "62adc518-81b5-2d49-b3b9-5f23a09fd399"

    async def order(self, address, locator, names, **headers):
        return (await self.get(address, f"{self.PATH}/{locator}/{names}", **headers))[1]

    async def test_servers_are_ordered_for_who_asks(self, geo_api):
        names = "eu.example.org,us.example.org"
        assert await self.order(geo_api, "198.51.100.9", names) == "2,1\n"
        assert await self.order(geo_api, "192.0.2.9", names) == "1,2\n"
        assert await self.order(geo_api, self.UUID, names, **{"X-Forwarded-For": "192.0.2.1, 198.51.100.1"}) == "2,1\n"
        assert await self.order(geo_api, self.UUID, names, **{"CF-Connecting-IP": "198.51.100.1"}) == "2,1\n"

    async def test_our_own_edges_and_names_in_the_hosts_file_are_known(self, geo_api):
        assert await self.order(geo_api, "198.51.100.9", "localhost,10.1.0.1,10.2.0.1") == "3,2,1\n"
        assert await self.order(geo_api, "localhost", "eu.example.org,10.3.0.1") == "2,1\n"

    async def test_good_and_bad_replies_say_how_long_they_may_be_kept(self, geo_api):
        status, text, headers = await self.get(geo_api, f"{self.PATH}/192.0.2.1/eu.example.org,us.example.org")
        assert (status, text, headers["Cache-Control"]) == (200, "1,2\n", "max-age=3600")
        assert headers["Content-Type"].startswith("text/plain")
        status, text, headers = await self.get(geo_api, f"{self.PATH}/192.0.2.1/a..b,c..d")
        assert (status, text.startswith("Bad Request: "), headers["Cache-Control"]) == (400, True, "max-age=300")
        assert (await self.get(geo_api, "/"))[0] == 404

    async def test_the_debugging_counter_counts_lookups(self, geo_api):
        before = int((await self.get(geo_api, f"{self.PATH}/_namelookups_/"))[1])
        await self.order(geo_api, "192.0.2.1", "localhost,eu.example.org")
        await self.order(geo_api, "192.0.2.1", "localhost,us.example.org")
        assert int((await self.get(geo_api, f"{self.PATH}/_namelookups_/"))[1]) == before + 1


ON_UVLOOP = (
    test_both_families_are_answered_on_one_port,
    test_a_truncated_answer_is_completed_over_tcp,
    test_a_dead_edge_leaves_the_answers_and_a_recovered_one_returns,
    TestHostileDatagrams().test_silence_for_replies_and_stumps_and_an_answer_for_the_next,
    TestStreams().test_many_pipelined_queries_are_all_answered_in_order,
    TestStreams().test_a_client_that_closes_its_half_still_gets_its_answers,
    TestStreams().test_a_client_that_sends_slowly_is_cut_off,
    TestStreams().test_a_client_that_never_reads_is_cut_off_and_holds_no_memory,
    TestStreams().test_connections_are_limited_in_all_and_by_client,
    TestReload().test_another_configuration_counts_from_then_on,
    TestStarting().test_a_taken_port_is_told_in_one_sentence_and_nothing_stays_open,
)


@pytest.mark.parametrize("behaviour", ON_UVLOOP, ids=lambda behaviour: behaviour.__name__.removeprefix("test_"))
def test_the_loop_that_serves_in_earnest_behaves_the_same(behaviour):
    uvloop.run(behaviour())
