"""Locks that end with their holder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from cdn.errors import LockHeldError, StorageError
from stratum0.locks import FileLock, commit_lock, objects_lock, publishing_locks, writers_lock


def test_a_lock_keeps_others_out_until_it_is_let_go(tmp_path):
    lock = FileLock(tmp_path / "lock")
    with pytest.raises(LockHeldError, match="locked by another process"):
        FileLock(tmp_path / "lock", timeout_seconds=0)
    lock.close()
    lock.close()
    FileLock(tmp_path / "lock", timeout_seconds=0).close()


def test_many_hold_a_lock_shared_and_keep_out_who_wants_it_alone(tmp_path):
    first, second = (FileLock(tmp_path / "lock", shared=True, timeout_seconds=0) for _ in range(2))
    with first, second, pytest.raises(LockHeldError):
        FileLock(tmp_path / "lock", timeout_seconds=0)
    with FileLock(tmp_path / "lock"), pytest.raises(LockHeldError):
        FileLock(tmp_path / "lock", shared=True, timeout_seconds=0)


def test_waiting_for_a_lock_ends_when_it_comes_free(tmp_path):
    lock = FileLock(tmp_path / "lock")
    threading.Timer(0.05, lock.close).start()
    FileLock(tmp_path / "lock", timeout_seconds=30).close()


def test_a_lock_file_that_cannot_be_made_is_a_storage_error(tmp_path):
    with pytest.raises(StorageError, match="cannot lock"):
        FileLock(tmp_path / "absent" / "lock")


def test_failed_attempts_leave_no_descriptor_open(tmp_path):
    with FileLock(tmp_path / "lock"):
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(10):
            with pytest.raises(LockHeldError):
                FileLock(tmp_path / "lock", timeout_seconds=0)
        assert len(os.listdir("/proc/self/fd")) == before


HOLD = """
import sys, time
from stratum0.locks import FileLock
lock = FileLock(sys.argv[1])
print("held", flush=True)
time.sleep(600)
"""


def test_a_killed_holder_holds_nothing(tmp_path):
    path = tmp_path / "lock"
    with subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(LockHeldError):
            FileLock(path, timeout_seconds=0)
        process.send_signal(signal.SIGKILL)
        process.wait()
    FileLock(path, timeout_seconds=0).close()


def test_a_forked_child_neither_prolongs_nor_ends_its_parents_lock(tmp_path):
    path = tmp_path / "lock"
    lock = FileLock(path)
    ready_out, ready_in = os.pipe()
    end_out, end_in = os.pipe()
    child = os.fork()
    if not child:
        lock.close()  # does nothing here
        os.write(ready_in, b"x")
        os.close(end_in)
        os.read(end_out, 1)
        os._exit(0)
    os.close(end_out)
    os.read(ready_out, 1)
    with pytest.raises(LockHeldError):
        FileLock(path, timeout_seconds=0)
    lock.close()
    FileLock(path, timeout_seconds=0).close()  # though the child lives
    os.close(end_in)
    assert os.waitpid(child, 0)[1] == 0


def test_commits_exclude_one_another_and_the_final_step_of_garbage_collection(tmp_path):
    with publishing_locks(tmp_path):
        for refused in (
            lambda: commit_lock(tmp_path, timeout_seconds=0),
            lambda: objects_lock(tmp_path, alone=True, timeout_seconds=0),
            lambda: writers_lock(tmp_path, alone=True, timeout_seconds=0),
        ):
            with pytest.raises(LockHeldError):
                refused()
        objects_lock(tmp_path, timeout_seconds=0).close()
        writers_lock(tmp_path, timeout_seconds=0).close()
    commit_lock(tmp_path, timeout_seconds=0).close()
