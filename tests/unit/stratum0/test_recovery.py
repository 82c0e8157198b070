"""What dead publishers left is put right, and nothing else is touched."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from cdn.clock import ManualClock
from cdn.hashing import Algorithm, digest_of
from cdn.objects import MANIFEST_PATH, REFLOG_PATH, Kind, ObjectName
from cdn.telemetry import FaultInjected, faults_armed
from stratum0.documents import kept_reflog_checksum, read_reflog, write_reflog
from stratum0.locks import writers_lock
from stratum0.records import TransactionState
from stratum0.recovery import recover
from stratum0.transaction_folders import work_folder
from tests.fakes.publishers import new_publisher

START = 1_790_000_000


@pytest.fixture
def repository(tmp_path):
    with new_publisher(tmp_path, ManualClock(START)) as repository:
        yield repository


def publish(repository, path="/f"):
    with repository.transaction() as transaction:
        transaction.put_file(path, b"", parents=True)


def test_a_repository_where_nothing_died_needs_no_recovery(repository):
    assert not recover(repository)


def test_a_staged_transaction_whose_folder_is_gone_is_given_up(repository):
    transaction = repository.transaction("/a")
    transaction.close()
    shutil.rmtree(transaction.folder)
    assert recover(repository).aborted == (transaction.id,)
    repository.transaction("/a").abort()


def test_a_commit_that_died_is_known_to_have_happened_from_later_revisions_too(repository):
    transaction = repository.transaction("/a")
    transaction.put_file("/a/f", b"")
    with faults_armed("commit.manifest.after:raise"), pytest.raises(FaultInjected):
        transaction.commit()
    table = transaction._table
    published_root = repository.head().root
    publish(repository, "/b")
    # as if it had died right after the manifest was replaced
    record = replace(
        transaction.record, id="died", state=TransactionState.COMMITTING, new_root=published_root, new_revision=2
    )
    table.add(record)
    assert recover(repository).committed == ("died",)
    never = replace(record, id="never", new_root=repository.head().manifest.history, new_revision=3)
    table.add(never)
    assert recover(repository).aborted == ("never",)  # nothing of it is left to be opened again


def test_a_reflog_ahead_of_the_manifest_is_taken_back(repository):
    publish(repository)
    reflog = read_reflog(repository)
    never = ObjectName(digest_of(Algorithm.SHAKE128, b"never published"), Kind.CATALOG)
    write_reflog(repository, reflog.with_objects([never], START))
    recover(repository)
    assert read_reflog(repository) == reflog
    assert kept_reflog_checksum(repository) == repository.head().manifest.reflog


def test_a_damaged_reflog_is_left_for_the_check_to_find(repository):
    publish(repository)
    path = Path(repository.store.root, REFLOG_PATH)
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    recover(repository)
    assert path.read_bytes() == data


def test_recovery_needs_no_manifest_where_nothing_died(repository):
    """Or nobody could look at a repository whose manifest is damaged."""
    Path(repository.store.root, MANIFEST_PATH).write_bytes(b"nonsense")
    assert not recover(repository)


def test_a_checksum_that_was_not_written_in_time_is_written(repository):
    publish(repository)
    checksum = repository.folder / "reflog.chksum"
    checksum.write_text(f"{digest_of(Algorithm.SHAKE128, b'before')}\n")
    recover(repository)
    assert kept_reflog_checksum(repository) == repository.head().manifest.reflog


def test_folders_that_belong_to_no_transaction_are_removed_unless_somebody_uses_them(repository):
    transaction = repository.transaction()
    left = transaction.folder.with_name("left")
    left.mkdir()
    (left / "file").write_bytes(b"")
    with work_folder(repository) as used:
        recover(repository)
        assert used.is_dir()
    assert not left.exists()
    assert transaction.folder.is_dir()
    transaction.abort()


def test_staged_objects_are_swept_only_if_nobody_is_storing(repository):
    store = repository.store
    store.prepare()
    left = Path(store.root, "data/txn/dead-0")
    left.write_bytes(b"half")
    with writers_lock(repository.folder):
        assert recover(repository).swept == 0
    assert recover(repository).swept == 1
    assert not left.exists()
