"""The content pipeline stores many files on all cores and notices those that change."""

from __future__ import annotations

import io
import os
import random
import signal
from pathlib import Path

import pytest

from cdn.chunking import CHUNKED_ABOVE_BYTES
from cdn.errors import StorageError, UsageError
from cdn.hashing import Algorithm
from cdn.storage.local import LocalStore
from stratum0.content import ContentSettings, StoredContent
from stratum0.jobs import FileChanged, WorkerSetup
from stratum0.new_folder import NewFolder, StoredFolder
from stratum0.pipeline import BATCH_JOBS_MAX, START_AFTER_BATCHES, Pipeline
from stratum0.staging import change_of, key_of
from stratum0.stamps import Stamp
from tests.unit.stratum0.test_content import read_back

MANY = BATCH_JOBS_MAX * (START_AFTER_BATCHES + 2)
"""So many files that worker processes are started."""


@pytest.fixture
def setup(tmp_path: Path) -> WorkerSetup:
    settings = ContentSettings(Algorithm.SHA1)
    return WorkerSetup(str(tmp_path / "store"), str(tmp_path / "content.sqlite"), settings)


def stamp_of(path: Path) -> Stamp:
    return Stamp.of(os.lstat(path))


def store_all(setup: WorkerSetup, files: dict[str, Path], workers: int | None = 2) -> dict[str, object]:
    outcome: dict[str, object] = {}
    with Pipeline(setup, workers=workers) as pipeline:
        for name, path in files.items():
            pipeline.store_file(
                os.fsencode(path), stamp_of(path), lambda content, name=name: outcome.update({name: content})
            )
        pipeline.drain()
    return outcome


def write_files(folder: Path, contents: dict[str, bytes]) -> dict[str, Path]:
    folder.mkdir()
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    return {name: folder / name for name in contents}


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_every_file_is_stored_as_it_is(setup: WorkerSetup, tmp_path: Path, workers: int) -> None:
    contents = {f"f{number}": random.Random(number).randbytes(number % 700) for number in range(MANY)}
    contents["large"] = random.Random(0).randbytes(3 * CHUNKED_ABOVE_BYTES)
    outcome = store_all(setup, write_files(tmp_path / "in", contents), workers)
    store = LocalStore(setup.store_root)
    assert outcome.keys() == contents.keys()
    for name, data in contents.items():
        stored = outcome[name]
        assert isinstance(stored, StoredContent)
        assert read_back(store, stored) == data


def test_few_files_need_no_process(setup: WorkerSetup, tmp_path: Path) -> None:
    files = write_files(tmp_path / "in", {"a": b"a", "b": b"b"})
    with Pipeline(setup) as pipeline:
        for path in files.values():
            pipeline.store_file(os.fsencode(path), stamp_of(path), lambda _: None)
        pipeline.drain()
        assert pipeline.worker_ids == ()


def test_content_stored_once_is_found_by_the_next_pipeline(setup: WorkerSetup, tmp_path: Path) -> None:
    files = write_files(tmp_path / "in", {f"f{number}": b"%d" % number for number in range(MANY)})
    first = store_all(setup, files)
    second = store_all(setup, files)
    assert sum(content.stored_size for content in first.values()) > 0  # type: ignore[attr-defined]
    assert sum(content.stored_size for content in second.values()) == 0  # type: ignore[attr-defined]


def test_a_file_that_is_no_longer_the_one_that_was_scanned_is_not_stored(setup: WorkerSetup, tmp_path: Path) -> None:
    path = write_files(tmp_path / "in", {"a": b"before"})["a"]
    stamp = stamp_of(path)
    path.write_bytes(b"after it grew")
    outcome: list[object] = []
    with Pipeline(setup) as pipeline:
        pipeline.store_file(os.fsencode(path), stamp, outcome.append)
        pipeline.drain()
    assert outcome == [FileChanged()]


@pytest.mark.parametrize("size", [5, 2 * CHUNKED_ABOVE_BYTES])
def test_a_file_that_is_gone_counts_as_changed(setup: WorkerSetup, tmp_path: Path, size: int) -> None:
    path = write_files(tmp_path / "in", {"a": bytes(size)})["a"]
    stamp = stamp_of(path)
    path.unlink()
    outcome: list[object] = []
    with Pipeline(setup) as pipeline:
        pipeline.store_file(os.fsencode(path), stamp, outcome.append)
        pipeline.drain()
    assert outcome == [FileChanged()]


@pytest.mark.parametrize("replacement", ["fifo", "symlink"])
def test_a_file_that_became_something_else_neither_hangs_nor_is_followed(
    setup: WorkerSetup, tmp_path: Path, replacement: str
) -> None:
    path = write_files(tmp_path / "in", {"a": b"hello", "secret": b"other"})["a"]
    stamp = stamp_of(path)
    path.unlink()
    if replacement == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to("secret")
    outcome: list[object] = []
    with Pipeline(setup) as pipeline:
        pipeline.store_file(os.fsencode(path), stamp, outcome.append)
        pipeline.drain()
    assert outcome == [FileChanged()]


def test_a_killed_worker_is_an_error_that_says_so(setup: WorkerSetup, tmp_path: Path) -> None:
    files = write_files(tmp_path / "in", {f"f{number}": bytes(number) for number in range(MANY)})
    with Pipeline(setup, workers=1) as pipeline:
        for path in files.values():
            pipeline.store_file(os.fsencode(path), stamp_of(path), lambda _: None)
        (worker,) = pipeline.worker_ids
        os.kill(worker, signal.SIGKILL)
        with pytest.raises(StorageError, match="ended by signal 9"):
            for _ in range(MANY):
                for path in files.values():
                    pipeline.store_file(os.fsencode(path), stamp_of(path), lambda _: None)
                pipeline.drain()


def test_workers_end_with_the_pipeline(setup: WorkerSetup, tmp_path: Path) -> None:
    files = write_files(tmp_path / "in", {f"f{number}": bytes(number) for number in range(MANY)})
    with Pipeline(setup, workers=2) as pipeline:
        for path in files.values():
            pipeline.store_file(os.fsencode(path), stamp_of(path), lambda _: None)
        pipeline.drain()
        workers = pipeline.worker_ids
        assert len(workers) == 2
    for worker in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)


def test_a_store_that_cannot_be_written_is_an_error_from_the_worker(setup: WorkerSetup, tmp_path: Path) -> None:
    (tmp_path / "store").write_bytes(b"a file where the store should be")
    files = write_files(tmp_path / "in", {f"f{number}": bytes(number) for number in range(MANY)})
    with pytest.raises(StorageError):
        store_all(setup, files)


@pytest.mark.parametrize("size", [0, 10, CHUNKED_ABOVE_BYTES, 3 * CHUNKED_ABOVE_BYTES])
def test_streams_are_stored_like_files(setup: WorkerSetup, size: int) -> None:
    data = random.Random(size).randbytes(size)
    outcome: list[StoredContent] = []
    with Pipeline(setup) as pipeline:
        pipeline.store_stream(io.BytesIO(data + b"what follows in the archive"), size, outcome.append)
        pipeline.drain()
    assert read_back(LocalStore(setup.store_root), outcome[0]) == data


def test_a_stream_that_ends_too_early_is_refused(setup: WorkerSetup) -> None:
    with Pipeline(setup) as pipeline, pytest.raises(UsageError, match="ended after 3"):
        pipeline.store_stream(io.BytesIO(b"abc"), 10, lambda _: None)


def new_folders(tmp_path: Path, count: int) -> list[Path]:
    folders = [tmp_path / f"folder{number}" for number in range(count)]
    for folder in folders:
        write_files(folder, {f"f{number}": folder.name.encode() + b"%d" % number for number in range(50)})
    return folders


@pytest.mark.parametrize("workers", [0, 2])
def test_new_folders_are_stored_where_the_work_is_done(setup: WorkerSetup, tmp_path: Path, workers: int) -> None:
    folders = new_folders(tmp_path, 12)
    outcome: dict[Path, StoredFolder] = {}
    with Pipeline(setup, workers=workers) as pipeline:
        for folder in folders:
            request = NewFolder(os.fsencode(folder), key_of(f"/{folder.name}"), 1 << 62)
            pipeline.store_folder(request, lambda stored, folder=folder: outcome.update({folder: stored}))
        while pipeline.wait():
            pass
        assert len(pipeline.worker_ids) == workers
        pipeline.drain()
    assert outcome.keys() == set(folders)
    store = LocalStore(setup.store_root)
    for folder, stored in outcome.items():
        contents = {}
        for change in map(change_of, stored.rows):
            assert change.entry is not None
            assert change.entry.digest is not None
            content = StoredContent(change.entry.size, change.entry.compression, change.entry.digest)
            contents[change.path] = read_back(store, content)
        assert contents == {f"/{folder.name}/{file.name}": file.read_bytes() for file in folder.iterdir()}


def test_few_new_folders_need_no_process(setup: WorkerSetup, tmp_path: Path) -> None:
    with Pipeline(setup) as pipeline:
        for folder in new_folders(tmp_path, 2):
            pipeline.store_folder(NewFolder(os.fsencode(folder), key_of("/new"), 1 << 62), lambda _: None)
        assert not pipeline.wait()
        assert pipeline.worker_ids == ()


def test_content_of_new_folders_is_found_by_the_next_pipeline(setup: WorkerSetup, tmp_path: Path) -> None:
    (folder,) = new_folders(tmp_path, 1)
    for expected in (50, 0):
        outcome: list[StoredFolder] = []
        with Pipeline(setup) as pipeline:
            pipeline.store_folder(NewFolder(os.fsencode(folder), key_of("/new"), 1 << 62), outcome.append)
            pipeline.drain()
        assert outcome[0].objects_new == expected
        assert len(outcome[0].found) == 50 - expected


@pytest.mark.parametrize("before", [0, 12])
def test_a_new_folder_that_is_gone_is_an_error(setup: WorkerSetup, tmp_path: Path, before: int) -> None:
    """Be it found out here or by a worker."""
    missing = [tmp_path / "gone"]
    with Pipeline(setup) as pipeline, pytest.raises(FileNotFoundError, match="gone"):
        for folder in new_folders(tmp_path, before) + missing:
            pipeline.store_folder(NewFolder(os.fsencode(folder), key_of("/new"), 1 << 62), lambda _: None)
        pipeline.drain()
