"""Policies of eviction, each as small as it can be, for replaying traces: ours beside those of the literature.

Each is made with a capacity in bytes and asked with `access(key, size)`, which says whether that was a hit.
"""

from __future__ import annotations

import heapq
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edge.cache.disk_places import occupied
from edge.cache.disk_room import EVICTED_PART, SAMPLE_FILES
from edge.cache.eviction import GHOST_BYTES, USES_MAX, EvictionQueue, Ghosts, risen, worth
from edge.cache.shards import SHARDS, code_of, file_name


class Lru:
    def __init__(self, capacity: int) -> None:
        self.capacity, self.used = capacity, 0
        self.entries: OrderedDict[int, int] = OrderedDict()

    def access(self, key: int, size: int) -> bool:
        if key in self.entries:
            self.touch(key)
            return True
        if size <= self.capacity:
            self.entries[key] = size
            self.used += size
            while self.used > self.capacity:
                self.used -= self.entries.popitem(last=False)[1]
        return False

    def touch(self, key: int) -> None:
        self.entries.move_to_end(key)


class Fifo(Lru):
    def touch(self, key: int) -> None:
        pass


class Sieve:
    """A queue whose hand passes over what was visited (Zhang et al., NSDI 2024).

    Its nodes: key, size, visited, newer, older.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity, self.used = capacity, 0
        self.nodes: dict[int, list] = {}
        self.newest = self.oldest = self.hand = None

    def access(self, key: int, size: int) -> bool:
        node = self.nodes.get(key)
        if node is not None:
            node[2] = True
            return True
        if size > self.capacity:
            return False
        while self.used + size > self.capacity:
            self.evict()
        node = [key, size, False, None, self.newest]
        if self.newest is not None:
            self.newest[3] = node
        self.newest = node
        self.oldest = self.oldest or node
        self.nodes[key] = node
        self.used += size
        return False

    def evict(self) -> None:
        node = self.hand or self.oldest
        while node[2]:
            node[2] = False
            node = node[3] or self.oldest
        newer, older = node[3], node[4]
        self.hand = newer
        if newer is not None:
            newer[4] = older
        else:
            self.newest = older
        if older is not None:
            older[3] = newer
        else:
            self.oldest = newer
        del self.nodes[node[0]]
        self.used -= node[1]


class S3Fifo:
    """A small queue before a main one, and ghosts (Yang et al., SOSP 2023), all measured in bytes."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.small_max = capacity, capacity // 10
        self.small: OrderedDict[int, list[int]] = OrderedDict()
        self.main: OrderedDict[int, list[int]] = OrderedDict()
        self.ghosts: OrderedDict[int, int] = OrderedDict()
        self.small_used = self.main_used = self.ghost_used = 0

    def access(self, key: int, size: int) -> bool:
        entry = self.small.get(key) or self.main.get(key)
        if entry is not None:
            entry[1] = min(3, entry[1] + 1)
            return True
        if size > self.capacity:
            return False
        while self.small_used + self.main_used + size > self.capacity:
            self.evict()
        if key in self.ghosts:
            self.ghost_used -= self.ghosts.pop(key)
            self.main[key] = [size, 0]
            self.main_used += size
        else:
            self.small[key] = [size, 0]
            self.small_used += size
        return False

    def evict(self) -> None:
        if self.small and (self.small_used >= self.small_max or not self.main):
            key, entry = self.small.popitem(last=False)
            self.small_used -= entry[0]
            if entry[1] > 1:
                self.main[key] = [entry[0], 0]
                self.main_used += entry[0]
            else:
                self.ghosts[key] = entry[0]
                self.ghost_used += entry[0]
                while self.ghost_used > self.capacity:
                    self.ghost_used -= self.ghosts.popitem(last=False)[1]
            return
        key, entry = self.main.popitem(last=False)
        if entry[1]:
            self.main[key] = [entry[0], entry[1] - 1]
        else:
            self.main_used -= entry[0]


class TinyLfu:
    """W-TinyLFU (Einziger et al., 2017) whose candidates must be worth all their victims; exact counts for a sketch."""

    def __init__(self, capacity: int) -> None:
        self.window_max, self.main_max = capacity // 100, capacity - capacity // 100
        self.window: OrderedDict[int, int] = OrderedDict()
        self.trial: OrderedDict[int, int] = OrderedDict()
        self.kept: OrderedDict[int, int] = OrderedDict()
        self.window_used = self.trial_used = self.kept_used = self.counted = 0
        self.counts: Counter[int] = Counter()

    def access(self, key: int, size: int) -> bool:
        self.count(key)
        for queue in (self.window, self.kept):
            if key in queue:
                queue.move_to_end(key)
                return True
        if key in self.trial:
            self.promote(key)
            return True
        if size <= self.main_max:
            self.window[key] = size
            self.window_used += size
            while self.window_used > self.window_max:
                candidate, its_size = self.window.popitem(last=False)
                self.window_used -= its_size
                self.admit(candidate, its_size)
        return False

    def count(self, key: int) -> None:
        self.counts[key] = min(15, self.counts[key] + 1)
        self.counted += 1
        if self.counted > 10 * (len(self.window) + len(self.trial) + len(self.kept)) + 1000:
            self.counted //= 2
            self.counts = Counter({each: number // 2 for each, number in self.counts.items() if number > 1})

    def promote(self, key: int) -> None:
        size = self.trial.pop(key)
        self.trial_used -= size
        self.kept[key] = size
        self.kept_used += size
        while self.kept_used > 0.8 * self.main_max:
            key, size = self.kept.popitem(last=False)
            self.kept_used -= size
            self.trial[key] = size
            self.trial_used += size

    def admit(self, key: int, size: int) -> None:
        needed = self.trial_used + self.kept_used + size - self.main_max
        victims: list[tuple[OrderedDict[int, int], int]] = []
        uses = 0
        for queue in (self.trial, self.kept):
            for victim, its_size in queue.items():
                if needed <= 0 or uses >= self.counts[key]:
                    break
                victims.append((queue, victim))
                needed -= its_size
                uses += self.counts[victim]
        if victims and uses >= self.counts[key]:
            queue, victim = victims[0]
            queue.move_to_end(victim)
            return
        for queue, victim in victims:
            gone = queue.pop(victim)
            if queue is self.trial:
                self.trial_used -= gone
            else:
                self.kept_used -= gone
        self.trial[key] = size
        self.trial_used += size


class Gdsf:
    """GreedyDual-Size-Frequency (Cherkasova, 1998): uses by size above a level that rises with what goes."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.used, self.level = capacity, 0, 0.0
        self.entries: dict[int, tuple[float, int, int]] = {}
        self.order: list[tuple[float, int]] = []

    def access(self, key: int, size: int) -> bool:
        _, known_size, uses = self.entries.get(key, (0.0, 0, 0))
        if not uses:
            if size > self.capacity:
                return False
            while self.used + size > self.capacity:
                self.evict()
            self.used += size
        place = self.level + (uses + 1) / size
        self.entries[key] = place, known_size or size, uses + 1
        heapq.heappush(self.order, (place, key))
        return uses > 0

    def evict(self) -> None:
        place, key = heapq.heappop(self.order)
        if self.entries.get(key, (None,))[0] == place:
            self.level = place
            self.used -= self.entries.pop(key)[1]


@dataclass(slots=True)
class _Entry:
    key: str
    size: int
    uses: int = 0
    known_uses: int = 0
    ticket: int = 0


class OurMemory:
    """`edge.cache.eviction` as the memory tier uses it."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.used = capacity, 0
        self.entries: dict[str, _Entry] = {}
        self.queue = EvictionQueue(self.entries, capacity // GHOST_BYTES, lambda _: False)

    def access(self, key: int, size: int) -> bool:
        entry = self.entries.get(str(key))
        if entry is not None:
            entry.uses += 1
            return True
        entry = _Entry(str(key), size)
        victims = self.queue.victims(entry, self.used + size - self.capacity) if size <= self.capacity else None
        if victims is not None:
            for victim in victims:
                del self.entries[victim.key]
                self.queue.discard(victim)
                self.used -= victim.size
            self.entries[entry.key] = entry
            self.used += size
            self.queue.add(entry)
        return False


class OurDisk:
    """The disk tier as `cache.disk_room` does it, without the files: shards, samples, whole blocks; several sharers.

    Every use counts, as if requests were more than a minute apart.
    """

    def __init__(self, capacity: int, sharers: int = 1) -> None:
        self.parts = [_Part(capacity // sharers, range(index, SHARDS, sharers)) for index in range(sharers)]
        self.names: dict[int, tuple[int, int]] = {}

    def access(self, key: int, size: int) -> bool:
        if key not in self.names:
            name = file_name(str(key))
            self.names[key] = int(name[:2], 16), code_of(name)
        shard, code = self.names[key]
        return self.parts[shard % len(self.parts)].access(shard, code, occupied(size))


class _Part:
    def __init__(self, capacity: int, shards: range) -> None:
        self.capacity, self.used, self.turn, self.level = capacity, 0, 0, 0.0
        self.shards: list[dict[int, list]] = [{} for _ in shards]
        self.ghosts = Ghosts(min(1 << 20, capacity // GHOST_BYTES))

    def access(self, shard: int, code: int, size: int) -> bool:
        files = self.shards[shard * len(self.shards) // SHARDS]
        file = files.get(code)
        if file is not None:
            file[2] = min(USES_MAX, file[2] + 1)
            file[0] = self.level + worth(size, file[2])
            return True
        if size > self.capacity // 2:
            return False
        while self.used + size > self.capacity:
            self.evict(size)
        uses = min(USES_MAX, 1 + self.ghosts.take(code))
        files[code] = [self.level + worth(size, uses), size, uses]
        self.used += size
        return False

    def evict(self, wanted: int) -> None:
        found: list[tuple[float, int, dict[int, list]]] = []
        for _ in self.shards:
            files = self.shards[self.turn % len(self.shards)]
            self.turn += 1
            found += ((file[0], code, files) for code, file in files.items())
            if len(found) >= SAMPLE_FILES:
                break
        wanted = max(wanted, sum(files[code][1] for _, code, files in found) // EVICTED_PART)
        lowest = 0.0
        for place, code, files in sorted(found, key=lambda each: each[0]):
            if wanted <= 0:
                break
            _, size, uses = files.pop(code)
            self.used -= size
            wanted -= size
            lowest = lowest or (place if uses > 1 else 0.0)
            self.ghosts.note(code, uses)
        self.level = risen(self.level, lowest)


class Offline:
    """Knows the future: what is used again last, times its size, goes first. A mark, no bound, where sizes differ."""

    def __init__(self, capacity: int, keys: Sequence[int]) -> None:
        self.capacity, self.used, self.time = capacity, 0, 0
        self.next_use = _next_uses(keys)
        self.entries: dict[int, tuple[int, int]] = {}
        self.order: list[tuple[float, int, int]] = []

    def access(self, key: int, size: int) -> bool:
        again = self.next_use[self.time]
        self.time += 1
        is_hit = self.entries.pop(key, None) is not None
        self.used -= size if is_hit else 0
        if size > self.capacity or again < 0:
            return is_hit
        self.entries[key] = size, again
        self.used += size
        heapq.heappush(self.order, (-float(again - self.time) * size, key, again))
        while self.used > self.capacity:
            _, victim, expected = heapq.heappop(self.order)
            if self.entries.get(victim, (0, -1))[1] == expected:
                self.used -= self.entries.pop(victim)[0]
        return is_hit


def _next_uses(keys: Sequence[int]) -> list[int]:
    following: dict[int, int] = {}
    found = [-1] * len(keys)
    for time in range(len(keys) - 1, -1, -1):
        found[time] = following.get(keys[time], -1)
        following[keys[time]] = time
    return found


KNOWN: dict[str, Callable[[int], object]] = {
    "FIFO": Fifo,
    "LRU": Lru,
    "SIEVE": Sieve,
    "S3-FIFO": S3Fifo,
    "W-TinyLFU": TinyLfu,
    "GDSF": Gdsf,
}
IN_MEMORY: dict[str, Callable[[int], object]] = KNOWN | {"ours": OurMemory}
ON_DISK: dict[str, Callable[[int], object]] = KNOWN | {
    "ours": OurDisk,
    "ours, 4 workers": lambda capacity: OurDisk(capacity, 4),
}
