"""Which edges a client is sent to: the nearest site that has a usable one.

An edge that is down is left out; one that is slow is left out while a faster one of its site remains, and is otherwise
used, since slow is not dead. With no usable edge anywhere the health marks are disbelieved and the nearest site is
named with all its edges: a checker that lost its own network must not take the service away. A client nobody can
locate gets the sites in their configured order.

Sites are chosen per address family: a site without an IPv6 address is no reason to leave an IPv6-only client without
an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from geodns.geo import Position, UnitVector, chord_to_km, squared_chord, unit_vector


@dataclass(frozen=True, slots=True)
class Edge:
    """One server that readers may be sent to.

    Args:
        name: how operators call it; unique.
        ipv4: its packed IPv4 addresses.
        ipv6: its packed IPv6 addresses.
    """

    name: str
    ipv4: tuple[bytes, ...] = ()
    ipv6: tuple[bytes, ...] = ()

    def addresses(self, family: int) -> tuple[bytes, ...]:
        """Returns the addresses of family 4 or 6."""
        return self.ipv4 if family == 4 else self.ipv6


@dataclass(frozen=True, slots=True)
class Site:
    """A group of edges at one place.

    Args:
        name: how operators call it; unique.
        position: where it is.
        edges: at least one.
    """

    name: str
    position: Position
    edges: tuple[Edge, ...]


@dataclass(frozen=True, slots=True)
class HealthView:
    """What is known of the edges at one instant, by their names; whoever is not named is well."""

    down: frozenset[str] = frozenset()
    slow: frozenset[str] = frozenset()


ALL_WELL = HealthView()


class Choice(Enum):
    """Why a site was chosen."""

    NEAREST = "it is the nearest site with a usable edge"
    DEFAULT = "the position is unknown, and it is the first site in configured order with a usable edge"
    FAIL_OPEN = "no edge is marked usable, so the marks are ignored"
    NONE = "no edge has an address of this family"


@dataclass(frozen=True, slots=True)
class RankedSite:
    """A site and how far away it is; the distance is None for a client at an unknown position."""

    site: Site
    distance_km: float | None


@dataclass(frozen=True, slots=True)
class Route:
    """Where a client is sent.

    Args:
        site: the chosen site; None if no edge has an address of the family.
        edges: those of its edges to name, in configured order.
        choice: why.
    """

    site: Site | None
    edges: tuple[Edge, ...]
    choice: Choice


@dataclass(frozen=True, slots=True)
class SiteRouter:
    """Chooses among sites.

    Args:
        sites: in the order for clients at an unknown position, which also breaks ties of distance.
    """

    sites: tuple[Site, ...]
    _vectors: tuple[UnitVector, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_vectors", tuple(unit_vector(site.position) for site in self.sites))

    def rank(self, position: Position | None) -> tuple[RankedSite, ...]:
        """Returns all sites, nearest first."""
        if position is None:
            return tuple(RankedSite(site, None) for site in self.sites)
        here = unit_vector(position)
        chords = [squared_chord(here, vector) for vector in self._vectors]
        order = sorted(range(len(chords)), key=chords.__getitem__)  # stable: ties keep the configured order
        return tuple(RankedSite(self.sites[i], chord_to_km(chords[i])) for i in order)

    def route(self, position: Position | None, family: int, health: HealthView) -> Route:
        """Chooses a site and its edges for a client.

        Args:
            position: where the client is; None if unknown.
            family: 4 or 6.
            health: the edges' present state.
        """
        candidates = [(ranked.site, with_address(ranked.site.edges, family)) for ranked in self.rank(position)]
        for site, edges in candidates:
            usable = usable_edges(edges, health)
            if usable:
                return Route(site, usable, Choice.DEFAULT if position is None else Choice.NEAREST)
        for site, edges in candidates:
            if edges:
                return Route(site, edges, Choice.FAIL_OPEN)
        return Route(None, (), Choice.NONE)


def with_address(edges: Sequence[Edge], family: int) -> tuple[Edge, ...]:
    """Returns the edges that have an address of the family."""
    return tuple(edge for edge in edges if edge.addresses(family))


def usable_edges(edges: Sequence[Edge], health: HealthView) -> tuple[Edge, ...]:
    """Returns the edges that are up, or, if all of those are slow, the slow ones."""
    up = tuple(edge for edge in edges if edge.name not in health.down)
    return tuple(edge for edge in up if edge.name not in health.slow) or up


def rotated(addresses: Sequence[bytes], turn: int, count_max: int) -> tuple[bytes, ...]:
    """Returns at most `count_max` of the addresses, beginning with number `turn` and going round."""
    start = turn % len(addresses) if addresses else 0
    return tuple((*addresses[start:], *addresses[:start])[:count_max])
