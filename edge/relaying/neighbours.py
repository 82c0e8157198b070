"""One worker among the others of its edge: what it keeps for itself, and how it is reached by them and reaches them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from cdn.clock import Clock
from edge.cache.descriptors import DescriptorShares
from edge.cache.disk_cache import DiskCache
from edge.cache.memory_cache import MemoryCache
from edge.cache.memory_entry import MemoryEntry
from edge.cache.shards import Share
from edge.cache.stored_variants import StoredVariants
from edge.config import LogSettings
from edge.connection.shared import Shared
from edge.fetch.collapsing import Flights
from edge.fetch.supplies import Supplies
from edge.relaying.inside import InsideListener, InsideService
from edge.relaying.owners import Owners
from edge.relaying.relay import Relay
from edge.relaying.sockets import socket_path
from edge.watching.access_log import AccessLog
from edge.watching.statistics import Statistics

_CONNECTIONS_MAX: Final = 1 << 20
"""Each comes from a request of a client at another worker, and those are limited there."""
_PRIVATE_BYTES_MAX: Final = 512
"""How much longer private fields make a head."""
_DRAIN_STEP_SECONDS: Final = 0.05


class OwnMemory(MemoryCache):
    """The memory of one of several workers: what may change is in its owner's only."""

    def __init__(self, bytes_max: int, body_max: int, share: Share, pinned_share: float = 0.25) -> None:
        super().__init__(bytes_max, body_max, pinned_share)
        self._share = share
        self.tell_others: Callable[[str], None] | None = None
        """Is told of a repository with a newer manifest."""

    def put(self, entry: MemoryEntry) -> None:
        """Takes an entry, if it may."""
        if entry.lifetime.is_immutable or self._share.owns(entry.key):
            super().put(entry)

    def put_negative(self, entry: MemoryEntry) -> None:
        """Takes an upstream's word that there is nothing under a key, if it may."""
        if self._share.owns(entry.key):
            super().put_negative(entry)

    def forget_negatives(self, repository: str) -> None:
        """Forgets what a repository did not have, here and everywhere."""
        self.forget_own_negatives(repository)
        if self.tell_others is not None:
            self.tell_others(repository)

    def forget_own_negatives(self, repository: str) -> None:
        """Forgets what a repository did not have."""
        super().forget_negatives(repository)


class OwnVariants(StoredVariants):
    """The variants that one of several workers keeps: what is another one's, that one is asked to forget."""

    def __init__(self, memory: MemoryCache, disk: DiskCache, clock: Clock, share: Share) -> None:
        super().__init__(memory, disk, clock)
        self._share = share
        self.tell_owner: Callable[[str], Awaitable[bool]] | None = None

    async def forget_everywhere(self, key: str) -> None:
        """Forgets what is stored for a URL here and at its owner; if that is down, for it."""
        await self.forget(key)
        if self._share.owns(key) or (self.tell_owner is not None and await self.tell_owner(key)):
            return
        await asyncio.to_thread(lambda: [self._disk.forget(each) for each in self._all_of(key, self._on_disk(key))])


class Neighbours:
    """The other workers.

    Args:
        share: what this worker has.
        directory: where they listen for one another.
        supplies: caches and clock of this worker.
    """

    def __init__(self, share: Share, directory: Path, supplies: Supplies) -> None:
        self._share = share
        self._directory = directory
        self._with = supplies
        self._owners = Owners()
        self.relay = Relay(share, directory, supplies, self._owners)
        self._listener: InsideListener | None = None
        assert isinstance(supplies.memory, OwnMemory)
        assert isinstance(supplies.variants, OwnVariants)
        self._memory = supplies.memory
        self._memory.tell_others = self.relay.forget_negatives
        supplies.variants.tell_owner = self.relay.forget

    async def start(self, shared: Shared, flights: Flights) -> None:
        """Begins to answer the others.

        Args:
            shared: what the connections of clients have in common.
            flights: fetches under way.

        Raises:
            UsageError: see `InsideListener.start`.
        """
        service = InsideService(shared.service, self._with, flights, self._memory.forget_own_negatives)
        # The client's worker logs and counts its connections, and has named its requests.
        unlogged, uncounted = LogSettings(request_id="accept" if shared.access_log.request_ids else "off"), Statistics()
        inside = Shared(
            service=service,
            limits=shared.limits,
            descriptors=DescriptorShares(_CONNECTIONS_MAX, _CONNECTIONS_MAX),
            request_limits=replace(
                shared.request_limits,
                head_bytes_max=shared.request_limits.head_bytes_max + _PRIVATE_BYTES_MAX,
                fields_max=shared.request_limits.fields_max + 4,
            ),
            statistics=uncounted,
            access_log=AccessLog(unlogged, uncounted),
            clock=shared.clock,
            edge_name=shared.edge_name,
        )
        self._listener = InsideListener(inside, socket_path(self._directory, self._share, self._share.index))
        await self._listener.start()

    async def drain(self, deadline: float) -> None:
        """Lets what the others asked for finish, until a time of the loop."""
        loop = asyncio.get_running_loop()
        while self._listener is not None and loop.time() < deadline:
            if all(connection.is_idle for connection in self._listener.connections):
                return
            await asyncio.sleep(_DRAIN_STEP_SECONDS)

    async def stop(self) -> None:
        """Lets go of the others."""
        self._owners.close()
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            await asyncio.sleep(0)  # sockets are closed by the loop, a turn later
