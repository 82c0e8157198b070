"""What fetches work with: beyond what it takes to ask upstreams, where answers are kept, and who judges them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Protocol

from cdn.transport.slots import HostSlots
from edge.cache.disk_cache import DiskCache
from edge.cache.disk_threads import DiskThreads
from edge.cache.memory_cache import MemoryCache
from edge.cache.purging import StandingRules
from edge.cache.root_catalogs import RootCatalogs
from edge.cache.stored_variants import StoredVariants
from edge.fetch.orders import FetchOrder
from edge.fetch.store_queue import StoreQueue
from edge.lifetimes import Lifetimes
from edge.routing import Destination
from edge.upstream.supplies import UpstreamSupplies

STORES_MAX: Final = 64
"""How many responses are being written to disk at once."""


class DocumentJudge(Protocol):
    """Judges manifests and whitelists; see `edge.documents.signed_documents`."""

    async def judge(self, order: FetchOrder, data: bytes) -> None:
        """Accepts what an upstream gave, or raises `DocumentError` or `RollbackError`."""
        ...

    def loaded(self, destination: Destination, data: bytes) -> bool:
        """Takes what an earlier run stored; False if it is of no use."""
        ...


@dataclass(slots=True)
class Supplies(UpstreamSupplies):
    """What fetches work with; `lifetimes` are replaced by a reload as well."""

    memory: MemoryCache
    disk: DiskCache
    lifetimes: Lifetimes
    object_bytes_max: int
    variants: StoredVariants
    purges: StandingRules = field(default_factory=StandingRules)
    documents: DocumentJudge | None = None
    """Judges manifests and whitelists."""
    root_catalogs: RootCatalogs | None = None
    """Pins the root catalogs of the newest manifests."""
    threads: DiskThreads = field(default_factory=DiskThreads)
    """Where small responses are loaded and stored."""
    storing: HostSlots = field(default_factory=lambda: HostSlots(STORES_MAX, 1))
    store_queue: StoreQueue = field(default_factory=StoreQueue)
