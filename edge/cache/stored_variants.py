"""The lists of variants in both tiers of the cache."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from cdn.clock import Clock
from cdn.errors import DocumentError
from edge.cache.disk_cache import DiskCache
from edge.cache.memory_cache import MemoryCache
from edge.cache.memory_entry import MemoryEntry
from edge.content import Content, digest_of_key
from edge.http.caching import Lifetime, Selecting
from edge.http.variants import LIST_STATUS, Variants, list_head, variant_key


@dataclass(frozen=True, slots=True)
class Purged:
    """How many responses were forgotten or outdated in each tier."""

    in_memory: int = 0
    on_disk: int = 0

    def __add__(self, other: Purged) -> Purged:
        return Purged(self.in_memory + other.in_memory, self.on_disk + other.on_disk)


class StoredVariants:
    """Keeps the lists, and forgets everything that is stored for a URL.

    Args:
        memory: one tier.
        disk: the other.
        clock: the time.
    """

    def __init__(self, memory: MemoryCache, disk: DiskCache, clock: Clock) -> None:
        self._memory = memory
        self._disk = disk
        self._clock = clock

    def note(self, key: str, content: Content, selecting: Selecting) -> None:
        """Adds a variant to the list in memory; `store` puts that on disk."""
        before = self._in_memory(key)
        after = before.with_newest(selecting)
        entry = MemoryEntry(key, list_head(self._clock.now()), after.to_bytes(), content, Lifetime(), 0.0)
        self._memory.forget_negative(key)
        self._memory.put(entry)
        for dropped in set(before.known) - set(after.known):
            self._memory.remove(variant_key(key, dropped))

    def _in_memory(self, key: str) -> Variants:
        entry = self._memory.get(key)
        if entry is None or entry.head.status != LIST_STATUS:
            return Variants()
        try:
            return Variants.parse(entry.body)
        except DocumentError:
            return Variants()

    async def store(self, key: str, selecting: Selecting) -> None:
        """Puts the list on disk.

        Raises:
            StorageError: it cannot be kept.
        """
        known = self._in_memory(key)
        await asyncio.to_thread(self._store, key, known if known.known else known.with_newest(selecting))

    def _store(self, key: str, variants: Variants) -> None:
        for dropped in set(self._on_disk(key).known) - set(variants.known):
            self._disk.remove(variant_key(key, dropped))
        data = variants.to_bytes()
        self._disk.store(key, list_head(self._clock.now()), data, hashlib.sha256(data).hexdigest())

    def _on_disk(self, key: str) -> Variants:
        found = self._disk.load(key, digest_of_key(key))
        if found is None:
            return Variants()
        try:
            is_list = found.facts.head.status == LIST_STATUS and found.body is not None
            return Variants.parse(found.body or b"") if is_list else Variants()
        except DocumentError:
            return Variants()
        finally:
            found.close()

    async def forget(self, key: str) -> Purged:
        """Forgets what is stored for a URL, all variants included (RFC 9111 §4.4)."""
        in_memory = sum(self._memory.forget(each) for each in self._all_of(key, self._in_memory(key)))
        return Purged(in_memory, await asyncio.to_thread(self._on_each_file, key, self._disk.forget))

    async def forget_everywhere(self, key: str) -> None:
        """Forgets what is stored for a URL, in other workers of this edge as well."""
        await self.forget(key)

    async def outdate(self, key: str) -> Purged:
        """Lets an upstream confirm what is stored for a URL before it is used, all variants included."""
        in_memory = 0
        for each in self._all_of(key, self._in_memory(key)):
            entry = self._memory.peek(each)
            if entry is not None:
                entry.outdate()
                in_memory += 1
        self._memory.forget_negative(key)
        return Purged(in_memory, await asyncio.to_thread(self._on_each_file, key, self._disk.outdate))

    def _on_each_file(self, key: str, act: Callable[[str], bool]) -> int:
        if not self._disk.owns(key):
            return 0
        return sum(act(each) for each in self._all_of(key, self._on_disk(key)))

    def _all_of(self, key: str, variants: Variants) -> list[str]:
        return [*(variant_key(key, each) for each in variants.known), key]
