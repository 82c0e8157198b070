"""Verifying objects, in this process and in others."""

from __future__ import annotations

import os
import signal

import pytest

from cdn.errors import StorageError
from cdn.hashing import Algorithm, digest_of
from cdn.objects import Kind, ObjectName
from cdn.storage.local import LocalStore
from stratum0 import verification
from stratum0.marks import ObjectMarks
from stratum0.verification import verify_all, verify_object


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path / "store")


def stored(store, content, algorithm=Algorithm.SHAKE128, kind=Kind.FILE):
    name = ObjectName(digest_of(algorithm, content), kind)
    store.put(name.path, content)
    return name


@pytest.mark.parametrize("algorithm", Algorithm)
@pytest.mark.parametrize("content", [b"", b"x", b"y" * (3 << 20)])
def test_an_object_that_is_right_is_found_to_be(store, algorithm, content):
    name = stored(store, content, algorithm, Kind.CHUNK)
    if content:  # only a file's content may be empty
        assert verify_object(store.root, name, content=True) == (len(content), None)


def test_presence_alone_does_not_look_inside_but_an_empty_file_is_no_object(store, tmp_path):
    name = stored(store, b"content")
    file = tmp_path / "store" / name.path
    file.write_bytes(b"rotten")
    assert verify_object(store.root, name, content=False) == (6, None)
    file.write_bytes(b"")
    size, damage = verify_object(store.root, name, content=False)
    assert size == 0
    assert damage is not None
    assert not damage.is_missing


def test_what_is_no_file_is_damage_and_never_hangs(store, tmp_path):
    name = stored(store, b"content")
    file = tmp_path / "store" / name.path
    file.unlink()
    os.mkfifo(file)
    assert verify_object(store.root, name, content=True)[1] is not None
    file.unlink()
    file.mkdir()
    assert verify_object(store.root, name, content=True)[1] is not None


@pytest.mark.parametrize("in_process", [True, False])
def test_many_objects_are_verified_each_once(store, tmp_path, monkeypatch, in_process):
    if not in_process:
        monkeypatch.setattr(verification, "IN_PROCESS_BYTES_MAX", 0)
    marks = ObjectMarks(tmp_path / "marks")
    names = [stored(store, b"content %d" % number) for number in range(300)]
    for name in [*names, *names]:
        marks.add(name)
    marks.flush()
    store.delete(names[0].path)
    (tmp_path / "store" / names[1].path).write_bytes(b"rotten")
    results = list(
        verify_all(store.root, [(number, marks.file(number)) for number in range(256)], content=True, workers=2)
    )
    assert sum(result.objects for result in results) == len(names)
    assert {damage.name: damage.is_missing for result in results for damage in result.damaged} == {
        names[0]: True,
        names[1]: False,
    }
    assert len({result.number for result in results}) == len(results)


def test_a_worker_that_dies_is_an_error_and_leaves_no_process(store, tmp_path, monkeypatch):
    monkeypatch.setattr(verification, "IN_PROCESS_BYTES_MAX", 0)
    started = []
    original = verification.subprocess.Popen

    def popen(*words, **options):
        started.append(original(*words, **options))
        return started[-1]

    monkeypatch.setattr(verification.subprocess, "Popen", popen)
    marks = ObjectMarks(tmp_path / "marks")
    for number in range(300):
        marks.add(stored(store, b"content %d" % number))
    marks.flush()
    results = verify_all(store.root, [(number, marks.file(number)) for number in range(256)], content=True, workers=2)
    next(results)
    for process in started:
        os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(StorageError, match="worker process died"):
        list(results)
    assert all(process.poll() is not None for process in started)
