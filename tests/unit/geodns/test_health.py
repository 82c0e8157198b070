"""The checker: what it asks, what it makes of the answers, and whom it tells."""

import asyncio

import pytest
from aiohttp import web

from cdn.clock import SystemClock
from geodns.config import HealthSettings
from geodns.edge_health import EdgeHealth, EdgeState
from geodns.health import EdgeCheck, HealthChecker, NetworkProbe, configured_checks
from geodns.routing import HealthView
from tests.fakes.geodns import ScriptedProbe, geodns_config

FAST = HealthSettings(interval_seconds=0.001, timeout_seconds=0.05, slow_seconds=0.05, fall=2, rise=2)


class Watched:
    """A checker of two edges, and every view it told."""

    def __init__(self, settings: HealthSettings = FAST, known: dict[str, EdgeHealth] | None = None) -> None:
        self.probe = ScriptedProbe()
        self.views: asyncio.Queue[HealthView] = asyncio.Queue()
        checks = (EdgeCheck("a", "tcp://a:1"), EdgeCheck("b", "tcp://b:1"))
        self.checker = HealthChecker(
            checks, settings, SystemClock(), self.views.put_nowait, probe=self.probe, known=known
        )

    async def __aenter__(self):
        self.checker.start()
        return self

    async def __aexit__(self, *_):
        await self.checker.stop()

    async def next_view(self) -> HealthView:
        return await asyncio.wait_for(self.views.get(), 10)


async def test_after_the_first_round_every_edge_has_a_state():
    watched = Watched()
    watched.probe.says["tcp://b:1"] = OSError("connection refused")
    async with watched:
        await watched.checker.first_round()
        marks = watched.checker.marks
    assert (marks["a"].state, marks["b"].state) == (EdgeState.UP, EdgeState.DOWN)
    assert marks["b"].reason == "connection refused"


async def test_an_edge_that_dies_and_returns_is_told_twice():
    async with Watched() as watched:
        await watched.checker.first_round()
        watched.probe.says["tcp://a:1"] = "it answered 503"
        assert (await watched.next_view()).down == {"a"}
        del watched.probe.says["tcp://a:1"]
        assert (await watched.next_view()).down == set()


async def test_no_answer_at_all_is_a_failure_after_the_timeout():
    watched = Watched()
    watched.probe.says["tcp://a:1"] = None
    async with watched:
        await watched.checker.first_round()
        assert watched.checker.marks["a"].reason == "no answer within 0.05 s"


async def test_one_hanging_edge_holds_up_no_other():
    watched = Watched(HealthSettings(interval_seconds=0.001, timeout_seconds=60, slow_seconds=1, fall=2, rise=2))
    watched.probe.says["tcp://a:1"] = None
    async with watched:
        while watched.probe.asked.count("tcp://b:1") < 5:  # noqa: ASYNC110 -- the fake only counts
            await asyncio.sleep(0)  # a turn for the probes
    assert watched.probe.asked.count("tcp://a:1") == 1


async def test_late_answers_make_an_edge_slow_and_not_dead():
    async with Watched(HealthSettings(interval_seconds=0.001, timeout_seconds=5, slow_seconds=1e-9)) as watched:
        await watched.checker.first_round()
        assert watched.checker.view == HealthView(slow=frozenset({"a", "b"}))


async def test_what_was_known_before_a_reload_is_not_forgotten():
    watched = Watched(known={"a": EdgeHealth(EdgeState.DOWN), "gone": EdgeHealth(EdgeState.DOWN)})
    assert watched.checker.view.down == {"a"}


def test_only_edges_with_a_check_are_checked():
    assert configured_checks(geodns_config()) == ()


class TestNetworkProbe:
    @pytest.fixture
    async def probe(self):
        probe = NetworkProbe()
        yield probe
        await probe.close()

    @pytest.fixture
    async def url(self):
        async def answer(request: web.Request) -> web.Response:
            return web.Response(status=int(request.path[1:]), headers={"Location": "/500"})

        application = web.Application()
        application.router.add_get("/{status}", answer)
        runner = web.AppRunner(application)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        await runner.cleanup()

    @pytest.mark.parametrize(("status", "complaint"), [(200, ""), (204, ""), (302, ""), (404, "404"), (503, "503")])
    async def test_http_is_well_below_400(self, probe, url, status, complaint):
        assert (await probe(f"{url}/{status}")) == (complaint and f"it answered {complaint}")

    async def test_tcp_is_well_if_it_accepts(self, probe, url):
        assert await probe(url.replace("http:", "tcp:")) == ""

    @pytest.mark.parametrize("scheme", ["http", "tcp"])
    async def test_nobody_there_is_an_oserror(self, probe, scheme, unused_port):
        with pytest.raises(OSError, match=r"."):
            await probe(f"{scheme}://127.0.0.1:{unused_port}")

    async def test_what_speaks_no_http_is_an_oserror(self, probe):
        async def babble(_reader, writer):
            writer.write(b"SSH-2.0-Babble\r\n")
            writer.close()

        server = await asyncio.start_server(babble, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(OSError, match=r"."):
            await probe(f"http://127.0.0.1:{port}/")
        server.close()
        await server.wait_closed()

    @pytest.fixture
    def unused_port(self):
        import socket

        with socket.socket() as held:  # bound, but not listening: connections are refused, and nobody else gets it
            held.bind(("127.0.0.1", 0))
            yield held.getsockname()[1]
