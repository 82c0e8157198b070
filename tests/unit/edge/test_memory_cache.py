"""The memory tier."""

from edge.content import Content, ContentKind, Lifetimes
from edge.headers import Headers
from edge.http_caching import StoredHead
from edge.memory_cache import ENTRY_OVERHEAD_BYTES, NEGATIVES_MAX, MemoryCache, MemoryEntry
from edge.request import Request
from edge.shards import file_name

NOW = 1_700_000_000.0
CONTENT = Content(ContentKind.OTHER, "sw")


def entry(key: str, body: bytes = b"", control: str = "max-age=10", selecting=()) -> MemoryEntry:
    head = StoredHead(200, Headers((("Cache-Control", control),)), NOW, NOW, selecting)
    return MemoryEntry(key, head, body, CONTENT, Lifetimes().of(CONTENT.kind, 200), NOW)


def test_the_limit_holds_and_the_least_recently_used_goes_first():
    cache = MemoryCache(3 * (1000 + ENTRY_OVERHEAD_BYTES), 1000)
    for key in "abc":
        cache.put(entry(key, b"x" * 1000))
    cache.get("a")
    cache.put(entry("d", b"x" * 1000))
    assert [key for key in "abcd" if cache.get(key)] == ["a", "c", "d"]
    assert cache.used_bytes == cache.bytes_max
    assert cache.holds_file(file_name("a"))
    assert not cache.holds_file(file_name("b"))


def test_replacing_and_removing_give_room_back():
    cache = MemoryCache(100_000, 10_000)
    cache.put(entry("a", b"x" * 5000))
    cache.put(entry("a", b"x"))
    assert cache.used_bytes == 1 + ENTRY_OVERHEAD_BYTES
    cache.remove("a")
    assert (cache.used_bytes, len(cache)) == (0, 0)


def test_what_is_too_large_replaces_nothing_but_what_it_supersedes():
    cache = MemoryCache(100_000, 1000)
    cache.put(entry("a", b"x"))
    cache.put(entry("a", b"x" * 1001))
    assert cache.get("a") is None


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
    cache = MemoryCache(1000, 1000)
    for number in range(NEGATIVES_MAX + 5):
        cache.put_negative(entry(f"k{number}"))
    assert cache.negative("k0") is None
    assert cache.negative(f"k{NEGATIVES_MAX}") is not None
    cache.forget_negatives("other")
    assert cache.negative(f"k{NEGATIVES_MAX}") is not None
    cache.forget_negatives("sw")
    assert cache.negative(f"k{NEGATIVES_MAX}") is None


def test_what_matches_is_forgotten_missing_names_too():
    cache = MemoryCache(100_000, 1000)
    for key in ("a1", "a2", "b1"):
        cache.put(entry(key, b"x"))
    cache.put_negative(entry("a3"))
    assert cache.remove_matching(lambda key: key.startswith("a")) == 3
    assert cache.negative("a3") is None
    assert [key for key in ("a1", "a2", "b1") if cache.get(key)] == ["b1"]
    assert [cache.forget("b1"), cache.forget("b1")] == [True, False]
