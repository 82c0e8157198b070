"""How an edge chooses among upstreams: slow, flapping, resting, hanging and full ones, and edges that ask edges."""

import asyncio
import os
import random
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from cdn.clock import ManualClock
from edge.http.headers import http_date
from edge.server import EdgeServer
from edge.settings.upstreams import FetchSettings, UpstreamSettings
from edge.upstream.health import RETURN_SECONDS, CircuitState
from tests.fakes.edge import BASE, World, edge_config, edge_world, manifest_bytes, object_of, stored_object, until
from tests.fakes.origin import Reply, running_origin

MANIFEST = f"{BASE}/.cvmfspublished"
LARGE = os.urandom(3_000_000)
LARGE_TARGET = object_of(LARGE)


@pytest.fixture
async def equals(tmp_path):
    """An edge before two origins that are equal, and asked one after the other however slow this machine is."""
    async with edge_world(tmp_path, origins=2, between="|", fetch=FetchSettings(hedge_share=0.0)) as world:
        world.edge.parts.supplies.health._chance = random.Random(1).random
        yield world


@pytest.fixture
async def hedging(tmp_path):
    """The same, with second requests."""
    async with edge_world(tmp_path, origins=2, between="|") as world:
        yield world


def health(world, place: int):
    return world.edge.parts.supplies.health.servers[world.origins[place].url]


def prefer(world, place: int) -> None:
    """Makes an origin the one that is asked first, and its usual time a short one."""
    for number, _ in enumerate(world.origins):
        for _ in range(10):
            health(world, number).answered(0.001 if number == place else 5.0, 0.0)
    world.edge.parts.supplies.health._chance = lambda: 0.5


# ------------------------------------------------------------------------------------------------------------- choosing


async def test_a_slow_server_loses_traffic_but_not_all_of_it_and_has_it_back_when_it_is_fast(equals):
    delays = [0.01, 0.2]

    async def shares(count: int) -> list[int]:
        before = [len(origin.asked) for origin in equals.origins]
        for _ in range(count):
            target, stored = stored_object(os.urandom(20))
            for place, origin in enumerate(equals.origins):
                origin.replies[target] = lambda _, place=place, stored=stored: answer(place, stored)
            assert (await equals.get(target)).body == stored
        return [len(origin.asked) - asked for origin, asked in zip(equals.origins, before, strict=True)]

    def answer(place: int, stored: bytes) -> Reply:
        equals.advance(delays[place])  # the edge measures by this clock
        return Reply(stored)

    await shares(20)
    fast, slow = await shares(150)
    assert 1 <= slow < 15 < fast
    delays[1] = 0.01
    equals.advance(60)
    rounds = 0
    while (await shares(10))[1] == 0 and rounds < 60:
        rounds += 1
    assert rounds < 60
    assert min(await shares(60)) > 12


async def test_a_server_that_comes_and_goes_is_noticed_by_nobody_and_asked_less_and_less(equals):
    flapping = equals.origins[0]
    asked_while_down = 0
    for cycle in range(12):
        flapping.is_dead = cycle % 2 == 0
        before = len(flapping.asked)
        for _ in range(20):
            target, stored = equals.publish(os.urandom(20))
            assert (await equals.get(target)).body == stored
            equals.advance(0.2)
        asked_while_down += len(flapping.asked) - before if flapping.is_dead else 0
    assert asked_while_down < 40  # of 120, and the client sends what breaks off twice
    assert health(equals, 0).openings <= 8


async def test_a_server_returns_step_by_step(equals):
    equals.origins[0].is_dead = True
    while health(equals, 0).state(equals.clock.monotonic()) is not CircuitState.OPEN:
        await equals.get(equals.publish(os.urandom(20))[0])
    equals.origins[0].is_dead = False
    equals.advance(2)
    counts = []
    for seconds in (0.0, RETURN_SECONDS / 2, RETURN_SECONDS):
        equals.advance(seconds)
        before = len(equals.origins[0].asked)
        for _ in range(60):
            await equals.get(equals.publish(os.urandom(20))[0])
        counts.append(len(equals.origins[0].asked) - before)
    assert 1 <= counts[0] < counts[1] < counts[2]


async def test_damage_weighs_more_than_an_error(equals):
    target, stored = equals.publish(b"hello")
    prefer(equals, 0)
    equals.origins[0].replies[target] = Reply(b"x" * len(stored))
    assert (await equals.get(target)).body == stored
    assert health(equals, 0).state(equals.clock.monotonic()) is CircuitState.OPEN
    target, stored = equals.publish(b"again")
    equals.origins[1].replies[target] = Reply(b"", 500)
    assert (await equals.get(target)).body == stored  # the one that rests is asked when all others failed
    assert health(equals, 1).state(equals.clock.monotonic()) is CircuitState.CLOSED


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_a_server_that_asks_for_a_pause_gets_it(equals, status, form):
    now = equals.clock.now()
    fields = {"Retry-After": "30" if form == "seconds" else http_date(now + 30), "Date": http_date(now)}
    target, stored = equals.publish(b"hello")
    equals.origins[0].replies[target] = Reply(b"later", status, headers=fields)
    prefer(equals, 0)
    assert (await equals.get(target)).body == stored
    asked = len(equals.origins[0].asked)
    equals.origins[1].is_dead = True
    other, _ = equals.publish(b"another")
    assert (await equals.get(other)).status == 502
    assert len(equals.origins[0].asked) == asked
    equals.advance(31)
    assert (await equals.get(other)).status == 200


async def test_an_ordinary_sites_429_is_one_clients_affair(tmp_path):
    async with edge_world(tmp_path) as world:
        site = UpstreamSettings("site", (world.origin.url,), path="/")
        world.edge.reload(replace(world.edge.config, upstreams=(site,)))
        world.origin.replies["/a"] = Reply(b"slow down", 429, headers={"Retry-After": "30"})
        world.origin.replies["/b"] = Reply(b"hello", headers={"Cache-Control": "no-store"})
        assert (await world.get("/a")).status == 429
        assert (await world.get("/b")).body == b"hello"


async def test_a_reload_keeps_what_was_learned(equals):
    prefer(equals, 1)
    equals.origins[0].is_dead = equals.origins[1].is_dead = True
    await equals.get(equals.publish(b"hello")[0])
    known = health(equals, 0)
    equals.edge.reload(equals.edge.config)
    assert health(equals, 0) is known
    assert known.failures == 1


# -------------------------------------------------------------------------------------------------------------- hedging


async def test_a_second_server_is_asked_beside_one_that_hangs_and_the_first_is_let_go_of(hedging):
    prefer(hedging, 0)
    target, stored = hedging.publish(b"hello")
    hedging.origins[0].replies[target] = Reply(stored, gate=asyncio.Event())
    answers = await asyncio.gather(*(hedging.get(target) for _ in range(10)))
    assert {answer.body for answer in answers} == {stored}
    assert [origin.count(target) for origin in hedging.origins] == [1, 1]
    await until(lambda: health(hedging, 0).in_flight == 0)
    upstreams = hedging.edge.parts.supplies.health
    assert (upstreams.hedged, upstreams.hedges_won, upstreams.hedges_lost) == (1, 1, 0)
    assert (hedging.edge.statistics.misses, hedging.edge.statistics.collapsed) == (1, 9)


async def test_a_first_server_that_answers_after_all_wins(hedging):
    prefer(hedging, 0)
    target, stored = hedging.publish(b"hello")
    gate = asyncio.Event()
    hedging.origins[0].replies[target] = Reply(stored, gate=gate)
    hedging.origins[1].replies[target] = Reply(stored, gate=asyncio.Event())
    waiting = asyncio.create_task(hedging.get(target))
    await until(lambda: hedging.origins[1].count(target))
    gate.set()
    assert (await waiting).body == stored
    await until(lambda: health(hedging, 1).in_flight == 0)
    assert hedging.edge.parts.supplies.health.hedges_lost == 1


async def test_a_second_server_with_wrong_bytes_does_not_win(hedging):
    prefer(hedging, 0)
    target, stored = hedging.publish(b"hello")
    gate = asyncio.Event()
    hedging.origins[0].replies[target] = lambda _: Reply(stored, gate=None if gate.is_set() else asyncio.Event())

    def wrong(_):
        gate.set()
        return Reply(b"x" * len(stored))

    hedging.origins[1].replies[target] = wrong
    assert (await hedging.get(target)).body == stored
    assert hedging.edge.statistics.hash_failures >= 1


async def test_an_error_of_one_does_not_end_the_wait_for_the_other(hedging):
    prefer(hedging, 0)
    target, stored = hedging.publish(b"hello")
    gate = asyncio.Event()
    hedging.origins[0].replies[target] = Reply(stored, gate=gate)

    def broken(_):
        gate.set()
        return Reply(b"", 500)

    hedging.origins[1].replies[target] = broken
    assert (await hedging.get(target)).body == stored


async def test_manifests_are_asked_for_twice_too_and_other_content_is_not(hedging):
    prefer(hedging, 0)
    for target, body, seconds in ((MANIFEST, manifest_bytes(1), True), (f"{BASE}/any.html", b"hello", False)):
        gate = asyncio.Event()
        hedging.origins[0].replies[target] = Reply(body, gate=gate)
        hedging.origins[1].replies[target] = Reply(body)
        waiting = asyncio.create_task(hedging.get(target))
        if seconds:
            assert (await waiting).body == body
        else:
            await until(lambda target=target: hedging.origins[0].count(target))
            gate.set()
            assert (await waiting).body == body
            assert hedging.origins[1].count(target) == 0


async def test_the_next_group_is_asked_only_when_all_of_the_first_failed(tmp_path):
    async with edge_world(tmp_path, origins=2) as world:
        prefer(world, 0)
        target, stored = world.publish(b"hello")
        gate = asyncio.Event()
        world.origins[0].replies[target] = Reply(stored, gate=gate)
        waiting = asyncio.create_task(world.get(target))
        await until(lambda: world.origins[0].count(target))
        race = world.edge.parts.flights
        assert len(race) == 1
        gate.set()
        assert (await waiting).body == stored
        assert world.origins[1].asked == []
        assert world.edge.parts.supplies.health.hedged == 0


async def test_without_a_share_for_them_there_are_no_second_requests(tmp_path):
    async with edge_world(tmp_path, origins=2, between="|", fetch=FetchSettings(hedge_share=0.0)) as world:
        prefer(world, 0)
        target, stored = world.publish(b"hello")
        world.origins[0].replies[target] = Reply(b"", 500)
        assert (await world.get(target)).body == stored
        assert world.edge.parts.supplies.health.hedged == 0


# --------------------------------------------------------------------------------------------------------------- turns


async def test_no_more_requests_are_under_way_to_a_server_than_its_group_allows(tmp_path):
    async with edge_world(tmp_path) as world:
        only = replace(world.edge.config.upstreams[0], connections=2)
        world.edge.reload(replace(world.edge.config, upstreams=(only,)))
        most = 0

        def counted(stored: bytes):
            def answer(_):
                nonlocal most
                most = max(most, health(world, 0).in_flight)
                return Reply(stored)

            return answer

        objects = [stored_object(os.urandom(20)) for _ in range(20)]
        for target, stored in objects:
            world.origin.replies[target] = counted(stored)
        answers = await asyncio.gather(*(world.get(target) for target, _ in objects))
        assert [answer.body for answer in answers] == [stored for _, stored in objects]
        assert most == 2


async def test_who_waits_too_long_for_a_turn_asks_the_next_group_and_blames_nobody(tmp_path):
    async with edge_world(tmp_path, origins=2, fetch=FetchSettings(queue_timeout=0.05)) as world:
        only = replace(world.edge.config.upstreams[0], connections=1)
        world.edge.reload(replace(world.edge.config, upstreams=(only,)))
        gate = asyncio.Event()
        first, first_stored = world.publish(b"hello", gate=gate)
        second, second_stored = stored_object(b"other")
        for origin in world.origins:
            origin.replies[second] = Reply(second_stored)
        waiting = asyncio.create_task(world.get(first))
        await until(lambda: world.origins[0].count(first))
        assert (await world.get(second)).body == second_stored
        assert (world.origins[0].count(second), world.origins[1].count(second)) == (0, 1)
        assert health(world, 0).failures == 0
        gate.set()
        assert (await waiting).body == first_stored
        await until(lambda: health(world, 0).in_flight == 0)


# --------------------------------------------------------------------------------------------------- edges before edges


@asynccontextmanager
async def running_edge(directory, clock, *urls: str, **changes):
    edge = EdgeServer(edge_config(directory, *urls, **changes), clock=clock)
    await edge.start()
    try:
        yield edge
    finally:
        await edge.stop(drain_seconds=0)


def url_of(edge) -> str:
    host, port = edge.address
    return f"http://{host}:{port}"


@pytest.mark.parametrize("form", ["server", "proxy"])
async def test_an_edge_asks_its_parent(tmp_path, form):
    async with (
        running_origin() as origin,
        running_edge(tmp_path / "parent", ManualClock(), origin.url, name="parent.test") as parent,
    ):
        at = origin.url if form == "proxy" else url_of(parent)
        proxies = f"{url_of(parent)};DIRECT" if form == "proxy" else ""
        upstream = UpstreamSettings("all", f"{at}/cvmfs/@fqrn@", proxies=proxies)
        async with running_edge(
            tmp_path / "child", clock := ManualClock(), at, name="child.test", upstreams=(upstream,)
        ) as child:
            world = World(child, [origin], clock, tmp_path / "child")
            target, stored = world.publish(b"hello")
            assert (await world.get(target)).body == stored
            assert (await world.get(f"{at}{target}")).body == stored
            assert [asked.headers["via"] for asked in origin.asked] == ["1.1 child.test, 1.1 parent.test"]
            await parent.stop(drain_seconds=0)
            target, stored = world.publish(b"another")
            answer = await world.get(target)
            assert (answer.status, answer.body if form == "proxy" else b"") == (
                (200, stored) if form == "proxy" else (502, b"")
            )


# --------------------------------------------------------------------------------------------------------------- probes


@asynccontextmanager
async def probed_world(tmp_path):
    async with edge_world(tmp_path, origins=2, between="|") as world:
        probed = replace(world.edge.config.upstreams[0], probe="/alive")
        world.edge.reload(replace(world.edge.config, upstreams=(probed,)))
        for origin in world.origins:
            origin.replies["/alive"] = Reply(b"yes")
        yield world


async def test_servers_in_no_use_are_probed_now_and_then(tmp_path):
    async with probed_world(tmp_path) as world:
        prober = world.edge.parts.prober
        await prober.round()
        await prober.round()
        assert [origin.count("/alive") for origin in world.origins] == [1, 1]
        assert world.origin.asked[0].headers["via"] == "1.1 edge.test"
        world.advance(10)
        world.edge.parts.supplies.health.note_success(world.origins[1].url, world.clock.monotonic())
        await prober.round()
        assert [origin.count("/alive") for origin in world.origins] == [2, 1]


async def test_a_server_that_failed_is_tried_by_a_probe_and_by_no_client(tmp_path):
    async with probed_world(tmp_path) as world:
        for place in (0, 1):
            health(world, place).succeeded(0.0)
        world.origins[0].is_dead = True
        await world.edge.parts.prober.round()
        while health(world, 0).state(world.clock.monotonic()) is CircuitState.CLOSED:
            world.advance(10)
            await world.edge.parts.prober.round()
        world.origins[0].is_dead = False
        world.advance(10)
        before = len(world.origins[0].asked)
        for _ in range(10):
            await world.get(world.publish(os.urandom(20))[0])
        assert len(world.origins[0].asked) == before
        await world.edge.parts.prober.round()
        assert health(world, 0).share(world.clock.monotonic()) == 0.1
