"""Plain misses, which have no task while all goes well: that they do what others do, and what becomes of others."""

import asyncio
import json
import os
import socket
import struct

import pytest

from cdn.hashing import Algorithm, digest_of
from cdn.manifest import Manifest
from cdn.objects import Kind, ObjectName
from edge.cache.disk_places import PINNED_MODE
from edge.config import LogSettings
from edge.fetch.store_queue import StoreQueue
from edge.http.headers import http_date
from edge.settings.upstreams import FetchSettings
from tests.fakes.edge import BASE, REPOSITORY, edge_world, object_of, until
from tests.fakes.origin import Reply

FIRST = object_of(b"first")
NOW = 1_700_000_000.0
DATED = {"Date": http_date(NOW), "Server": "origin", "Last-Modified": http_date(NOW - 9)}


async def warm(world) -> None:
    """Has the edge keep a connection to each origin, and what it was kept for out of the way."""
    for origin in world.origins:
        origin.replies[FIRST] = Reply(b"first")
    await world.get(FIRST)
    await world.settled()


@pytest.fixture
async def world(tmp_path):
    async with edge_world(tmp_path) as world:
        await warm(world)
        yield world


def held_back(world, size: int, **reply) -> tuple[str, bytes, asyncio.Event]:
    """An object that the origin gives once the event is set: its target, its bytes and the event."""
    gate, body = asyncio.Event(), os.urandom(size)
    target = object_of(body)
    world.origin.replies[target] = Reply(body, gate=gate, **reply)
    return target, body, gate


def has_task(world) -> bool:
    """Whether a fetch under way has a task."""
    return bool(world.edge.parts.flights._tasks)


async def asked(world, target: str) -> None:
    await until(lambda: world.origin.count(target))


@pytest.mark.parametrize("size", [0, 1, 8192, 100_000])
@pytest.mark.parametrize("headers", [{}, DATED])
async def test_it_is_answered_kept_and_written_to_disk_without_a_task(world, size, headers):
    target, body, gate = held_back(world, size, headers=headers)
    async with world.client() as client:
        await client.ask(target)
        await asked(world, target)
        assert len(world.edge.parts.flights) == 1
        assert not has_task(world)
        gate.set()
        answer = await client.receive()
        assert (answer.status, answer.body) == (200, body)
        assert "fwd=miss; fwd-status=200; ttl=259200; stored" in answer.headers["cache-status"]
        assert answer.headers["etag"] == f'"{(target.rpartition("/data/")[2]).replace("/", "")}"'
        assert answer.headers.get("last-modified") == headers.get("Last-Modified")
        await world.settled()
        assert len(world.cached_files()) == 2
        again = await client.get(target)
        assert (again.body, "hit" in again.headers["cache-status"]) == (body, True)
    counted = world.edge.statistics
    assert (counted.misses, counted.hits, counted.bytes_fetched) == (2, 1, 5 + size)
    assert sum(counted.seconds["miss"].counts) == 2
    assert world.edge.parts.supplies.health.servers[world.origin.url].in_flight == 0


async def test_what_the_client_sends_meanwhile_is_answered_in_its_turn(world):
    gate, (one, two) = asyncio.Event(), (os.urandom(100), os.urandom(100))
    world.origin.replies |= {object_of(one): Reply(one, gate=gate), object_of(two): Reply(two)}
    async with world.client() as client:
        for target in (object_of(one), FIRST, object_of(two), FIRST):
            await client.ask(target)
        await asked(world, object_of(one))
        assert not world.origin.count(object_of(two))
        gate.set()
        assert [(await client.receive()).body for _ in range(4)] == [one, b"first", two, b"first"]


async def test_others_wait_for_the_same_fetch_and_whoever_leaves_takes_nothing_from_them(world):
    target, body, gate = held_back(world, 9000, headers=DATED)
    async with world.client() as first, world.client() as second:
        await first.ask(target)
        await asked(world, target)
        await second.ask(target)
        flight = world.edge.parts.flights.find(world.edge.parts.service.locate(target).key)
        await until(lambda: flight.clients == 2)
        first.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        first.writer.transport.abort()
        await until(lambda: flight.clients == 1)
        assert not has_task(world)
        gate.set()
        answer = await second.receive()
        assert answer.body == body
        assert "collapsed" in answer.headers["cache-status"]
    assert world.origin.count(target) == 1
    assert world.edge.statistics.collapsed == 1


async def test_what_nobody_waits_for_any_more_is_kept_all_the_same(world):
    target, _, gate = held_back(world, 9000)
    async with world.client() as client:
        await client.ask(target)
        await asked(world, target)
    gate.set()
    await world.settled()
    assert "hit" in (await world.get(target)).headers["cache-status"]
    assert world.origin.count(target) == 1


@pytest.mark.parametrize("size", [300_000, 3_000_000])
async def test_a_large_body_is_given_as_it_arrives(world, size):
    target, body, gate = held_back(world, size, gate_after=size - 1)
    async with world.client() as client:
        await client.ask(target)
        await until(lambda: has_task(world))
        if size > 1 << 20:
            assert (await client.receive_head())[0] == 200
            assert await client.reader.readexactly(size // 2) == body[: size // 2]
            gate.set()
            assert await client.reader.readexactly(size - size // 2) == body[size // 2 :]
        else:
            gate.set()
            assert (await client.receive()).body == body
    await world.settled()
    assert (await world.get(target)).body == body
    assert world.origin.count(target) == 1


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (Reply(b"gone", 404), 404),
        (Reply(b"broken", 500), 500),
        (Reply(b"damaged"), 502),
        (Reply(b"cut off", cut_after=3), 502),
        (Reply(b"chunked", is_chunked=True), 200),
        (Reply(b"", 204), 204),
    ],
)
async def test_whatever_else_an_upstream_says_is_dealt_with_as_ever(world, reply, status):
    target = object_of(reply.body if reply.body != b"damaged" else b"whole")
    world.origin.replies[target] = reply
    answer = await world.get(target)
    assert answer.status == status
    if status == 200:
        assert answer.body == reply.body
    else:
        assert answer.body != b"damaged"
    await world.settled()
    health = world.edge.parts.supplies.health.servers[world.origin.url]
    assert health.in_flight == 0
    assert (await world.get(FIRST)).body == b"first"


async def test_a_damaged_object_is_asked_for_again_past_all_caches(world):
    body = os.urandom(5000)
    target = object_of(body)
    replies = [Reply(body[:-1] + bytes([body[-1] ^ 1])), Reply(body)]
    world.origin.replies[target] = lambda _: replies.pop(0)
    assert (await world.get(target)).body == body
    assert world.edge.statistics.hash_failures == 1
    assert world.origin.asked[-1].headers["cache-control"] == "no-cache"


class Once:
    """True at the first look."""

    looks = 0

    def __bool__(self) -> bool:
        self.looks += 1
        return self.looks == 1


async def test_a_connection_that_breaks_off_in_place_of_an_answer_is_replaced(world):
    body = os.urandom(5000)
    world.origin.replies[object_of(body)], world.origin.is_dead = Reply(body), Once()
    assert (await world.get(object_of(body))).body == body
    assert world.origin.count(object_of(body)) == 2
    assert not world.edge.statistics.fetch_failures


async def test_the_next_upstream_is_asked_beside_one_that_takes_too_long(tmp_path):
    gate, body = asyncio.Event(), os.urandom(5000)
    target = object_of(body)
    async with edge_world(tmp_path, origins=2, between="|", fetch=FetchSettings(hedge_share=1.0)) as world:
        for origin in world.origins:
            origin.replies[FIRST] = Reply(b"first")
        for number in range(8):  # until a connection to each is kept
            other = b"other %d" % number
            for origin in world.origins:
                origin.replies[object_of(other)] = Reply(other)
            assert (await world.get(object_of(other))).body == other
        late = iter([Reply(body, gate=gate)])
        for origin in world.origins:
            origin.replies[target] = lambda _: next(late, Reply(body))
        answer = await world.get(target)
        assert answer.body == body
        assert sum(origin.count(target) for origin in world.origins) == 2
        assert world.edge.parts.supplies.health.hedges_won == 1
        gate.set()


async def test_what_is_purged_while_it_is_fetched_is_given_but_not_kept(world):
    target, body, gate = held_back(world, 5000)
    async with world.client() as client:
        await client.ask(target)
        await asked(world, target)
        await world.edge.purge({"url": target})
        gate.set()
        assert (await client.receive()).body == body
    await world.settled()
    assert (await world.get(target)).body == body
    assert world.origin.count(target) == 2


async def test_an_edge_that_stops_meanwhile_gives_no_false_answer(tmp_path):
    async with edge_world(tmp_path) as world:
        await warm(world)
        target, _, gate = held_back(world, 5000)
        async with world.client() as client:
            await client.ask(target)
            await asked(world, target)
            await world.edge.stop(drain_seconds=0)
            assert await client.is_closed()
        assert not len(world.edge.parts.flights)
        gate.set()


async def test_an_edge_that_drains_meanwhile_says_that_it_closes(world):
    target, body, gate = held_back(world, 5000, headers=DATED)
    async with world.client() as client:
        await client.ask(target)
        await asked(world, target)
        world.edge.parts.shared.is_draining = True
        gate.set()
        answer = await client.receive()
        assert (answer.body, answer.headers["connection"]) == (body, "close")
        assert await client.is_closed()


async def test_what_the_disk_is_too_slow_for_is_given_and_not_stored(world):
    world.edge.parts.supplies.store_queue = StoreQueue(bytes_max=0)
    body = os.urandom(5000)
    world.origin.replies[object_of(body)] = Reply(body, headers=DATED)
    assert (await world.get(object_of(body))).body == body
    await world.settled()
    assert len(world.cached_files()) == 1
    assert world.edge.statistics.storage_failures == 1


async def test_a_disk_that_refuses_costs_nobody_an_answer(world):
    for folder in (world.directory / "v1").iterdir():
        if not any(folder.iterdir()):
            folder.rmdir()
    body = os.urandom(5000)
    world.origin.replies[object_of(body)] = Reply(body, headers=DATED)
    assert (await world.get(object_of(body))).body == body
    await world.settled()
    assert world.edge.statistics.storage_failures == 1
    assert not list((world.directory / "tmp").iterdir())


async def test_it_is_logged_as_every_miss_is(tmp_path):
    log, body = tmp_path / "access.log", os.urandom(5000)
    async with edge_world(tmp_path, log=LogSettings(access=str(log), format="json")) as world:
        await warm(world)
        world.origin.replies[object_of(body)] = Reply(body)
        await world.get(object_of(body))
        await world.settled()
    long_way, at_once = (json.loads(line) for line in log.read_text().splitlines())
    assert at_once.keys() == long_way.keys()
    changed = {"target": object_of(body), "size": 5000, "seconds": at_once["seconds"]}
    assert at_once == long_way | changed


async def test_what_is_larger_than_memory_takes_is_stored_on_disk_alone(world):
    body = os.urandom(50_000)
    world.edge.parts.supplies.memory.body_max = 1024
    world.origin.replies[object_of(body)] = Reply(body, headers=DATED)
    for _ in range(2):
        assert (await world.get(object_of(body))).body == body
        await world.settled()
    assert world.origin.count(object_of(body)) == 1


async def test_a_mistake_of_ours_costs_one_answer_and_nothing_else(world, monkeypatch):
    body = os.urandom(5000)
    world.origin.replies[object_of(body)] = Reply(body)
    with monkeypatch.context() as patch:
        patch.setattr("edge.fetch.plain_fetch.object_answer", lambda *_: 1 // 0)
        async with world.client() as client:
            await client.ask(object_of(body))
            assert await client.is_closed()
    await world.settled()
    assert world.edge.parts.supplies.health.servers[world.origin.url].in_flight == 0
    assert (await world.get(object_of(body))).body == body


async def test_a_mistake_in_writing_costs_the_file_and_nothing_else(world, monkeypatch):
    body = os.urandom(5000)
    world.origin.replies[object_of(body)] = Reply(body)
    with monkeypatch.context() as patch:
        patch.setattr(world.edge.parts.supplies.disk, "store", lambda *_, **__: 1 // 0)
        assert (await world.get(object_of(body))).body == body
        await world.settled()
    assert len(world.cached_files()) == 1
    assert not len(world.edge.parts.supplies.store_queue)


async def test_the_root_catalog_of_a_manifest_is_pinned_on_disk_once_it_is_there(world):
    catalog = os.urandom(5000)
    digest = digest_of(Algorithm.SHA1, catalog)
    manifest = Manifest(digest, 1, fqrn=REPOSITORY, timestamp=1_600_000_000)
    world.edge.parts.supplies.root_catalogs.note("manifest", REPOSITORY, manifest)
    target = f"{BASE}/{ObjectName(digest, Kind.CATALOG).path}"
    world.origin.replies[target] = Reply(catalog)
    assert (await world.get(target)).body == catalog
    await world.settled()
    pinned = [path for path in world.cached_files() if path.stat().st_mode & PINNED_MODE]
    assert [path.stat().st_size > 5000 for path in pinned] == [True]
