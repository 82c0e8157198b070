"""What would be answered to a client, and why: for an operator who wonders."""

from __future__ import annotations

from dataclasses import dataclass

from geodns.answer import CNAME_LINKS_MAX
from geodns.geo import Geography, Location
from geodns.routing import HealthView, RankedSite, Route
from geodns.wire import Name, RecordType
from geodns.zone import GeoName, Zones


@dataclass(frozen=True, slots=True)
class Explanation:
    """How a geo name is answered.

    Args:
        name: the geo name, after aliases.
        location: where the client is thought to be.
        ranking: all sites of the name, nearest first.
        routes: the choice for IPv4 and for IPv6.
    """

    name: Name
    location: Location
    ranking: tuple[RankedSite, ...]
    routes: dict[int, Route]


def explain(zones: Zones, geography: Geography, health: HealthView, name: Name, client: bytes) -> Explanation | None:
    """Explains the answer for a client.

    Args:
        zones: the names.
        geography: where clients are.
        health: how the edges are.
        name: what is asked for, folded.
        client: the packed address to answer for.

    Returns:
        None if the name is no geo name, nor an alias of one, and so the same for everybody.
    """
    found = _geo_name(zones, name)
    if found is None:
        return None
    target, geo = found
    location = geography.locate(client)
    routes = {family: geo.router.route(location.position, family, health) for family in (4, 6)}
    return Explanation(target, location, geo.router.rank(location.position), routes)


def _geo_name(zones: Zones, name: Name) -> tuple[Name, GeoName] | None:
    for _ in range(CNAME_LINKS_MAX + 1):
        zone = zones.find(name)
        node = zone.find(name) if zone is not None else None
        if node is None:
            return None
        if node.geo is not None:
            return name, node.geo
        alias = node.record_sets.get(RecordType.CNAME)
        if alias is None:
            return None
        name = Name(alias.data[0][0])
    return None
