"""What an operator wants forgotten is gone: from memory, from disk, and from what was on its way."""

import asyncio
import json
import random
import signal
from contextlib import suppress

import pytest

from cdn.daemon import send_command
from cdn.errors import CdnError, StorageError, UsageError
from cdn.hashing import Algorithm
from cdn.objects import ObjectName
from edge.cache.cache_lock import CacheLock
from edge.cache.purging import RULES_MAX, Rule
from edge.config import UpstreamSettings
from edge.operations.purge_ledger import PurgeLedger
from tests.fakes.edge import BASE, REPOSITORY, Client, edge_world, manifest_bytes, object_of, until
from tests.fakes.edge_process import Process, running, write_config
from tests.fakes.origin import Reply, running_origin
from tests.fakes.repositories import Publication

MANIFEST = f"{BASE}/.cvmfspublished"
LARGE = random.Random(5).randbytes(3_000_000)  # the same in every process that collects these tests
LARGE_TARGET = object_of(LARGE)


@pytest.fixture
async def world(tmp_path):
    async with edge_world(tmp_path) as world:
        yield world


async def purge(world, **order):
    """Purges, lets the files be removed, and lets a second pass, so that what comes then is newer."""
    told = await world.edge.purge(order)
    await until(lambda: not world.edge.status()["purges"])
    world.advance(1)
    return told


def is_hit(answer) -> bool:
    return "; hit" in answer.headers["cache-status"]


async def cached(world, *targets: str) -> None:
    for target in targets:
        await world.get(target)
    await world.settled()
    assert all([is_hit(await world.get(target)) for target in targets])


# ------------------------------------------------------------------------------------------------------ by URL


async def test_a_url_is_gone_from_memory_and_disk(world):
    target, stored = world.publish(b"hello")
    other, _ = world.publish(b"other")
    await cached(world, target, other)
    told = await purge(world, url=target)
    assert (told["memory"], told["disk"], told["what"], told["soft"]) == (1, 1, target, False)
    assert len(world.cached_files()) == 1
    answer = await world.get(target)
    assert answer.body == stored
    assert not is_hit(answer)
    assert is_hit(await world.get(other))


async def test_a_manifest_is_gone_though_it_is_pinned(world):
    world.origin.replies[MANIFEST] = Reply(manifest_bytes(7))
    await cached(world, MANIFEST)
    assert (await purge(world, url=MANIFEST))["disk"] == 1
    assert not is_hit(await world.get(MANIFEST))


async def test_a_url_is_meant_as_a_proxy_is_asked_for_it(world):
    target, _ = world.publish(b"hello")
    world.origin.replies[MANIFEST] = Reply(manifest_bytes(7))
    await cached(world, target, world.origin.url + MANIFEST)
    await purge(world, url=world.origin.url + target)
    assert not is_hit(await world.get(target)), "an object is the same by whatever URL"
    await purge(world, url=MANIFEST)
    assert is_hit(await world.get(world.origin.url + MANIFEST))
    await purge(world, url=world.origin.url + MANIFEST)
    assert not is_hit(await world.get(world.origin.url + MANIFEST))


async def test_what_is_not_served_here_is_told(world):
    with pytest.raises(UsageError, match="cannot be asked for here"):
        await world.edge.purge({"url": "http://elsewhere.example/x"})


async def test_that_a_name_does_not_exist_is_forgotten(world):
    target = object_of(b"not yet")
    assert (await world.get(target)).status == 404
    world.origin.replies[target] = Reply(b"not yet")
    assert (await purge(world, url=target))["memory"] == 1
    assert (await world.get(target)).status == 200


@pytest.mark.parametrize("is_soft", [False, True])
async def test_all_variants_of_a_url_are_meant(tmp_path, is_soft):
    async with edge_world(tmp_path) as world:
        site = UpstreamSettings("site", (world.origin.url + "/",), path="/site/")
        world.edge.reload(world.edge.config.__class__(upstreams=(*world.edge.config.upstreams, site)))
        world.origin.replies["/x"] = lambda asked: Reply(
            asked.headers["accept-language"].encode(),
            headers={"Vary": "Accept-Language", "Cache-Control": "max-age=60"},
        )
        for language in ("de", "en", "de", "en"):
            await world.get("/site/x", Accept_Language=language)
        await world.settled()
        assert world.origin.count("/x") == 2
        told = await purge(world, url="/site/x", soft=is_soft)
        assert told["disk"] == 3, "two variants and their list"
        for language in ("de", "en", "de", "en"):
            assert (await world.get("/site/x", Accept_Language=language)).body == language.encode()
            await world.settled()
        assert world.origin.count("/x") == 4


# ---------------------------------------------------------------------------------------------------- by rule


@pytest.mark.parametrize(
    "order", [{"repository": REPOSITORY}, {"prefix": f"{BASE}/data/"}, {"prefix": "/cvm"}, {"all": True}]
)
async def test_a_rule_empties_memory_at_once_and_the_disk_soon(world, order):
    targets = [world.publish(b"%d" % number)[0] for number in range(20)]
    await cached(world, *targets)
    told = await world.edge.purge(order)
    assert told["memory"] == 20
    await until(lambda: not world.cached_files())
    await until(lambda: not world.edge.status()["purges"])
    assert world.edge.statistics.purged_files == 20
    world.advance(1)
    await cached(world, *targets)
    assert all(world.origin.count(target) == 2 for target in targets)


async def test_other_repositories_are_kept(world):
    target, _ = world.publish(b"hello")
    await cached(world, target)
    for order in ({"repository": "tw.example.org"}, {"prefix": "/cvmfs/tw"}, {"prefix": f"{BASE}/data/zz"}):
        assert (await purge(world, **order))["memory"] == 0
    assert is_hit(await world.get(target))


async def test_what_is_on_disk_is_a_miss_before_its_file_is_removed(world):
    """The sweep stands still here: what counts is the rule."""
    target, _ = world.publish(b"hello")
    await cached(world, target)
    world.edge._background._tasks[1].cancel()  # the one that removes files
    await world.edge.purge({"repository": REPOSITORY})
    assert len(world.cached_files()) == 1
    world.advance(1)
    assert not is_hit(await world.get(target))
    await world.settled()
    world.edge.parts.supplies.memory.remove_matching(lambda key: True)
    assert is_hit(await world.get(target)), "what was stored since is served from disk"


async def test_a_restart_honours_a_purge_that_was_not_finished(tmp_path):
    async with edge_world(tmp_path) as world:
        targets = [world.publish(b"%d" % number)[0] for number in range(5)]
        await cached(world, *targets)
        PurgeLedger(world.directory).add(Rule("everything", world.clock.now(), prefixes=("",)))
        assert len(world.cached_files()) == 5
    async with edge_world(tmp_path) as world:
        await until(lambda: not world.edge.status()["purges"])
        assert not world.cached_files()
        assert PurgeLedger(world.directory).entries() == ()


@pytest.mark.parametrize(("workers", "fault"), [(1, "edge.purges.written@9"), (2, "")])
async def test_a_purge_holds_though_the_edge_is_killed_while_it_removes_files(tmp_path, workers, fault):
    files = tmp_path / "cache" / "v1"
    async with running_origin() as origin:
        targets = [object_of(b"%d" % number) for number in range(150)]
        for number, target in enumerate(targets):
            origin.replies[target] = Reply(b"%d" % number)
        path = write_config(tmp_path, origin.url, workers=workers)

        async def statuses(edge: Process) -> set[int]:
            async with Client(edge.address) as client:
                return {(await client.get(target)).status for target in targets}

        async with running(path, fault=fault) as edge:
            assert await statuses(edge) == {200}
            await until(lambda: len(list(files.glob("*/*"))) == len(targets))  # written after they were given
            with suppress(CdnError):  # it may die before it has answered
                await asyncio.to_thread(
                    send_command, edge.admin, "purge", {"all": True}, what="an edge", example="http://127.0.0.1:1"
                )
            if not fault:
                edge.process.kill()
            assert await asyncio.to_thread(edge.process.wait, 30) == -signal.SIGKILL
        if fault:
            assert 0 < len(list(files.glob("*/*"))) < len(targets)
        lock = CacheLock(tmp_path / "cache")
        await asyncio.to_thread(lock.take, 60)  # workers end a moment after their supervisor, on a slow disk later
        lock.close()
        origin.replies.clear()  # so whatever is still there comes from the cache
        async with running(path) as edge:
            assert await statuses(edge) == {404}
            while json.loads(await asyncio.to_thread(edge.ask, "/status"))["purges"]:
                pass
            assert list(files.glob("*/*")) == []


async def test_more_purges_than_are_remembered_are_refused(world):
    world.edge._background._tasks[1].cancel()
    for number in range(RULES_MAX):
        await world.edge.purge({"prefix": f"/cvmfs/{number}"})
    await world.edge.purge({"prefix": "/cvmfs/0"})
    with pytest.raises(UsageError, match="wait for one to end"):
        await world.edge.purge({"prefix": "/cvmfs/x"})


async def test_a_damaged_list_of_purges_keeps_nobody_from_starting(tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "purges.json").write_bytes(b'{"purges": [{"shards": "zz"}]}')
    async with edge_world(tmp_path) as world:
        await purge(world, all=True)
        assert json.loads((tmp_path / "cache" / "purges.json").read_text()) == {"purges": []}


async def test_a_purge_that_cannot_be_written_down_is_carried_out_and_told(world):
    target, _ = world.publish(b"hello")
    await cached(world, target)
    (world.directory / "purges.json").mkdir()
    with pytest.raises(StorageError, match="carried out, but a restart"):
        await world.edge.purge({"repository": REPOSITORY})
    await until(lambda: not world.edge.status()["purges"])
    assert not world.cached_files()
    world.advance(1)
    assert not is_hit(await world.get(target))


# ------------------------------------------------------------------------------------------- what is on its way


@pytest.mark.parametrize("order", [{"url": LARGE_TARGET}, {"repository": REPOSITORY}])
async def test_what_was_on_its_way_is_not_kept_and_not_joined(world, order):
    gate = asyncio.Event()
    world.origin.replies[LARGE_TARGET] = Reply(LARGE, gate=gate, gate_after=2_000_000)
    async with world.client() as first, world.client() as second:
        await first.ask(LARGE_TARGET)
        await first.receive_head()
        told = await world.edge.purge(order)
        assert told["fetches"] == 1
        await second.ask(LARGE_TARGET)
        await until(lambda: world.origin.count(LARGE_TARGET) == 2)
        gate.set()
        assert await first.reader.readexactly(len(LARGE)) == LARGE
        assert (await second.receive()).body == LARGE
    await world.settled()
    assert len(world.cached_files()) <= 1


async def test_a_purge_during_a_fetch_keeps_nothing_of_it(world):
    target, stored = world.publish(b"hello", gate=(gate := asyncio.Event()))
    asked = asyncio.create_task(world.get(target))
    await until(lambda: world.origin.count(target))
    await purge(world, repository=REPOSITORY)
    gate.set()
    assert (await asked).body == stored
    await world.settled()
    assert not world.cached_files()
    assert not is_hit(await world.get(target))


async def test_that_a_name_does_not_exist_is_not_kept_if_it_was_asked_before(world):
    target = object_of(b"x")
    world.origin.replies[target] = Reply(b"", 404, gate=(gate := asyncio.Event()))
    asked = asyncio.create_task(world.get(target))
    await until(lambda: world.origin.count(target))
    await purge(world, url=target)
    world.origin.replies[target] = Reply(b"x")
    gate.set()
    assert (await asked).status == 404
    assert (await world.get(target)).status == 200


# -------------------------------------------------------------------------------------------------------- soft


@pytest.mark.parametrize("order", [{"url": MANIFEST}, {"repository": REPOSITORY}, {"all": True}])
@pytest.mark.parametrize("is_forgotten", [False, True])
async def test_after_a_soft_purge_an_upstream_is_asked_first(world, order, is_forgotten):
    """Also when only the disk remembers it, as after a restart."""
    manifest = manifest_bytes(7)
    world.origin.replies[MANIFEST] = Reply(manifest, headers={"ETag": '"7"'})
    await cached(world, MANIFEST)
    assert (await purge(world, soft=True, **order))["memory"] == 1
    if is_forgotten:
        world.edge.parts.supplies.memory.remove_matching(lambda key: True)
    world.origin.replies[MANIFEST] = Reply(status=304, headers={"ETag": '"7"'})
    answer = await world.get(MANIFEST)
    assert (answer.status, answer.body) == (200, manifest)
    assert "fwd-status=304" in answer.headers["cache-status"]
    await world.settled()
    assert is_hit(await world.get(MANIFEST)), "what was confirmed is as good as new"


@pytest.mark.parametrize("is_forgotten", [False, True])
@pytest.mark.parametrize("target", [MANIFEST, LARGE_TARGET, object_of(b"small")])
async def test_what_was_softly_purged_stands_in_while_upstreams_fail(world, target, is_forgotten):
    body = {MANIFEST: manifest_bytes(7), LARGE_TARGET: LARGE}.get(target, b"small")
    world.origin.replies[target] = Reply(body)
    await cached(world, target)
    await purge(world, soft=True, all=True)
    if is_forgotten:
        world.edge.parts.supplies.memory.remove_matching(lambda key: True)
    world.origin.is_dead = True
    answer = await world.get(target)
    assert (answer.status, answer.body) == (200, body)
    assert "upstreams-failed" in answer.headers["cache-status"]
    assert (await world.get(target, Cache_Control="only-if-cached")).status == 504
    world.origin.is_dead = False
    world.advance(60)
    assert not is_hit(await world.get(target))
    await world.settled()
    assert is_hit(await world.get(target))


async def test_a_soft_purge_outlives_a_restart(tmp_path):
    async with edge_world(tmp_path) as world:
        target, _ = world.publish(b"hello")
        await cached(world, target)
        await purge(world, soft=True, url=target)
    async with edge_world(tmp_path) as world:
        world.publish(b"hello")
        assert not is_hit(await world.get(target))


# -------------------------------------------------------------------------------------------------- by revision


@pytest.fixture
def publication():
    return Publication(REPOSITORY, Algorithm.SHA1)


async def serve(world, publication) -> None:
    for path, data in publication.served.items():
        world.origin.replies[f"{BASE}/{path}"] = Reply(data)


async def read_all(world, publication) -> set[str]:
    """Reads all there is; gives the targets."""
    targets = {f"{BASE}/{path}" for path in publication.served if path != ".cvmfs_master_replica"}
    await asyncio.gather(*(world.get(target) for target in targets))
    await world.settled()
    return targets


def missing(world, before: dict[str, int]) -> set[str]:
    return {target for target, count in before.items() if world.origin.count(target) > count}


async def asked_anew(world, targets: set[str]) -> set[str]:
    """Which of these are not cached."""
    before = {target: world.origin.count(target) for target in targets}
    await asyncio.gather(*(world.get(target) for target in sorted(targets)))
    await world.settled()
    return missing(world, before)


async def test_a_revision_takes_what_only_it_names(world, publication):
    publication.publish({"/kept": publication.file(b"kept"), "/old": publication.file(b"old")})
    await serve(world, publication)
    before = await read_all(world, publication)
    publication.publish({"/kept": publication.file(b"kept"), "/new": publication.file(b"new")})
    await serve(world, publication)
    world.advance(120)
    targets = await read_all(world, publication)
    told = await purge(world, repository=REPOSITORY, revision=publication.revision)
    gone = await asked_anew(world, targets)
    assert told["disk"] == len(gone)
    assert {MANIFEST, target_of(publication, b"new")} <= gone
    assert {target_of(publication, b"kept"), target_of(publication, b"old"), f"{BASE}/.cvmfswhitelist"}.isdisjoint(gone)
    assert gone - before, "its root catalog is only its own"


async def test_an_earlier_revision_is_known_by_its_tag(world, publication):
    trees = [{"/sub/kept": b"kept", "/sub/old": b"old"}, {"/sub/kept": b"kept", "/sub/new": b"new"}]
    for tag, tree in zip(("one", "two"), trees, strict=True):
        publication.publish({path: publication.file(body) for path, body in tree.items()}, ["/sub"], tag=tag)
    await serve(world, publication)
    targets = await read_all(world, publication)
    await purge(world, repository=REPOSITORY, revision=1)
    gone = await asked_anew(world, targets)
    assert target_of(publication, b"old") in gone
    assert {target_of(publication, b"kept"), target_of(publication, b"new"), MANIFEST}.isdisjoint(gone)
    assert sum(target.endswith("C") for target in gone) == 2, "the root catalog and the nested one"


def target_of(publication, content: bytes) -> str:
    return f"{BASE}/{ObjectName(publication.file(content).digest).path}"


async def test_a_revision_that_nobody_knows_is_told(world):
    world.origin.replies[MANIFEST] = Reply(manifest_bytes(7))
    await cached(world, MANIFEST)
    with pytest.raises(UsageError, match="nothing cached says what revision 6"):
        await world.edge.purge({"repository": REPOSITORY, "revision": 6})
    assert is_hit(await world.get(MANIFEST))
    assert (await purge(world, repository=REPOSITORY, revision=7))["disk"] == 1
