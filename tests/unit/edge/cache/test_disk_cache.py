"""The disk tier by itself; its life under an edge is in tests/integration/test_edge_cache.py."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cdn.errors import DocumentError, StorageFullError
from cdn.hashing import Algorithm, digest_of
from edge.cache.cache_file import FileFacts, parse_facts, read_facts
from edge.cache.disk_cache import DiskCache
from edge.cache.disk_places import occupied
from edge.cache.shards import Share, file_name
from edge.http.caching import StoredHead
from edge.http.headers import Headers
from edge.watching.statistics import Statistics

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
    damaged = Path(cache._path(file_name("a3")))
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
    assert odd.used_bytes == occupied(Path(odd._path(file_name(names[5]))).stat().st_size)
    for number in range(60):
        if int(file_name(f"n{number}")[:2], 16) % 2:
            put(odd, f"n{number}", b"x" * 50_000)
    assert [is_there(odd, key) for key in names.values()] == [True, False]
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


def on_disk(cache: DiskCache) -> int:
    return sum(occupied(path.stat().st_size) for path in (*files_of(cache), *cache._temporary.iterdir()))


def is_there(cache: DiskCache, key: str) -> bool:
    return Path(cache._path(file_name(key))).exists()


def ready(directory, **changes) -> DiskCache:
    """A cache in which every use counts at once."""
    cache = opened(directory, **changes)
    cache.room._touch_seconds = 0
    return cache


def use(cache: DiskCache, key: str) -> None:
    found = cache.load(key, None)
    assert found is not None
    found.close()


def test_a_scan_takes_nothing_that_is_used_twice(tmp_path):
    cache = ready(tmp_path, bytes_max=100 * 8192)
    hot = [f"h{number}" for number in range(60)]
    for key in hot:
        put(cache, key, b"x" * 5000)
        use(cache, key)
    for number in range(300):
        put(cache, f"scan{number}", b"x" * 5000)
    assert [key for key in hot if not is_there(cache, key)] == []
    cache.close()


def test_of_two_used_alike_the_larger_goes_first(tmp_path):
    cache = ready(tmp_path, bytes_max=40 * 8192)
    put(cache, "large", b"x" * (18 * 8192))
    small = [f"s{number}" for number in range(15)]
    for key in small:
        put(cache, key, b"x" * 5000)
        use(cache, key)
    use(cache, "large")
    for number in range(15):
        put(cache, f"n{number}", b"x" * 5000)
        use(cache, f"n{number}")
    assert not is_there(cache, "large")
    assert [key for key in small if not is_there(cache, key)] == []
    cache.close()


def test_what_was_used_long_ago_goes_in_time(tmp_path):
    cache = ready(tmp_path, bytes_max=20 * 8192)
    for number in range(20):
        put(cache, f"old{number}", b"x" * 5000)
        for _ in range(20):
            use(cache, f"old{number}")
    for number in range(20):
        for _ in range(20):
            put(cache, f"new{number}", b"x" * 5000)
    assert sum(is_there(cache, f"new{number}") for number in range(20)) > 10
    cache.close()


def test_places_and_level_outlive_a_restart(tmp_path):
    cache = ready(tmp_path, bytes_max=40 * 8192)
    for number in range(80):
        put(cache, f"k{number}", b"x" * 5000)
        if is_there(cache, f"k{number}"):
            use(cache, f"k{number}")
    level = cache.room._level

    def places(cache):
        return {file.name: (file.place, file.uses) for shard in range(256) for file in cache.room.listed(shard)}

    before = places(cache)
    cache.close()
    again = opened(tmp_path, bytes_max=40 * 8192)
    assert places(again) == before
    assert abs(again.room._level - level) < 1e-6
    assert {uses for _, uses in before.values()} == {2}
    again.close()


def test_a_use_counts_once_a_minute(cache):
    put(cache, "k", b"x")
    use(cache, "k")
    assert cache.room.listed(int(file_name("k")[:2], 16))[0].uses == 1


def test_what_comes_back_is_what_it_was(tmp_path):
    cache = ready(tmp_path, bytes_max=40 * 8192)
    put(cache, "k", b"x" * 5000)
    use(cache, "k")
    number = 0
    while is_there(cache, "k"):
        number += 1
        put(cache, f"k{number}", b"x" * 5000)
        use(cache, f"k{number}")
        use(cache, f"k{number}")
    put(cache, "k", b"x" * 5000)
    assert next(f.uses for f in cache.room.listed(int(file_name("k")[:2], 16)) if f.name == file_name("k")) == 3
    cache.close()


def test_pins_stay_and_can_be_lifted_and_are_bounded(tmp_path):
    cache = ready(tmp_path, bytes_max=40 * 8192, pinned_share=0.25)
    put(cache, "root", b"x" * 5000)
    cache.pin("root")
    cache.pin("absent")
    for number in range(100):
        put(cache, f"k{number}", b"x" * 5000)
    assert is_there(cache, "root")
    cache.pin("root", is_pinned=False)
    for number in range(100):
        put(cache, f"k{number}", b"x" * 5000)
        use(cache, f"k{number}")
    assert not is_there(cache, "root")
    for number in range(100):
        put(cache, f"m{number}", b"x" * 5000, pinned=True)
    for number in range(100):
        put(cache, f"k{number}", b"x" * 5000)
        use(cache, f"k{number}")
    assert sum(path.name.endswith(".pinned") for path in files_of(cache)) < 20
    assert on_disk(cache) <= cache.bytes_max
    cache.close()


@pytest.mark.parametrize("ends_well", [True, False])
def test_a_full_cache_stays_within_its_limit_when_it_is_stormed_before_it_was_counted(tmp_path, ends_well):
    cache = opened(tmp_path)
    for number in range(300):
        put(cache, f"k{number}", b"x" * 5000)
    assert on_disk(cache) > 900_000
    if ends_well:
        cache.close()
    cache._taken.close()
    again = opened(tmp_path)
    assert not again.is_counted
    assert again.used_bytes >= on_disk(again)

    with ThreadPoolExecutor(8) as pool:
        for first in range(0, 160, 16):
            list(pool.map(lambda number: put(again, f"n{number}", b"x" * 5000), range(first, first + 16)))
            assert on_disk(again) <= again.used_bytes <= again.bytes_max
    again.count()
    assert again.used_bytes == on_disk(again) <= again.bytes_max
    again.close()


def test_what_an_earlier_run_left_uncounted_keeps_others_out_only_until_it_is_counted(tmp_path):
    cache = opened(tmp_path)
    for number in range(100):
        put(cache, f"k{number}", b"x" * 5000)
    cache.close()
    for mark in tmp_path.glob("used-*"):
        mark.unlink()
    again = opened(tmp_path)
    with pytest.raises(StorageFullError):
        put(again, "n", b"x")
    use(again, "k99")
    again.count()
    put(again, "n", b"x")
    assert again.used_bytes == on_disk(again)
    again.close()


def test_a_lower_limit_is_reached_by_evicting(tmp_path):
    cache = opened(tmp_path)
    for number in range(100):
        put(cache, f"k{number}", b"x" * 5000)
    cache.close()
    again = opened(tmp_path, bytes_max=200_000)
    again.count()
    assert again.used_bytes == on_disk(again) <= 200_000
    again.close()


def test_one_body_does_not_fill_half_of_the_cache(cache):
    with pytest.raises(StorageFullError, match="half of the cache"):
        put(cache, "k", b"x" * 600_000)
    assert (cache.used_bytes, on_disk(cache)) == (0, 0)


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
    path = Path(cache._path(file_name("k")))
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
    path = Path(cache._path(file_name("k")))

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


def test_fields_come_back_as_they_were_whatever_bytes_they_have(cache):
    head = StoredHead(200, Headers((("X-Latin", "caf\udce9"), ("X-Text", "é\x01\\u"))), 1.0, 2.0)
    cache.store("k", head, b"body", "")
    found = cache.load("k", digest_of(Algorithm.SHA1, b"body"))
    found.close()
    assert found.facts.head == head


def test_of_names_it_has_counted_it_knows_without_looking_which_are_not_there(tmp_path):
    cache = opened(tmp_path)
    assert not cache.lacks("k"), "nothing is known before its folders were listed"
    put(cache, "before", b"body")
    cache.count()
    assert cache.lacks("k")
    put(cache, "k", b"body")
    assert not cache.lacks("k")
    assert not cache.lacks("before")
    put(cache, "k", b"another")
    cache.remove("k")
    assert cache.lacks("k")
    cache.close()


def test_after_a_restart_it_looks_until_it_has_counted(tmp_path):
    cache = opened(tmp_path)
    cache.count()
    put(cache, "k", b"body")
    cache.close()
    again = opened(tmp_path)
    assert not again.lacks("k")
    assert not again.lacks("other")
    again.count()
    assert not again.lacks("k")
    assert again.lacks("other")
    again.close()


def test_one_that_gave_its_cache_to_a_successor_looks_always(tmp_path):
    cache = opened(tmp_path)
    cache.count()
    cache.retire()
    successor = opened(tmp_path)
    put(successor, "k", b"body")
    assert not cache.lacks("k")
    assert cache.load("k", None) is not None
    successor.close()


def test_of_what_another_worker_stores_it_knows_nothing(tmp_path):
    cache = opened(tmp_path, share=Share(0, 2))
    cache.count()
    theirs = next(key for key in map(str, range(99)) if not cache.owns(key))
    assert not cache.lacks(theirs)
    cache.close()


def test_files_are_counted_whatever_becomes_of_them_and_those_of_an_earlier_run_when_they_are_known(tmp_path):
    cache = opened(tmp_path, bytes_max=400_000)
    cache.count()
    for number in range(150):
        put(cache, f"k{number % 120}", b"x" * (number * 40))  # some replace others, some are evicted
        if number % 7 == 0:
            cache.forget(f"k{number}")
        assert cache.file_count == len(files_of(cache))
    assert 0 < cache.file_count < 110
    cache.close()
    again = opened(tmp_path, bytes_max=400_000)
    assert again.file_count is None
    put(again, "new", b"x")
    again.count()
    assert again.file_count == len(files_of(again))
    again.close()
