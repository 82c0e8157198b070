from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from cdn.client.cache import ObjectCache
from cdn.errors import StorageError
from cdn.hashing import Algorithm, digest_of
from cdn.objects import Kind, ObjectName


def name_of(content: bytes, kind: Kind = Kind.FILE) -> ObjectName:
    return ObjectName(digest_of(Algorithm.SHA1, content), kind)


def keep(cache: ObjectCache, content: bytes):
    spool = cache.stage()
    spool.write(content)
    return cache.keep(spool, name_of(content), hashlib.sha256(content).digest())


def file_of(cache: ObjectCache, content: bytes) -> Path:
    return Path(cache.folder) / "objects" / name_of(content).path.removeprefix("data/")


@pytest.fixture
def cache(tmp_path):
    return ObjectCache(tmp_path / "cache")


def test_what_was_kept_is_read_at_any_offset(cache):
    content = keep(cache, b"0123456789")
    again = ObjectCache(cache.folder).open(name_of(b"0123456789"))
    for opened in (content, again):
        assert (opened.size, opened.read(3, 4), opened.read(8, 100), opened.read(10, 5)) == (10, b"3456", b"89", b"")


def test_what_is_not_there_is_none(cache):
    assert cache.open(name_of(b"nothing")) is None


def test_names_of_other_kinds_are_other_objects(cache):
    keep(cache, b"x")
    assert cache.open(name_of(b"x", Kind.CHUNK)) is None


@pytest.mark.parametrize("place", [0, 500, 999, 1000, 1010, 1040, -1])
def test_a_flipped_byte_is_found_when_a_process_first_opens_the_file(cache, place):
    content = bytes(range(250)) * 4
    keep(cache, content)
    path = file_of(cache, content)
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    assert ObjectCache(cache.folder).open(name_of(content)) is None
    assert not path.exists(), "so that it is fetched again"


def test_a_file_that_changes_later_is_looked_at_again(cache):
    keep(cache, b"content")
    assert cache.open(name_of(b"content")) is not None
    path = file_of(cache, b"content")
    data = path.read_bytes()
    path.write_bytes(b"C" + data[1:])
    os.utime(path, ns=(1, 1))
    assert cache.open(name_of(b"content")) is None


@pytest.mark.parametrize("size", [0, 5, 40, 70])
def test_a_truncated_file_is_not_believed(cache, size):
    keep(cache, b"some content")
    path = file_of(cache, b"some content")
    path.write_bytes(path.read_bytes()[:size])
    assert ObjectCache(cache.folder).open(name_of(b"some content")) is None


def test_a_file_under_anothers_name_is_not_believed(cache):
    keep(cache, b"good")
    keep(cache, b"evil")
    file_of(cache, b"good").write_bytes(file_of(cache, b"evil").read_bytes())
    assert ObjectCache(cache.folder).open(name_of(b"good")) is None


def test_links_and_pipes_in_the_cache_are_not_followed(cache):
    keep(cache, b"good")
    path = file_of(cache, b"good")
    data = path.read_bytes()
    path.unlink()
    (path.parent / "elsewhere").write_bytes(data)
    path.symlink_to("elsewhere")
    assert ObjectCache(cache.folder).open(name_of(b"good")) is None
    os.mkfifo(path) if not path.exists() else None
    assert ObjectCache(cache.folder).open(name_of(b"good")) is None


def test_the_limit_is_kept_by_removing_what_was_not_used_for_longest(tmp_path):
    cache = ObjectCache(tmp_path / "cache", size_bytes_max=100_000)
    contents = [bytes([number]) * 10_000 for number in range(30)]
    for number, content in enumerate(contents):
        keep(cache, content)
        os.utime(file_of(cache, content), ns=(number, number)) if file_of(cache, content).exists() else None
    cache.make_room()
    assert cache.size_bytes() <= 100_000
    assert ObjectCache(cache.folder).open(name_of(contents[0])) is None
    assert ObjectCache(cache.folder).open(name_of(contents[-1])) is not None


def test_what_is_open_stays_readable_when_room_is_made(tmp_path):
    cache = ObjectCache(tmp_path / "cache", size_bytes_max=100_000)
    content = keep(cache, b"held")
    for number in range(30):
        keep(cache, bytes([number]) * 10_000)
    assert content.read(0, 4) == b"held"


def test_what_is_too_large_is_readable_but_not_kept(tmp_path):
    cache = ObjectCache(tmp_path / "cache", size_bytes_max=1000)
    content = keep(cache, bytes(900))
    assert content.read(0, 900) == bytes(900)
    assert ObjectCache(cache.folder, size_bytes_max=1000).open(name_of(bytes(900))) is None
    path = content.path
    del content
    assert not os.path.exists(path), "what is not kept leaves nothing behind"


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path):
    (tmp_path / "file").write_bytes(b"in the way")
    cache = ObjectCache(tmp_path / "file" / "cache")
    assert keep(cache, b"content").read(0, 7) == b"content"
    assert cache.open(name_of(b"content")) is None


def test_a_disk_that_fills_up_in_the_middle_moves_the_content_elsewhere(tmp_path, monkeypatch):
    cache = ObjectCache(tmp_path / "cache")
    spool = cache.stage()
    spool.write(b"first ")
    full = spool.path
    write = os.write

    def write_until_full(fd, data):
        if os.readlink(f"/proc/self/fd/{fd}") == full:
            raise OSError(28, "No space left on device")
        return write(fd, data)

    monkeypatch.setattr(os, "write", write_until_full)
    spool.write(b"second")
    content = cache.keep(spool, name_of(b"first second"), hashlib.sha256(b"first second").digest())
    assert content.read(0, 100) == b"first second"
    assert not os.path.exists(full)


def test_no_room_anywhere_is_a_clear_error(tmp_path, monkeypatch):
    monkeypatch.setattr("cdn.client.cache.temporary_folders", lambda: (str(tmp_path / "absent"),))
    cache = ObjectCache(tmp_path / "cache", size_bytes_max=0)
    with pytest.raises(StorageError, match="nowhere to keep"):
        cache.stage()


def test_what_a_process_that_died_left_behind_is_removed_by_the_next_one(cache):
    keep(cache, b"x")
    left, under_way = Path(cache.folder) / "staging/fetch-old", Path(cache.folder) / "staging/fetch-new"
    for file in (left, under_way):
        file.write_bytes(b"half of something")
    os.utime(left, (1_000_000, 1_000_000))
    keep(ObjectCache(cache.folder), b"y")
    assert not left.exists()
    assert under_way.exists()


def test_several_processes_fill_the_same_cache(tmp_path):
    program = textwrap.dedent("""
        import hashlib, sys
        from cdn.client.cache import ObjectCache
        from cdn.hashing import Algorithm, digest_of
        from cdn.objects import Kind, ObjectName
        cache = ObjectCache(sys.argv[1], size_bytes_max=400_000)
        for number in range(300):
            content = b"%d" % (number % 100) * 500
            name = ObjectName(digest_of(Algorithm.SHA1, content), Kind.FILE)
            found = cache.open(name)
            if found is None:
                spool = cache.stage()
                spool.write(content)
                found = cache.keep(spool, name, hashlib.sha256(content).digest())
            assert found.read(0, 2000) == content
    """)
    running = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "cache")]) for _ in range(3)]
    assert [process.wait(60) for process in running] == [0, 0, 0]


def test_its_folders_are_for_their_owner_alone(cache):
    keep(cache, b"x")
    assert os.stat(f"{cache.folder}/staging").st_mode & 0o077 == 0
    assert os.stat(file_of(cache, b"x")).st_mode & 0o077 == 0
