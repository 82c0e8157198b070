"""The memory of a source recognizes what did not change and forgets what it is told to."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdn.hashing import Algorithm, digest_of
from stratum0.sources import (
    RACY_NS,
    SourceMemory,
    is_directory_record,
    link_of_record,
    pack,
    packed_records,
    record_of,
    settled,
    unpack,
)

ROOT = digest_of(Algorithm.SHA1, b"a root catalog")
RECORD_BYTES = 48


@pytest.fixture
def open_memory(tmp_path: Path):
    def opened(target: str = "", settings: str = "") -> SourceMemory:
        return SourceMemory(tmp_path / "sources", b"/source", target, settings)

    return opened


@given(st.dictionaries(st.binary(min_size=1, max_size=255), st.binary(min_size=RECORD_BYTES, max_size=RECORD_BYTES)))
def test_packed_records_unpack(records: dict[bytes, bytes]) -> None:
    assert unpack(pack(records.items())) == records


def test_a_record_differs_when_any_published_or_telling_thing_does(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"1")
    seen = {record_of(os.lstat(file))}
    for change in (
        lambda: file.write_bytes(b"12"),
        lambda: file.chmod(0o600),
        lambda: os.utime(file, ns=(1, 1)),
        lambda: os.link(file, tmp_path / "g"),
        lambda: (file.rename(tmp_path / "h"), file.write_bytes(b"12"), os.utime(file, ns=(1, 1)), file.chmod(0o600)),
    ):
        change()
        seen.add(record_of(os.lstat(file)))
    assert len(seen) == 6


def test_a_time_that_64_bits_of_nanoseconds_cannot_hold_is_recorded(tmp_path: Path) -> None:
    status = os.lstat(tmp_path)
    fields = list(status)
    seen = set()
    for mtime_ns in (-(10**19), 0, 10**19, 10**19 + 1):
        for mode in (stat.S_IFDIR, stat.S_IFREG):
            changed = os.stat_result([mode, *fields[1:]], {"st_mtime_ns": mtime_ns, "st_ctime_ns": 0, "st_rdev": 0})
            packed, _ = packed_records([(b"f", changed)])
            assert unpack(packed) == {b"f": record_of(changed)}
            seen.add(packed)
    assert len(seen) == 8


def test_a_directorys_record_does_not_follow_what_is_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    os.utime(folder, ns=(5, 5))
    before = record_of(os.lstat(folder))
    (folder / "f").write_bytes(b"")
    os.utime(folder, ns=(5, 5))
    assert record_of(os.lstat(folder)) == before
    assert is_directory_record(before)


def test_a_file_changed_just_before_it_was_seen_is_not_remembered_as_known(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"1")
    status = os.lstat(file)
    record = record_of(status)
    assert settled(record, status.st_ctime_ns + RACY_NS + 1) == record
    racy = settled(record, status.st_ctime_ns + 1)
    assert racy != record
    assert link_of_record(racy)[0] == 0


def test_what_was_remembered_is_there_after_a_commit(open_memory) -> None:
    with open_memory() as memory:
        assert memory.published is None
        memory.remember(b"a", b"records")
        memory.commit(ROOT)
    with open_memory() as memory:
        assert memory.published == ROOT
        assert memory.records(b"a") == b"records"
        assert memory.records(b"b") is None


def test_what_was_not_committed_is_forgotten(open_memory) -> None:
    with open_memory() as memory:
        memory.remember(b"a", b"old")
        memory.commit(ROOT)
        memory.remember(b"a", b"new")
        memory.forget(b"a")
    with open_memory() as memory:
        assert memory.records(b"a") == b"old"


def test_forgetting_a_folder_forgets_what_is_below_and_nothing_beside(open_memory) -> None:
    with open_memory() as memory:
        for folder in (b"a", b"a/b", b"a/b/c", b"a-b", b"a0", b"ab", b"b"):
            memory.remember(folder, b"")
        memory.forget(b"a")
        left = [
            folder for folder in (b"a", b"a/b", b"a/b/c", b"a-b", b"a0", b"ab", b"b") if memory.records(folder) == b""
        ]
        assert left == [b"a-b", b"a0", b"ab", b"b"]
        memory.forget(b"")
        assert memory.records(b"b") is None


def test_another_target_or_other_settings_are_another_memory(open_memory) -> None:
    with open_memory() as memory:
        memory.remember(b"a", b"records")
        memory.commit(ROOT)
    for arguments in (("/sub", ""), ("", "sha1")):
        with open_memory(*arguments) as memory:
            assert memory.published is None


def test_a_damaged_memory_is_no_memory(open_memory, tmp_path: Path) -> None:
    with open_memory() as memory:
        memory.commit(ROOT)
    (file,) = (tmp_path / "sources").iterdir()
    file.write_bytes(b"this is no database" * 1000)
    with open_memory() as memory:
        assert memory.published is None
        memory.remember(b"a", b"records")
        memory.commit(ROOT)
