"""One request followed through the logs of everybody who handled it, over real sockets."""

import asyncio
import json
import re
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import pytest

from cdn.clock import ManualClock
from cdn.telemetry import install_sink
from edge.cache.shards import Share
from edge.config import ForwardSettings, LogSettings
from edge.server import EdgeServer
from edge.settings.upstreams import FetchSettings, SiblingSettings, UpstreamSettings
from edge.upstream.rendezvous import Member, owner
from edge.watching.complaints import AT_ONCE_MAX, INTERVAL_SECONDS
from tests.fakes.edge import Client, World, edge_config, edge_world, object_of, stored_object, until
from tests.fakes.origin import Origin, Reply, running_origin

FRESH = re.compile(r"[0-9a-f]{32}")
NAMED = {"X-Request-ID": "from-outside.1"}


def log_settings(directory, request_id: str, log_format: str = "json") -> LogSettings:
    return LogSettings(str(directory / "access.log"), log_format, request_id=request_id)


async def lines(world: World) -> list[dict]:
    """What the access log says, once the edge has stopped."""
    await world.edge.stop(drain_seconds=0)
    return [json.loads(line) for line in (world.directory.parent / "access.log").read_text().splitlines()]


def told(origin: Origin, target: str) -> list[str | None]:
    """The IDs that an origin was told."""
    return [asked.headers.get("x-request-id") for asked in origin.asked if asked.target == target]


@pytest.mark.parametrize("format_", ["json", "combined"])
async def test_without_the_option_nothing_is_named(tmp_path, format_):
    async with edge_world(tmp_path, log=log_settings(tmp_path, "off", format_)) as world:
        target, _ = world.publish(b"object")
        await world.get(target, **NAMED)
        await world.edge.stop(drain_seconds=0)
        assert told(world.origin, target) == [None]
        assert "from-outside" not in (tmp_path / "access.log").read_text()
        assert "request_id" not in (tmp_path / "access.log").read_text()


async def test_an_accepted_id_is_told_upstream_and_logged_of_a_miss_and_of_a_hit(tmp_path):
    async with edge_world(tmp_path, log=log_settings(tmp_path, "accept")) as world:
        target, stored = world.publish(b"object")
        for number in range(3):
            assert (await world.get(target, **{"X-Request-ID": f"outside-{number}"})).body == stored
        assert told(world.origin, target) == ["outside-0"]
        logged = await lines(world)
        assert [line["request_id"] for line in logged] == ["outside-0", "outside-1", "outside-2"]
        assert [line["result"] for line in logged] == ["miss", "hit", "hit"]


@pytest.mark.parametrize(
    ("request_id", "said"),
    [
        ("accept", {}),
        ("accept", {"X-Request-ID": 'evil" \\'}),
        ("accept", {"X-Request-ID": "x" * 129}),
        ("create", NAMED),
    ],
)
async def test_who_has_no_good_id_or_is_not_believed_gets_a_fresh_one(tmp_path, request_id, said):
    async with edge_world(tmp_path, log=log_settings(tmp_path, request_id)) as world:
        target, _ = world.publish(b"object")
        await world.get(target, **said)
        await world.get(target, **said)
        first, second = [line["request_id"] for line in await lines(world)]
        assert told(world.origin, target) == [first]
        assert FRESH.fullmatch(first)
        assert FRESH.fullmatch(second)
        assert first != second


async def test_the_combined_log_has_it_at_the_end_if_asked(tmp_path):
    async with edge_world(tmp_path, log=log_settings(tmp_path, "accept", "combined_id")) as world:
        target, _ = world.publish(b"object")
        await world.get(target, **NAMED)
        async with world.client() as client:
            await client.send(b"garbage\r\n\r\n")
            await client.receive()
        await world.edge.stop(drain_seconds=0)
        named, nameless = (tmp_path / "access.log").read_text().splitlines()
        assert named.endswith(" from-outside.1")
        assert nameless.endswith(" -")


async def test_who_shares_a_fetch_is_logged_with_the_request_that_it_was_for(tmp_path):
    async with edge_world(tmp_path, log=log_settings(tmp_path, "accept")) as world:
        target, stored = stored_object(b"object")
        gate = asyncio.Event()
        world.origin.replies[target] = Reply(stored, gate=gate)
        first = asyncio.create_task(world.get(target, **{"X-Request-ID": "first"}))
        await until(lambda: world.origin.count(target))
        second = asyncio.create_task(world.get(target, **{"X-Request-ID": "second"}))
        await until(lambda: any(flight.clients == 2 for flight in world.edge.parts.flights._running))
        gate.set()
        await asyncio.gather(first, second)
        assert told(world.origin, target) == ["first"]
        logged = {line["request_id"]: line for line in await lines(world)}
        assert "waited_for" not in logged["first"]
        assert (logged["second"]["result"], logged["second"]["waited_for"]) == ("collapsed", "first")


async def test_warnings_say_which_request_they_are_about(tmp_path):
    heard: list[tuple[str, object]] = []
    install_sink(lambda _level, name, fields: heard.append((name, fields.get("request_id"))), "warning")
    try:
        async with edge_world(tmp_path, log=log_settings(tmp_path, "accept")) as world:
            world.origin.replies[object_of(b"good")] = Reply(b"bad")
            assert (await world.get(object_of(b"good"), **NAMED)).status == 502
    finally:
        install_sink(None)
    assert set(heard) == {("edge.upstream.failed", "from-outside.1")}


async def test_an_ordinary_site_is_told_of_every_method_what_the_edge_calls_the_request(tmp_path):
    async with running_origin() as site:
        site.replies["/page"] = Reply(b"page", headers={"Cache-Control": "no-store"})
        changes = {"forward": ForwardSettings(allow=(site.url,)), "log": log_settings(tmp_path, "create")}
        async with edge_world(tmp_path, **changes) as world:
            for method in ("GET", "HEAD", "POST"):
                assert (await world.get(f"{site.url}/page", method=method, **NAMED)).status == 200
            logged = [line["request_id"] for line in await lines(world)]
            assert told(site, "/page") == logged
            assert all(map(FRESH.fullmatch, logged))


@asynccontextmanager
async def edge_before(origin: Origin, directory, name: str, **changes):
    directory.mkdir()
    config = edge_config(directory / "cache", origin.url, name=name, log=log_settings(directory, "accept"), **changes)
    edge = EdgeServer(config, clock=ManualClock())
    await edge.start()
    try:
        yield World(edge, [origin], edge.parts.supplies.clock, directory / "cache")
    finally:
        await edge.stop(drain_seconds=0)


async def test_a_request_has_one_id_at_edge_parent_and_origin(tmp_path):
    async with running_origin() as origin, edge_before(origin, tmp_path / "parent", "parent.test") as parent:
        through = UpstreamSettings(
            "all", (f"{origin.url}/cvmfs/@fqrn@",), proxies="http://{}:{}".format(*parent.edge.address)
        )
        async with edge_before(origin, tmp_path / "child", "child.test") as child:
            child.edge.reload(replace(child.edge.config, upstreams=(through,)))
            target, stored = stored_object(b"object")
            origin.replies[target] = Reply(stored)
            assert (await child.get(target)).body == stored
            (at_child,), (at_parent,) = await lines(child), await lines(parent)
    assert FRESH.fullmatch(at_child["request_id"])
    assert at_parent["request_id"] == at_child["request_id"]
    assert told(origin, target) == [at_child["request_id"]]


async def test_a_sibling_is_told_too(tmp_path):
    async with AsyncExitStack() as stack:
        origin = await stack.enter_async_context(running_origin())
        alone = FetchSettings(hedge_share=0.0)
        one, other = [
            await stack.enter_async_context(edge_before(origin, tmp_path / name, f"{name}.test", fetch=alone))
            for name in "ab"
        ]
        urls = ["http://{}:{}".format(*world.edge.address) for world in (one, other)]
        for world, url in zip((one, other), urls, strict=True):
            world.edge.reload(replace(world.edge.config, siblings=SiblingSettings(tuple(urls), url, timeout=30.0)))
        bodies = (b"%d" % number for number in range(1000))
        body = next(each for each in bodies if _keeper(object_of(each), urls) == urls[1])
        origin.replies[object_of(body)] = Reply(body)
        assert (await one.get(object_of(body), **NAMED)).body == body
        (at_one,), (at_other,) = await lines(one), await lines(other)
    assert at_one["request_id"] == at_other["request_id"] == "from-outside.1"
    assert told(origin, object_of(body)) == ["from-outside.1"]


def _keeper(target: str, urls: list[str]) -> str:
    return owner(f"object:{target.removeprefix('/cvmfs/')}", map(Member, urls)).name


@pytest.mark.parametrize("request_id", ["accept", "create"])
async def test_the_worker_that_fetches_uses_the_id_of_the_worker_that_was_asked(tmp_path, request_id):
    async with AsyncExitStack() as stack:
        origin = await stack.enter_async_context(running_origin())
        config = edge_config(tmp_path / "cache", origin.url, log=log_settings(tmp_path, request_id))
        workers = [EdgeServer(config, clock=ManualClock(), share=Share(index, 2)) for index in range(2)]
        for worker in workers:
            await worker.start()
            stack.push_async_callback(worker.stop, drain_seconds=0)
        targets = [object_of(b"%d" % number) for number in range(8)]
        for number, target in enumerate(targets):
            origin.replies[target] = Reply(b"%d" % number)
            async with Client(workers[0].address) as client:
                assert (await client.get(target, **NAMED)).body == b"%d" % number
                assert (await client.get(target, Range="bytes=0-0", **NAMED)).status == 206
        assert workers[0].statistics.relayed > 0
        for worker in workers:
            await worker.stop(drain_seconds=0)
        logged = [json.loads(line) for line in (tmp_path / "access.log").read_text().splitlines()]
        for target in targets:
            named = [line["request_id"] for line in logged if line["target"] == target]
            assert told(origin, target) == named[:1]
            assert (set(named) == {"from-outside.1"}) is (request_id == "accept")


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
async def test_a_storm_of_failures_is_told_of_but_does_not_fill_the_log(tmp_path, method):
    heard: list[dict] = []
    install_sink(lambda _level, _name, fields: heard.append(dict(fields)), "warning")
    try:
        site = UpstreamSettings("site", ("http://127.0.0.1:9/",), path="/")
        settings = log_settings(tmp_path, "accept")
        async with edge_world(tmp_path, upstreams=(site,), log=settings) as world, world.client() as client:
            for number in range(AT_ONCE_MAX + 30):
                assert (await client.get(f"/{number}", method=method, **NAMED)).status == 502
            assert len(heard) == AT_ONCE_MAX
            world.advance(INTERVAL_SECONDS)
            await client.get("/last", method=method, **NAMED)
    finally:
        install_sink(None)
    assert heard[-1]["untold"] == 30
    assert {each["request_id"] for each in heard} == {"from-outside.1"}
    assert world.edge.statistics.fetches.total() == AT_ONCE_MAX + 31
