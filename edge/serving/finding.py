"""What is stored for a request: in memory, else on disk; the variant that fits, and nothing that was purged."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Final

from cdn.errors import DocumentError
from cdn.transport.slots import HostSlots
from edge.cache.disk_cache import OpenFile
from edge.cache.memory_entry import MemoryEntry
from edge.cache.purging import Verdict
from edge.content import Content, ContentKind, is_judged
from edge.fetch.collapsing import Flights
from edge.fetch.supplies import Supplies
from edge.http.answering import Representation
from edge.http.caching import Lifetime, selects
from edge.http.request import Request
from edge.http.variants import LIST_STATUS, Variants, variant_key
from edge.routing import Destination

LOADS_MAX: Final = 32
LOAD_ROUNDS_MAX: Final = 3
"""How often a load begins anew because something was purged meanwhile."""


class StoredFile:
    """A stored response whose body stays on disk; the fields as in `MemoryEntry`."""

    def __init__(self, file: OpenFile, content: Content, lifetime: Lifetime, *, is_outdated: bool) -> None:
        self.file = file
        self.is_outdated = is_outdated
        self.head = file.facts.head
        self.content = content
        self.lifetime = lifetime

    def representation(self) -> Representation:
        """What answers are made from."""
        return Representation(self.head, self.content, self.lifetime, self.file.facts.size)


Stored = MemoryEntry | StoredFile


@dataclass(frozen=True, slots=True)
class Found:
    """What is stored for a request's URL.

    Args:
        stored: the response that fits the request, else another variant, else None.
        flight_key: under which others fetch the same.
    """

    stored: Stored | None
    flight_key: str

    def fitting(self, request: Request) -> Stored | None:
        """The response, if the request may get it."""
        return self.stored if self.stored is not None and selects(self.stored.head, request.headers) else None

    def close(self) -> None:
        """Lets go of a file."""
        if isinstance(self.stored, StoredFile):
            self.stored.file.close()


class Finder:
    """Finds what is stored, and brings what is small from disk to memory.

    Args:
        supplies: caches and clock.
        flights: fetches under way.
    """

    def __init__(self, supplies: Supplies, flights: Flights) -> None:
        self._with = supplies
        self._flights = flights
        self._loading = HostSlots(LOADS_MAX, 1)

    async def find(self, destination: Destination, request: Request) -> Found:
        """What is stored for a request; to be closed by the caller."""
        key = destination.key
        stored = self._with.memory.get(key) or self._fresh_negative(key) or await self._load(destination, key)
        if not isinstance(stored, MemoryEntry) or stored.head.status != LIST_STATUS:
            return Found(stored, key)
        try:
            variants = Variants.parse(stored.body)
        except DocumentError:
            return Found(None, key)
        chosen = variant_key(key, variants.selected(request.headers))
        stored = self._with.memory.get(chosen) or await self._load(destination, chosen)
        return Found(stored, variant_key(key, variants.wanted(request.headers)))

    async def _load(self, destination: Destination, key: str) -> Stored | None:
        """What is stored on disk under a key; what is small goes to memory."""
        content = destination.content
        if content.kind is ContentKind.OBJECT and self._with.disk.lacks(key):
            return None
        if self._is_on_its_way(key, content):
            return None
        async with self._loading.hold(key):
            entry = self._with.memory.get(key)  # what others waited for as well
            if entry is not None or self._is_on_its_way(key, content):
                return entry
            file = await self._open(key, content)
        if file is None:
            return self._with.memory.get(key)  # a fetch may have come to its end meanwhile
        head = file.facts.head
        verdict = self._with.purges.judge(key, head.answered_at, self._with.clock.now())
        if verdict is Verdict.GONE:
            file.close()
            return None
        is_outdated = verdict is Verdict.STALE or file.is_outdated
        lifetime = self._with.lifetimes.of(content.kind, head.status)
        if file.body is None:
            return StoredFile(file, content, lifetime, is_outdated=is_outdated)
        file.close()
        documents = self._with.documents
        if documents is not None and is_judged(content) and not documents.loaded(destination, file.body):
            return None
        entry = MemoryEntry(key, head, file.body, content, lifetime, self._with.clock.now())
        if is_outdated:
            entry.outdate()
        self._with.memory.put(entry)
        return entry

    def _is_on_its_way(self, key: str, content: Content) -> bool:
        """Whether an object is being fetched because it is not there, so that a crowd need not ask the disk again."""
        return content.kind is ContentKind.OBJECT and self._flights.has_miss(key)

    async def _open(self, key: str, content: Content) -> OpenFile | None:
        """What is on disk under a key, and was not purged while the disk was busy."""
        purges = self._with.purges
        for _ in range(LOAD_ROUNDS_MAX):
            generation = purges.generation
            load = partial(self._with.disk.load, key, content.digest, pinned=content.is_pinned)
            file = await self._with.threads.run(load, _close)
            if file is None or purges.generation == generation:
                return file
            file.close()
        return None

    def _fresh_negative(self, key: str) -> MemoryEntry | None:
        entry = self._with.memory.negative(key)
        return entry if entry is not None and self._with.clock.now() < entry.fresh_until else None


def _close(file: OpenFile | None) -> None:
    if file is not None:
        file.close()
