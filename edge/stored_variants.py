"""The lists of variants in both tiers of the cache."""

from __future__ import annotations

import asyncio
import hashlib

from cdn.clock import Clock
from cdn.errors import DocumentError
from edge.content import Content
from edge.disk_cache import DiskCache
from edge.http_caching import Lifetime, Selecting
from edge.memory_cache import MemoryCache, MemoryEntry
from edge.variants import LIST_STATUS, Variants, list_head, variant_key


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
        found = self._disk.load(key, None)
        if found is None:
            return Variants()
        try:
            is_list = found.facts.head.status == LIST_STATUS and found.body is not None
            return Variants.parse(found.body or b"") if is_list else Variants()
        except DocumentError:
            return Variants()
        finally:
            found.close()

    async def forget(self, key: str) -> None:
        """Forgets what is stored for a URL, all variants included (RFC 9111 §4.4)."""
        known = self._in_memory(key)
        for each in known.known:
            self._memory.remove(variant_key(key, each))
        self._memory.remove(key)
        self._memory.forget_negative(key)
        await asyncio.to_thread(self._forget_on_disk, key)

    def _forget_on_disk(self, key: str) -> None:
        for each in self._on_disk(key).known:
            self._disk.remove(variant_key(key, each))
        self._disk.remove(key)
