"""Makes what answers are made from out of what the operator wrote."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from geodns.config import EdgeSettings, GeoDnsConfig, GeoNameSettings, SiteSettings, ZoneSettings
from geodns.config_values import contact_name
from geodns.geo import NetworkMap, Position, packed_address
from geodns.routing import Edge, Site, SiteRouter
from geodns.wire import Name, RecordType
from geodns.zone import GeoName, Node, RecordSet, Zone, Zones, absolute_name, record_data, soa_data

_NO_SETS: Final[dict[int, RecordSet]] = {}


@dataclass(frozen=True, slots=True)
class Content:
    """The zones and the sites that they lead to."""

    zones: Zones
    sites: tuple[Site, ...]


def build_content(config: GeoDnsConfig) -> Content:
    """Returns zones and sites of a configuration, which was checked when it was made."""
    sites = tuple(_site(settings) for settings in config.sites)
    return Content(Zones(_zone(settings, sites) for settings in config.zones), sites)


def edge_positions(sites: tuple[Site, ...]) -> NetworkMap:
    """Returns a map of our own edges' addresses, which no database knows as well as their operator."""
    positions = {packed: site.position for site in sites for edge in site.edges for packed in (*edge.ipv4, *edge.ipv6)}
    return NetworkMap.of_addresses(positions)


def _site(settings: SiteSettings) -> Site:
    edges = tuple(_edge(edge) for edge in settings.edges)
    return Site(settings.name, Position(settings.latitude, settings.longitude), edges)


def _edge(settings: EdgeSettings) -> Edge:
    packed = [packed_address(address) for address in settings.addresses]
    return Edge(
        settings.name,
        ipv4=tuple(address for address in packed if len(address) == 4),
        ipv6=tuple(address for address in packed if len(address) == 16),
    )


def _zone(settings: ZoneSettings, sites: tuple[Site, ...]) -> Zone:
    origin = Name.from_text(settings.name).folded
    nodes: dict[Name, Node] = {origin: Node(_apex_sets(settings, origin))}
    for record in settings.records:
        name = absolute_name(record.name, origin)
        record_type = RecordType[record.type]
        data = tuple(record_data(record_type, value, origin) for value in record.values)
        held = nodes[name].record_sets if name in nodes else _NO_SETS
        nodes[name] = Node({**held, record_type: RecordSet(record.ttl_seconds, data)})
    for geo in settings.geo:
        name = absolute_name(geo.name, origin)
        held = nodes[name].record_sets if name in nodes else _NO_SETS
        nodes[name] = Node(held, _geo_name(geo, sites))
    return Zone(origin, settings.negative_ttl_seconds, nodes)


def _apex_sets(settings: ZoneSettings, origin: Name) -> dict[int, RecordSet]:
    servers = tuple(record_data(RecordType.NS, server, origin) for server in settings.name_servers)
    soa = soa_data(
        absolute_name(settings.name_servers[0], origin),
        contact_name(settings.contact, origin),
        serial=settings.serial,
        negative_ttl_seconds=settings.negative_ttl_seconds,
    )
    ttl_seconds = settings.ttl_seconds
    return {RecordType.SOA: RecordSet(ttl_seconds, (soa,)), RecordType.NS: RecordSet(ttl_seconds, servers)}


def _geo_name(settings: GeoNameSettings, sites: tuple[Site, ...]) -> GeoName:
    by_name = {site.name: site for site in sites}
    chosen = tuple(by_name[name] for name in settings.sites) or sites
    return GeoName(SiteRouter(chosen), settings.ttl_seconds, settings.addresses_max)
