"""What an operator may set, as one TOML file (`docs/operations/geodns.md` explains it, `examples/geodns.toml` is one).

Each class refuses what contradicts itself, so a `GeoDnsConfig` that exists can be served. Names, addresses and files
are still text here; `geodns.assembly` makes zones and sites of them.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from cdn.config import Duration, load_config
from geodns.config_values import (
    check_port,
    check_positive,
    check_target,
    check_ttl,
    check_unique,
    contact_name,
    in_key,
    listen_address,
)
from geodns.geo import Position, parse_network
from geodns.wire import Name, RecordType
from geodns.zone import absolute_name, record_data


@dataclass(frozen=True, slots=True)
class ListenSettings:
    """Where queries arrive, over UDP and TCP alike.

    Args:
        addresses: IPv4 and IPv6 addresses of this machine. Name each one rather than 0.0.0.0 on a machine with
            several, so that replies leave from the address that was asked.
        port: 53 for the public; 0 takes a free one.
    """

    addresses: tuple[str, ...] = ("127.0.0.1",)
    port: int = 53

    def __post_init__(self) -> None:
        if not self.addresses:
            raise ValueError("addresses: name at least one address to listen on")
        for address in self.addresses:
            with in_key("addresses"):
                ipaddress.ip_address(address)
        check_port("port", self.port)


@dataclass(frozen=True, slots=True)
class RecordSettings:
    """The records of one name and type.

    Args:
        name: relative to the zone, ``@`` for the zone itself, or absolute with a final dot.
        type: which kind of record.
        values: one text each: an address, a name, or any text.
        ttl_seconds: how long resolvers may keep them.
    """

    name: str
    type: Literal["A", "AAAA", "CNAME", "TXT"]
    values: tuple[str, ...]
    ttl_seconds: int = 3600

    def __post_init__(self) -> None:
        check_ttl("ttl_seconds", self.ttl_seconds)
        if not self.values:
            raise ValueError("values: give at least one")
        if self.type == "CNAME" and len(self.values) != 1:
            raise ValueError("values: a CNAME record has exactly one target")


@dataclass(frozen=True, slots=True)
class GeoNameSettings:
    """A name that leads each client to the nearest usable edge.

    Args:
        name: relative to the zone, or ``@``.
        sites: which sites, in the order for clients at an unknown position; none named means all, in the order of the
            file.
        ttl_seconds: how long resolvers may keep an answer: short, for it is also how long a dead edge goes on being
            used.
        addresses_max: how many addresses one answer holds at most.
    """

    name: str
    sites: tuple[str, ...] = ()
    ttl_seconds: int = 30
    addresses_max: int = 8

    def __post_init__(self) -> None:
        check_ttl("ttl_seconds", self.ttl_seconds)
        if not 1 <= self.addresses_max <= 64:
            raise ValueError(f"addresses_max: {self.addresses_max} is not between 1 and 64")


@dataclass(frozen=True, slots=True)
class ZoneSettings:
    """One zone this server has authority over.

    Args:
        name: the zone's origin, as delegated to this server.
        name_servers: the host names of all servers that answer for it, the primary one first; relative or with a final
            dot.
        contact: the mailbox of whoever is responsible, as ``hostmaster@example.org``.
        serial: to be raised by whoever wants to see it raised; there are no zone transfers.
        ttl_seconds: of the SOA and NS records.
        negative_ttl_seconds: how long "no such name" may be kept.
        records: what does not depend on who asks.
        geo: what does.
    """

    name: str
    name_servers: tuple[str, ...]
    contact: str = ""
    serial: int = 1
    ttl_seconds: int = 3600
    negative_ttl_seconds: int = 60
    records: tuple[RecordSettings, ...] = ()
    geo: tuple[GeoNameSettings, ...] = ()

    def __post_init__(self) -> None:
        with in_key("name"):
            origin = Name.from_text(self.name).folded
        if not self.name_servers:
            raise ValueError("name_servers: name at least one")
        for server in self.name_servers:
            with in_key("name_servers"):
                absolute_name(server, origin)
        with in_key("contact"):
            contact_name(self.contact, origin)
        if not 0 <= self.serial < 2**32:
            raise ValueError(f"serial: {self.serial} is not a 32-bit number")
        check_ttl("ttl_seconds", self.ttl_seconds)
        check_ttl("negative_ttl_seconds", self.negative_ttl_seconds)
        _check_names(self, origin)


@dataclass(frozen=True, slots=True)
class EdgeSettings:
    """One server that readers are sent to.

    Args:
        name: unique.
        addresses: its public IPv4 and IPv6 addresses.
        check: how to see whether it lives: ``http://host:port/path``, ``https://…`` or ``tcp://host:port``; empty for
            not at all.
    """

    name: str
    addresses: tuple[str, ...]
    check: str = ""

    def __post_init__(self) -> None:
        if not self.addresses:
            raise ValueError("addresses: name at least one")
        for address in self.addresses:
            with in_key("addresses"):
                ipaddress.ip_address(address)
        if len(set(self.addresses)) != len(self.addresses):
            raise ValueError("addresses: one is named twice")
        if self.check:
            with in_key("check"):
                check_target(self.check)


@dataclass(frozen=True, slots=True)
class SiteSettings:
    """A place with one or more edges.

    Args:
        name: unique.
        latitude: degrees north.
        longitude: degrees east.
        edges: the servers there.
    """

    name: str
    latitude: float
    longitude: float
    edges: tuple[EdgeSettings, ...]

    def __post_init__(self) -> None:
        Position(self.latitude, self.longitude)
        if not self.edges:
            raise ValueError("edges: a site has at least one")


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """Where a network is.

    Args:
        network: ``192.0.2.0/24`` or ``2001:db8::/32``.
        latitude: degrees north.
        longitude: degrees east.
    """

    network: str
    latitude: float
    longitude: float

    def __post_init__(self) -> None:
        with in_key("network"):
            parse_network(self.network)
        Position(self.latitude, self.longitude)


@dataclass(frozen=True, slots=True)
class GeographySettings:
    """How clients are located. What comes first here counts most.

    Args:
        networks: written down in this file.
        map: a file with one network, latitude and longitude a line.
        database: a database of cities in MaxMind's format (``.mmdb``).
    """

    networks: tuple[NetworkSettings, ...] = ()
    map: Path | None = None
    database: Path | None = None

    def __post_init__(self) -> None:
        check_unique("networks", (str(parse_network(entry.network)) for entry in self.networks))


@dataclass(frozen=True, slots=True)
class HealthSettings:
    """How edges are checked.

    Args:
        interval_seconds: from the end of a check to the next, give or take a tenth, so that checks do not march in
            step.
        timeout_seconds: no answer for so long is a failure.
        slow_seconds: an answer that took longer is late; several in a row make an edge slow.
        fall: failures in a row until an edge is down.
        rise: answers in a row until it is up again.
        concurrent_max: how many checks run at once.
    """

    interval_seconds: Duration = 5.0
    timeout_seconds: Duration = 4.0
    slow_seconds: Duration = 1.0
    fall: int = 3
    rise: int = 2
    concurrent_max: int = 64

    def __post_init__(self) -> None:
        check_positive(self, "interval_seconds", "timeout_seconds", "slow_seconds", "fall", "rise", "concurrent_max")
        if self.slow_seconds > self.timeout_seconds:
            raise ValueError("slow_seconds: it must not exceed timeout_seconds, after which nothing is waited for")


@dataclass(frozen=True, slots=True)
class LimitSettings:
    """How much strangers may cost.

    Args:
        cache_entries_max: answers kept ready, about 1 KB each; 0 keeps none.
        replies_per_second: UDP replies to one client network (IPv4 /24, IPv6 /56); 0 for no limit.
        tcp_connections_max: open TCP connections in all.
        tcp_connections_per_client_max: open TCP connections of one address.
        tcp_idle_seconds: a connection without a whole query for so long is closed.
    """

    cache_entries_max: int = 20_000
    replies_per_second: float = 0.0
    tcp_connections_max: int = 1000
    tcp_connections_per_client_max: int = 32
    tcp_idle_seconds: Duration = 10.0

    def __post_init__(self) -> None:
        check_positive(self, "tcp_connections_max", "tcp_connections_per_client_max", "tcp_idle_seconds")
        if self.cache_entries_max < 0:
            raise ValueError("cache_entries_max: it cannot be negative")
        if self.replies_per_second < 0 or 0 < self.replies_per_second < 1:
            raise ValueError("replies_per_second: give 0 for no limit, or at least 1")


@dataclass(frozen=True, slots=True)
class AdminSettings:
    """The listener for the operator: metrics, state and readiness. Not for the public.

    Args:
        listen: ``address:port`` (IPv6 in brackets); empty for none.
    """

    listen: str = ""

    def __post_init__(self) -> None:
        if self.listen:
            with in_key("listen"):
                listen_address(self.listen)


@dataclass(frozen=True, slots=True)
class HostSettings:
    """Where a server is that CernVM-FS clients name, for those that addresses say nothing of.

    Args:
        name: its host name or address, as clients write it.
        latitude: degrees north.
        longitude: degrees east.
    """

    name: str
    latitude: float
    longitude: float

    def __post_init__(self) -> None:
        Position(self.latitude, self.longitude)


@dataclass(frozen=True, slots=True)
class GeoApiSettings:
    """The Geo API of CernVM-FS over HTTP (spec §8.8): clients ask it in which order to use their servers.

    Args:
        listen: ``address:port`` (IPv6 in brackets); empty for none.
        hosts: positions of servers by name; they go before anything that can be looked up.
        names_max: how many server names one request may have.
        lookup_timeout_seconds: how long to wait for the address of a name.
        lookups_concurrent_max: how many names are looked up at once.
    """

    listen: str = ""
    hosts: tuple[HostSettings, ...] = ()
    names_max: int = 100
    lookup_timeout_seconds: Duration = 3.0
    lookups_concurrent_max: int = 16

    def __post_init__(self) -> None:
        if self.listen:
            with in_key("listen"):
                listen_address(self.listen)
        check_positive(self, "names_max", "lookup_timeout_seconds", "lookups_concurrent_max")
        check_unique("hosts", (host.name.lower() for host in self.hosts))


@dataclass(frozen=True, slots=True)
class GeoDnsConfig:
    """Everything a GeoDNS server is told.

    Args:
        zones: what it answers for.
        sites: where its edges are, in the order for clients at an unknown position.
        listen: where queries arrive.
        geography: how clients are located.
        health: how edges are checked.
        limits: how much strangers may cost.
        admin: the operator's HTTP listener.
        geo_api: the CernVM-FS Geo API.
    """

    zones: tuple[ZoneSettings, ...]
    sites: tuple[SiteSettings, ...] = ()
    listen: ListenSettings = field(default_factory=ListenSettings)
    geography: GeographySettings = field(default_factory=GeographySettings)
    health: HealthSettings = field(default_factory=HealthSettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
    admin: AdminSettings = field(default_factory=AdminSettings)
    geo_api: GeoApiSettings = field(default_factory=GeoApiSettings)

    def __post_init__(self) -> None:
        if not self.zones:
            raise ValueError("zones: there is nothing to answer for; add a [[zones]] table")
        check_unique("zones", (Name.from_text(zone.name).folded.text for zone in self.zones))
        check_unique("sites", (site.name for site in self.sites))
        check_unique("sites", (edge.name for site in self.sites for edge in site.edges), what="edge")
        known = {site.name for site in self.sites}
        for zone in self.zones:
            for geo in zone.geo:
                _check_sites(f"zones: the geo name {geo.name!r} of {zone.name}", geo.sites, known)


def load(path: Path) -> GeoDnsConfig:
    """Reads a configuration file; the files it names are meant relative to it.

    Raises:
        ConfigError: listing every mistake with file, line and key.
    """
    config = load_config(GeoDnsConfig, path)
    geography = config.geography
    beside = replace(geography, map=_beside(path, geography.map), database=_beside(path, geography.database))
    return replace(config, geography=beside)


def _beside(path: Path, name: Path | None) -> Path | None:
    return path.parent / name if name is not None else None


# --------------------------------------------------------------------------------------------------------------- checks


def _check_sites(key: str, names: tuple[str, ...], known: set[str]) -> None:
    if not known:
        raise ValueError(f"{key} has nowhere to lead: add a [[sites]] table")
    check_unique(key, names)
    for name in names:
        if name not in known:
            raise ValueError(f"{key} leads to the site {name!r}, which is not defined")


def _check_names(zone: ZoneSettings, origin: Name) -> None:
    """Refuses names outside the zone, and what may not stand together at one name."""
    held: dict[Name, set[str]] = {origin: {"SOA", "NS"}}
    for record in zone.records:
        with in_key(f"records: {record.name!r}"):
            _hold(held, record.name, origin, {record.type})
            for value in record.values:
                record_data(RecordType[record.type], value, origin)
    for geo in zone.geo:
        with in_key(f"geo: {geo.name!r}"):
            _hold(held, geo.name, origin, {"A", "AAAA"})


def _hold(held: dict[Name, set[str]], text: str, origin: Name, types: set[str]) -> None:
    name = absolute_name(text, origin)
    if not name.is_under(origin):
        raise ValueError(f"it lies outside the zone {origin.text}")
    present = held.setdefault(name, set())
    if present & types:
        raise ValueError(f"its {' and '.join(sorted(present & types))} records are given twice")
    if present and "CNAME" in present | types:
        raise ValueError("a name with a CNAME record can have no other (RFC 1034 §3.6.2)")
    present |= types
