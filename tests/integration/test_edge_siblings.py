"""Edges of one place as one cache: who keeps what, and what becomes of it when one of them is gone."""

import asyncio
import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

import pytest

from cdn.clock import ManualClock
from edge.server import EdgeServer
from edge.settings.upstreams import FetchSettings, SiblingSettings
from edge.upstream.rendezvous import Member, owner
from tests.fakes.edge import BASE, World, edge_config, manifest_bytes, object_of, stored_object, until
from tests.fakes.origin import Origin, Reply, running_origin


@dataclass
class Place:
    """Some edges before one origin, each the others' sibling."""

    worlds: list[World]
    origin: Origin
    urls: list[str]

    def keeper(self, target: str) -> int:
        name = f"object:{target.removeprefix('/cvmfs/')}"
        return self.urls.index(owner(name, map(Member, self.urls)).name)

    def kept_by(self, place: int, size: int = 20, *, fits: Callable[[str], bool] = lambda _: True) -> tuple[str, bytes]:
        """An object on the origin that this edge keeps."""
        while True:
            target, stored = stored_object(os.urandom(size))
            if self.keeper(target) == place and fits(target):
                self.origin.replies[target] = Reply(stored)
                return target, stored


@pytest.fixture
async def place(tmp_path):
    async with AsyncExitStack() as stack:
        origin = await stack.enter_async_context(running_origin())
        worlds = []
        for letter in "abc":
            clock = ManualClock()
            asks_one_by_one = FetchSettings(hedge_share=0.0)  # however slow this machine is
            config = edge_config(tmp_path / letter, origin.url, name=f"{letter}.test", fetch=asks_one_by_one)
            edge = EdgeServer(config, clock=clock)
            await edge.start()
            stack.push_async_callback(edge.stop, drain_seconds=0)
            worlds.append(World(edge, [origin], clock, tmp_path / letter))
        urls = ["http://{}:{}".format(*world.edge.address) for world in worlds]
        for world, url in zip(worlds, urls, strict=True):
            siblings = SiblingSettings(tuple(urls), url, timeout=30.0)
            world.edge.reload(replace(world.edge.config, siblings=siblings))
        yield Place(worlds, origin, urls)


async def test_together_they_fetch_and_store_each_object_once(place):
    objects = [place.kept_by(number % 3) for number in range(12)]
    for target, stored in objects:
        for world in place.worlds:
            assert (await world.get(target)).body == stored
    assert [place.origin.count(target) for target, _ in objects] == [1] * 12
    for world in place.worlds:
        await world.settled()
    assert [len(world.cached_files()) for world in place.worlds] == [4, 4, 4]
    for target, stored in objects:
        answer = await place.worlds[0].get(target)
        assert answer.body == stored
        assert "; hit" in answer.headers["cache-status"]


async def test_many_clients_of_all_edges_cause_one_fetch(place):
    target, stored = place.kept_by(1)
    gate = asyncio.Event()
    place.origin.replies[target] = Reply(stored, gate=gate)
    waiting = [asyncio.create_task(world.get(target)) for world in place.worlds for _ in range(10)]
    await until(lambda: place.origin.count(target))
    gate.set()
    assert {answer.body for answer in await asyncio.gather(*waiting)} == {stored}
    assert place.origin.count(target) == 1


async def test_a_lost_sibling_moves_only_its_share(place):
    await place.worlds[1].edge.stop(drain_seconds=0)
    for number in range(9):
        target, stored = place.kept_by(number % 3)
        assert (await place.worlds[0].get(target)).body == stored
    for world in (place.worlds[0], place.worlds[2]):
        await world.settled()
    kept = [len(world.cached_files()) for world in place.worlds]
    assert sum(kept) == 9
    assert kept[0] >= 3
    assert kept[2] >= 3


async def test_a_sibling_that_dies_in_the_middle_of_a_body_is_noticed_by_nobody(place):
    while True:
        large = os.urandom(3_000_000)
        target = object_of(large)
        if place.keeper(target) == 1:
            break
    gate = asyncio.Event()
    place.origin.replies[target] = lambda asked: (
        Reply(large[2_000_000:], 206, headers={"Content-Range": f"bytes 2000000-2999999/{len(large)}"})
        if asked.headers.get("range") == "bytes=2000000-"
        else Reply(large, gate=gate, gate_after=2_000_000)
    )
    first = place.worlds[0]
    async with first.client() as client:
        await client.ask(target)
        await client.receive_head()
        body = await client.reader.readexactly(1_000_000)
        flight = next(iter(first.edge.parts.flights._running))
        await place.worlds[1].edge.stop(drain_seconds=0)
        gate.set()
        body += await client.reader.readexactly(2_000_000)
    assert body == large
    assert flight.body.arrived == len(large)
    await first.settled()
    assert len(first.cached_files()) == 1


async def test_wrong_bytes_from_a_sibling_reach_nobody(place):
    async with running_origin() as liar:
        config = place.worlds[0].edge.config
        siblings = SiblingSettings((place.urls[0], liar.url), place.urls[0])
        place.worlds[0].edge.reload(replace(config, siblings=siblings))
        answers = []
        for _ in range(8):
            target, stored = stored_object(os.urandom(20))
            place.origin.replies[target] = Reply(stored)
            liar.replies[target] = Reply(b"x" * len(stored))
            answers.append(((await place.worlds[0].get(target)).body, stored))
        assert all(body == stored for body, stored in answers)
        assert len(liar.asked) == 1  # and after that it is left to rest


@pytest.mark.parametrize("status", [200, 404, 403, 502, 503])
async def test_whatever_else_a_sibling_says_the_upstreams_are_asked(place, status):
    async with running_origin() as sibling:
        config = place.worlds[0].edge.config
        urls = [place.urls[0], sibling.url]
        place.worlds[0].edge.reload(replace(config, siblings=SiblingSettings(tuple(urls), urls[0])))
        while True:
            target, stored = stored_object(os.urandom(20))
            if owner(f"object:{target.removeprefix('/cvmfs/')}", map(Member, urls)).name == sibling.url:
                break
        place.origin.replies[target] = Reply(stored)
        sibling.replies[target] = Reply(stored if status == 200 else b"no", status)
        assert (await place.worlds[0].get(target)).body == stored
        assert sibling.count(target) == 1
        assert place.origin.count(target) == (0 if status == 200 else 1)
        assert sibling.asked[0].headers["stratocast-sibling"] == "a.test"


async def test_a_sibling_that_hangs_is_waited_for_only_so_long(place):
    async with running_origin() as sibling:
        config = place.worlds[0].edge.config
        urls = [place.urls[0], sibling.url]
        settings = SiblingSettings(tuple(urls), urls[0], timeout=0.05)
        place.worlds[0].edge.reload(replace(config, siblings=settings))
        while True:
            target, stored = stored_object(os.urandom(20))
            if owner(f"object:{target.removeprefix('/cvmfs/')}", map(Member, urls)).name == sibling.url:
                break
        place.origin.replies[target] = Reply(stored)
        sibling.replies[target] = Reply(stored, gate=asyncio.Event())
        assert (await place.worlds[0].get(target)).body == stored


async def test_manifests_are_never_asked_of_siblings(place):
    place.origin.replies[f"{BASE}/.cvmfspublished"] = Reply(manifest_bytes(1))
    for world in place.worlds:
        assert (await world.get(f"{BASE}/.cvmfspublished")).status == 200
    assert place.origin.count(f"{BASE}/.cvmfspublished") == 3


async def test_a_client_that_wants_a_fresh_copy_gets_it_from_upstream(place):
    target, stored = place.kept_by(1)
    assert (await place.worlds[0].get(target)).body == stored
    assert (await place.worlds[0].get(target, Cache_Control="no-cache")).body == stored
    assert [asked.headers["via"] for asked in place.origin.asked] == ["1.1 a.test, 1.1 b.test", "1.1 a.test"]


async def test_edges_that_take_one_another_for_the_keeper_do_not_wait_for_one_another(place):
    first, second = place.worlds[:2]
    urls = place.urls[:2]
    first.edge.reload(replace(first.edge.config, siblings=SiblingSettings((urls[1],), "http://one")))
    second.edge.reload(replace(second.edge.config, siblings=SiblingSettings((urls[0],), "http://two")))
    while True:
        target, stored = stored_object(os.urandom(20))
        name = f"object:{target.removeprefix('/cvmfs/')}"
        if (
            owner(name, map(Member, ("http://one", urls[1]))).name == urls[1]
            and owner(name, map(Member, ("http://two", urls[0]))).name == urls[0]
        ):
            break
    place.origin.replies[target] = Reply(stored)
    answers = await asyncio.gather(*(world.get(target) for world in (first, second) for _ in range(5)))
    assert {answer.body for answer in answers} == {stored}
    assert place.origin.count(target) <= 2
    assert [
        world.edge.parts.supplies.health.servers[url].failures
        for world, url in zip((first, second), urls[::-1], strict=True)
    ] == [0, 0]
