"""Publishers killed at every step and at any time: what is served is one revision or the other, and whole."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from cdn.objects import REFLOG_PATH
from cdn.reflog import checksum
from cdn.telemetry import faults_seen
from stratum0.documents import kept_reflog_checksum
from stratum0.lease import StateLeases
from stratum0.records import TransactionState, TransactionTable
from stratum0.transaction import Transaction, records
from stratum0.transaction_folders import TRANSACTIONS_FOLDER
from tests.fakes import prepared
from tests.fakes.publishers import new_publisher, published, reopened

PROGRAM = Path(__file__).with_name("publisher_program.py")
BEFORE_MANIFEST = [
    "commit.objects.stored",
    "commit.catalogs.stored",
    "commit.history.stored",
    "commit.reflog.stored",
    "commit.flush.done",
    "commit.manifest.before",
]
AFTER_MANIFEST = ["commit.manifest.after", "commit.state.recorded"]


@pytest.fixture
def repository(tmp_path):
    repository = new_publisher(tmp_path)
    with repository.transaction() as transaction:
        transaction.put_file("/old", b"old")
    yield repository
    repository.close()


def start(repository, *arguments, fault=None):
    environment = {**os.environ, "PYTHONPATH": str(PROGRAM.parents[2])} | ({"CDN_FAULT": fault} if fault else {})
    words = [PROGRAM, repository.home.root, *arguments]
    return prepared.popen(*words, env=environment, stdout=subprocess.PIPE, text=True)


def run(repository, *arguments, fault=None):
    with start(repository, *arguments, fault=fault) as process:
        said = process.stdout.read()
        return process.wait(), said


def check_is_clean(repository):
    """Nothing of the dead is left, and the three places that name the reflog agree."""
    open_ids = {record.id for record in records(repository)}
    folder = repository.folder / TRANSACTIONS_FOLDER
    assert {path.name for path in folder.iterdir()} == open_ids
    assert len(StateLeases(repository.state).held(repository.clock.now())) == len(open_ids)
    staging = Path(repository.store.root, "data", "txn")
    assert [path for path in staging.rglob("*") if path.is_file()] == []
    manifest = repository.head().manifest
    served = checksum(Path(repository.store.root, REFLOG_PATH), manifest.root_catalog.algorithm)
    assert manifest.reflog == served == kept_reflog_checksum(repository)


def publish_next(repository):
    before = repository.head().revision
    with repository.transaction(ephemeral=True) as transaction:
        transaction.put_file("/next", b"next")
    seen = published(repository)
    assert seen.manifest.revision == before + 1
    assert "/next" in seen.tree
    check_is_clean(repository)
    return seen


def test_the_fault_points_of_a_commit_are_these_in_this_order(repository):
    with faults_seen() as names, repository.transaction() as transaction:
        transaction.put_file("/new", b"new")
    assert names == [*BEFORE_MANIFEST, *AFTER_MANIFEST]


@pytest.mark.parametrize("fault", [*BEFORE_MANIFEST, *AFTER_MANIFEST])
def test_a_publish_killed_at_any_step_is_there_whole_or_not_at_all_and_cleaned_up(repository, fault):
    old = published(repository)
    status, said = run(repository, "one", "/sub", "content", fault=fault)
    assert status == -signal.SIGKILL
    assert "published" not in said

    served = published(repository)
    is_new = fault in AFTER_MANIFEST
    assert served.manifest.revision == old.manifest.revision + is_new
    assert ("/sub/nested/file" in served.tree) == is_new
    assert "/old" in served.tree

    again = reopened(repository)
    assert published(again).manifest.root_catalog == served.manifest.root_catalog
    check_is_clean(again)
    assert records(again) == []
    seen = publish_next(again)
    assert ("/sub/folder/file" in seen.tree) == is_new


@pytest.mark.parametrize("fault", [*BEFORE_MANIFEST, *AFTER_MANIFEST])
def test_a_staged_transaction_killed_while_it_commits_is_committed_or_can_be_committed_again(repository, fault):
    status, said = run(repository, "one", "/sub", "content", "staged", fault=fault)
    assert status == -signal.SIGKILL
    transaction_id = said.split()[1]

    again = reopened(repository)
    check_is_clean(again)
    record = TransactionTable(again.state).find(transaction_id)
    if fault in AFTER_MANIFEST:
        assert record.state is TransactionState.COMMITTED
    else:
        assert record.state is TransactionState.OPEN
        transaction = Transaction.open(again, transaction_id)
        assert transaction.find("/sub/nested/file").is_file
        assert transaction.commit().number == 3
    seen = published(again)
    assert seen.manifest.revision == 3
    assert "/sub/folder/file" in seen.tree
    publish_next(again)


def test_a_killed_commit_can_be_resumed_by_a_command_that_did_not_recover_first(repository):
    _, said = run(repository, "one", "/sub", "content", "staged", fault="commit.manifest.before")
    with Transaction.open(repository, said.split()[1]) as transaction:
        assert transaction.commit().number == 3
    assert "/sub/folder/file" in published(repository).tree


def test_a_killed_publish_does_not_keep_the_next_one_out_of_its_subtree(repository):
    """Even in a program that had the repository open all the time."""
    run(repository, "one", "/sub", "content", fault="commit.catalogs.stored")
    with repository.transaction("/sub", ephemeral=True) as transaction:
        transaction.put_file("/sub/mine", b"")
    assert "/sub/mine" in published(repository).tree


def test_recovery_leaves_what_is_alive_alone(repository):
    with repository.transaction("/alive", ephemeral=True) as transaction:
        transaction.put_file("/alive/file", b"content")
        again = reopened(repository)
        assert [record.id for record in records(again)] == [transaction.id]
    assert "/alive/file" in published(repository).tree


def acknowledged(lines):
    """Revision and content of the last publication that was said to be done."""
    done = [line.split() for line in lines if line.startswith("published")]
    return (int(done[-1][1]), int(done[-1][2])) if done else (0, -1)


@pytest.mark.parametrize("seed", range(4))
def test_a_publisher_killed_at_any_time_loses_nothing_that_was_acknowledged(repository, seed):
    chance = random.Random(seed)
    for _ in range(3):
        before = published(repository)
        process = start(repository, "many", "/sub", "1000")
        lines = [process.stdout.readline() for _ in range(chance.randint(1, 4))]
        time.sleep(chance.random() * 0.2)  # so that it dies anywhere
        process.kill()
        with process:
            lines += process.stdout.readlines()
        process.wait()
        revision, number = acknowledged(lines)
        served = published(repository)
        assert served.manifest.revision >= max(revision, before.manifest.revision)
        assert served.manifest.revision <= max(revision, before.manifest.revision) + 1
        if revision:
            content = [repository.content.store_bytes(str(each).encode()).digest for each in (number, number + 1)]
            assert served.tree["/sub/folder/file"].digest in content
        repository = reopened(repository)
        check_is_clean(repository)
    publish_next(repository)


def test_processes_that_publish_to_disjoint_subtrees_at_once_lose_nothing(repository):
    first = repository.head().revision
    processes = [start(repository, "many", f"/p{number}", "4") for number in range(4)]
    with contextlib.ExitStack() as stack:
        said = [stack.enter_context(process).stdout.read() for process in processes]
        assert [process.wait() for process in processes] == [0, 0, 0, 0]
    revisions = sorted(
        int(line.split()[1]) for text in said for line in text.splitlines() if line.startswith("published")
    )
    assert revisions == [*range(first + 1, first + 17)]
    seen = published(repository)
    for number in range(4):
        assert seen.tree[f"/p{number}/folder/file"].digest == repository.content.store_bytes(b"3").digest
    assert seen.manifest.revision == first + 16
