"""Garbage collection: what stays, what goes, and who may not be disturbed."""

from __future__ import annotations

import os
import time

import pytest

from cdn.clock import ManualClock
from cdn.errors import RepositoryError
from cdn.objects import Kind, ObjectName
from cdn.reflog import Reflog
from cdn.telemetry import FaultInjected, faults_armed, faults_seen, install_fault_hook
from stratum0 import garbage
from stratum0.documents import kept_reflog_checksum, read_reflog
from stratum0.garbage import Retention, collect
from stratum0.information import read_status
from stratum0.locks import objects_lock, writers_lock
from stratum0.revisions import resolve
from stratum0.rollback import rollback
from stratum0.tags import add_tag, remove_tags
from tests.fakes.publishers import TODAY, copied, new_publisher, published, reopened

NOTHING_ELSE = Retention()
DAY = 86_400


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Five revisions, a day apart: the tree of revision N has the one file /file, with N in it. And when that was."""
    clock = ManualClock(TODAY)
    with new_publisher(tmp_path_factory.mktemp("made"), clock, auto_tag=False) as repository:
        for number in range(2, 6):
            clock.advance(DAY)
            with repository.transaction() as transaction:
                transaction.put_file("/file", b"content %d" % number)
        return repository.home, clock.now()


@pytest.fixture
def clock(made):
    return ManualClock(made[1])


@pytest.fixture
def repository(made, tmp_path, clock):
    """A copy of it for each test."""
    return copied(made[0], tmp_path, clock)


def objects(repository):
    return {stored.path for stored in repository.store.list("data/")}


def readable(repository, revision):
    """Whether a revision, by number or tag, is whole."""
    try:
        known = resolve(repository, revision)
        repository.catalogs.clear()
        with repository.catalogs.load(known.root) as catalog:
            return all(repository.store.exists(name.path) for name, _ in catalog.references())
    except RepositoryError:
        return False


# ----------------------------------------------------------------------------------------------------------- retention


@pytest.mark.parametrize(
    ("retention", "index", "replaced_days_ago", "kept"),
    [
        (Retention(), 0, None, True),
        (Retention(), 1, 0, False),
        (Retention(revisions=3), 2, 100, True),
        (Retention(revisions=3), 3, 100, False),
        (Retention(days=3), 9, 2.9, True),
        (Retention(days=3), 9, 3.1, False),
        (Retention(revisions=0), 0, None, True),
    ],
)
def test_a_revision_is_kept_by_its_place_or_by_when_it_was_replaced(retention, index, replaced_days_ago, kept):
    now = 1_700_000_000.0
    replaced_at = None if replaced_days_ago is None else now - replaced_days_ago * DAY
    assert retention.keeps(index, replaced_at, now) is kept


def test_the_current_revision_and_tags_stay_and_the_rest_goes(repository):
    add_tag(repository, "keep", revision="3")
    before = objects(repository)
    done = collect(repository, NOTHING_ELSE)
    after = published(repository)
    assert after.manifest.revision == 5
    assert [readable(repository, revision) for revision in ("5", "trunk-previous", "keep", "2", "1")] == [
        True, True, True, False, False,
    ]  # fmt: skip
    assert done.revisions_kept == 3
    assert done.revisions_removed == 2
    assert done.objects_removed == len(before - objects(repository)) >= 4
    assert done.objects_kept == len(objects(repository))


def test_bytes_freed_are_those_that_were_stored(repository):
    sizes = {stored.path: stored.size for stored in repository.store.list("data/")}
    done = collect(repository, NOTHING_ELSE)
    gone = sizes.keys() - objects(repository)
    assert done.bytes_freed == sum(sizes[path] for path in gone) > 0


def test_a_dry_run_removes_nothing_and_foretells_the_same(repository):
    before = objects(repository)
    foretold = collect(repository, NOTHING_ELSE, dry_run=True)
    assert objects(repository) == before
    assert read_status(repository) == {}
    done = collect(repository, NOTHING_ELSE)
    counted = ("revisions_kept", "revisions_removed", "objects_removed", "bytes_freed", "objects_kept")
    assert [getattr(done, name) for name in counted] == [getattr(foretold, name) for name in counted]


def test_revisions_are_kept_by_number(repository):
    collect(repository, Retention(revisions=4))
    assert [readable(repository, str(number)) for number in range(1, 6)] == [False, True, True, True, True]


def test_revisions_are_kept_by_age_including_the_one_that_was_current_then(repository, clock):
    clock.advance(DAY / 2)
    collect(repository, Retention(days=2))
    assert [readable(repository, str(number)) for number in range(1, 6)] == [False, False, True, True, True]


def test_a_second_collection_finds_nothing(repository):
    collect(repository, NOTHING_ELSE)
    assert collect(repository, NOTHING_ELSE).objects_removed <= 1  # the history before the last one
    assert collect(repository, NOTHING_ELSE).objects_removed == 0


def test_histories_certificates_and_metainfo_of_kept_revisions_stay(repository):
    named = set(repository.head().manifest.objects)
    listed = {entry.name for entry in read_reflog(repository).entries}
    collect(repository, Retention(revisions=100))
    assert {name for name in listed if not repository.store.exists(name.path)} == set()
    collect(repository, NOTHING_ELSE)
    assert all(repository.store.exists(name.path) for name in named)
    histories = [name for name in listed if name.kind is Kind.HISTORY]
    assert [name for name in histories if not repository.store.exists(name.path)]


def test_a_certificate_stays_while_the_whitelist_lists_it(repository, clock):
    from stratum0 import keys

    old = ObjectName(repository.head().manifest.certificate, Kind.CERTIFICATE)
    keys.rotate(repository)
    clock.advance(DAY)
    with repository.transaction() as transaction:
        transaction.put_file("/file", b"newest")
    collect(repository, NOTHING_ELSE)
    assert repository.store.exists(old.path)
    keys.rotate(repository, revoke_old=True)
    clock.advance(DAY)
    with repository.transaction() as transaction:
        transaction.put_file("/file", b"newer still")
    collect(repository, NOTHING_ELSE)
    assert not repository.store.exists(old.path)


def test_the_reflog_forgets_what_is_gone_and_its_digest_is_signed(repository):
    collect(repository, NOTHING_ELSE)
    reflog = read_reflog(repository)
    assert all(repository.store.exists(entry.name.path) for entry in reflog.entries)
    manifest = published(repository).manifest
    assert all(name in reflog for name in manifest.objects)
    assert manifest.reflog == kept_reflog_checksum(repository)
    assert isinstance(reflog, Reflog)


def test_the_status_file_says_when(repository):
    collect(repository, NOTHING_ELSE)
    assert read_status(repository)["last_gc"].endswith(
        " UTC 20" + time.strftime("%y", time.gmtime(repository.clock.now()))
    )


def test_a_repository_that_keeps_everything_is_left_alone(tmp_path):
    repository = new_publisher(tmp_path, garbage_collectable=False)
    with repository.transaction() as transaction:
        transaction.put_file("/a", b"a")
    with pytest.raises(RepositoryError, match="garbage_collectable=true"):
        collect(repository, NOTHING_ELSE)


def test_a_kept_revision_that_is_damaged_stops_everything_before_anything_is_removed(repository):
    add_tag(repository, "keep", revision="3")
    repository.store.delete(ObjectName(resolve(repository, "keep").root, Kind.CATALOG).path)
    repository.catalogs.clear()
    before = objects(repository)
    with pytest.raises(RepositoryError, match=r"revision 3 \(keep\) .* is damaged, so nothing was removed"):
        collect(repository, NOTHING_ELSE)
    assert objects(repository) == before


def test_old_revisions_that_are_gone_already_are_no_damage(repository):
    repository.store.delete(ObjectName(resolve(repository, "3").root, Kind.CATALOG).path)
    repository.catalogs.clear()
    collect(repository, Retention(revisions=100))
    assert published(repository).manifest.revision == 5


def test_after_a_rollback_and_collection_everything_current_is_whole(repository):
    rollback(repository, "2")
    collect(repository, NOTHING_ELSE)
    assert published(repository).tree["/file"].size == len(b"content 2")


# ---------------------------------------------------------------------------------------------- others at the same time


def test_what_an_open_transaction_relies_on_stays(repository):
    transaction = repository.transaction("/staged")
    transaction.mkdir("/staged")
    transaction.put_file("/staged/file", b"only staged")
    transaction.close()
    os.utime(repository.settings.storage)
    before = objects(repository)
    collect(repository, NOTHING_ELSE)
    again = reopened(repository)
    from stratum0.transaction import Transaction

    with Transaction.open(again, transaction.id) as resumed:
        resumed.put_file("/staged/more", b"more")
    assert {"/staged/file", "/staged/more"} <= set(published(again).paths)
    assert before


def test_a_reused_object_that_was_garbage_is_kept_for_the_transaction_that_reuses_it(repository):
    """The content of revision 2 is in no kept tree, and a transaction begun after marking relies on it again."""

    def reuse(name):
        if name == "gc.marked":
            install_fault_hook(None)
            transaction = repository.transaction("/again")
            transaction.mkdir("/again")
            transaction.put_file("/again/file", b"content 2")
            transaction.close()

    install_fault_hook(reuse)
    try:
        collect(repository, NOTHING_ELSE)
    finally:
        install_fault_hook(None)
    from stratum0.transaction import Transaction, records

    (record,) = records(repository)
    Transaction.open(repository, record.id).commit()
    assert "/again/file" in published(repository).paths


def test_what_is_published_while_it_marks_stays(repository):
    def publish(name):
        if name == "gc.marked":
            install_fault_hook(None)
            with repository.transaction() as transaction:
                transaction.put_file("/late", b"content 2")
            remove = resolve(repository, "trunk").number
            assert remove == 6

    install_fault_hook(publish)
    try:
        collect(repository, NOTHING_ELSE)
    finally:
        install_fault_hook(None)
    assert {"/file", "/late"} <= set(published(repository).paths)


def test_tags_added_while_it_marks_keep_their_revision(repository):
    def tag(name):
        if name == "gc.marked":
            install_fault_hook(None)
            add_tag(repository, "late", revision="2")

    install_fault_hook(tag)
    try:
        collect(repository, NOTHING_ELSE)
    finally:
        install_fault_hook(None)
    assert readable(repository, "late")


def test_objects_younger_than_the_collection_are_left_for_the_next(repository):
    stray = ObjectName(repository.head().root, Kind.CHUNK).path

    def store(name):
        if name == "gc.marked":
            repository.store.put(stray, b"stray")

    install_fault_hook(store)
    try:
        done = collect(repository, NOTHING_ELSE)
    finally:
        install_fault_hook(None)
    assert done.objects_spared >= 1
    assert repository.store.exists(stray)
    collect(repository, NOTHING_ELSE)
    assert not repository.store.exists(stray)


def test_it_waits_for_publishers_that_look_at_objects(repository):
    """Nothing is deleted while somebody holds the objects lock; marking goes on all the same."""
    from cdn.errors import LockHeldError

    seen = []

    def look(name):
        if name == "gc.batch.before":
            try:
                objects_lock(repository.folder, timeout_seconds=0).close()
            except LockHeldError:
                seen.append("excluded")
        if name == "gc.marked":
            objects_lock(repository.folder, timeout_seconds=0).close()
            seen.append("not yet")

    install_fault_hook(look)
    try:
        collect(repository, NOTHING_ELSE)
    finally:
        install_fault_hook(None)
    assert seen[0] == "not yet"
    assert set(seen[1:]) == {"excluded"}


def test_staged_files_of_dead_writers_go_and_those_of_living_ones_stay(repository):
    folder = repository.settings.storage / "data" / "txn"
    repository.store.prepare()
    (folder / "left-over").write_bytes(b"half")
    with writers_lock(repository.folder):
        assert collect(repository, NOTHING_ELSE).staged_removed == 0
    assert (folder / "left-over").exists()
    assert collect(repository, NOTHING_ELSE).staged_removed == 1
    assert not (folder / "left-over").exists()


def test_files_that_are_no_objects_of_the_format_stay(repository):
    stray = repository.settings.storage / "data" / "00" / ("0" * 38 + "Z")
    stray.parent.mkdir(exist_ok=True)
    stray.write_bytes(b"of another tool")
    note = repository.settings.storage / "data" / "00" / "README"
    note.write_bytes(b"a note")
    collect(repository, NOTHING_ELSE)
    assert stray.exists()
    assert note.exists()


def test_batches_may_be_small(repository, monkeypatch):
    monkeypatch.setattr(garbage, "BATCH_OBJECTS", 1)
    with faults_seen() as names:
        done = collect(repository, NOTHING_ELSE)
    assert names.count("gc.batch.after") >= done.objects_removed - 2
    assert published(repository).manifest.revision == 5


def test_the_lock_is_let_go_after_a_moment_and_the_rest_is_looked_at_again(repository, monkeypatch):
    monkeypatch.setattr(garbage, "HOLD_SECONDS", 0)
    with faults_seen() as names:
        done = collect(repository, NOTHING_ELSE)
    assert names.count("gc.batch.after") >= done.objects_removed > 3
    assert published(repository).manifest.revision == 5


@pytest.mark.parametrize("point", ["gc.marked", "gc.batch.before", "gc.batch.after", "gc.batch.after@2"])
def test_a_collection_that_died_anywhere_can_be_repeated(repository, monkeypatch, point):
    monkeypatch.setattr(garbage, "BATCH_OBJECTS", 2)
    add_tag(repository, "keep", revision="3")
    with faults_armed(f"{point}:raise"), pytest.raises(FaultInjected):
        collect(repository, NOTHING_ELSE)
    assert published(repository).manifest.revision == 5
    assert readable(repository, "keep")
    remove_tags(repository, ["keep"])
    collect(repository, NOTHING_ELSE)
    assert published(repository).manifest.revision == 5
    assert not readable(repository, "3")
    assert not [path for path in repository.folder.iterdir() if path.name.startswith("gc-")]


def test_without_the_key_nothing_is_removed(repository):
    before = objects(repository)
    repository.keys.key_file.unlink()
    repository.forget_signer()
    with pytest.raises(RepositoryError, match="is missing"):
        collect(repository, NOTHING_ELSE)
    assert objects(repository) == before
