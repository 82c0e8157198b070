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
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import replace

from cdn.clock import Clock, SystemClock
from cdn.daemon import Command
from cdn.errors import UsageError
from cdn.telemetry import event
from cdn.transport.base import Fetcher
from edge.background import Background, begin_work, check, scrub
from edge.cache.shards import WHOLE, Share
from edge.config import EdgeConfig
from edge.connection.accepting import Acceptor
from edge.connection.client_table import ClientTable
from edge.connection.listeners import Listeners, bound_address, open_listeners
from edge.connection.protocol import Connection
from edge.connection.tls import Handshakes
from edge.description import described, gauges_of
from edge.importing import import_the_rest
from edge.operations.draining import Drain, Phase, parse_drain_order
from edge.operations.listener import OperatorListener
from edge.operations.naming import own_name, place_of
from edge.operations.readiness import why_not_ready
from edge.parts import Parts, build_parts
from edge.settings.listen import TcpAddress
from edge.watching.statistics import Statistics

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
        cache_patience_seconds: how long the cache is waited for, if somebody has it.
        more_commands: what else operators can have done.
        spare: where it accepts connections for other workers, when it is told to; closed with the others.
        table: where all workers count their clients; None if there are no others.
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
        cache_patience_seconds: float = 0.0,
        more_commands: Mapping[str, Command] | None = None,
        spare: Mapping[int, Listeners] | None = None,
        table: ClientTable | None = None,
    ) -> None:
        self._config = config
        self._share = share
        self._table = table
        self._clock = clock or SystemClock()
        self._fetcher = fetcher
        self.statistics = Statistics(None if table is None else table.salt)
        self._listeners = listeners
        self._spare = spare or {}
        self._acceptor: Acceptor | None = None
        self._handshakes: Handshakes | None = None
        self._admin = OperatorListener(config.admin.listen, admin_socket)
        self._background = Background()
        self._parts: Parts | None = None
        self.addresses: tuple[Address, ...] = ()
        self.listening: tuple[str, ...] = ()
        """Every address where it accepts connections, Unix sockets too."""
        self.places: tuple[str, ...] = ()
        """The same as a person says it."""
        self._stop_wanted = stop_wanted
        self._is_stopping = False
        self._before_cache = before_cache
        self._cache_patience_seconds = cache_patience_seconds
        self._more_commands = more_commands or {}
        self._drain: Drain | None = None
        self.has_successor = False
        """Whether another process accepts from the same sockets, so that clients may take their time to leave."""

    @property
    def address(self) -> Address:
        """The first address and the port on which requests arrive."""
        return self.addresses[0]

    @property
    def admin_address(self) -> Address | None:
        """Where its operator asks, if anywhere."""
        return self._admin.address

    @property
    def admin_socket(self) -> socket.socket | None:
        """The socket of that, while it is open."""
        return self._admin.sock

    @property
    def config(self) -> EdgeConfig:
        """What it was told last."""
        return self._config

    @property
    def is_draining(self) -> bool:
        """Whether it is leaving, and new clients are better served elsewhere."""
        return self._parts is None or self.phase is not Phase.SERVING

    @property
    def is_healthy(self) -> bool:
        """Whether everything that it needs to serve is at work."""
        return not self._background.has_crashed

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
            await asyncio.to_thread(self.parts.supplies.disk.open, self._cache_patience_seconds)
            await self.parts.start()
            await self._listen()
            await asyncio.to_thread(import_the_rest)
            await self._admin.start(
                status=self.status, metrics=self.metrics, why_not_ready=self._why_not_ready, commands=self.commands
            )
            self.parts.shared.access_log.start()
            begin_work(self._background, self.parts, self._share.shards, self._config.cache.scrub_bytes_per_second)
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
        await self._background.stop()
        if self._parts is not None:
            await self._parts.stop()
        await self._close_parts()

    async def _leave(self, seconds: float | None) -> None:
        limits, loop = self._config.limits, asyncio.get_running_loop()
        if self._drain is None:
            await self._close_doors()
            return
        if seconds == 0:
            await self._drain.break_off()
        else:
            delay = limits.drain_delay if seconds is None and not self.has_successor else 0.0
            timeout = limits.drain_timeout if seconds is None else seconds
            leaving = self._drain.begin(delay_seconds=delay, timeout_seconds=timeout, waits_for_idle=self.has_successor)
            if self.has_successor:
                await self._admin.stop()
            await leaving
        if self._handshakes is not None:
            await self._handshakes.abort()
        if self._parts is not None and self._parts.neighbours is not None:
            await self._parts.neighbours.drain(loop.time() + (limits.drain_timeout if seconds is None else seconds))

    async def _close_doors(self) -> None:
        if self._acceptor is not None and self.has_successor:
            self._acceptor.close()
        elif self._acceptor is not None:
            await self._acceptor.close_after_all()

    def _on_phase(self, phase: Phase) -> None:
        service, shared = self.parts.service, self.parts.shared
        service.is_draining = phase is not Phase.SERVING and not self.has_successor
        shared.is_draining = phase in {Phase.CLOSED, Phase.DRAINED}
        shared.is_over = phase is Phase.DRAINED

    async def drain(self, document: dict[str, object]) -> dict[str, object]:
        """Takes the edge out of service, or back; see `edge.operations.draining.DrainOrder`.

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

    def leave(self, delay_seconds: float) -> None:
        """Takes it out of service in so many seconds."""
        if self._drain is not None:
            _ = self._drain.begin(delay_seconds=delay_seconds, timeout_seconds=self._config.limits.drain_timeout)

    async def stand_in(self, indices: Collection[int]) -> None:
        """Accepts from now on for these other workers as well, and for no others."""
        if self._acceptor is not None:
            await self._acceptor.stand_in(indices)

    @property
    def phase(self) -> Phase:
        """How far it is on its way out."""
        return Phase.SERVING if self._drain is None else self._drain.phase

    async def retire_cache(self) -> None:
        """Leaves the cache to a successor; what is cached is still served."""
        await asyncio.to_thread(self.parts.supplies.disk.retire)

    async def resume_cache(self) -> None:
        """Takes the cache back, if it was left.

        Raises:
            UsageError: it cannot be had.
        """
        disk = self.parts.supplies.disk
        await asyncio.to_thread(disk.resume)
        self._background.look_after(lambda: asyncio.to_thread(disk.count))

    @property
    def sockets(self) -> Listeners:
        """All listening sockets that are open."""
        return () if self._acceptor is None else self._acceptor.listeners

    async def _close_parts(self) -> None:
        await self._admin.stop()
        if self._parts is not None:
            await self._parts.close()

    def reload(self, config: EdgeConfig) -> None:
        """Serves by another configuration from now on; connections and cache stay.

        Upstreams, forwarding, lifetimes and certificates change at once; addresses, cache, limits and log settings with
        a restart.
        """
        if self._acceptor is not None:
            self.statistics.reloads_failed += self._acceptor.reload_certificates(config.listen)
        if self._parts is not None:
            self._parts.reload(config)
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
        if self._parts is not None:
            self._parts.shared.access_log.reopen()

    # ------------------------------------------------------------------------------------------------ parts

    @property
    def parts(self) -> Parts:
        """What it is made of, once it has started."""
        assert self._parts is not None
        return self._parts

    def _bind(self) -> None:
        settings = self._config.listen
        listeners = open_listeners(settings)[0] if self._listeners is None else self._listeners
        self._acceptor = Acceptor(settings, listeners, self._clock, self._spare)
        bound = [bound_address(each.sock) for each in listeners]
        self.addresses = tuple((each.host, each.port) for each in bound if isinstance(each, TcpAddress))
        self.listening = tuple(each.text for each in listeners)
        self.places = tuple(place_of(each, settings) for each in listeners)
        self._acceptor.load_certificates()

    def _build(self) -> None:
        name = self._config.name or own_name(self.addresses[0] if self.addresses else None)
        self._parts = build_parts(
            self._config,
            name,
            self.statistics,
            clock=self._clock,
            share=self._share,
            fetcher=self._fetcher,
            table=self._table,
        )

    async def _listen(self) -> None:
        shared, limits = self.parts.shared, self._config.limits
        assert self._acceptor is not None
        handshakes = self._handshakes = Handshakes(
            self.statistics,
            limits.handshake_timeout,
            lambda under_way: len(shared.connections) + under_way < shared.descriptors.connections,
        )
        self._drain = Drain(shared.connections, lambda: len(handshakes), self._close_doors, self._on_phase)
        await self._acceptor.open(lambda: Connection(shared), handshakes)

    def _why_not_ready(self) -> str:
        return why_not_ready(self.phase.value if self.is_draining else "", self._config.cache.directory)

    def check_connections(self) -> None:
        """Ends connections whose clients are too slow; done by itself about once a second."""
        if self._parts is not None:
            check(self._parts)

    async def scrub(self, bytes_per_second: int = 0) -> int:
        """Reads the whole disk cache and removes damaged responses, which are fetched anew when next asked for.

        Args:
            bytes_per_second: how fast; 0 for as fast as the disk.

        Returns:
            how many were damaged.
        """
        return await scrub(self.parts.supplies.disk, self._share.shards, self.statistics, bytes_per_second)

    # ------------------------------------------------------------------------------------------------ commands

    @property
    def commands(self) -> dict[str, Command]:
        """What an operator can have it do, by name."""
        return {"purge": self.purge, "drain": self.drain, **self._more_commands}

    async def purge(self, order: dict[str, object]) -> dict[str, object]:
        """Forgets what an order says: see `operations.purge_orders.PurgeOrder` and `operations.purger.Purger.purge`."""
        return await self.parts.purger.purge(order)

    async def prepare_purge(self, order: dict[str, object]) -> dict[str, object]:
        """See `edge.operations.purger.Purger.prepare`."""
        return await self.parts.purger.prepare(order)

    # ------------------------------------------------------------------------------------------------ telling

    def clients_said(self) -> dict[str, str]:
        """What is known of how many clients there were; see `watching.distinct.ClientCount.said`."""
        return self.statistics.clients.said(self._clock.now())

    def metrics(self) -> bytes:
        """All metrics as text."""
        from edge.metrics import render_metrics

        return render_metrics(self.statistics, gauges_of(self.parts))

    def status(self) -> dict[str, object]:
        """Describes the edge for people and scripts."""
        return {
            "listen": list(self.listening),
            "draining": self.is_draining,
            "phase": self.phase.value,
            **described(self.parts),
        }


def _fixed_at_start(config: EdgeConfig) -> tuple[object, ...]:
    listen = replace(config.listen, tls=()), [each.address for each in config.listen.tls]
    return (config.name, config.workers, listen, config.admin, config.cache, config.fetch, config.limits, config.log)
