"""What a commit publishes: numbers, times, tags, the reflog, and what keeps it from being rebased."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from cdn.catalog.diff import diff
from cdn.clock import ManualClock
from cdn.errors import ConflictError, RepositoryError, StorageError, UsageError
from cdn.hashing import Algorithm, digest_of
from cdn.history import History, Tag
from cdn.manifest import PLAIN_DIGEST_KEY
from cdn.objects import REFLOG_PATH, Kind, ObjectName
from cdn.reflog import Reflog
from cdn.telemetry import FaultInjected, faults_armed
from stratum0.documents import kept_reflog_checksum
from stratum0.publisher import auto_tag_name, republish, without_old_tags
from stratum0.records import TransactionState
from tests.fakes.publishers import new_publisher, published, reopened

DAY = 86_400
START = 1_790_000_000


class TurningClock(ManualClock):
    """A clock that somebody may set back."""

    def set_back(self, seconds):
        self._start -= seconds


@pytest.fixture
def clock():
    return TurningClock(START)


@pytest.fixture
def repository(tmp_path, clock):
    with new_publisher(tmp_path, clock) as repository:
        yield repository


def publish(repository, path="/f", content=b"", **options):
    with repository.transaction() as transaction:
        transaction.put_file(path, content, parents=True)
        return transaction.commit(**options)


def tag_names(repository):
    return [tag.name for tag in published(repository).history.tags]


# ---------------------------------------------------------------------------------------------------- manifest and root


def test_each_revision_follows_the_one_before_it(repository):
    before = repository.head()
    revision = publish(repository)
    manifest = repository.head().manifest
    assert (revision.number, manifest.revision) == (2, 2)
    with repository.catalogs.load(manifest.root_catalog) as catalog:
        assert (catalog.revision, catalog.previous) == (2, before.root)
        assert catalog.last_modified == manifest.timestamp == revision.timestamp
        assert catalog.ttl_seconds == manifest.ttl_seconds == repository.settings.ttl_seconds
    assert published(repository).history.previous == before.manifest.history


def test_the_manifest_says_size_and_plain_digest_of_the_root_catalog(repository):
    publish(repository)
    manifest = repository.head().manifest
    file = repository.catalogs.file_of(manifest.root_catalog)
    assert manifest.plain_digest == hashlib.sha256(file.read_bytes()).digest()
    assert manifest.root_catalog_bytes == file.stat().st_size
    assert [key for key, _ in manifest.extensions] == [PLAIN_DIGEST_KEY]
    publish(repository, "/g")
    assert [key for key, _ in repository.head().manifest.extensions] == [PLAIN_DIGEST_KEY]


def test_time_never_goes_back_even_if_the_clock_does(repository, clock):
    first = publish(repository, "/a").timestamp
    clock.set_back(5_000)
    second = publish(repository, "/b").timestamp
    assert second >= first
    with repository.catalogs.load(repository.head().root) as catalog:
        assert catalog.last_modified <= repository.head().manifest.timestamp


def test_the_reflog_lists_everything_that_was_ever_published_and_the_manifest_names_it(repository):
    roots = [repository.head().root]
    for number in range(3):
        publish(repository, f"/{number}")
        roots.append(repository.head().root)
    reflog = Reflog.read(Path(repository.store.root, REFLOG_PATH))
    assert [entry.name.digest for entry in reflog.of_kind(Kind.CATALOG)] == roots
    assert repository.head().manifest.reflog == kept_reflog_checksum(repository)


def test_a_repository_without_a_reflog_gets_one_with_what_is_current(repository):
    before = repository.head()
    Path(repository.store.root, REFLOG_PATH).unlink()
    publish(repository)
    reflog = Reflog.read(Path(repository.store.root, REFLOG_PATH))
    assert all(name in reflog for name in before.manifest.objects)


def test_settings_that_changed_are_published_with_the_next_revision(tmp_path, clock):
    with new_publisher(tmp_path, clock, ttl_seconds=900, garbage_collectable=False) as repository:
        publish(repository)
        manifest = repository.head().manifest
        assert (manifest.ttl_seconds, manifest.garbage_collectable) == (900, False)


# ---------------------------------------------------------------------------------------------------------------- tags


def test_trunk_is_the_newest_revision_and_trunk_previous_the_one_before(repository):
    publish(repository, "/a")
    publish(repository, "/b")
    history = published(repository).history
    assert (history.tag("trunk").revision, history.tag("trunk-previous").revision) == (3, 2)
    assert history.tag("trunk").root_catalog == repository.head().root


def test_each_revision_gets_a_tag_of_its_own_named_by_its_time(repository, clock):
    assert publish(repository, "/a").tags == ("generic-2026-09-21T14:13:20Z",)
    assert publish(repository, "/b").tags == ("generic_1-2026-09-21T14:13:20Z",)
    clock.advance(1)
    assert publish(repository, "/c").tags == ("generic-2026-09-21T14:13:21Z",)


def test_a_revision_can_be_named(repository):
    assert publish(repository, tag="v1.0", message="the first").tags[-1] == "v1.0"
    tag = published(repository).history.tag("v1.0")
    assert (tag.revision, tag.description, tag.root_catalog) == (2, "the first", repository.head().root)


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [("no spaces", UsageError, "is no tag name"), ("v1", RepositoryError, "has a tag 'v1' already")],
)
def test_a_name_that_cannot_be_is_refused_before_anything_is_done(repository, name, error, says):
    publish(repository, "/a", tag="v1")
    with pytest.raises(error, match=says):
        publish(repository, "/b", tag=name)
    assert repository.head().revision == 2


def test_naming_a_publication_that_changes_nothing_names_the_current_revision(repository):
    publish(repository, "/a")
    with repository.transaction() as transaction:
        assert transaction.commit(tag="same", message="as it is") is None
    assert repository.head().revision == 2
    assert published(repository).history.tag("same").revision == 2


def automatic(*ages, now=START):
    digest = digest_of(Algorithm.SHA1, b"")
    history = History("sw.example.org", (Tag("mine", digest, 1, 0),))
    for revision, age in enumerate(ages, 2):
        history = history.with_tag(Tag(auto_tag_name(history, now - age), digest, revision, now - age))
    return history


@pytest.mark.parametrize(
    ("seconds", "count", "kept"),
    [
        (0, 0, [2, 3, 4, 5]),
        (2 * DAY, 0, [4, 5]),
        (0, 3, [4, 5]),
        (2 * DAY, 2, [5]),
        (0, 1, []),
        (30 * DAY, 100, [2, 3, 4, 5]),
    ],
)
def test_automatic_tags_are_dropped_by_age_and_by_number_and_others_never(seconds, count, kept):
    history = automatic(5 * DAY, 3 * DAY, DAY, 0)
    left = without_old_tags(history, START, keep_seconds=seconds, keep_count=count)
    assert [tag.revision for tag in left.tags if tag.name != "mine"] == kept
    assert "mine" in left


def test_automatic_tags_can_be_switched_off(tmp_path, clock):
    with new_publisher(tmp_path, clock, auto_tag=False) as repository:
        assert publish(repository).tags == ()
        assert "trunk" in tag_names(repository)


# -------------------------------------------------------------------------------------------------------------- rebase


def test_changes_elsewhere_are_no_conflict(repository):
    waiting = repository.transaction("/a/deep")
    waiting.put_file("/a/deep/f", b"")
    for path in ("/b/f", "/a/other", "/top"):
        with repository.transaction(path) as transaction:
            transaction.put_file(path, b"", parents=True)
    assert waiting.commit().number == 5
    assert published(repository).paths == ["", "/a", "/a/deep", "/a/deep/f", "/a/other", "/b", "/b/f", "/top"]


def without_lease(transaction):
    """As if the lease had expired, for others to get in between."""
    transaction._leases.release(transaction.record.lease)
    return transaction


@pytest.mark.parametrize(
    ("others", "named"),
    [
        (lambda t: t.put_file("/a/b/f", b"other"), "/a/b/f"),
        (lambda t: t.chmod("/a/b", 0o700), "/a/b"),
        (lambda t: t.remove("/a", recursive=True), "/a"),
        (lambda t: (t.remove("/a", recursive=True), t.put_file("/a", b"a file")), "/a"),
    ],
)
def test_a_change_in_the_subtree_or_the_end_of_a_directory_above_it_is_a_conflict(repository, others, named):
    publish(repository, "/a/b/f")
    late = without_lease(repository.transaction("/a/b"))
    late.put_file("/a/b/mine", b"")
    with repository.transaction() as transaction:
        others(transaction)
    with pytest.raises(ConflictError) as refused:
        late.commit()
    assert str(refused.value).startswith(f"{named} was changed by somebody else between revision 2,")
    assert "revision 3 of sw.example.org" in str(refused.value)
    assert late.record.state is TransactionState.OPEN
    late.abort()
    assert repository.head().revision == 3


def test_what_changed_above_the_subtree_otherwise_is_no_conflict(repository):
    publish(repository, "/a/b/f")
    late = without_lease(repository.transaction("/a/b"))
    late.put_file("/a/b/mine", b"")
    with repository.transaction() as transaction:
        transaction.chmod("/a", 0o700)
        transaction.put_file("/a/.cvmfscatalog", b"")
    assert late.commit().number == 4
    assert {"", "/a"} == set(published(repository).catalogs)


def test_a_conflict_is_found_without_looking_at_what_did_not_change(repository):
    for name in "ab":
        publish(repository, f"/{name}/.cvmfscatalog")
    late = without_lease(repository.transaction("/a"))
    late.put_file("/a/mine", b"")
    publish(repository, "/b/other")
    base, loaded = late.base_root, []

    class Counting:
        def load(self, digest, *, size=0, path=""):
            loaded.append(path)
            return repository.catalogs.load(digest, size=size, path=path)

    assert [*diff(Counting(), base, repository.head().root, below="/a")] == []
    assert set(loaded) == {""}
    late.abort()


def test_balancing_done_by_others_is_no_conflict(tmp_path, clock):
    with new_publisher(tmp_path, clock, catalog_entries_min=4, catalog_entries_max=20) as repository:
        for name in "ab":
            with repository.transaction() as transaction:
                for number in range(8):
                    transaction.put_file(f"/{name}/{number}", b"", parents=True)
        late = repository.transaction("/a")
        late.put_file("/a/mine", b"")
        with repository.transaction("/c") as transaction:
            for number in range(12):
                transaction.put_file(f"/c/{number}", b"", parents=True)
        assert len(published(repository).catalogs) > 1
        late.commit()
        assert "/a/mine" in published(repository).tree


def test_a_base_that_was_removed_meanwhile_is_a_conflict_with_a_reason(repository):
    late = repository.transaction("/a")
    late.put_file("/a/f", b"")
    with repository.transaction("/b") as transaction:
        transaction.put_file("/b/f", b"")
    repository.catalogs.clear()
    repository.store.delete(ObjectName(late.base_root, Kind.CATALOG).path)
    with pytest.raises(ConflictError, match="was removed by garbage collection"):
        late.commit()
    late.abort()


# ------------------------------------------------------------------------------------------------------------ failures


@pytest.mark.parametrize("step", ["catalogs.stored", "history.stored", "reflog.stored", "manifest.before"])
def test_an_error_on_the_way_publishes_nothing_and_the_transaction_can_be_committed_again(repository, step):
    transaction = repository.transaction()
    transaction.put_file("/f", b"")
    with faults_armed(f"commit.{step}:raise"), pytest.raises(FaultInjected):
        transaction.commit()
    assert repository.head().revision == 1
    assert transaction.record.state is TransactionState.OPEN
    assert transaction.commit().number == 2
    assert published(repository).paths == ["", "/f"]


def test_an_error_after_the_manifest_was_replaced_does_not_unsay_it(repository):
    transaction = repository.transaction()
    transaction.put_file("/f", b"")
    with faults_armed("commit.manifest.after:raise"), pytest.raises(FaultInjected):
        transaction.commit()
    assert transaction.record.state is TransactionState.COMMITTED
    assert published(repository).paths == ["", "/f"]
    publish(repository, "/g")


def test_a_full_disk_is_told_and_nothing_is_published(repository, monkeypatch):
    transaction = repository.transaction()
    transaction.put_file("/f", b"")

    def full(path, data):
        raise StorageError("no room is left")

    with monkeypatch.context() as patched:
        patched.setattr(repository.store, "put", full)
        with pytest.raises(StorageError, match="no room"):
            transaction.commit()
    assert transaction.commit().number == 2


# ---------------------------------------------------------------------------------------- other publications


def test_an_older_tree_can_be_published_as_a_new_revision(repository):
    publish(repository, "/a")
    old = repository.head()
    publish(repository, "/b")
    head = repository.head()
    after = republish(repository, lambda before, root, history: history, source=old.root)
    assert after.revision == 4
    seen = published(repository)
    assert seen.paths == ["", "/a"]
    assert seen.history.tag("trunk").revision == 4
    assert seen.history.tag("trunk-previous").root_catalog == head.root
    with repository.catalogs.load(after.root) as catalog:
        assert (catalog.revision, catalog.previous) == (4, head.root)


def test_catalogs_are_read_from_the_store_where_the_cache_does_not_have_them(repository):
    publish(repository, "/a/.cvmfscatalog")
    repository.catalogs.clear()
    again = reopened(repository)
    publish(again, "/a/f")
    assert "/a/f" in published(again).tree
