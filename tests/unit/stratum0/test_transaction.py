"""Transactions: their lease, their life, and what editing demands."""

from __future__ import annotations

import io
import os
import stat

import pytest

from cdn.clock import ManualClock
from cdn.errors import (
    ConflictError,
    DocumentError,
    LeaseHeldError,
    ObjectMissingError,
    PathExistsError,
    PathKindError,
    PathMissingError,
    RepositoryError,
    TransactionStateError,
    UsageError,
)
from stratum0.changes import Change, ChangeKind
from stratum0.records import TransactionState, TransactionTable
from stratum0.transaction import Transaction, begin, protected_objects, records
from tests.fakes.catalogs import file_entry
from tests.fakes.publishers import new_publisher, published, reopened


@pytest.fixture
def clock():
    return ManualClock(1_790_000_000)


@pytest.fixture
def repository(tmp_path, clock):
    with new_publisher(tmp_path, clock) as repository:
        yield repository


@pytest.fixture
def tree(repository):
    """Some files to work on."""
    with repository.transaction() as transaction:
        transaction.put_file("/sw/gcc/bin", b"binary", parents=True)
        transaction.put_file("/sw/readme", b"text")
        transaction.symlink("/sw/link", "readme")
    return published(repository).tree


# ------------------------------------------------------------------------------------------------------------ its life


def test_leaving_the_block_commits_and_an_error_in_it_aborts(repository):
    with repository.transaction() as transaction:
        transaction.put_file("/kept", b"")
    with pytest.raises(KeyError), repository.transaction() as transaction:
        transaction.put_file("/lost", b"")
        raise KeyError
    assert published(repository).paths == ["", "/kept"]
    assert records(repository) == []
    assert not transaction.folder.exists()


def test_a_staged_transaction_survives_a_restart(repository):
    transaction = repository.transaction("/a")
    transaction.put_file("/a/f", b"content")
    transaction.close()
    repository = reopened(repository)
    [record] = records(repository)
    assert (record.subtree, record.state, record.base_revision) == ("/a", TransactionState.OPEN, 1)
    with Transaction.open(repository, record.id) as again:
        assert again.find("/a/f").size == 7
    assert "/a/f" in published(repository).tree


def test_an_ephemeral_transaction_that_is_let_go_is_gone(repository):
    transaction = repository.transaction(ephemeral=True)
    transaction.put_file("/f", b"")
    transaction.close()
    assert records(repository) == []
    assert repository.transaction().subtree == ""


def test_one_process_at_a_time_works_on_a_transaction(repository, monkeypatch):
    monkeypatch.setattr("stratum0.transaction._TAKEN_SECONDS", 0.0)
    transaction = repository.transaction()
    with pytest.raises(TransactionStateError, match="is being used by another process"):
        Transaction.open(repository, transaction.id)
    transaction.close()
    Transaction.open(repository, transaction.id).close()


def test_a_finished_transaction_cannot_be_used_or_opened(repository):
    with repository.transaction() as transaction:
        transaction.put_file("/f", b"")
    for use in (transaction.commit, transaction.abort, lambda: transaction.put_file("/g", b"")):
        with pytest.raises(TransactionStateError, match="is committed already"):
            use()
    with pytest.raises(TransactionStateError, match="is committed already"):
        Transaction.open(repository, transaction.id)
    with pytest.raises(RepositoryError, match="there is no transaction 'nonsense'"):
        Transaction.open(repository, "nonsense")


def test_a_transaction_that_was_let_go_cannot_be_used(repository):
    transaction = repository.transaction()
    transaction.close()
    transaction.close()
    with pytest.raises(TransactionStateError, match="was let go: open it again"):
        transaction.find("/")


def test_an_illegal_step_from_state_to_state_is_refused(repository):
    with repository.transaction() as transaction:
        table, record = TransactionTable(repository.state), transaction.record
        with pytest.raises(TransactionStateError, match="is open, so it cannot become committed"):
            table.advance(record, TransactionState.COMMITTED, 0.0)
    assert table.find(record.id).state is TransactionState.COMMITTED


def test_only_so_many_finished_transactions_are_remembered(repository, monkeypatch):
    monkeypatch.setattr("stratum0.records.FINISHED_KEPT", 3)
    ids = []
    for _ in range(5):
        transaction = repository.transaction()
        transaction.abort()
        ids.append(transaction.id)
        repository.clock.advance(1)
    table = TransactionTable(repository.state)
    with pytest.raises(RepositoryError):
        table.find(ids[0])
    assert table.find(ids[-1]).state is TransactionState.ABORTED


def test_an_empty_transaction_is_no_revision(repository):
    with repository.transaction() as transaction:
        assert transaction.commit() is None
    assert repository.head().revision == 1


# ----------------------------------------------------------------------------------------------------------- its lease


@pytest.mark.parametrize("wanted", ["", "/a", "/a/b", "/a/b/c"])
def test_a_second_transaction_on_an_overlapping_subtree_is_refused(repository, wanted):
    with repository.transaction("/a/b"), pytest.raises(LeaseHeldError, match="holds a lease on /a/b until"):
        repository.transaction(wanted)


def test_two_transactions_on_disjoint_subtrees_both_land(repository):
    one, other = repository.transaction("/a"), repository.transaction("/b/c")
    one.put_file("/a/f", b"one", parents=True)
    other.put_file("/b/c/f", b"other", parents=True)
    assert one.commit().number == 2
    assert other.commit().number == 3
    assert published(repository).paths == ["", "/a", "/a/f", "/b", "/b/c", "/b/c/f"]


def test_what_is_outside_of_the_subtree_cannot_be_touched(repository, tree):
    with repository.transaction("/sw/gcc") as transaction:
        for path in ("/sw", "/sw/readme", "/sw/gcc2", ""):
            with pytest.raises(UsageError, match="is outside of /sw/gcc"):
                transaction.chmod(path, 0o700)
        with pytest.raises(UsageError, match="outside"):
            transaction.move("/sw/gcc/bin", "/sw/bin")
        with pytest.raises(UsageError, match="outside"):
            transaction.stage([Change("/sw/other", ChangeKind.REMOVE)], [])


def test_a_marker_can_only_be_a_regular_file(repository):
    with repository.transaction() as transaction:
        transaction.mkdir("/d")
        with pytest.raises(UsageError, match="regular file"):
            transaction.mkdir("/d/.cvmfscatalog")
        with pytest.raises(UsageError, match="regular file"):
            transaction.symlink("/d/.cvmfsautocatalog", "x")
        with pytest.raises(UsageError, match="only marks a nested catalog"):
            transaction.put_file("/d/.cvmfscatalog/f", b"", parents=True)
        transaction.symlink("/d/link", "x")
        with pytest.raises(UsageError, match="regular file"):
            transaction.move("/d/link", "/d/.cvmfscatalog")
    assert set(published(repository).tree) == {"", "/d", "/d/link"}


def test_work_renews_the_lease(repository, clock):
    transaction = repository.transaction("/a", lease_seconds=100)
    clock.advance(90)
    transaction.put_file("/a/f", b"", parents=True)
    clock.advance(90)
    with pytest.raises(LeaseHeldError):
        repository.transaction("/a")
    transaction.commit()


def test_an_expired_lease_goes_to_whoever_asks_and_its_transaction_is_told(repository, clock):
    late = repository.transaction("/a", lease_seconds=100, holder="late")
    late.put_file("/a/late", b"", parents=True)
    clock.advance(200)
    other = repository.transaction("/a/b", holder="other")
    with pytest.raises(LeaseHeldError, match="other holds a lease on /a/b"):
        late.commit()
    assert late.record.state is TransactionState.OPEN
    other.abort()
    assert late.commit().number == 2
    assert "/a/late" in published(repository).tree


def test_an_expired_lease_and_a_change_in_the_subtree_meanwhile_is_a_conflict(repository, clock):
    late = repository.transaction("/a", lease_seconds=100)
    late.put_file("/a/late", b"", parents=True)
    clock.advance(200)
    with repository.transaction("/a") as other:
        other.put_file("/a/other", b"")
    with pytest.raises(ConflictError, match=r"/a was changed by somebody else between revision 1, .* and revision 2"):
        late.commit()
    late.abort()
    assert published(repository).paths == ["", "/a", "/a/other"]


def test_an_expired_lease_that_nobody_took_is_simply_renewed(repository, clock):
    transaction = repository.transaction("/a", lease_seconds=100)
    clock.advance(10_000)
    transaction.put_file("/a/f", b"", parents=True)
    with pytest.raises(LeaseHeldError):
        repository.transaction("/a")
    transaction.commit()


@pytest.mark.parametrize(
    "subtree", ["a", "/a/../b", "/a//b", "/.", "/a\0", "/" + "x" * 256, "/.cvmfs", "/.cvmfs/snapshots"]
)
def test_a_subtree_that_cannot_be_is_refused(repository, subtree):
    with pytest.raises(UsageError):
        begin(repository, subtree)
    assert records(repository) == []


def test_a_slash_at_the_end_of_a_subtree_does_not_matter(repository):
    with repository.transaction("/a/") as transaction:
        assert transaction.subtree == "/a"
    with repository.transaction("/") as transaction:
        assert transaction.subtree == ""


# ------------------------------------------------------------------------------------------------------------- editing


def test_a_file_can_be_given_as_bytes_as_a_stream_and_as_a_path(repository, tmp_path, clock):
    source = tmp_path / "source"
    source.write_bytes(b"from a file")
    source.chmod(0o751)
    os.utime(source, ns=(5, 7_000_000_009))
    with repository.transaction() as transaction:
        transaction.put_file("/bytes", b"bytes")
        transaction.put_file("/stream", io.BytesIO(b"a stream"), mode=0o600, uid=3, gid=4, mtime_ns=-1)
        transaction.put_file("/path", source)
    seen = published(repository).tree
    assert (seen["/bytes"].mode, seen["/bytes"].mtime) == (stat.S_IFREG | 0o644, int(clock.now()))
    stream = seen["/stream"]
    assert (stream.mode, stream.uid, stream.gid, stream.mtime, stream.mtime_ns) == (
        stat.S_IFREG | 0o600,
        3,
        4,
        -1,
        999_999_999,
    )
    assert (seen["/path"].mode, seen["/path"].mtime, seen["/path"].mtime_ns) == (stat.S_IFREG | 0o751, 7, 9)


def test_new_content_in_place_of_a_file_keeps_its_mode_and_owner(repository):
    with repository.transaction() as transaction:
        transaction.put_file("/f", b"old", mode=0o711, uid=5)
        transaction.put_file("/f", b"new content")
        assert (transaction.find("/f").mode, transaction.find("/f").uid) == (stat.S_IFREG | 0o711, 5)
        assert transaction.find("/f").size == 11


@pytest.mark.parametrize(
    ("edit", "error"),
    [
        (lambda t: t.put_file("/sw", b""), PathKindError),
        (lambda t: t.put_file("/absent/f", b""), PathMissingError),
        (lambda t: t.put_file("/sw/readme/f", b""), PathKindError),
        (lambda t: t.put_file("/sw/readme/x/f", b"", parents=True), PathKindError),
        (lambda t: t.mkdir("/sw"), PathExistsError),
        (lambda t: t.mkdir("/sw/readme", parents=True), PathExistsError),
        (lambda t: t.symlink("/sw/readme", "x"), PathExistsError),
        (lambda t: t.symlink("/l", ""), UsageError),
        (lambda t: t.symlink("/l", "a\0b"), UsageError),
        (lambda t: t.remove("/absent"), PathMissingError),
        (lambda t: t.remove("/sw"), PathKindError),
        (lambda t: t.remove("", recursive=True), UsageError),
        (lambda t: t.move("/sw", "/sw/gcc/x"), PathKindError),
        (lambda t: t.move("/absent", "/x"), PathMissingError),
        (lambda t: t.move("/sw/readme", "/sw/gcc"), PathKindError),
        (lambda t: t.move("/sw/gcc", "/sw/readme"), PathExistsError),
        (lambda t: t.move("/sw/gcc", "/absent/x"), PathMissingError),
        (lambda t: t.chmod("/sw/link", 0o644), PathKindError),
        (lambda t: t.chmod("/absent", 0o644), PathMissingError),
        (lambda t: t.chmod("/sw", 0o10000), UsageError),
        (lambda t: t.chown("/sw", uid=-1), UsageError),
        (lambda t: t.put_file("/.cvmfs/x", b"", parents=True), UsageError),
        (lambda t: t.mkdir("/.cvmfs"), UsageError),
        (lambda t: t.put_file("/.cvmfscatalog", b""), UsageError),
        (lambda t: t.put_file("/a\0b", b""), UsageError),
        (lambda t: t.put_file("/" + "é" * 128, b""), UsageError),
        (lambda t: t.put_file("relative", b""), UsageError),
        (lambda t: t.put_file("/a/./b", b""), UsageError),
        (lambda t: t.stage([Change("", ChangeKind.REMOVE)], []), UsageError),
        (lambda t: t.stage([Change("", ChangeKind.PUT, file_entry())], []), UsageError),
        (lambda t: t.stage([Change("/f", ChangeKind.PUT, file_entry())], ["data/ab/" + "0" * 38]), ObjectMissingError),
        (lambda t: t.set_xattrs("/sw", {b"a": b"x" * 256}), DocumentError),
    ],
)
def test_what_cannot_be_done_is_refused_and_leaves_no_change(repository, tree, edit, error):
    with repository.transaction() as transaction:
        with pytest.raises(error):
            edit(transaction)
        assert [*transaction.changes()] == []


def test_edits_show_at_once_and_only_the_net_change_is_kept(repository, tree):
    with repository.transaction() as transaction:
        transaction.put_file("/sw/new", b"")
        transaction.move("/sw/new", "/sw/newer")
        transaction.remove("/sw/newer")
        transaction.chmod("/sw/readme", 0o600)
        transaction.remove("/sw/readme")
        transaction.mkdir("/sw/readme")
        transaction.put_file("/sw/readme/inside", b"")
        names = [entry.name for entry in transaction.listing("/sw")]
        assert names == ["gcc", "link", "readme"]
        kinds = {change.path: change.kind.value for change in transaction.changes()}
        assert kinds == {"/sw/readme": "clear", "/sw/readme/inside": "put"}


def test_a_batch_is_staged_whole_or_not_at_all(repository, tree):
    transaction = repository.transaction()
    with pytest.raises(PathMissingError), transaction.batch():
        transaction.put_file("/new", b"")
        transaction.move("/sw/gcc", "/gcc")
        assert transaction.find("/gcc/bin") is not None
        transaction.remove("/absent")
    assert [*transaction.changes()] == []
    assert [*protected_objects(repository)] == []
    with transaction.batch():
        transaction.put_file("/one", b"1")
        with pytest.raises(ObjectMissingError):  # nothing of what is refused stays, what was done before does
            transaction.stage([Change("/refused", ChangeKind.PUT, file_entry())], ["data/ab/" + "0" * 38])
        with pytest.raises(TransactionStateError, match="in the middle of a batch"):
            transaction.commit()
        transaction.put_file("/two", b"2")
    transaction.close()
    with Transaction.open(repository, transaction.id) as again:
        assert [change.path for change in again.changes()] == ["/one", "/two"]


def test_what_was_removed_does_not_come_back_with_a_new_directory_of_the_same_name(repository, tree):
    with repository.transaction() as transaction:
        transaction.remove("/sw", recursive=True)
        transaction.mkdir("/sw")
        assert [*transaction.listing("/sw")] == []
    assert published(repository).paths == ["", "/sw"]


def test_a_whole_tree_with_its_catalogs_can_be_moved(repository, tree):
    with repository.transaction() as transaction:
        transaction.put_file("/sw/gcc/.cvmfscatalog", b"")
    before = published(repository).tree
    with repository.transaction() as transaction:
        transaction.put_file("/sw/gcc/staged", b"")
        transaction.move("/sw", "/software")
    seen = published(repository)
    assert set(seen.catalogs) == {"", "/software/gcc"}
    assert seen.paths == sorted(
        ["", "/software/gcc/staged", *(path.replace("/sw", "/software", 1) for path in before if path)]
    )
    assert seen.tree["/software/readme"].mtime_ns == before["/sw/readme"].mtime_ns


def test_hard_links_move_with_their_directory_and_one_that_is_edited_leaves_its_group(repository):
    content = repository.content.store_bytes(b"linked")
    with repository.transaction() as transaction:
        transaction.mkdir("/d")
        linked = file_entry(hardlink_group=1, **content.entry_fields)
        transaction.stage([Change(f"/d/{name}", ChangeKind.PUT, linked) for name in "abc"], content.found)
    with repository.transaction() as transaction:
        transaction.move("/d", "/e")
        transaction.chmod("/e/c", 0o600)
    seen = published(repository).tree
    assert [seen[f"/e/{name}"].link_count for name in "abc"] == [2, 2, 1]
    assert seen["/e/a"].hardlink_group == seen["/e/b"].hardlink_group != 0


def test_times_owners_and_attributes_can_be_changed(repository, tree):
    with repository.transaction() as transaction:
        transaction.utime("/sw/readme", -1_500_000_000)
        transaction.chown("/sw/readme", uid=12)
        transaction.chown("/sw/readme", gid=13)
        transaction.set_xattrs("/sw/readme", {b"user.b": b"2", b"user.a": b"1"})
        transaction.chmod("", 0o700)
    seen = published(repository).tree
    entry = seen["/sw/readme"]
    assert (entry.mtime, entry.mtime_ns, entry.uid, entry.gid) == (-2, 500_000_000, 12, 13)
    assert entry.xattrs == ((b"user.a", b"1"), (b"user.b", b"2"))
    assert seen[""].mode == stat.S_IFDIR | 0o700
    assert entry.digest == tree["/sw/readme"].digest


def test_what_a_transaction_relies_on_is_protected_until_it_ends(repository, tree):
    transaction = repository.transaction()
    transaction.put_file("/f", b"new")
    transaction.move("/sw/gcc", "/gcc")
    content = repository.content
    expected = {path for data in (b"new", b"binary") for path in content.store_bytes(data).found}
    assert set(protected_objects(repository)) == expected
    transaction.abort()
    assert [*protected_objects(repository)] == []
