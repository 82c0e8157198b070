"""What becomes of an answer in the caches: whether it may be there, for how long, and the way to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final

from cdn.errors import StorageError
from cdn.telemetry import event
from edge.cache.memory_entry import MemoryEntry
from edge.fetch.arriving_body import ArrivingBody
from edge.fetch.collapsing import Flight
from edge.fetch.orders import FetchOrder
from edge.fetch.supplies import Supplies
from edge.http.caching import Lifetime, StoredHead, is_storable
from edge.http.variants import variant_key

_SPOOLED_BYTES: Final = 1 << 20
"""What a body counts for that goes into a file while it arrives: the rest of it, and the file's descriptor."""


class Keeping:
    """Puts what one fetch brings into memory and on disk; a disk that refuses is no failure of the fetch.

    Args:
        supplies: the caches.
        order: what is fetched.
        flight: overtaken by a change, it keeps nothing.
    """

    def __init__(self, supplies: Supplies, order: FetchOrder, flight: Flight) -> None:
        self._with = supplies
        self._order = order
        self._flight = flight
        self._content = order.destination.content
        self._resource = order.destination.key

    def may_share(self, head: StoredHead) -> bool:
        """Whether others than the client that asked may have an answer."""
        return (
            self._order.may_keep
            and (self._order.destination.is_general or "Set-Cookie" not in head.headers)
            and is_storable("GET", self._order.request, head.status, head.headers, self._lifetime(head.status))
        )

    def entry(self, head: StoredHead, body: bytes) -> MemoryEntry:
        """A whole answer as memory holds it."""
        key, lifetime = variant_key(self._resource, head.selecting), self._lifetime(head.status)
        return MemoryEntry(key, head, body, self._content, lifetime, self._with.clock.now())

    def remember(self, entry: MemoryEntry, *, is_stored: bool) -> None:
        """Takes that there is such a thing, and holds it in memory if it is to be stored."""
        self._with.memory.forget_negative(self._resource)
        if is_stored and not self._flight.is_outdated:
            self._with.memory.put(entry)

    async def store(self, body: ArrivingBody | bytes, head: StoredHead, checksum: str) -> None:
        """Puts a complete body on disk.

        Args:
            body: as it came.
            head: status and fields.
            checksum: of a body that its name does not prove, else empty.
        """
        size = len(body) if isinstance(body, bytes) else min(body.arrived, _SPOOLED_BYTES)
        try:
            with self._with.store_queue.place(self._resource, size, is_certain=self._content.is_pinned):
                async with self._with.storing.hold(self._resource):  # so that the answer that came last stays
                    await self._store(body, head, checksum)
        except StorageError as error:
            self.note_refused(error)

    async def _store(self, body: ArrivingBody | bytes, head: StoredHead, checksum: str) -> None:
        if self._flight.is_outdated:
            return
        key = variant_key(self._resource, head.selecting)
        await self._put(body, key, head, checksum)
        if head.selecting:
            await self._with.variants.store(self._resource, head.selecting)
        if self._with.root_catalogs is not None and self._with.root_catalogs.holds(key):
            await asyncio.to_thread(self._with.disk.pin, key)

    def store_behind(self, body: bytes, head: StoredHead, on_end: Callable[[], object]) -> None:
        """Has an object that its name proves put on disk while nobody waits for that.

        Args:
            body: the whole of it.
            head: status and fields.
            on_end: called when that is over, whether or not the disk took it.
        """
        try:
            self._with.store_queue.enter(self._resource, len(body))
        except StorageError as error:
            self.note_refused(error)
            on_end()
            return
        self._with.threads.post(partial(self._write_object, body, head), partial(self._note_written, len(body), on_end))

    def _write_object(self, body: bytes, head: StoredHead) -> None:
        if not self._flight.is_outdated:
            self._with.disk.store(self._resource, head, body, "")

    def _note_written(self, size: int, on_end: Callable[[], object], error: Exception | None) -> None:
        catalogs = self._with.root_catalogs
        self._with.store_queue.leave(self._resource, size)
        if isinstance(error, StorageError):
            self.note_refused(error)
        elif error is not None:
            event("edge.cache.crashed", level="error", key=self._resource, error=f"{type(error).__name__}: {error}")
        elif catalogs is not None and catalogs.holds(self._resource):
            self._with.threads.post(partial(self._with.disk.pin, self._resource), lambda _: on_end())
            return
        on_end()

    async def _put(self, body: ArrivingBody | bytes, key: str, head: StoredHead, checksum: str) -> None:
        disk, pinned = self._with.disk, self._content.is_pinned
        if isinstance(body, bytes) or body.spool is None:
            data = body if isinstance(body, bytes) else body.joined()
            await self._with.threads.run(partial(disk.store, key, head, data, checksum, pinned=pinned), is_urgent=False)
            return
        await body.flush()
        if body.storage_error is not None:
            raise body.storage_error
        await asyncio.to_thread(disk.commit, body.spool, key, head, checksum, pinned=pinned)

    async def refresh(self, head: StoredHead) -> None:
        """Gives what is stored a new head, unless it was overtaken."""
        if self._flight.is_outdated:
            return
        key, pinned = variant_key(self._resource, head.selecting), self._content.is_pinned
        entry = self._with.memory.get(key)
        if entry is not None:
            self._with.memory.put(self.entry(head, entry.body))
        try:
            async with self._with.storing.hold(self._resource):
                await asyncio.to_thread(self._with.disk.refresh, key, head, pinned=pinned)
        except StorageError as error:
            self.note_refused(error)

    def note_refused(self, error: StorageError) -> None:
        """Counts that the disk refused something."""
        self._with.statistics.storage_failures += 1
        self._with.warn("edge.cache.not_stored", "", key=self._resource, reason=str(error))

    def _lifetime(self, status: int) -> Lifetime:
        return self._with.lifetimes.of(self._content.kind, status)
