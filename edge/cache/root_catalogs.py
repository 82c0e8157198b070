"""The root catalogs that stay in the cache: of each repository the one that the newest manifest at hand names."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Final

from cdn.manifest import Manifest
from cdn.objects import Kind, ObjectName
from edge.cache.disk_cache import DiskCache
from edge.cache.memory_cache import MemoryCache
from edge.content import Content, ContentKind, object_key

PINS_MAX: Final = 1000
"""How many root catalogs are pinned; of more, those whose manifests came longest ago are let go."""


class RootCatalogs:
    """Pins them in both tiers; how much room they keep there, the tiers bound.

    Args:
        memory: one tier.
        disk: the other.
    """

    def __init__(self, memory: MemoryCache, disk: DiskCache) -> None:
        self._memory = memory
        self._disk = disk
        self._keys: OrderedDict[str, str] = OrderedDict()

    def note(self, manifest_key: str, repository: str, manifest: Manifest) -> None:
        """Pins the root catalog of a manifest that is given out from now on, instead of the one before."""
        path = ObjectName(manifest.root_catalog, Kind.CATALOG).path
        key = object_key(Content(ContentKind.OBJECT, repository, manifest.root_catalog, path))
        gone = {self._keys.pop(manifest_key, key)}
        self._keys[manifest_key] = key
        if len(self._keys) > PINS_MAX:
            gone.add(self._keys.popitem(last=False)[1])
        held = frozenset(self._keys.values())
        self._memory.pin(held)
        _ = asyncio.get_running_loop().run_in_executor(None, self._pin_on_disk, key, gone - held)

    def holds(self, key: str) -> bool:
        """Whether this is one of them."""
        return key in self._keys.values()

    def _pin_on_disk(self, key: str, gone: set[str]) -> None:
        for each in gone:
            self._disk.pin(each, is_pinned=False)
        self._disk.pin(key)
