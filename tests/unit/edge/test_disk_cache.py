"""The disk tier by itself; its life under an edge is in tests/integration/test_edge_cache.py."""

import os

import pytest

from cdn.errors import DocumentError, StorageFullError
from cdn.hashing import Algorithm, digest_of
from edge.cache_file import FileFacts, parse_facts, read_facts
from edge.disk_cache import DiskCache
from edge.disk_room import occupied
from edge.headers import Headers
from edge.http_caching import StoredHead
from edge.shards import Share, file_name
from edge.statistics import Statistics

HEAD = StoredHead(200, Headers((("A", "é"), ("A", "2"))), 1.5, 2.5, (("accept", None),))


def opened(directory, **changes) -> DiskCache:
    settings = {"bytes_max": 1_000_000, "memory_body_max": 1000, "verify_seconds": 60.0, "statistics": Statistics()}
    cache = DiskCache(directory, **{**settings, **changes})
    cache.open()
    return cache


@pytest.fixture
def cache(tmp_path):
    cache = opened(tmp_path)
    yield cache
    cache.close()


def put(cache: DiskCache, key: str, body: bytes, **more) -> None:
    import hashlib

    cache.store(key, HEAD, body, hashlib.sha256(body).hexdigest(), **more)


def files_of(cache: DiskCache):
    return [path for path in cache._files.rglob("*") if path.is_file()]


@pytest.mark.parametrize("body", [b"", b"small", b"x" * 5000])
def test_what_is_stored_comes_back(cache, body):
    put(cache, "k", body)
    found = cache.load("k", None)
    assert found is not None
    assert (found.facts.head, found.read(0, 10_000)[: len(body)]) == (HEAD, body)
    assert (found.body is not None) == (len(body) <= 1000)
    found.close()
    cache.remove("k")
    assert cache.load("k", None) is None
    assert cache.used_bytes == 0


def test_a_body_is_believed_by_its_digest_and_not_by_what_the_file_says(cache):
    put(cache, "k", b"other")
    assert cache.load("k", digest_of(Algorithm.SHA1, b"body")) is None
    assert cache.load("k", None) is None  # it was removed


def test_what_matches_is_forgotten_and_nothing_else(cache):
    for number in range(20):
        put(cache, f"a{number}", b"x" * 100)
        put(cache, f"b{number}", b"x" * 5000, pinned=number == 7)
    damaged = cache._path(file_name("a3"))
    damaged.write_bytes(b"no cache file")
    assert cache.remove_matching(lambda key: key.startswith("b")) == 20
    kept = [number for number in range(20) if (found := cache.load(f"a{number}", None)) and found.close() is None]
    assert kept == [number for number in range(20) if number != 3]
    assert not any(cache.load(f"b{number}", None, pinned=pinned) for number in range(20) for pinned in (False, True))
    assert cache.used_bytes == 19 * 4096


def test_a_key_is_forgotten_pinned_or_not(cache):
    put(cache, "a", b"x")
    put(cache, "b", b"x", pinned=True)
    assert [cache.forget(key) for key in "abc"] == [True, True, False]
    assert files_of(cache) == []


def test_a_sharer_counts_and_evicts_only_its_own_shards(tmp_path):
    settings = {"bytes_max": 300_000, "verify_seconds": 0, "memory_body_max": 0, "statistics": Statistics()}
    other = opened(tmp_path)
    names = {shard: next(f"k{n}" for n in range(9999) if int(file_name(f"k{n}")[:2], 16) == shard) for shard in (4, 5)}
    for key in names.values():
        put(other, key, b"x" * 100_000)
    other.close()
    odd = DiskCache(tmp_path, share=Share(1, 2), **settings)
    odd.open()
    odd.count()
    assert odd.used_bytes == occupied(odd._path(file_name(names[5])).stat().st_size)
    for number in range(60):
        if int(file_name(f"n{number}")[:2], 16) % 2:
            put(odd, f"n{number}", b"x" * 50_000)
    assert [cache_file.exists() for cache_file in map(odd._path, map(file_name, names.values()))] == [True, False]
    odd.close()


def test_replacing_counts_once(cache):
    for size in (100, 5000, 10):
        put(cache, "k", b"x" * size)
        assert cache.used_bytes == sum(occupied(path.stat().st_size) for path in files_of(cache))


def test_facts_are_renewed_without_the_body(cache):
    put(cache, "k", b"x" * 5000)
    new = StoredHead(200, Headers((("B", "1"),)), 3.0, 4.0)
    cache.refresh("k", new)
    found = cache.load("k", None)
    assert found is not None
    assert found.facts.head == new
    assert found.read(0, 5000) == b"x" * 5000
    found.close()


def test_room_is_made_from_what_was_used_least_recently_but_not_from_what_is_pinned(tmp_path):
    cache = opened(tmp_path, bytes_max=200_000)
    put(cache, "manifest", b"x" * 5000, pinned=True)
    for number in range(100):
        put(cache, f"k{number}", b"x" * 5000)
        assert cache.used_bytes <= 200_000
    found = cache.load("manifest", None, pinned=True)
    assert found is not None
    found.close()
    cache.close()


def test_within_a_shard_the_oldest_goes_first(tmp_path):
    cache = opened(tmp_path, bytes_max=2 * 8192)
    shard = next(names for names in _by_shard(f"k{number}" for number in range(10_000)) if len(names) == 3)
    old, recent, new = shard
    for age, key in ((100, old), (50, recent)):
        put(cache, key, b"x" * 5000)
        path = cache._path(file_name(key))
        os.utime(path, (1_000_000 - age, 1_000_000 - age))
    put(cache, new, b"x" * 5000)
    kept = [key for key in shard if (found := cache.load(key, None)) is not None and found.close() is None]
    assert kept == [recent, new]
    cache.close()


def _by_shard(keys):
    shards: dict[str, list[str]] = {}
    for key in keys:
        names = shards.setdefault(file_name(key)[:2], [])
        names.append(key)
        yield names


def test_what_is_in_memory_is_spared(tmp_path):
    resident = {file_name("hot")}
    cache = opened(tmp_path, bytes_max=30_000, is_resident=resident.__contains__)
    put(cache, "hot", b"x" * 5000)
    for number in range(20):
        put(cache, f"k{number}", b"x" * 5000)
    found = cache.load("hot", None)
    assert found is not None
    found.close()
    cache.close()


def test_more_than_the_limit_is_refused_and_leaves_nothing(cache):
    spool = cache.spool()
    with pytest.raises(StorageFullError):
        spool.write(b"x" * 2_000_000)
    spool.close()
    assert cache.used_bytes == 0
    assert list(cache._temporary.iterdir()) == []


def test_a_verified_large_body_is_read_again_only_when_its_file_changed(cache):
    body = b"x" * 5000
    digest = digest_of(Algorithm.SHA1, body)
    cache.store("k", HEAD, body, "")
    path = cache._path(file_name("k"))
    assert cache._verified.is_trusted(path.name, _identity(path))
    before = path.stat()
    with path.open("r+b") as file:
        file.write(b"y")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # the change time still tells
    assert cache.load("k", digest) is None


def _identity(path):
    facts = path.stat()
    return (facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)


def test_every_cut_and_every_flipped_bit_of_a_file_is_noticed(tmp_path):
    body = b"body" * 10
    digest = digest_of(Algorithm.SHA1, body)
    data = body + FileFacts("k", HEAD, len(body)).to_bytes()
    cache = opened(tmp_path)
    path = cache._path(file_name("k"))

    def is_believed(changed: bytes) -> bool:
        path.write_bytes(changed)
        found = cache.load("k", digest)
        if found is None:
            return False
        found.close()
        return True

    assert is_believed(data)
    assert not any(is_believed(data[:size]) for size in range(len(data)))
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 0x10
        assert not is_believed(bytes(changed)), position
    cache.close()


@pytest.mark.parametrize("document", [b"", b"{}", b"[]", b"nul", b'{"key":1}', b"[" * 100_000, b'{"status":1e999}'])
def test_what_is_no_document_is_damage(document):
    with pytest.raises(DocumentError):
        parse_facts(document)


def test_facts_survive_their_file(tmp_path):
    facts = FileFacts("k", HEAD, 3, "c")
    (tmp_path / "f").write_bytes(b"abc" + facts.to_bytes())
    with (tmp_path / "f").open("rb") as file:
        assert read_facts(file.fileno()) == facts


def test_a_worker_removes_what_it_left_unfinished_and_nothing_of_another_one(tmp_path):
    first, tenth = (opened(tmp_path, share=Share(index, 11)) for index in (1, 10))
    spools = [first.spool(), tenth.spool()]
    again = opened(tmp_path, share=Share(1, 11))
    assert [path.name.partition("-")[0] for path in (tmp_path / "tmp").iterdir()] == ["10"]
    for each in (*spools, first, tenth, again):
        each.close()


def test_what_is_stored_into_another_ones_shard_is_counted_by_that_one_when_it_looks(tmp_path):
    workers = [opened(tmp_path, share=Share(index, 2)) for index in range(2)]
    foreign = next(f"k{n}" for n in range(99) if not workers[0]._share.owns(f"k{n}"))
    put(workers[0], foreign, b"body")
    assert workers[0].used_bytes == 0
    workers[1].count()
    assert workers[1].used_bytes == 4096
    workers[0].remove(foreign)
    assert workers[0].used_bytes == 0
    for worker in workers:
        worker.close()
