"""What an edge is made of: caches, upstreams, the service that joins them, and those who look after them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from cdn.clock import Clock
from cdn.transport.base import Fetcher
from edge.cache.disk_cache import DiskCache
from edge.cache.memory_cache import MemoryCache
from edge.cache.root_catalogs import RootCatalogs
from edge.cache.shards import Share
from edge.cache.stored_variants import StoredVariants
from edge.config import EdgeConfig, LifetimeSettings
from edge.connection.client_table import ClientTable
from edge.connection.shared import Shared
from edge.documents.signed_documents import SignedDocuments
from edge.fetch.collapsing import Flights
from edge.fetch.supplies import Supplies
from edge.lifetimes import Lifetimes
from edge.operations.purger import Purger
from edge.relaying.neighbours import Neighbours, OwnMemory, OwnVariants
from edge.routing import Routes
from edge.serving.own_requests import OwnRequests
from edge.serving.service import EdgeService
from edge.upstream.fetcher import UpstreamFetcher
from edge.upstream.probing import Prober
from edge.upstream.servers import UpstreamHealth, servers_of
from edge.upstream.siblings import Siblings
from edge.upstream.turns import Turns
from edge.watching.access_log import AccessLog
from edge.watching.complaints import Complaints
from edge.watching.statistics import Statistics


@dataclass(slots=True)
class Parts:
    """The parts of one edge.

    Args:
        supplies: what fetches work with.
        flights: fetches under way.
        service: answers requests.
        shared: what its connections have in common.
        prober: asks upstreams how they are.
        purger: forgets what operators want forgotten.
        own: requests that the edge makes of itself.
        documents: judges manifests and whitelists.
        neighbours: the other workers of the same edge; None if it is the only one.
        fetcher: closed with the parts; None if it is somebody else's.
    """

    supplies: Supplies
    flights: Flights
    service: EdgeService
    shared: Shared
    prober: Prober
    purger: Purger
    own: OwnRequests
    documents: SignedDocuments
    neighbours: Neighbours | None
    fetcher: Fetcher | None

    async def start(self) -> None:
        """Takes up what an earlier run left to do, and meets the other workers; the cache is open by now.

        Raises:
            UsageError: they cannot be met.
        """
        self.purger.open()
        if self.neighbours is not None:
            await self.neighbours.start(self.shared, self.flights)

    async def stop(self) -> None:
        """Ends what is under way."""
        await self.own.stop()
        await self.flights.stop()
        self.service.close()

    async def close(self) -> None:
        """Lets go of everything."""
        if self.neighbours is not None:
            await self.neighbours.stop()
        await self.shared.access_log.stop()
        if self.fetcher is not None:
            await self.fetcher.close()
            await asyncio.sleep(0)  # sockets are closed by the loop, a turn later
        await self.supplies.threads.close()
        self.supplies.disk.close()

    def reload(self, config: EdgeConfig) -> None:
        """Takes over what can change without a restart."""
        routes, fetch, supplies = Routes(config), config.fetch, self.supplies
        self.service.replace_routes(routes)
        supplies.health = supplies.health.replaced(servers_of(config, routes), fetch.retry_after, fetch.hedge_share)
        supplies.siblings = Siblings(config.siblings, routes.holds)
        supplies.lifetimes = _lifetimes(config.lifetimes)
        self.prober.replace(routes.probes())
        self.purger.upstreams = config.upstreams
        self.documents.settings = config.manifest


def build_parts(
    config: EdgeConfig,
    name: str,
    statistics: Statistics,
    *,
    clock: Clock,
    share: Share,
    fetcher: Fetcher | None,
    table: ClientTable | None = None,
) -> Parts:
    """Makes the parts of an edge; nothing is opened yet.

    Args:
        config: what it is told.
        name: what it calls itself.
        statistics: counts what happens.
        clock: the time.
        share: which part of the cache is its.
        fetcher: how upstreams are asked; over HTTP if None.
        table: where all workers count their clients.
    """
    routes, flights = Routes(config), Flights()
    own_or_given = UpstreamFetcher(config.fetch, clock) if fetcher is None else fetcher
    supplies = _supplies(config, name, statistics, clock, share, routes, own_or_given)
    supplies.prompt = own_or_given if isinstance(own_or_given, UpstreamFetcher) else None
    neighbours = None if share.is_whole else Neighbours(share, config.cache.directory, supplies)
    service = EdgeService(supplies, routes, flights, share, None if neighbours is None else neighbours.relay)
    own = OwnRequests(service.serve)
    supplies.root_catalogs = RootCatalogs(supplies.memory, supplies.disk)
    documents = supplies.documents = SignedDocuments(supplies, own, config.manifest, service.forget_destinations)
    statistics.tallies.admit(each for group in config.upstreams for each in group.repositories if _is_name(each))
    return Parts(
        supplies=supplies,
        flights=flights,
        service=service,
        shared=Shared.of(config.limits, service, statistics, AccessLog(config.log, statistics), clock, name, table),
        prober=Prober(supplies, routes.probes()),
        purger=Purger(supplies, flights, config.cache.directory, service.locate, config.upstreams),
        own=own,
        documents=documents,
        neighbours=neighbours,
        fetcher=own_or_given if fetcher is None else None,
    )


def _supplies(
    config: EdgeConfig,
    name: str,
    statistics: Statistics,
    clock: Clock,
    share: Share,
    routes: Routes,
    fetcher: Fetcher,
) -> Supplies:
    memory, disk = _caches(config, statistics, share)
    fetch = config.fetch
    return Supplies(
        fetcher=fetcher,
        health=UpstreamHealth(servers_of(config, routes), fetch.retry_after, hedge_share=fetch.hedge_share),
        siblings=Siblings(config.siblings, routes.holds),
        turns=Turns(fetch.queue_timeout, clock),
        memory=memory,
        disk=disk,
        clock=clock,
        statistics=statistics,
        lifetimes=_lifetimes(config.lifetimes),
        edge_name=name,
        complaints=Complaints(),
        object_bytes_max=config.cache.object_bytes_max,
        variants=StoredVariants(memory, disk, clock) if share.is_whole else OwnVariants(memory, disk, clock, share),
    )


def _caches(config: EdgeConfig, statistics: Statistics, share: Share) -> tuple[MemoryCache, DiskCache]:
    cache = config.cache
    memory: MemoryCache
    if share.is_whole:
        memory = MemoryCache(cache.memory_bytes, cache.memory_object_bytes, cache.pinned_share)
    else:
        memory = OwnMemory(cache.memory_bytes, cache.memory_object_bytes, share, cache.pinned_share)
    disk = DiskCache(
        cache.directory,
        bytes_max=cache.disk_bytes,
        memory_body_max=cache.memory_object_bytes,
        verify_seconds=cache.verify_seconds,
        statistics=statistics,
        is_resident=memory.holds_file,
        pinned_share=cache.pinned_share,
        share=share,
    )
    return memory, disk


def _lifetimes(settings: LifetimeSettings) -> Lifetimes:
    return Lifetimes(
        settings.negative,
        settings.stale_if_error,
        settings.other_stale_if_error,
        settings.stale_while_revalidate,
    )


def _is_name(pattern: str) -> bool:
    return not set("*?[") & set(pattern)
