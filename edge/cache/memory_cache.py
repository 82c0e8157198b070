"""The memory tier: whole responses, ready to be sent, never more bytes than allowed; `cache.eviction` says which."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from edge.cache.eviction import GHOST_BYTES, EvictionQueue
from edge.cache.memory_entry import MemoryEntry
from edge.cache.shards import code_of, file_name

NEGATIVES_MAX: Final = 10_000
_NEGATIVE_PART: Final = 16


class MemoryCache:
    """Responses in memory, up to a number of bytes.

    Args:
        bytes_max: how many, overheads included.
        body_max: the largest body that is taken.
        pinned_share: which part of them what is pinned may fill at most.
    """

    def __init__(self, bytes_max: int, body_max: int, pinned_share: float = 0.25) -> None:
        self.bytes_max = bytes_max
        self.body_max = body_max
        self.used_bytes = 0
        self.evictions = 0
        self._pinned_bytes_max = int(bytes_max * pinned_share)
        self._pinned_bytes = 0
        self._pinned_keys: frozenset[str] = frozenset()
        self._entries: dict[str, MemoryEntry] = {}
        self._queue = EvictionQueue(self._entries, bytes_max // GHOST_BYTES, self._stays)
        self._files: set[int] = set()
        self._negatives: OrderedDict[str, MemoryEntry] = OrderedDict()
        self._negative_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> MemoryEntry | None:
        """What is cached under a key."""
        entry = self._entries.get(key)
        if entry is not None:
            entry.uses += 1
        return entry

    def peek(self, key: str) -> MemoryEntry | None:
        """What is cached under a key, without counting as its use."""
        return self._entries.get(key)

    def keys(self) -> list[str]:
        """All keys, those of names that do not exist included."""
        return [*self._entries, *self._negatives]

    def put(self, entry: MemoryEntry) -> None:
        """Takes an entry in place of what was there, if it is worth the room."""
        replaced = self._entries.get(entry.key)
        if replaced is not None:
            entry.known_uses = replaced.known_uses + replaced.uses
            self.remove(entry.key)
        if len(entry.body) > self.body_max or not self._make_room(entry):
            return
        self._entries[entry.key] = entry
        self._files.add(_code_of(entry))
        self.used_bytes += entry.size
        self._pinned_bytes += entry.size if self._is_pinned(entry) else 0
        self._queue.add(entry)

    def _make_room(self, entry: MemoryEntry) -> bool:
        if entry.size > self.bytes_max - self._negative_bytes:
            return False
        victims = self._queue.victims(entry, self.used_bytes + entry.size - self.bytes_max)
        for victim in victims or ():
            self.remove(victim.key)
        self.evictions += len(victims or ())
        return victims is not None

    def remove(self, key: str) -> bool:
        """Forgets an entry; whether there was one."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return False
        self.used_bytes -= entry.size
        self._pinned_bytes -= entry.size if self._is_pinned(entry) else 0
        self._files.discard(_code_of(entry))
        self._queue.discard(entry)
        return True

    def forget(self, key: str) -> bool:
        """Forgets what is known under a key, a missing name too; whether there was anything."""
        return any([self.remove(key), self.forget_negative(key)])

    def remove_matching(self, matches: Callable[[str], bool]) -> int:
        """Forgets everything whose key matches, missing names too; how many there were."""
        return sum(self.forget(key) for key in self.keys() if matches(key))

    def holds_file(self, name: str) -> bool:
        """Whether the body of this cache file is in memory; may be asked from any thread."""
        return code_of(name) in self._files

    # ---------------------------------------------------------------------------------------- pins

    def pin(self, keys: frozenset[str]) -> None:
        """Lets these entries stay, beside manifests and whitelists, and no longer those named before."""
        changed = [entry for key in keys ^ self._pinned_keys if (entry := self._entries.get(key)) is not None]
        self._pinned_bytes -= sum(entry.size for entry in changed if self._is_pinned(entry))
        self._pinned_keys = keys
        self._pinned_bytes += sum(entry.size for entry in changed if self._is_pinned(entry))
        for entry in changed:
            self._queue.add(entry)

    def _is_pinned(self, entry: MemoryEntry) -> bool:
        return entry.content.is_pinned or entry.key in self._pinned_keys

    def _stays(self, entry: MemoryEntry) -> bool:
        """Whether an entry is pinned, and not more is than may be."""
        return self._pinned_bytes <= self._pinned_bytes_max and self._is_pinned(entry)

    # ---------------------------------------------------------------------------------------- names that do not exist

    def negative(self, key: str) -> MemoryEntry | None:
        """An upstream's word that there is nothing under a key."""
        return self._negatives.get(key)

    def put_negative(self, entry: MemoryEntry) -> None:
        """Takes an upstream's word that there is nothing under a key."""
        self.forget_negative(entry.key)
        most = self.bytes_max // _NEGATIVE_PART
        while self._negatives and (self._negative_bytes + entry.size > most or len(self._negatives) >= NEGATIVES_MAX):
            self.forget_negative(next(iter(self._negatives)))
        if self._negative_bytes + entry.size > most or not self._make_room(entry):
            return
        self._negatives[entry.key] = entry
        self._count_negative(entry.size)

    def forget_negatives(self, repository: str) -> None:
        """Forgets what a repository did not have: a newer manifest may have made it real."""
        for key in [key for key, entry in self._negatives.items() if entry.content.repository == repository]:
            self.forget_negative(key)

    def forget_negative(self, key: str) -> bool:
        """Forgets that there was nothing under a key; whether that was known."""
        entry = self._negatives.pop(key, None)
        if entry is not None:
            self._count_negative(-entry.size)
        return entry is not None

    def _count_negative(self, size: int) -> None:
        self._negative_bytes += size
        self.used_bytes += size


def _code_of(entry: MemoryEntry) -> int:
    return code_of(file_name(entry.key))
