"""What the disk does to an edge and an edge to the disk: restarts, rot, truncation, eviction, a lost directory."""

import asyncio
import errno
import os
import shutil
import threading
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pytest

from cdn.errors import UsageError
from cdn.hashing import Algorithm, digest_of
from cdn.objects import Kind, ObjectName
from edge.cache.disk_places import PINNED_MODE, occupied
from edge.config import CacheSettings
from edge.server import EdgeServer
from tests.fakes.edge import BASE, World, edge_world, manifest_bytes, object_of, until
from tests.fakes.origin import Reply

MANIFEST = f"{BASE}/.cvmfspublished"
LARGE = os.urandom(3_000_000)
LARGE_TARGET = object_of(LARGE)


@pytest.fixture
async def world(tmp_path):
    async with edge_world(tmp_path) as world:
        yield world


@asynccontextmanager
async def restarted(world: World):
    """The same edge after a stop and a start, with nothing in memory."""
    await world.settled()
    await world.edge.stop(drain_seconds=0)
    edge = EdgeServer(world.edge.config, clock=world.clock)
    await edge.start()
    try:
        yield World(edge, world.origins, world.clock, world.directory)
    finally:
        await edge.stop(drain_seconds=0)


def damage(world: World, at: int = 100, *, keeps_times: bool = False) -> None:
    """Flips a bit of every cached file's body."""
    for path in world.cached_files():
        before = path.stat()
        with path.open("r+b") as file:
            file.seek(at)
            byte = file.read(1)
            file.seek(at)
            file.write(bytes([byte[0] ^ 1]))
        if keeps_times:
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def drop_from_memory(world: World) -> None:
    """Lets the operating system forget every cached file's bytes, so that they come from the disk again."""
    for path in world.cached_files():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


async def test_what_is_cached_outlives_a_restart(world):
    target, stored = world.publish(b"hello")
    world.origin.replies[LARGE_TARGET] = Reply(LARGE)
    world.origin.replies[MANIFEST] = Reply(manifest_bytes(1))
    for each in (target, LARGE_TARGET, MANIFEST):
        await world.get(each)
    async with restarted(world) as again:
        again.origin.is_dead = True
        assert (await again.get(target)).body == stored
        assert (await again.get(LARGE_TARGET)).body == LARGE
        assert (await again.get(MANIFEST)).body == manifest_bytes(1)
        assert again.edge.statistics.hits == 3


async def test_time_goes_forward_over_a_restart(world):
    world.origin.replies[MANIFEST] = Reply(manifest_bytes(7))
    await world.get(MANIFEST)
    async with restarted(world) as again:
        again.origin.replies[MANIFEST] = Reply(manifest_bytes(6))
        again.advance(100)
        assert (await again.get(MANIFEST)).body == manifest_bytes(7)


@pytest.mark.parametrize("stored", [b"a small object" * 20, LARGE])
async def test_a_byte_that_flipped_on_disk_is_caught_and_healed_without_a_client_noticing(world, stored):
    target = object_of(stored)
    world.origin.replies[target] = Reply(stored)
    await world.get(target)
    await world.settled()
    damage(world)
    async with restarted(world) as again:
        answer = await again.get(target)
        assert (answer.is_whole, answer.body == stored) == (True, True)
        assert again.edge.statistics.disk_failures == 1
        await again.settled()
        assert again.origin.count(target) == 2
        assert "; hit" in (await again.get(target)).headers["cache-status"]
        assert again.origin.count(target) == 2


async def test_a_large_body_damaged_while_the_edge_runs_is_caught_and_healed(world):
    world.origin.replies[LARGE_TARGET] = Reply(LARGE)
    await world.get(LARGE_TARGET)
    await world.settled()
    damage(world)
    assert (await world.get(LARGE_TARGET)).body == LARGE
    assert world.origin.count(LARGE_TARGET) == 2


async def test_even_rot_that_leaves_no_trace_never_reaches_a_client_whole(world, monkeypatch):
    """The file is trusted, as after a fault of the disk itself; what is not in memory is hashed while it is sent."""
    world.origin.replies[LARGE_TARGET] = Reply(LARGE)
    await world.get(LARGE_TARGET)
    await world.settled()
    damage(world, at=2_900_000)
    drop_from_memory(world)
    monkeypatch.setattr(world.edge.parts.supplies.disk._verified, "is_trusted", lambda *_: True)
    answer = await world.get(LARGE_TARGET)
    assert not answer.is_whole
    assert (await world.get(LARGE_TARGET)).body == LARGE


async def test_a_scrub_finds_and_removes_what_has_rotted(world):
    targets = [world.publish(b"hello %d" % number) for number in range(5)]
    for target, _ in targets:
        await world.get(target)
    await world.settled()
    assert await world.edge.scrub() == 0
    damage(world, at=3)
    assert await world.edge.scrub() == 5
    assert world.cached_files() == []


@pytest.mark.parametrize("size", [0, 1, 30, 200])
async def test_a_truncated_file_is_a_miss(world, size):
    target, stored = world.publish(os.urandom(200))
    await world.get(target)
    await world.settled()
    (path,) = world.cached_files()
    os.truncate(path, size)
    async with restarted(world) as again:
        assert (await again.get(target)).body == stored
        assert again.origin.count(target) == 2


async def test_a_vanished_file_is_a_miss(world):
    world.origin.replies[LARGE_TARGET] = Reply(LARGE)
    await world.get(LARGE_TARGET)
    await world.settled()
    world.cached_files()[0].unlink()
    assert (await world.get(LARGE_TARGET)).body == LARGE


async def test_a_file_under_another_name_is_not_believed(world):
    first, _ = world.publish(b"first")
    second, body = world.publish(b"second")
    await world.get(first)
    await world.settled()
    (first_file,) = world.cached_files()
    await world.get(second)
    await world.settled()
    (second_file,) = set(world.cached_files()) - {first_file}
    shutil.copy(first_file, second_file)
    async with restarted(world) as again:
        assert (await again.get(second)).body == body


async def test_a_cache_directory_that_vanished_is_a_cache_that_stores_nothing(world):
    target, stored = world.publish(b"hello")
    shutil.rmtree(world.directory)
    assert (await world.get(target)).body == stored
    world.origin.replies[LARGE_TARGET] = Reply(LARGE)
    assert (await world.get(LARGE_TARGET)).body == LARGE
    await world.settled()
    assert world.edge.statistics.storage_failures >= 2


async def test_the_disk_limit_holds_and_the_least_recently_used_goes_first(tmp_path):
    settings = CacheSettings(tmp_path / "cache", disk_bytes=8_000_000, memory_bytes=2 << 20, memory_object_bytes=1000)
    async with edge_world(tmp_path, cache=settings) as world:
        world.origin.replies[MANIFEST] = Reply(manifest_bytes(1))
        await world.get(MANIFEST)
        targets = []
        for _ in range(60):
            target, _ = world.publish(os.urandom(300_000))
            targets.append(target)
            await world.get(target)
            await world.settled()
            assert world.edge.parts.supplies.disk.used_bytes <= 8_000_000
        on_disk = sum(occupied(path.stat().st_size) for path in world.cached_files())
        assert on_disk == world.edge.parts.supplies.disk.used_bytes
        assert on_disk > 6_000_000
        assert world.edge.statistics.evictions > 20
        assert any(path.name.endswith(".pinned") for path in world.cached_files())


async def test_unfinished_files_are_swept_at_the_start_and_what_is_there_is_counted(world):
    world.origin.replies[LARGE_TARGET] = Reply(LARGE)
    await world.get(LARGE_TARGET)
    await world.settled()
    used = world.edge.parts.supplies.disk.used_bytes
    assert used > len(LARGE)
    (world.directory / "tmp" / "left-over").write_bytes(b"x" * 1000)
    async with restarted(world) as again:
        await until(lambda: again.edge.parts.supplies.disk.is_counted)
        assert again.edge.parts.supplies.disk.used_bytes == used
        assert list((again.directory / "tmp").iterdir()) == []


async def test_two_edges_do_not_share_a_cache(world):
    with pytest.raises(UsageError, match="used by another edge"):
        await EdgeServer(world.edge.config).start()


async def test_a_port_that_is_taken_is_told(world):
    address = "{}:{}".format(*world.edge.address)
    config = replace(world.edge.config, listen=replace(world.edge.config.listen, addresses=(address,)))
    with pytest.raises(UsageError, match="cannot listen on"):
        await EdgeServer(config).start()


async def test_stopping_lets_answers_finish(world):
    gate = asyncio.Event()
    world.origin.replies[LARGE_TARGET] = Reply(LARGE, gate=gate, gate_after=2_000_000)
    async with world.client() as busy, world.client() as idle:
        await idle.get("/healthz")
        await busy.ask(LARGE_TARGET)
        await busy.receive_head()
        stopping = asyncio.create_task(world.edge.stop(drain_seconds=60))
        assert await idle.is_closed()
        gate.set()
        assert await busy.reader.readexactly(len(LARGE)) == LARGE
        await stopping


async def test_stopping_at_once_breaks_answers(world):
    world.origin.replies[LARGE_TARGET] = Reply(LARGE, gate=asyncio.Event(), gate_after=2_000_000)
    async with world.client() as client:
        await client.ask(LARGE_TARGET)
        await client.receive_head()
        await world.edge.stop(drain_seconds=0)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await client.reader.readexactly(len(LARGE))
    assert list((world.directory / "tmp").iterdir()) == []


def catalog_target(revision: int) -> tuple[str, bytes]:
    """The root catalog that `manifest_bytes` names in a revision."""
    stored = b"catalog %d" % revision
    return f"{BASE}/{ObjectName(digest_of(Algorithm.SHA1, stored), Kind.CATALOG).path}", stored


def pinned_files(world: World) -> list[bytes]:
    return [path.read_bytes()[:9] for path in world.cached_files() if path.stat().st_mode & PINNED_MODE]


async def test_the_root_catalog_of_the_newest_manifest_stays_and_the_one_before_does_not(world):
    for revision in (1, 2):
        target, stored = catalog_target(revision)
        world.origin.replies[target] = Reply(stored)
        world.origin.replies[MANIFEST] = Reply(manifest_bytes(revision))
        world.advance(100)
        await world.get(MANIFEST, Cache_Control="no-cache")
        await world.get(target)
        await world.settled()
        await until(lambda revision=revision: pinned_files(world) == [b"catalog %d" % revision])
    async with restarted(world) as again:
        assert pinned_files(again) == [b"catalog 2"]
        target, stored = catalog_target(3)
        again.origin.replies[target] = Reply(stored)
        again.origin.replies[MANIFEST] = Reply(manifest_bytes(3))
        again.advance(100)
        await again.get(MANIFEST)
        await again.get(MANIFEST, Cache_Control="no-cache")
        await again.get(target)
        await until(lambda: pinned_files(again) == [b"catalog 3"])


async def test_nothing_is_listed_before_the_first_answer_after_a_restart(world, monkeypatch):
    """However many files there are: what is found by name needs no list."""
    target, stored = world.publish(b"hello")
    await world.get(target)
    listing, answered = threading.Event(), threading.Event()
    scandir = os.scandir

    def counted(path):
        if "v1" in str(path):
            listing.set()
            answered.wait(30)
        return scandir(path)

    await world.settled()
    await world.edge.stop(drain_seconds=0)
    monkeypatch.setattr(os, "scandir", counted)
    edge = EdgeServer(world.edge.config, clock=world.clock)
    await edge.start()
    again = World(edge, world.origins, world.clock, world.directory)
    try:
        await asyncio.to_thread(listing.wait, 30)
        assert (await again.get(target)).body == stored
        assert again.origin.count(target) == 1
        assert not edge.parts.supplies.disk.is_counted
    finally:
        answered.set()
        await edge.stop(drain_seconds=0)


async def test_a_disk_that_turns_read_only_in_the_middle_of_evicting_costs_only_the_storing(tmp_path, monkeypatch):
    settings = CacheSettings(tmp_path / "cache", disk_bytes=4_000_000, memory_bytes=2 << 20, memory_object_bytes=1000)
    async with edge_world(tmp_path, cache=settings) as world:
        kept = []
        for _ in range(10):
            target, stored = world.publish(os.urandom(300_000))
            kept.append((target, stored))
            await world.get(target)
            await world.settled()
        unlink, left = os.unlink, [1]

        def refusing(path):
            if left[0] == 0:
                raise OSError(errno.EROFS, "Read-only file system")
            left[0] -= 1
            unlink(path)

        monkeypatch.setattr(os, "unlink", refusing)
        for _ in range(8):
            target, stored = world.publish(os.urandom(300_000))
            assert (await world.get(target)).body == stored
            await world.settled()
        assert world.edge.statistics.storage_failures > 0
        monkeypatch.undo()
        for target, stored in kept:
            assert (await world.get(target)).body == stored


async def test_a_file_that_is_evicted_or_cut_short_while_it_is_sent_gives_nobody_a_wrong_byte(world):
    body = os.urandom(12_000_000)
    target = object_of(body)
    world.origin.replies[target] = Reply(body)
    await world.get(target)
    await world.settled()
    async with world.client() as evicted, world.client() as cut:
        for client in (evicted, cut):
            await client.ask(target)
            await client.receive_head()
        assert await evicted.reader.readexactly(1000) == body[:1000]
        (path,) = world.cached_files()
        os.link(path, path.with_name("another-name"))
        path.unlink()
        assert await evicted.reader.readexactly(len(body) - 1000) == body[1000:]
        os.truncate(path.with_name("another-name"), 1_000_000)
        received = b""
        with suppress(ConnectionError):
            while len(received) < len(body) and (piece := await cut.reader.read(1 << 20)):
                received += piece
        assert received == body[: len(received)]
    assert (await world.get(target)).body == body
