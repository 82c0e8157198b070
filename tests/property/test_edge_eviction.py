"""What stays in the memory of an edge, against a model: limits, pins, and that nothing is lost but by eviction."""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from edge.cache.eviction import USES_MAX, Ghosts, risen, worth
from edge.cache.memory_cache import MemoryCache
from edge.cache.memory_entry import MemoryEntry
from edge.cache.shards import file_name
from edge.content import Content, ContentKind
from edge.http.caching import StoredHead
from edge.http.headers import Headers
from edge.lifetimes import Lifetimes

KEYS = st.sampled_from([f"k{number}" for number in range(40)])
HEAD = StoredHead(200, Headers(()), 0.0, 0.0)
OBJECT, MANIFEST = Content(ContentKind.OBJECT, "sw"), Content(ContentKind.MANIFEST, "sw")
LIFETIME = Lifetimes().of(ContentKind.OBJECT, 200)


def entry(key: str, size: int, content: Content = OBJECT) -> MemoryEntry:
    return MemoryEntry(key, HEAD, bytes(size), content, LIFETIME, 0.0)


class Memory(RuleBasedStateMachine):
    """Whatever is put, used, pinned and removed."""

    @initialize(bytes_max=st.integers(2000, 100_000), share=st.sampled_from([0.0, 0.25, 1.0]))
    def start(self, bytes_max, share):
        self.cache = MemoryCache(bytes_max, 50_000, pinned_share=share)
        self.held: dict[str, MemoryEntry] = {}
        self.pins: frozenset[str] = frozenset()

    @rule(key=KEYS, size=st.integers(0, 60_000), is_manifest=st.booleans(), times=st.integers(1, 3))
    def put(self, key, size, is_manifest, times):
        for _ in range(times):
            new = entry(key, size, MANIFEST if is_manifest else OBJECT)
            before, evicted = dict(self.held), self.cache.evictions
            protected = self.protected()
            before.pop(key, None)
            self.cache.put(new)
            assert self.cache.peek(key) in {new, None}
            gone = [each for each in before if self.cache.peek(each) is None]
            assert len(gone) == self.cache.evictions - evicted
            assert not set(gone) & protected
            assert not gone or self.cache.peek(key) is new
            self.held = {each: before[each] for each in before if each not in gone}
            if self.cache.peek(key) is new:
                self.held[key] = new

    def protected(self):
        pinned = {key for key, each in self.held.items() if each.content is MANIFEST or key in self.pins}
        return pinned if sum(self.held[key].size for key in pinned) <= self.cache._pinned_bytes_max else set()

    @rule(key=KEYS)
    def put_negative(self, key):
        evicted = self.cache.evictions
        self.cache.put_negative(entry(key, 100))
        gone = [each for each in self.held if self.cache.peek(each) is None]
        assert len(gone) == self.cache.evictions - evicted
        for each in gone:
            del self.held[each]

    @rule(key=KEYS)
    def get(self, key):
        notes = list(self.cache._queue._notes)
        assert self.cache.get(key) is self.held.get(key)
        assert self.cache._queue._notes == notes  # a hit only counts

    @rule(key=KEYS)
    def remove(self, key):
        assert self.cache.remove(key) == (key in self.held)
        self.held.pop(key, None)

    @rule(keys=st.frozensets(KEYS, max_size=3))
    def pin(self, keys):
        self.cache.pin(keys)
        self.pins = keys

    @invariant()
    def what_is_held_is_counted_and_no_more_than_allowed(self):
        if not hasattr(self, "cache"):
            return
        assert {key: self.cache.peek(key) for key in self.held} == self.held
        assert len(self.cache) == len(self.held)
        negatives = sum(each.size for each in self.cache._negatives.values())
        assert self.cache.used_bytes == sum(each.size for each in self.held.values()) + negatives
        assert self.cache.used_bytes <= self.cache.bytes_max
        assert all(self.cache.holds_file(file_name(key)) for key in self.held)
        assert len(self.cache._queue._notes) <= 2 * len(self.held) + 65


TestMemory = Memory.TestCase
TestMemory.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_worth_grows_with_use_and_shrinks_with_size():
    sizes, uses = [1, 100, 4096, 1 << 20, 1 << 32], range(1, USES_MAX + 1)
    for size in sizes:
        assert sorted(worth(size, use) for use in uses) == [worth(size, use) for use in uses]
    for use in uses:
        assert sorted((worth(size, use) for size in sizes), reverse=True) == [worth(size, use) for size in sizes]
    assert worth(0, 1) > 0


@given(st.floats(0, 1e10), st.floats(0, 1e10))
def test_the_level_rises_towards_a_place_above_it_and_never_falls(level, place):
    assert level <= risen(level, place) <= max(level, place)
    assert risen(level, place) > level or place <= level or place - level < 1e-5


def test_ghosts_are_remembered_once_and_are_few():
    ghosts = Ghosts(64)
    ghosts.note(12345678901234, 7)
    assert [ghosts.take(12345678901234), ghosts.take(12345678901234)] == [7, 0]
    for code in range(10_000_000, 10_100_000, 7):
        ghosts.note(code, 3)
    assert len(ghosts._marks) == len(ghosts._uses) == 64
