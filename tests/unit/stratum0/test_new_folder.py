"""A new folder is stored in one go: what is ordinary in it becomes rows, everything else is handed back."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdn.catalog.entries import Entry
from cdn.catalog.rows import encode_plain_file
from cdn.chunking import CHUNKED_ABOVE_BYTES
from cdn.compression import Compression
from cdn.hashing import Algorithm, Digest
from cdn.objects import Kind, ObjectName
from cdn.storage.local import LocalStore
from stratum0 import new_folder
from stratum0.changes import Change, ChangeKind
from stratum0.content import ContentIndex, ContentSettings, ContentStore
from stratum0.new_folder import NewFolder, StoredFolder, store_new_folder
from stratum0.sources import RACY_NS, pack, packed_records, record_of, settled, settled_records
from stratum0.staging import change_of, key_of, new_file_row, row_of

LATER_NS = 1 << 62


@pytest.fixture
def content(tmp_path: Path):
    with ContentIndex(tmp_path / "content.sqlite") as index:
        yield ContentStore(LocalStore(tmp_path / "store"), ContentSettings(Algorithm.SHAKE128), index)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "source"
    made.mkdir()
    return made


def stored(folder: Path, content: ContentStore, looked_ns: int = LATER_NS) -> StoredFolder:
    return store_new_folder(NewFolder(os.fsencode(folder), key_of("/sw/new"), looked_ns), content)


def staged(outcome: StoredFolder) -> dict[str, Change]:
    return {change.path: change for change in map(change_of, outcome.rows)}


@given(
    name=st.text(st.characters(exclude_characters="/\0", exclude_categories=()), min_size=1, max_size=60).filter(
        lambda name: name not in {".", ".."}
    ),
    size=st.integers(0, CHUNKED_ABOVE_BYTES),
    permissions=st.integers(0, 0o7777),
    mtime_ns=st.integers(-(1 << 61), 1 << 61),
    owner=st.integers(0, 0xFFFF_FFFF),
    algorithm=st.sampled_from(Algorithm),
    compression=st.sampled_from(Compression),
    value=st.binary(min_size=20, max_size=20),
    plain=st.binary(min_size=32, max_size=32),
)
def test_the_short_way_to_a_row_comes_to_the_same_as_the_long_one(
    name, size, permissions, mtime_ns, owner, algorithm, compression, value, plain
) -> None:
    name = os.fsdecode(name.encode("utf-8", "surrogatepass"))
    digest = Digest(algorithm, value)
    entry = Entry(
        name=name,
        mode=0o100000 | permissions,
        size=size,
        mtime=mtime_ns // 10**9,
        mtime_ns=mtime_ns % 10**9,
        uid=owner,
        gid=owner,
        digest=digest,
        plain_digest=plain,
        compression=compression,
    )
    path = f"/folder/{name}"
    columns = encode_plain_file(
        name,
        size=size,
        mode=0o100000 | permissions,
        mtime_ns=mtime_ns,
        uid=owner,
        gid=owner,
        digest=digest,
        plain_digest=plain,
        compression=compression,
    )
    assert new_file_row(key_of(path), columns) == row_of(Change(path, ChangeKind.PUT, entry))


def test_ordinary_files_are_stored_and_described(folder: Path, content: ContentStore) -> None:
    contents = {"empty": b"", "one": b"1", "text.txt": b"words " * 500, "na\udcefve": b"not UTF-8"}
    for name, data in contents.items():
        (folder / name).write_bytes(data)
        os.chmod(folder / name, 0o640)
        os.utime(folder / name, ns=(1, 1_600_000_000_123_456_789))
    outcome = stored(folder, content)
    assert outcome.rest == []
    assert outcome.seen == outcome.objects_new == len(contents)
    assert outcome.bytes_read == sum(map(len, contents.values()))
    changes = staged(outcome)
    assert changes.keys() == {f"/sw/new/{name}" for name in contents}
    for name, data in contents.items():
        entry = changes[f"/sw/new/{name}"].entry
        assert entry is not None
        assert entry.digest is not None
        assert (entry.mode, entry.size) == (0o100640, len(data))
        assert (entry.mtime, entry.mtime_ns) == (1_600_000_000, 123_456_789)
        again = content.store_piece(data, Kind.FILE)
        assert (again.digest, again.is_new) == (entry.digest, False)


def test_what_is_not_ordinary_is_handed_back_in_order(folder: Path, content: ContentStore) -> None:
    (folder / "folder").mkdir()
    (folder / "large").write_bytes(bytes(CHUNKED_ABOVE_BYTES + 1))
    (folder / "link").symlink_to("plain")
    (folder / "plain").write_bytes(b"plain")
    (folder / "twice").write_bytes(b"twice")
    os.link(folder / "twice", folder / "again")
    os.mkfifo(folder / "pipe")
    outcome = stored(folder, content)
    assert [name for name, _ in outcome.rest] == [b"again", b"folder", b"large", b"link", b"pipe", b"twice"]
    assert staged(outcome).keys() == {"/sw/new/plain"}


def test_a_name_that_makes_the_path_too_long_is_handed_back(folder: Path, content: ContentStore) -> None:
    (folder / ("n" * 100)).write_bytes(b"")
    (folder / "n").write_bytes(b"")
    key = key_of("/" + "/".join(["d" * 200] * 20))
    assert len(key) < 4096 < len(key) + 100
    outcome = store_new_folder(NewFolder(os.fsencode(folder), key, LATER_NS), content)
    assert [name for name, _ in outcome.rest] == [b"n" * 100]
    assert len(outcome.rows) == 1


def test_files_above_the_number_for_one_answer_are_handed_back(
    folder: Path, content: ContentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(new_folder, "FILES_MAX", 3)
    for number in range(5):
        (folder / f"f{number}").write_bytes(b"%d" % number)
    outcome = stored(folder, content)
    assert len(outcome.rows) == 3
    assert [name for name, _ in outcome.rest] == [b"f3", b"f4"]


def test_content_that_the_store_had_is_named(folder: Path, content: ContentStore) -> None:
    piece = content.store_piece(b"known", Kind.FILE)
    (folder / "known").write_bytes(b"known")
    (folder / "new").write_bytes(b"new")
    outcome = stored(folder, content)
    assert outcome.found == [ObjectName(piece.digest, Kind.FILE).path]
    assert outcome.objects_new == 1


def test_a_file_that_may_have_changed_unseen_is_not_to_be_trusted_next_time(
    folder: Path, content: ContentStore
) -> None:
    (folder / "young").write_bytes(b"young")
    now_ns = os.stat(folder / "young").st_ctime_ns
    statuses = [(b"young", os.lstat(folder / "young"))]
    records = packed_records(statuses)[0]
    assert stored(folder, content, now_ns + 2 * RACY_NS).settled == records
    outcome = stored(folder, content, now_ns)
    assert outcome.records == records
    assert outcome.settled == settled_records(records, statuses, now_ns) != records
    assert outcome.settled == pack([(b"young", settled(record_of(statuses[0][1]), now_ns))])


def test_a_folder_that_is_gone_is_an_error(folder: Path, content: ContentStore) -> None:
    folder.rmdir()
    with pytest.raises(FileNotFoundError):
        stored(folder, content)
