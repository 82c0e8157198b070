"""The memory tier."""

import gc
import tracemalloc

import pytest

from cdn.hashing import Algorithm, digest_of
from edge.cache.eviction import GHOST_BYTES
from edge.cache.memory_cache import NEGATIVES_MAX, MemoryCache
from edge.cache.memory_entry import ENTRY_OVERHEAD_BYTES, MemoryEntry
from edge.cache.shards import file_name
from edge.content import Content, ContentKind, content_of
from edge.http.caching import StoredHead
from edge.http.headers import Headers
from edge.http.request import Request
from edge.lifetimes import Lifetimes

NOW = 1_700_000_000.0
CONTENT = Content(ContentKind.OTHER, "sw")


def entry(key: str, body: bytes = b"", control: str = "max-age=10", selecting=(), content=CONTENT) -> MemoryEntry:
    head = StoredHead(200, Headers((("Cache-Control", control),)), NOW, NOW, selecting)
    return MemoryEntry(key, head, body, content, Lifetimes().of(content.kind, 200), NOW)


SIZE = entry("any key", b"x" * 1000).size


def held(cache: MemoryCache, keys) -> list[str]:
    return [key for key in keys if cache.peek(key) is not None]


def test_the_limit_holds_and_what_is_used_stays():
    cache = MemoryCache(3 * entry("a", b"x" * 1000).size, 1000)
    for key in "abc":
        cache.put(entry(key, b"x" * 1000))
    cache.get("a")
    cache.put(entry("d", b"x" * 1000))
    assert len(cache) == 3
    assert held(cache, "ad") == ["a", "d"]
    assert cache.used_bytes == cache.bytes_max
    assert cache.evictions == 1
    assert cache.holds_file(file_name("a"))
    assert not any(cache.holds_file(file_name(key)) for key in "bc" if cache.peek(key) is None)


def test_replacing_and_removing_give_room_back():
    cache = MemoryCache(100_000, 10_000)
    cache.put(entry("a", b"x" * 5000))
    cache.put(entry("a", b"x"))
    assert cache.used_bytes == entry("a", b"x").size > 1 + ENTRY_OVERHEAD_BYTES
    cache.remove("a")
    assert (cache.used_bytes, len(cache)) == (0, 0)


def test_what_is_too_large_replaces_nothing_but_what_it_supersedes():
    cache = MemoryCache(100_000, 1000)
    cache.put(entry("a", b"x"))
    cache.put(entry("a", b"x" * 1001))
    assert cache.get("a") is None


def test_what_is_large_pushes_out_nothing_small_that_is_used_until_it_is_used_as_well():
    cache = MemoryCache(200 * SIZE, 1 << 20)
    small = [f"s{number}" for number in range(200)]
    for key in small:
        cache.put(entry(key, b"x" * 1000))
        cache.get(key)
    cache.put(entry("large", b"x" * (100 * SIZE)))
    assert held(cache, small) == small
    for _ in range(60):
        cache.put(entry("large", b"x" * (100 * SIZE)))
    assert cache.peek("large") is not None


def test_a_scan_takes_nothing_that_is_used_twice():
    cache = MemoryCache(100 * SIZE, 1000)
    hot = [f"h{number}" for number in range(80)]
    for key in hot:
        cache.put(entry(key, b"x" * 1000))
        cache.get(key)
    for number in range(2000):
        cache.put(entry(f"scan{number}", b"x" * 1000))
        assert cache.used_bytes <= cache.bytes_max
    assert len(held(cache, hot)) == 80


def test_what_was_used_once_long_ago_goes_in_time():
    cache = MemoryCache(100 * SIZE, 1000)
    for number in range(100):
        cache.put(entry(f"old{number}", b"x" * 1000))
        for _ in range(100):
            cache.get(f"old{number}")
    for number in range(100):
        for _ in range(100):
            cache.put(entry(f"new{number}", b"x" * 1000))
            cache.get(f"new{number}")
    assert len(held(cache, [f"new{number}" for number in range(100)])) > 60


MANIFEST = Content(ContentKind.MANIFEST, "sw")


def test_what_is_pinned_stays_but_not_more_than_may_be():
    cache = MemoryCache(100 * SIZE, 1000, pinned_share=0.25)
    for number in range(20):
        cache.put(entry(f"m{number}", b"x" * 1000, content=MANIFEST))
    cache.put(entry("root", b"x" * 1000))
    cache.pin(frozenset({"root"}))
    for number in range(300):
        cache.put(entry(f"k{number}", b"x" * 1000))
        cache.get(f"k{number}")
    assert len(held(cache, [*(f"m{number}" for number in range(20)), "root"])) == 21
    cache.pin(frozenset({"other"}))
    for number in range(300):
        for _ in range(3):
            cache.put(entry(f"j{number}", b"x" * 1000))
    assert cache.peek("root") is None
    for number in range(200):
        cache.put(entry(f"m{number}", b"x" * 1000, content=MANIFEST))
    for _ in range(20):
        for number in range(70):
            cache.put(entry(f"j{number}", b"x" * 1000))
    assert len(held(cache, [f"m{number}" for number in range(200)])) <= 30
    assert cache._pinned_bytes == sum(each.size for each in cache._entries.values() if each.content is MANIFEST)


def test_what_finds_only_pinned_entries_stays_outside():
    cache = MemoryCache(4 * SIZE, 10_000, pinned_share=1)
    for number in range(4):
        cache.put(entry(f"m{number}", b"x" * 1000, content=MANIFEST))
    cache.put(entry("k", b"x" * 1000))
    assert held(cache, ["m0", "m1", "m2", "m3", "k"]) == ["m0", "m1", "m2", "m3"]


def test_only_what_needs_no_further_look_is_ready_to_be_sent():
    assert entry("a").fresh_until == NOW + 10
    assert entry("a", control="max-age=10, no-cache").fresh_until < NOW
    assert entry("a", selecting=(("accept", "x"),)).fresh_until < NOW


def test_the_head_is_made_once_a_second():
    ready, request = entry("a", b"x"), Request("GET", "/a", is_plain=True)
    first = ready.plain_head(request, NOW, "e")
    assert ready.plain_head(request, NOW + 0.5, "e") is first
    assert b"\r\nAge: 1\r\n" in ready.plain_head(request, NOW + 1, "e")


def test_missing_names_are_forgotten_by_repository_and_are_few():
    cache = MemoryCache(1 << 30, 1000)
    for number in range(NEGATIVES_MAX + 5):
        cache.put_negative(entry(f"k{number}"))
    assert cache.negative("k0") is None
    assert cache.negative(f"k{NEGATIVES_MAX}") is not None
    cache.forget_negatives("other")
    assert cache.negative(f"k{NEGATIVES_MAX}") is not None
    cache.forget_negatives("sw")
    assert cache.negative(f"k{NEGATIVES_MAX}") is None
    assert cache.used_bytes == 0


def test_missing_names_and_what_their_servers_say_about_them_count_for_the_limit():
    cache = MemoryCache(1_000_000, 1 << 20)
    for number in range(400):
        cache.put(entry(f"k{number}", b"x" * 1000))
        cache.put_negative(entry(f"n{number}", b"x" * 10_000))
        assert cache.used_bytes <= 1_000_000
    assert cache._negative_bytes <= 1_000_000 // 16
    assert cache.negative("n399") is not None
    cache.put_negative(entry("large", b"x" * 100_000))
    assert cache.negative("large") is None


def test_what_matches_is_forgotten_missing_names_too():
    cache = MemoryCache(1_000_000, 1000)
    for key in ("a1", "a2", "b1"):
        cache.put(entry(key, b"x"))
    cache.put_negative(entry("a3"))
    assert cache.remove_matching(lambda key: key.startswith("a")) == 3
    assert cache.negative("a3") is None
    assert held(cache, ("a1", "a2", "b1")) == ["b1"]
    assert [cache.forget("b1"), cache.forget("b1")] == [True, False]


@pytest.mark.parametrize("body_bytes", [1000, 8000])
def test_what_an_entry_counts_for_is_no_less_than_what_it_takes(body_bytes):
    """Entries as an upstream's answers become them, each with strings of its own, and sent once."""
    request = Request("GET", "/a", is_plain=True)
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    cache = MemoryCache(1 << 30, 1 << 20)
    for number in range(2000):
        cache.put(arrived(number, body_bytes, request))
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    tables = (1 << 30) // GHOST_BYTES * 5
    assert len(cache) == 2000
    assert (taken - tables) / 2000 < cache.used_bytes / 2000 < (taken - tables) / 2000 + 500


def arrived(number: int, body_bytes: int, request: Request) -> MemoryEntry:
    digest = digest_of(Algorithm.SHA1, b"%d" % number)
    path = f"/cvmfs/sw.example.org/data/{digest.text[:2]}/{digest.text[2:]}"
    fields = (
        ("Server", "Apache/2.4.62 (Debian)"),
        ("Date", f"Sat, 28 Nov 2026 00:{number % 60:02}:00 GMT"),
        ("Content-Type", "application/octet-stream"),
        ("Last-Modified", f"Sat, 28 Nov 2026 00:{number % 60:02}:01 GMT"),
        ("ETag", f'"{number:x}-1f40"'),
        ("Cache-Control", f"max-age={259200 + number % 7}"),
    )
    head = StoredHead(200, Headers(tuple((name[:1] + name[1:], value) for name, value in fields)), NOW + 0.5, NOW + 1)
    body = number.to_bytes(4, "big") * (body_bytes // 4)
    ready = MemoryEntry(f"object:sw{path[14:]}", head, body, content_of(path), Lifetimes().of(CONTENT.kind, 200), NOW)
    ready.plain_head(request, NOW, "edge.example.org:8000")
    return ready
