"""The edge as one thing that starts and stops: caches, fetcher, listeners and the tasks that look after them.

server = EdgeServer(config)
await server.start()
host, port = server.address
...
await server.stop()
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Final

from cdn.clock import Clock, SystemClock
from cdn.daemon import Command, HttpListener, operator_application
from cdn.errors import UsageError
from cdn.telemetry import event
from cdn.transport.base import Fetcher
from edge.accepting import Acceptor
from edge.access_log import AccessLog
from edge.collapsing import Flights
from edge.config import EdgeConfig, LifetimeSettings
from edge.config_checks import listen_address
from edge.config_listen import TcpAddress
from edge.content import Lifetimes, digest_of_key
from edge.disk_cache import DiskCache
from edge.draining import Drain, Phase, parse_drain_order
from edge.listeners import Listeners, bound_address, open_listeners, open_tcp
from edge.memory_cache import MemoryCache
from edge.metrics import Gauges, render_metrics
from edge.naming import own_name, place_of
from edge.neighbours import Neighbours, OwnMemory, OwnVariants
from edge.orders import Supplies
from edge.own_requests import OwnRequests
from edge.probing import Prober
from edge.protocol import Connection
from edge.purger import Purger
from edge.readiness import why_not_ready
from edge.revisions import RevisionWatch
from edge.root_catalogs import RootCatalogs
from edge.routing import Routes
from edge.service import EdgeService
from edge.shards import WHOLE, Share
from edge.shared import Shared
from edge.siblings import Siblings
from edge.signed_documents import SignedDocuments
from edge.statistics import Statistics
from edge.stored_variants import StoredVariants
from edge.tls import Handshakes
from edge.upstream_fetcher import UpstreamFetcher
from edge.upstream_turns import Turns
from edge.upstreams import UpstreamHealth, servers_of

ADMIN_BACKLOG: Final = 128
CHECK_SECONDS: Final = 1.0
SCRUB_PAUSE_SECONDS: Final = 60.0
"""Between one pass over the cache and the next."""
LAG_INTERVAL_SECONDS: Final = 0.25
REMIND_SECONDS: Final = 600.0

Address = tuple[str, int]


class EdgeServer:
    """One edge, in the running event loop.

    Args:
        config: what it is told.
        listeners: where it accepts connections, closed when it stops; opened by itself if None.
        clock: the time.
        fetcher: how upstreams are asked; over HTTP by default.
        share: which part of the cache is its, if it is one of several workers.
        stop_wanted: told when an operator wants the process to end.
        admin_socket: where operators ask, closed when it stops; opened by itself if None.
        before_cache: waited for before the cache is taken.
        more_commands: what else operators can have done.
    """

    def __init__(
        self,
        config: EdgeConfig,
        *,
        listeners: Listeners | None = None,
        clock: Clock | None = None,
        fetcher: Fetcher | None = None,
        share: Share = WHOLE,
        stop_wanted: Callable[[], None] = lambda: None,
        admin_socket: socket.socket | None = None,
        before_cache: Callable[[], Awaitable[None]] | None = None,
        more_commands: Mapping[str, Command] | None = None,
    ) -> None:
        self._config = config
        self._share = share
        self._clock = clock or SystemClock()
        self._fetcher = fetcher
        self._owns_fetcher = fetcher is None
        self.statistics = Statistics()
        self._listeners = listeners
        self._acceptor: Acceptor | None = None
        self._handshakes: Handshakes | None = None
        self._admin: HttpListener | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._flights = Flights()
        self._supplies: Supplies | None = None
        self._service: EdgeService | None = None
        self._prober: Prober | None = None
        self._purger: Purger | None = None
        self._own: OwnRequests | None = None
        self._documents: SignedDocuments | None = None
        self._shared: Shared | None = None
        self._neighbours: Neighbours | None = None
        self.addresses: tuple[Address, ...] = ()
        self.listening: tuple[str, ...] = ()
        """Every address where it accepts connections, Unix sockets too."""
        self.places: tuple[str, ...] = ()
        """The same as a person says it."""
        self.admin_address: Address | None = None
        self._crashed = False
        self._stop_wanted = stop_wanted
        self._is_stopping = False
        self.admin_socket = admin_socket
        self._before_cache = before_cache
        self._more_commands = more_commands or {}
        self._drain: Drain | None = None
        self.has_successor = False
        """Whether another process accepts from the same sockets, so that clients may take their time to leave."""

    @property
    def address(self) -> Address:
        """The first address and the port on which requests arrive."""
        return self.addresses[0]

    @property
    def config(self) -> EdgeConfig:
        """What it was told last."""
        return self._config

    @property
    def is_draining(self) -> bool:
        """Whether it is leaving, and new clients are better served elsewhere."""
        return self._shared is None or self.phase is not Phase.SERVING

    @property
    def is_healthy(self) -> bool:
        """Whether everything that it needs to serve is at work."""
        return not self._crashed

    # ------------------------------------------------------------------------------------------------ life

    async def start(self) -> None:
        """Takes the cache and begins to answer.

        Raises:
            UsageError: an address or the cache directory cannot be had.
        """
        try:
            self._bind()
            self._build()
            if self._before_cache is not None:
                await self._before_cache()
            await asyncio.to_thread(self._supplies_now.disk.open)
            self._purger_now.open()
            if self._neighbours is not None and self._shared is not None:
                await self._neighbours.start(self._shared, self._flights)
            await self._listen()
            await self._start_admin()
            self._start_tasks()
        except BaseException:
            await self.stop(drain_seconds=0)
            raise
        event("edge.server.started", addresses=list(self.listening))

    async def stop(self, *, drain_seconds: float | None = None) -> None:
        """Stops listening, lets answers under way finish, and lets go of everything.

        Args:
            drain_seconds: how long they may take; as configured if None, and with 0 every connection breaks at once.
        """
        self._is_stopping = True
        await self._leave(drain_seconds)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        if self._own is not None:
            await self._own.stop()
        await self._flights.stop()
        if self._service is not None:
            self._service.close()
        await self._close_parts()

    async def _leave(self, seconds: float | None) -> None:
        limits, loop = self._config.limits, asyncio.get_running_loop()
        if self._drain is None:
            self._close_doors()
            return
        if seconds == 0:
            await self._drain.break_off()
        else:
            delay = limits.drain_delay if seconds is None and not self.has_successor else 0.0
            timeout = limits.drain_timeout if seconds is None else seconds
            leaving = self._drain.begin(delay_seconds=delay, timeout_seconds=timeout, waits_for_idle=self.has_successor)
            if self.has_successor:
                await self._stop_admin()
            await leaving
        if self._handshakes is not None:
            await self._handshakes.abort()
        if self._neighbours is not None:
            await self._neighbours.drain(loop.time() + (limits.drain_timeout if seconds is None else seconds))

    def _close_doors(self) -> None:
        if self._acceptor is not None:
            self._acceptor.close()

    def _on_phase(self, phase: Phase) -> None:
        assert self._service is not None
        assert self._shared is not None
        self._service.is_draining = phase is not Phase.SERVING and not self.has_successor
        self._shared.is_draining = phase in {Phase.CLOSED, Phase.DRAINED}
        self._shared.is_over = phase is Phase.DRAINED

    async def drain(self, document: dict[str, object]) -> dict[str, object]:
        """Takes the edge out of service, or back; see `edge.draining.DrainOrder`.

        Raises:
            UsageError: the order is not sound, or it is too late to undo it.
        """
        order, limits = parse_drain_order(document), self._config.limits
        if self._drain is None or (order.undo and self._is_stopping):
            raise UsageError("the edge is stopping")
        if order.undo:
            self._drain.undo()
        else:
            _ = self._drain.begin(delay_seconds=limits.drain_delay, timeout_seconds=limits.drain_timeout)
        if order.stop:
            self._is_stopping = True
            self._stop_wanted()
        return {
            "phase": self.phase.value,
            "connections": self.statistics.connections_open,
            "seconds_max": limits.drain_delay + limits.drain_timeout,
        }

    @property
    def phase(self) -> Phase:
        """How far it is on its way out."""
        return Phase.SERVING if self._drain is None else self._drain.phase

    async def _stop_admin(self) -> None:
        if self.admin_socket is not None:
            self.admin_socket.close()
            self.admin_socket = None
        if self._admin is not None:
            await self._admin.stop()
            self._admin = None

    def retire_cache(self) -> None:
        """Leaves the cache to a successor; what is cached is still served."""
        self._supplies_now.disk.retire()

    def resume_cache(self) -> None:
        """Takes the cache back.

        Raises:
            UsageError: it cannot be had.
        """
        self._supplies_now.disk.resume()

    @property
    def sockets(self) -> Listeners:
        """All listening sockets that are open."""
        return () if self._acceptor is None else self._acceptor.listeners

    async def _close_parts(self) -> None:
        await self._stop_admin()
        if self._neighbours is not None:
            await self._neighbours.stop()
        if self._shared is not None:
            await self._shared.access_log.stop()
        if self._fetcher is not None and self._owns_fetcher:
            await self._fetcher.close()
            self._fetcher = None
            await asyncio.sleep(0)  # sockets are closed by the loop, a turn later
        if self._supplies is not None:
            await self._supplies.threads.close()
            self._supplies.disk.close()

    def reload(self, config: EdgeConfig) -> None:
        """Serves by another configuration from now on; connections and cache stay.

        Upstreams, forwarding, lifetimes and certificates change at once; addresses, cache, limits and log settings with
        a restart.
        """
        if self._acceptor is not None:
            self.statistics.reloads_failed += self._acceptor.reload_certificates(config.listen)
        if self._service is not None:
            supplies = self._supplies_now
            routes = Routes(config)
            self._service.replace_routes(routes)
            fetch = config.fetch
            supplies.health = supplies.health.replaced(servers_of(config, routes), fetch.retry_after, fetch.hedge_share)
            supplies.siblings = Siblings(config.siblings, routes.holds)
            if self._prober is not None:
                self._prober.replace(routes.probes())
            supplies.lifetimes = _lifetimes(config.lifetimes)
            if self._documents is not None:
                self._documents.settings = config.manifest
        if _fixed_at_start(config) != _fixed_at_start(self._config):
            event(
                "edge.reload.partial",
                level="warning",
                reason="only upstreams, forwarding, lifetimes and certificates change without a restart",
            )
        self._config = config
        self.statistics.reloads_good += 1
        event("edge.server.reloaded", upstreams=[upstream.name for upstream in config.upstreams])

    def reopen_log(self) -> None:
        """Opens the access log again, after it was moved away."""
        if self._shared is not None:
            self._shared.access_log.reopen()

    # ------------------------------------------------------------------------------------------------ parts

    @property
    def _supplies_now(self) -> Supplies:
        assert self._supplies is not None
        return self._supplies

    @property
    def _purger_now(self) -> Purger:
        assert self._purger is not None
        return self._purger

    def _bind(self) -> None:
        settings = self._config.listen
        listeners = open_listeners(settings)[0] if self._listeners is None else self._listeners
        self._acceptor = Acceptor(settings, listeners, self._clock)
        bound = [bound_address(each.sock) for each in listeners]
        self.addresses = tuple((each.host, each.port) for each in bound if isinstance(each, TcpAddress))
        self.listening = tuple(each.text for each in listeners)
        self.places = tuple(place_of(each, settings) for each in listeners)
        self._acceptor.load_certificates()

    def _build(self) -> None:
        config, statistics = self._config, self.statistics
        routes = Routes(config)
        cache = config.cache
        memory: MemoryCache
        if self._share.is_whole:
            memory = MemoryCache(cache.memory_bytes, cache.memory_object_bytes, cache.pinned_share)
        else:
            memory = OwnMemory(cache.memory_bytes, cache.memory_object_bytes, self._share, cache.pinned_share)
        disk = DiskCache(
            cache.directory,
            bytes_max=cache.disk_bytes,
            memory_body_max=cache.memory_object_bytes,
            verify_seconds=cache.verify_seconds,
            statistics=statistics,
            is_resident=memory.holds_file,
            pinned_share=cache.pinned_share,
            share=self._share,
        )
        if self._fetcher is None:
            self._fetcher = UpstreamFetcher(config.fetch, self._clock)
        self._supplies = Supplies(
            fetcher=self._fetcher,
            health=UpstreamHealth(
                servers_of(config, routes), config.fetch.retry_after, hedge_share=config.fetch.hedge_share
            ),
            siblings=Siblings(config.siblings, routes.holds),
            turns=Turns(config.fetch.queue_timeout, self._clock),
            memory=memory,
            disk=disk,
            clock=self._clock,
            statistics=statistics,
            lifetimes=_lifetimes(config.lifetimes),
            revisions=RevisionWatch(),
            edge_name=config.name or own_name(self.addresses[0] if self.addresses else None),
            object_bytes_max=cache.object_bytes_max,
            variants=StoredVariants(memory, disk, self._clock)
            if self._share.is_whole
            else OwnVariants(memory, disk, self._clock, self._share),
        )
        if not self._share.is_whole:
            self._neighbours = Neighbours(self._share, cache.directory, self._supplies)
        relay = self._neighbours.relay if self._neighbours is not None else None
        self._prober = Prober(self._supplies, routes.probes())
        service = self._service = EdgeService(self._supplies, routes, self._flights, self._share, relay)
        self._own = OwnRequests(service.serve)
        self._supplies.root_catalogs = RootCatalogs(memory, disk)
        self._supplies.documents = self._documents = SignedDocuments(
            self._supplies, self._own, config.manifest, service.forget_destinations
        )
        statistics.tallies.admit(each for group in config.upstreams for each in group.repositories if _is_name(each))
        self._purger = Purger(
            self._supplies, self._flights, cache.directory, service.locate, lambda: self._config.upstreams
        )
        self._shared = Shared.of(
            config.limits, service, statistics, AccessLog(config.log, statistics), self._clock, self._supplies.edge_name
        )

    async def _listen(self) -> None:
        shared, limits = self._shared, self._config.limits
        assert shared is not None
        assert self._acceptor is not None
        handshakes = self._handshakes = Handshakes(
            self.statistics,
            limits.handshake_timeout,
            lambda under_way: len(shared.connections) + under_way < limits.connections_max,
        )
        self._drain = Drain(shared.connections, lambda: len(handshakes), self._close_doors, self._on_phase)
        await self._acceptor.open(lambda: Connection(shared), handshakes)

    async def _start_admin(self) -> None:
        if self._config.admin.listen:
            admin = HttpListener(
                operator_application(
                    status=self.status,
                    metrics=self.metrics,
                    is_ready=lambda: not self._why_not_ready(),
                    commands=self.commands,
                    why_not_ready=self._why_not_ready,
                )
            )
            if self.admin_socket is None:
                address = TcpAddress(*listen_address(self._config.admin.listen))
                (self.admin_socket,) = open_tcp(address, ADMIN_BACKLOG)
            await admin.start_on(self.admin_socket.dup())
            self._admin, self.admin_address = admin, admin.address

    def _why_not_ready(self) -> str:
        return why_not_ready(self.phase.value if self.is_draining else "", self._config.cache.directory)

    def _start_tasks(self) -> None:
        assert self._shared is not None
        self._shared.access_log.start()
        self._look_after(self._check_on)
        self._look_after(self._purger_now.work)
        self._look_after(self._remind_on)
        if self._prober is not None:
            self._look_after(self._prober.run)
        self._look_after(self._measure_on)
        self._look_after(lambda: asyncio.to_thread(self._supplies_now.disk.count))
        if self._config.cache.scrub_bytes_per_second:
            self._look_after(self._scrub_on)

    def _look_after(self, work: Callable[[], Awaitable[None]]) -> None:
        async def watched() -> None:
            try:
                await work()
            except Exception as error:  # noqa: BLE001 -- the outermost edge of a task that nobody awaits
                self._crashed = True
                event("edge.task.crashed", level="error", error=f"{type(error).__name__}: {error}")

        self._tasks.append(asyncio.create_task(watched()))

    async def _check_on(self) -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            self.check_connections()

    async def _measure_on(self) -> None:
        """Measures how late the event loop is."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_INTERVAL_SECONDS
            await asyncio.sleep(LAG_INTERVAL_SECONDS)
            self.statistics.lag.observe(max(0.0, loop.time() - due))

    async def _remind_on(self) -> None:
        """Warns of whitelists that expire soon, also of repositories nobody asks for just now."""
        while self._documents is not None:
            await asyncio.sleep(REMIND_SECONDS)
            self._documents.remind()

    def check_connections(self) -> None:
        """Ends connections whose clients are too slow; done by itself about once a second."""
        if self._shared is not None:
            now = self._clock.monotonic()
            for connection in list(self._shared.connections):
                connection.check(now)
            self._shared.cut_slow_readers()
        if self._service is not None:
            self._service.tidy()

    # ------------------------------------------------------------------------------------------------ scrubbing

    async def _scrub_on(self) -> None:
        while True:
            await asyncio.sleep(SCRUB_PAUSE_SECONDS)
            await self.scrub(self._config.cache.scrub_bytes_per_second)

    async def scrub(self, bytes_per_second: int = 0) -> int:
        """Reads the whole disk cache and removes damaged responses, which are fetched anew when next asked for.

        Args:
            bytes_per_second: how fast; 0 for as fast as the disk.

        Returns:
            how many were damaged.
        """
        disk, before = self._supplies_now.disk, self.statistics.disk_failures
        for shard in self._share.shards:
            files = disk.scrub_shard(shard, digest_of_key)
            while (size := await asyncio.to_thread(next, files, None)) is not None:
                if bytes_per_second:
                    await asyncio.sleep(size / bytes_per_second)
        return self.statistics.disk_failures - before

    # ------------------------------------------------------------------------------------------------ commands

    @property
    def commands(self) -> dict[str, Command]:
        """What an operator can have it do, by name."""
        return {"purge": self.purge, "drain": self.drain, **self._more_commands}

    async def purge(self, order: dict[str, object]) -> dict[str, object]:
        """Forgets what an order says: see `edge.purging.PurgeOrder` and `edge.purger.Purger.purge`."""
        return await self._purger_now.purge(order)

    async def prepare_purge(self, order: dict[str, object]) -> dict[str, object]:
        """See `edge.purger.Purger.prepare`."""
        return await self._purger_now.prepare(order)

    # ------------------------------------------------------------------------------------------------ telling

    def metrics(self) -> bytes:
        """All metrics as text."""
        supplies = self._supplies_now
        gauges = Gauges(
            supplies.memory,
            supplies.disk,
            supplies.health,
            len(self._flights),
            self._clock.monotonic(),
            supplies.repositories,
            len(self._purger_now.under_way()),
            self._clock.now(),
        )
        return render_metrics(self.statistics, gauges)

    def status(self) -> dict[str, object]:
        """Describes the edge for people and scripts."""
        supplies, counted = self._supplies_now, self.statistics
        now = self._clock.monotonic()
        return {
            "name": supplies.edge_name,
            "listen": list(self.listening),
            "draining": self.is_draining,
            "phase": self.phase.value,
            "requests": {
                "all": counted.requests_answered,
                "hits": counted.hits,
                "misses": counted.misses,
                "collapsed": counted.collapsed,
                **{f"{result.value}": counted.of(result) for result, _ in counted.requests},
            },
            "bytes": {"served": counted.bytes_served, "fetched": counted.bytes_fetched},
            "cache": {
                "memory_bytes": supplies.memory.used_bytes,
                "memory_bytes_max": supplies.memory.bytes_max,
                "disk_bytes": supplies.disk.used_bytes,
                "disk_bytes_max": supplies.disk.bytes_max,
            },
            "purges": self._purger_now.under_way(),
            "purged_files": counted.purged_files,
            "damage": {"upstream": counted.hash_failures, "disk": counted.disk_failures},
            "connections": counted.connections_open,
            "fetches": len(self._flights),
            "upstreams": supplies.health.described(now),
        }


def _lifetimes(settings: LifetimeSettings) -> Lifetimes:
    return Lifetimes(
        settings.negative,
        settings.stale_if_error,
        settings.other_stale_if_error,
        settings.stale_while_revalidate,
    )


def _is_name(pattern: str) -> bool:
    return not set("*?[") & set(pattern)


def _fixed_at_start(config: EdgeConfig) -> tuple[object, ...]:
    listen = replace(config.listen, tls=()), [each.address for each in config.listen.tls]
    return (config.name, config.workers, listen, config.admin, config.cache, config.fetch, config.limits, config.log)
