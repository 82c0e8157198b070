"""The GeoDNS server: sockets, health checks and HTTP listeners around the pure core, started and stopped as one.

server = GeoDnsServer(config)
await server.start()
host, port = server.address
...
await server.stop()
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import Final

from cdn.clock import Clock, SystemClock
from cdn.daemon import HttpListener, operator_application
from cdn.errors import CdnError, UsageError
from cdn.telemetry import event
from geodns.answer import Authority
from geodns.assembly import Content, build_content, edge_positions
from geodns.config import GeoDnsConfig
from geodns.config_values import listen_address
from geodns.edge_health import EdgeHealth
from geodns.geo import Geography, LayeredGeography
from geodns.geography_files import load_geography
from geodns.health import HealthChecker, Probe, configured_checks
from geodns.http_service import GeoApiService
from geodns.listeners import DatagramListener, StreamLimits, StreamListener
from geodns.metrics import render_metrics
from geodns.name_lookup import SystemNameLookup
from geodns.responder import Responder
from geodns.routing import HealthView
from geodns.statistics import Statistics

BACKLOG: Final = 1024
RECEIVE_BUFFER_BYTES: Final = 4 << 20
PORT_ATTEMPTS: Final = 20
"""How often a free port is sought that both UDP and TCP can have."""
_IP_MTU_DISCOVER: Final = 10
_IP_PMTUDISC_OMIT: Final = 5
"""Linux: ignore what ICMP messages, easily forged, say of the path, so that nobody makes us send fragments."""

Address = tuple[str, int]


class GeoDnsServer:
    """One server, in the running event loop.

    Args:
        config: what to serve.
        clock: the time.
        probe: asks an edge how it is; the network by default.
    """

    def __init__(self, config: GeoDnsConfig, *, clock: Clock | None = None, probe: Probe | None = None) -> None:
        self._config = config
        self._clock = clock or SystemClock()
        self._probe = probe
        self.statistics = Statistics()
        self._responder: Responder | None = None
        self._content: Content | None = None
        self._geo_api_geography: Geography | None = None
        self._checker: HealthChecker | None = None
        self._datagrams: list[asyncio.DatagramTransport] = []
        self._streams: list[asyncio.Server] = []
        self._http: list[HttpListener] = []
        self._limits = StreamLimits(0, 0, 0, self.statistics)
        self._lookup: SystemNameLookup | None = None
        self._reloading = asyncio.Lock()
        self.addresses: tuple[Address, ...] = ()
        self.admin_address: Address | None = None
        self.geo_api_address: Address | None = None

    @property
    def address(self) -> Address:
        """The first address and the port on which queries arrive, over UDP and TCP."""
        return self.addresses[0]

    @property
    def config(self) -> GeoDnsConfig:
        """What is being served."""
        return self._config

    @property
    def health(self) -> dict[str, EdgeHealth]:
        """What is known of each checked edge, by name."""
        return self._checker.marks if self._checker is not None else {}

    async def start(self) -> None:
        """Loads everything, asks every edge once, and begins to answer.

        Raises:
            ConfigError: if a file that the configuration names cannot be read or has mistakes.
            DocumentError: if the GeoIP database is damaged.
            UsageError: if an address cannot be had.
        """
        try:
            geography = await asyncio.to_thread(load_geography, self._config.geography)
            self._install(self._config, build_content(self._config), geography)
            await self._start_checker(self._config, {})
            await self._listen()
            await self._start_http()
        except BaseException:
            await self.stop()
            raise
        event("geodns.server.started", addresses=[_text(address) for address in self.addresses])

    async def stop(self) -> None:
        """Stops listening, ends what is open, and lets go of everything."""
        for datagram in self._datagrams:
            datagram.close()
        for server in self._streams:
            server.close()
        for stream in list(self._limits.streams):
            stream.abort()
        for server in self._streams:
            await server.wait_closed()
        for listener in self._http:
            await listener.stop()
        if self._checker is not None:
            await self._checker.stop()
        if self._lookup is not None:
            self._lookup.close()
        self._datagrams, self._streams, self._http = [], [], []
        self._checker, self._lookup = None, None

    async def reload(self, config: GeoDnsConfig) -> None:
        """Serves another configuration from now on, without missing a query; on any mistake the old one stays.

        Where it listens does not change before the next start, nor do the limits and the Geo API's settings.

        Raises:
            CdnError: as `start`; nothing has changed then.
        """
        async with self._reloading:
            try:
                geography = await asyncio.to_thread(load_geography, config.geography)
                content = build_content(config)
            except CdnError:
                self.note_failed_reload()
                raise
            known = self.health
            if self._checker is not None:
                await self._checker.stop()
            self._install(config, content, geography)
            await self._start_checker(config, known)
            if _fixed_at_start(config) != _fixed_at_start(self._config):
                reason = "listeners, limits and the Geo API change only with a restart"
                event("geodns.reload.partial", level="warning", reason=reason)
            self._config = config
            self.statistics.reloads_good += 1
            event("geodns.server.reloaded", zones=[zone.name for zone in config.zones])

    def note_failed_reload(self) -> None:
        """Counts a reload that came to nothing, also one that failed before there was a configuration."""
        self.statistics.reloads_failed += 1

    def status(self) -> dict[str, object]:
        """Describes the server for people and scripts."""
        return {
            "listen": [_text(address) for address in self.addresses],
            "zones": [zone.name for zone in self._config.zones],
            "edges": {name: edge_status(mark) for name, mark in self.health.items()},
            "replies": {"udp": self.statistics.udp_replies, "tcp": self.statistics.tcp_replies},
            "replies_by_code": self.statistics.by_code,
            "replies_by_site": self.statistics.by_site,
        }

    # -------------------------------------------------------------------------------------------------------------
    # parts

    def _install(self, config: GeoDnsConfig, content: Content, geography: Geography) -> None:
        authority = Authority(content.zones, geography)
        self._content = content
        self._geo_api_geography = LayeredGeography((edge_positions(content.sites), geography))
        if self._responder is not None:
            self._responder.replace_authority(authority)
            return
        self._responder = Responder(
            authority,
            self.statistics,
            self._clock,
            cache_entries_max=config.limits.cache_entries_max,
            replies_per_second=config.limits.replies_per_second,
        )

    async def _start_checker(self, config: GeoDnsConfig, known: dict[str, EdgeHealth]) -> None:
        checks = configured_checks(config)
        self._checker = HealthChecker(
            checks, config.health, self._clock, self._take_health, probe=self._probe, known=known
        )
        self._take_health(self._checker.view)
        self._checker.start()
        if not known:
            with suppress(TimeoutError):
                async with asyncio.timeout(config.health.timeout_seconds * 2):
                    await self._checker.first_round()

    def _take_health(self, health: HealthView) -> None:
        if self._responder is not None:
            self._responder.replace_authority(self._responder.authority.with_health(health))

    async def _listen(self) -> None:
        limits = self._config.limits
        self._limits = StreamLimits(
            limits.tcp_connections_max, limits.tcp_connections_per_client_max, limits.tcp_idle_seconds, self.statistics
        )
        port = self._config.listen.port
        bound: list[Address] = []
        for host in self._config.listen.addresses:
            tcp, udp = _bind_pair(host, port)
            port = tcp.getsockname()[1]
            await self._serve(tcp, udp)
            bound.append((host, port))
        self.addresses = tuple(bound)

    async def _serve(self, tcp: socket.socket, udp: socket.socket) -> None:
        assert self._responder is not None
        responder, limits, loop = self._responder, self._limits, asyncio.get_running_loop()
        self._streams.append(
            await loop.create_server(
                lambda: StreamListener(responder.respond_tcp, limits, loop), sock=tcp, backlog=BACKLOG
            )
        )
        transport, _ = await loop.create_datagram_endpoint(lambda: DatagramListener(responder.respond_udp), sock=udp)
        self._datagrams.append(transport)

    async def _start_http(self) -> None:
        if self._config.admin.listen:
            application = operator_application(
                status=self.status,
                metrics=lambda: render_metrics(self.statistics, lambda: self.health),
                is_ready=lambda: bool(self._datagrams),
            )
            self.admin_address = await self._start_listener(HttpListener(application), self._config.admin.listen)
        settings = self._config.geo_api
        if settings.listen:
            self._lookup = SystemNameLookup(
                self._clock,
                timeout_seconds=settings.lookup_timeout_seconds,
                concurrent_max=settings.lookups_concurrent_max,
            )
            service = GeoApiService(settings, self._present_geography, self._lookup)
            self.geo_api_address = await self._start_listener(HttpListener(service.application()), settings.listen)

    async def _start_listener(self, listener: HttpListener, listen: str) -> Address:
        await listener.start(*listen_address(listen))
        self._http.append(listener)
        return listener.address

    def _present_geography(self) -> Geography:
        assert self._geo_api_geography is not None
        return self._geo_api_geography


def _fixed_at_start(config: GeoDnsConfig) -> tuple[object, ...]:
    return (config.listen, config.admin, config.limits, config.geo_api)


def edge_status(mark: EdgeHealth) -> dict[str, object]:
    """Describes one edge's health for people and scripts."""
    return {
        "state": mark.state.value,
        "reason": mark.reason,
        "latency_seconds": mark.latency_seconds,
        "streak": mark.streak,
    }


def _text(address: Address) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _bind_pair(host: str, port: int) -> tuple[socket.socket, socket.socket]:
    """Binds TCP and UDP to the same port; where any will do, tries again if UDP's is taken.

    Raises:
        UsageError: if the address cannot be had.
    """
    for attempt in range(1, PORT_ATTEMPTS + 1):
        tcp = _bind(host, port, socket.SOCK_STREAM)
        try:
            return tcp, _bind(host, tcp.getsockname()[1], socket.SOCK_DGRAM)
        except UsageError:
            tcp.close()
            if port or attempt == PORT_ATTEMPTS:
                raise
    raise AssertionError("unreachable")


def _bind(host: str, port: int, kind: socket.SocketKind) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, kind)
    try:
        bound.setblocking(False)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if kind == socket.SOCK_STREAM:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        else:
            _tune_datagrams(bound, family)
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise UsageError(f"cannot listen on {_text((host, port))}: {_bind_reason(error, port)}") from error
    return bound


def _tune_datagrams(bound: socket.socket, family: int) -> None:
    with suppress(OSError):
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
    if family == socket.AF_INET:
        with suppress(OSError):
            bound.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_OMIT)


def _bind_reason(error: OSError, port: int) -> str:
    reason = error.strerror or str(error)
    if isinstance(error, PermissionError) and port < 1024:
        return f"{reason}; ports below 1024 need root or the capability CAP_NET_BIND_SERVICE"
    return reason
