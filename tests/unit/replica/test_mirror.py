"""A replica of a publisher in memory: what it holds after good runs, and after bad ones."""

from __future__ import annotations

import asyncio
import functools
import random
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from cdn.client.bootstrap import Authority
from cdn.client.repository import open_repository
from cdn.client.sources import SourcePolicy, Sources
from cdn.clock import ManualClock
from cdn.errors import (
    AllSourcesFailedError,
    CdnError,
    LeaseHeldError,
    NotFoundError,
    RepositoryError,
    RollbackError,
    StorageError,
    StorageFullError,
)
from cdn.objects import (
    IS_SNAPSHOTTING_PATH,
    LAST_SNAPSHOT_PATH,
    MANIFEST_PATH,
    MASTER_REPLICA_PATH,
    REFLOG_PATH,
    STATUS_PATH,
    WHITELIST_PATH,
    Kind,
    ObjectName,
)
from cdn.reflog import Reflog
from cdn.storage.local import LocalStore
from cdn.storage.memory import MemoryStore
from cdn.telemetry import FaultInjected, faults_armed, faults_seen
from cdn.transport.retry import RetryPolicy
from replica.check import ReplicaCheck
from replica.config import ReplicaConfig
from replica.folders import exclusive
from replica.mirror import Mirror
from tests.fakes.reporting import RecordingProgress
from tests.fakes.repositories import Network, Publication, Server, cut, emptied, endless, error_500, flipped
from tests.fakes.signer import NOW

ONE, TWO = "http://one/r", "http://two/r"
TREE = {
    "/a/file": b"content",
    "/a/same": b"content",
    "/n/file": b"nested",
    "/n/deep/file": b"deeply nested",
    **{f"/many/{number}": b"%d" % number for number in range(6)},
}
MORE_THAN_AT_ONCE = {f"/more/{number}": b"one of more, %d" % number for number in range(80)}
NESTED = ["/n", "/n/deep"]


@functools.cache
def first_revision() -> Publication:
    made = Publication()
    big = random.Random(1).randbytes(400_000)
    made.publish({**TREE, "/big": made.chunked(big)}, NESTED, tag="v1")
    return made


@pytest.fixture
def publication():
    return first_revision().twin()


@pytest.fixture
def server(publication):
    return Server(publication.served)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "state"


@pytest.fixture
def store():
    return MemoryStore()


@pytest.fixture
def disk(tmp_path):
    return LocalStore(tmp_path / "store")


def mirror(publication, store, folder, servers, **config) -> Mirror:
    sources = Sources(tuple(servers), policy=SourcePolicy(rounds=RetryPolicy(1)), clock=ManualClock())
    authority = Authority(publication.fqrn, tuple(publication.signer.master_keys))
    settings = ReplicaConfig(";".join(servers), **config)
    clock = ManualClock(NOW + 1000)
    return Mirror(authority, store, folder, sources, Network(servers), config=settings, clock=clock)


def held(store) -> dict[str, bytes]:
    return {stored.path: store.read(stored.path, size_max=1 << 30) for stored in store.list("")}


async def problems(made: Mirror, folder: Path, **options) -> list:
    check = ReplicaCheck(made, folder, now=NOW + 1000, **options)
    return [problem async for problem in check.run()]


async def assert_whole(publication, store, folder, revision: int) -> None:
    """The replica passes its own check, and a client reads everything from it."""
    made = mirror(publication, store, folder, {ONE: Server({})})
    assert await problems(made, folder) == []
    manifest = made.own_manifest()
    assert manifest is not None
    assert manifest.revision == revision
    async with await open_repository(
        publication.fqrn,
        servers=ONE,
        keys=publication.keys,
        fetcher=Network({ONE: Server(held(store))}),
        clock=ManualClock(NOW + 1000),
    ) as repository:
        async for path, entry in repository.files.walk():
            if entry.is_file:
                await repository.files.read(path)


OWN = {STATUS_PATH, LAST_SNAPSHOT_PATH, REFLOG_PATH}


@pytest.mark.parametrize("kind", ["store", "disk"])
async def test_a_replica_is_its_source_object_for_object(publication, server, folder, kind, request):
    store = request.getfixturevalue(kind)
    report = await mirror(publication, store, folder, {ONE: server}).sync()
    expected = {path: data for path, data in publication.served.items() if path != MASTER_REPLICA_PATH}
    copied = held(store)
    assert {path: data for path, data in copied.items() if path not in OWN} == expected
    assert set(copied) == set(expected) | OWN
    assert (report.revision, report.revision_before, report.is_new) == (1, None, True)
    assert report.catalogs == 3
    await assert_whole(publication, store, folder, 1)


async def test_more_objects_than_are_fetched_at_once_are_copied_too(store, folder):
    publication = Publication()
    publication.publish({**TREE, **MORE_THAN_AT_ONCE}, NESTED)
    await mirror(publication, store, folder, {ONE: Server(publication.served)}).sync()
    await assert_whole(publication, store, folder, 1)


async def test_nothing_new_costs_a_few_requests_and_writes_no_object(publication, server, store, folder):
    await mirror(publication, store, folder, {ONE: server}).sync()
    before = held(store)
    server.asked.clear()
    report = await mirror(publication, store, folder, {ONE: server}).sync()
    assert (report.objects, report.is_new) == (0, False)
    assert len(server.asked) <= 4
    assert {path: data for path, data in held(store).items() if path not in OWN} == {
        path: data for path, data in before.items() if path not in OWN
    }


async def test_a_new_revision_costs_what_changed(publication, server, store, folder):
    await mirror(publication, store, folder, {ONE: server}).sync()
    publication.publish({**TREE, "/more": b"more"}, NESTED, tag="v2")
    report = await mirror(publication, store, folder, {ONE: server}).sync()
    assert (report.revision_before, report.revision, report.catalogs) == (1, 2, 1)
    assert report.objects <= 5
    await assert_whole(publication, store, folder, 2)


async def test_revisions_published_meanwhile_are_copied_too(publication, server, store, folder):
    await mirror(publication, store, folder, {ONE: server}).sync()
    untagged = publication.publish({**TREE, "/two": b"two"}, NESTED)
    publication.publish({**TREE, "/three": b"three"}, NESTED)
    await mirror(publication, store, folder, {ONE: server}).sync()
    assert store.exists(ObjectName(untagged, Kind.CATALOG).path)
    reflog = Reflog.from_bytes(store.read(REFLOG_PATH, size_max=1 << 20))
    assert ObjectName(untagged, Kind.CATALOG) in reflog
    await assert_whole(publication, store, folder, 3)


async def test_the_first_run_copies_tags_but_no_untagged_history(publication, server, store, folder):
    untagged = publication.publish({**TREE, "/two": b"two"}, NESTED)
    publication.publish({**TREE, "/three": b"three"}, NESTED)
    await mirror(publication, store, folder, {ONE: server}).sync()
    assert not store.exists(ObjectName(untagged, Kind.CATALOG).path)
    assert store.exists(ObjectName(publication.tags[0].root_catalog, Kind.CATALOG).path)


async def test_an_old_revision_the_publisher_removed_is_passed_over(publication, server, store, folder):
    removed = publication.root
    publication.publish(TREE, NESTED)
    del publication.served[ObjectName(removed, Kind.CATALOG).path]
    report = await mirror(publication, store, folder, {ONE: server}).sync()
    assert report.skipped == (removed.text,)
    await assert_whole(publication, store, folder, 2)


async def test_an_old_revision_missing_where_none_may_be_is_an_error(publication, server, store, folder):
    removed = publication.root
    publication.publish(TREE, NESTED, garbage_collectable=False)
    del publication.served[ObjectName(removed, Kind.CATALOG).path]
    with pytest.raises(RepositoryError, match="no source has the root catalog"):
        await mirror(publication, store, folder, {ONE: server}).sync()


async def test_the_history_that_was_removed_ends_what_is_followed(publication, server, store, folder):
    await mirror(publication, store, folder, {ONE: server}).sync()
    removed = publication.publish({**TREE, "/two": b"two"}, NESTED)
    publication.publish({**TREE, "/three": b"three"}, NESTED)
    del publication.served[ObjectName(removed, Kind.CATALOG).path]
    await mirror(publication, store, folder, {ONE: server}).sync()
    await assert_whole(publication, store, folder, 3)


async def test_documents_about_the_replica_are_written(publication, server, store, folder, tmp_path):
    made = mirror(publication, store, folder, {ONE: server})
    made._info = tmp_path / "served"
    await made.sync()
    assert store.read(LAST_SNAPSHOT_PATH, size_max=100) == b"Tue Nov 14 22:30:00 UTC 2023\n"
    assert b"last_snapshot" in store.read(STATUS_PATH, size_max=1000)
    assert not store.exists(IS_SNAPSHOTTING_PATH)
    assert b'"sw.example.org"' in (tmp_path / "served/info/v1/repositories.json").read_bytes()
    assert len((folder / "reflog.chksum").read_text()) == 50


async def test_a_whitelist_signed_anew_is_taken_without_a_new_revision(publication, server, store, folder):
    await mirror(publication, store, folder, {ONE: server}).sync()
    publication.signer.now += 500
    publication.served[WHITELIST_PATH] = publication.signer.whitelist()
    await mirror(publication, store, folder, {ONE: server}).sync()
    assert store.read(WHITELIST_PATH, size_max=10_000) == publication.served[WHITELIST_PATH]


async def test_alternative_names_are_made_where_the_manifest_asks(server, store, folder):
    publication = Publication()
    publication.publish(TREE, NESTED, alternative_names=True)
    for path, data in list(publication.served.items()):
        if path[-1] in "CXHM" and path.startswith("data/"):
            publication.served[ObjectName.parse(path).alternative_path] = data
    await mirror(publication, store, folder, {ONE: Server(publication.served)}).sync()
    root = ObjectName(publication.root, Kind.CATALOG)
    assert store.read(root.alternative_path, size_max=1 << 20) == publication.served[root.path]


async def test_progress_counts_objects(publication, server, store, folder):
    progress = RecordingProgress()
    await mirror(publication, store, folder, {ONE: server}).sync(progress)
    assert progress.done == progress.expected > len(TREE)


# ------------------------------------------------------------------------------------------------------- bad sources


async def test_a_source_that_does_not_allow_it_is_not_replicated(publication, server, store, folder):
    del publication.served[MASTER_REPLICA_PATH]
    with pytest.raises(RepositoryError, match="check_master_replica = false"):
        await mirror(publication, store, folder, {ONE: server}).sync()
    await mirror(publication, store, folder, {ONE: server}, check_master_replica=False).sync()


@pytest.mark.parametrize("change", [flipped, cut, emptied, endless, error_500])
async def test_a_bad_source_beside_a_good_one_does_no_harm(publication, server, store, folder, change):
    bad = Server(publication.served, every=change)
    await mirror(publication, store, folder, {ONE: bad, TWO: server}).sync()
    await assert_whole(publication, store, folder, 1)


@pytest.mark.parametrize("change", [flipped, cut, emptied])
@pytest.mark.parametrize("suffix", ["C", "H", "X", "P", ""])
async def test_one_bad_object_at_the_only_source_leaves_the_old_revision(
    publication, server, store, folder, change, suffix
):
    await mirror(publication, store, folder, {ONE: server}).sync()
    before = {path: data for path, data in held(store).items() if path not in OWN}
    known = set(publication.served)
    new = {**TREE, "/new": b"new content", "/newer": publication.chunked(b"chunk" * 50_000)}
    publication.publish(new, NESTED, tag="v2")
    bad = Server(publication.served)
    for path in publication.served:
        is_kind = path.startswith("data/") and (
            path[-1] == suffix if suffix else path[-1].islower() or path[-1].isdigit()
        )
        if is_kind and (path not in known or suffix == "X"):
            bad.lie(path, change)
    with pytest.raises(CdnError):
        await mirror(publication, store, folder, {ONE: bad}).sync()
    after = held(store)
    assert after[MANIFEST_PATH] == before[MANIFEST_PATH]
    assert before.items() <= after.items()
    assert not store.exists(IS_SNAPSHOTTING_PATH)
    await assert_whole(publication, store, folder, 1)
    await mirror(publication, store, folder, {ONE: server}).sync()
    await assert_whole(publication, store, folder, 2)


async def test_a_missing_object_is_named(publication, server, store, folder):
    missing = next(path for path in publication.served if path.endswith("P"))
    del publication.served[missing]
    with pytest.raises(AllSourcesFailedError, match=missing) as caught:
        await mirror(publication, store, folder, {ONE: server}).sync()
    assert isinstance(caught.value.causes[0], NotFoundError)
    assert not store.exists(MANIFEST_PATH)


async def test_an_older_revision_is_refused(publication, server, store, folder):
    old = publication.copy()
    publication.publish(TREE, NESTED)
    await mirror(publication, store, folder, {ONE: server}).sync()
    with pytest.raises(RollbackError):
        await mirror(publication, store, folder, {ONE: Server(old)}).sync()
    assert mirror(publication, store, folder, {ONE: server}).own_manifest().revision == 2


async def test_an_older_revision_is_refused_even_if_the_manifest_was_lost(publication, server, store, folder):
    old = publication.copy()
    publication.publish(TREE, NESTED)
    await mirror(publication, store, folder, {ONE: server}).sync()
    store.delete(MANIFEST_PATH)
    with pytest.raises(RollbackError):
        await mirror(publication, store, folder, {ONE: Server(old)}).sync()


async def test_another_repositorys_tags_are_refused(publication, server, store, folder):
    other = Publication("other.example.org", publication.algorithm)
    other.publish({"/x": b"x"}, tag="evil")
    history = next(path for path in other.served if path.endswith("H"))
    publication.served[history] = other.served[history]
    publication.publish(TREE, NESTED, history=ObjectName.parse(history).digest)
    with pytest.raises(CdnError, match="other"):
        await mirror(publication, store, folder, {ONE: server}).sync()


# ----------------------------------------------------------------------------------------------- this machine's trouble


async def test_two_runs_at_once_are_kept_apart(publication, server, store, folder):
    with exclusive(folder, publication.fqrn), pytest.raises(LeaseHeldError, match="another run"):
        await mirror(publication, store, folder, {ONE: server}).sync()


async def test_a_full_store_is_told_and_the_old_revision_stays(publication, server, folder):
    size = sum(map(len, publication.served.values()))
    store = MemoryStore(bytes_max=size + 100_000)
    await mirror(publication, store, folder, {ONE: server}).sync()
    publication.publish({**TREE, "/huge": random.Random(2).randbytes(300_000)}, NESTED)
    with pytest.raises(StorageFullError):
        await mirror(publication, store, folder, {ONE: server}).sync()
    await assert_whole(publication, store, folder, 1)


async def test_a_work_folder_that_cannot_be_written_is_named(publication, server, store, folder):
    made = mirror(publication, store, folder, {ONE: server})
    folder.mkdir()
    (folder / "work").write_text("in the way")
    with pytest.raises(StorageError, match=f"sw.example.org.* below {folder}"):
        await made.sync()
    (folder / "work").unlink()
    await made.sync()
    await assert_whole(publication, store, folder, 1)


async def test_torn_objects_after_a_power_cut_are_fetched_again(publication, server, store, folder):
    await mirror(publication, store, folder, {ONE: server}).sync()
    publication.publish({**TREE, "/new": b"new content"}, NESTED)
    torn = ObjectName((await new_entry(publication)).digest)
    store.put(torn.path, b"torn")
    (folder / "unfinished").write_text("another boot of the machine")
    await mirror(publication, store, folder, {ONE: server}).sync()
    assert not (folder / "unfinished").exists()
    await assert_whole(publication, store, folder, 2)


async def new_entry(publication):
    async with await open_repository(
        publication.fqrn,
        servers=ONE,
        keys=publication.keys,
        fetcher=Network({ONE: Server(publication.served)}),
        clock=ManualClock(NOW + 1000),
    ) as repository:
        return await repository.files.stat("/new")


async def test_a_damaged_catalog_that_seems_to_be_there_is_not_built_upon(publication, server, store, folder):
    await mirror(publication, store, folder, {ONE: server}).sync()
    head = publication.publish({**TREE, "/new": b"new content"}, NESTED)
    store.put(ObjectName(head, Kind.CATALOG).path, b"torn")
    await mirror(publication, store, folder, {ONE: server}).sync()
    await assert_whole(publication, store, folder, 2)


async def seen_faults() -> list[str]:
    publication = Publication()
    publication.publish(TREE, NESTED, tag="v1")
    with tempfile.TemporaryDirectory() as top, faults_seen() as names:
        await mirror(
            publication, LocalStore(f"{top}/store"), Path(top) / "state", {ONE: Server(publication.served)}
        ).sync()
    return sorted(set(names))


FAULTS = [
    "replica.catalog.stored",
    "replica.manifest.stored",
    "replica.object.stored",
    "replica.objects.flushed",
    "replica.reflog.stored",
    "replica.whitelist.stored",
]


async def test_there_is_a_fault_point_between_any_two_durable_steps():
    assert await seen_faults() == FAULTS


@pytest.mark.parametrize("occurrence", [1, 2])
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_run_that_breaks_off_anywhere_leaves_a_whole_revision_and_the_next_goes_on(
    publication, server, disk, folder, fault, occurrence
):
    store = disk
    await mirror(publication, store, folder, {ONE: server}).sync()
    publication.signer.now += 500
    publication.served[WHITELIST_PATH] = publication.signer.whitelist()
    publication.publish(
        {**TREE, "/new": b"new", "/n/new": b"n", "/n/deep/new": b"d", "/x/y": b"y"}, [*NESTED, "/x"], tag="v2"
    )
    broken = False
    with faults_armed(f"{fault}@{occurrence}:raise"):
        try:
            await mirror(publication, store, folder, {ONE: server}).sync()
        except FaultInjected:
            broken = True
    assert broken or occurrence == 2
    revision = mirror(publication, store, folder, {ONE: server}).own_manifest().revision
    assert revision == 2 if fault == "replica.manifest.stored" or not broken else revision in (1, 2)
    await assert_whole(publication, store, folder, revision)
    report = await mirror(publication, store, folder, {ONE: server}).sync()
    assert report.revision == 2
    await assert_whole(publication, store, folder, 2)


# ------------------------------------------------------------------------------------------------------------- checking


async def test_damage_is_found_and_repaired(publication, server, store, folder):
    made = mirror(publication, store, folder, {ONE: server})
    await made.sync()
    paths = {suffix: next(path for path in publication.served if path.endswith(suffix)) for suffix in "CPXHM"}
    plain = next(path for path in publication.served if path.startswith("data/") and not path[-1].isupper())
    for path in (plain, paths["P"], paths["C"]):
        data = bytearray(store.read(path, size_max=1 << 20))
        data[len(data) // 2] ^= 1
        store.delete(path)
        store.put(path, bytes(data))
    found = await problems(made, folder)
    assert {(problem.path, problem.kind.value) for problem in found} >= {(plain, "damaged"), (paths["P"], "damaged")}
    assert all(problem.is_repaired for problem in await problems(made, folder, repairs=True))
    await assert_whole(publication, store, folder, 1)


@pytest.mark.parametrize("suffix", ["C", "P", "X", "H", "M", ""])
async def test_what_is_missing_is_found_and_repaired(publication, server, store, folder, suffix):
    made = mirror(publication, store, folder, {ONE: server})
    await made.sync()
    for path in publication.served:
        is_kind = path.startswith("data/") and (path[-1] == suffix if suffix else not path[-1].isupper())
        if is_kind:
            store.delete(path)
    assert await problems(made, folder)
    repaired = await problems(made, folder, repairs=True)
    assert repaired
    assert all(problem.is_repaired for problem in repaired)
    await assert_whole(publication, store, folder, 1)


async def test_what_no_source_has_stays_a_problem(publication, server, store, folder):
    made = mirror(publication, store, folder, {ONE: server})
    await made.sync()
    lost = next(path for path in publication.served if path.endswith("P"))
    store.delete(lost)
    del publication.served[lost]
    found = await problems(made, folder, repairs=True)
    assert [(problem.path, problem.is_repaired) for problem in found] == [(lost, False)]


async def test_a_tagged_revision_that_was_copied_and_is_lost_is_found_and_repaired(publication, server, store, folder):
    tagged = ObjectName(publication.root, Kind.CATALOG)
    publication.publish({"/now": b"new"})
    made = mirror(publication, store, folder, {ONE: server})
    await made.sync()
    store.delete(tagged.path)
    assert [(found.path, found.kind.value) for found in await problems(made, folder)] == [(tagged.path, "missing")]
    assert all(problem.is_repaired for problem in await problems(made, folder, repairs=True))
    await assert_whole(publication, store, folder, 2)


async def test_a_tagged_revision_that_the_publisher_removed_before_it_was_copied_is_no_problem(
    publication, server, store, folder
):
    del publication.served[ObjectName(publication.root, Kind.CATALOG).path]
    publication.publish({"/now": b"new"})
    made = mirror(publication, store, folder, {ONE: server})
    await made.sync()
    assert await problems(made, folder) == []


async def test_alternative_names_are_checked_and_repaired(publication, server, store, folder):
    root = publication.publish({"/restricted": b"content"}, alternative_names=True)
    for name in [path for path in publication.served if path.startswith("data/")]:
        if name[-1] in "CXHM":
            object_name = ObjectName.parse(name)
            publication.served[object_name.alternative_path] = publication.served[name]
    made = mirror(publication, store, folder, {ONE: server})
    await made.sync()
    assert await problems(made, folder) == []
    manifest = made.own_manifest()
    lost, damaged = ObjectName(root, Kind.CATALOG), ObjectName(manifest.certificate, Kind.CERTIFICATE)
    store.delete(lost.alternative_path)
    store.replace(damaged.alternative_path, b"nonsense")
    found = {(problem.path, problem.kind.value) for problem in await problems(made, folder)}
    assert found == {(lost.alternative_path, "missing"), (damaged.alternative_path, "damaged")}
    assert all(problem.is_repaired for problem in await problems(made, folder, repairs=True))
    assert await problems(made, folder) == []


async def test_an_empty_replica_is_no_whole_one(publication, server, store, folder):
    found = await problems(mirror(publication, store, folder, {ONE: server}), folder)
    assert [problem.path for problem in found] == [MANIFEST_PATH]


async def test_a_manifest_changed_on_disk_is_found(publication, server, store, folder):
    made = mirror(publication, store, folder, {ONE: server})
    await made.sync()
    data = bytearray(store.read(MANIFEST_PATH, size_max=10_000))
    data[-5] ^= 1
    store.replace(MANIFEST_PATH, bytes(data))
    assert [problem.kind.value for problem in await problems(made, folder)] == ["not to be believed"]


async def test_sources_are_told_how_large_an_object_is_so_that_it_gets_its_time(publication, server, store, folder):
    told: dict[str, int] = {}

    class Listening(Sources):
        async def fetch(self, what, operation, *, size=0, **options):
            told[what] = size
            return await super().fetch(what, operation, size=size, **options)

    made = mirror(publication, store, folder, {ONE: server})
    made.sources = Listening((ONE,), clock=ManualClock())
    await made.sync()
    chunk = next(path for path in publication.served if path.endswith("P"))
    assert told[chunk] == max(told.values()) >= 16 << 10


async def test_a_slow_object_does_not_hold_up_what_does_not_need_it(publication, server, store, folder):
    gate = asyncio.Event()
    slow = next(path for path in publication.served if path.endswith("P"))
    server.lie(slow, lambda answer, request: replace(answer, head_gate=gate))
    run = asyncio.create_task(mirror(publication, store, folder, {ONE: server}).sync())
    nested = [
        path
        for path in publication.served
        if path.endswith("C") and path != ObjectName(publication.root, Kind.CATALOG).path
    ]
    while not all(store.exists(path) for path in nested):  # noqa: ASYNC110  # the run tells nobody of single objects
        await asyncio.sleep(0.005)
    assert not store.exists(ObjectName(publication.root, Kind.CATALOG).path)
    assert not store.exists(MANIFEST_PATH)
    gate.set()
    assert (await run).revision == 1
