"""Where the demonstration pretends everything to be. Pure: cities, networks and loopback addresses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

REPOSITORY: Final = "software.stratocast.example"
ZONE: Final = "cdn.stratocast.example"
EDGE_NAME: Final = f"edge.{ZONE}"
"""The one name that clients know; GeoDNS answers it with the nearest edge."""
HOME: Final = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class EdgePlace:
    """An edge in a city.

    Args:
        name: the city; also the name of its site and of the edge.
        latitude: degrees north.
        longitude: degrees east.
        address: where on loopback it listens.
    """

    name: str
    latitude: float
    longitude: float
    address: str


@dataclass(frozen=True, slots=True)
class ClientPlace:
    """A client in a city.

    Args:
        name: the city.
        latitude: degrees north.
        longitude: degrees east.
        network: the network its queries seem to come from (one of RFC 5737's for documentation).
        nearest: the edge that a look at a globe expects it to get.
        next_nearest: the one after that.
    """

    name: str
    latitude: float
    longitude: float
    network: str
    nearest: str
    next_nearest: str


EDGES: Final = (
    EdgePlace("geneva", 46.20, 6.14, "127.0.0.2"),
    EdgePlace("chicago", 41.88, -87.63, "127.0.0.3"),
    EdgePlace("tokyo", 35.68, 139.69, "127.0.0.4"),
)
CLIENTS: Final = (
    ClientPlace("lyon", 45.76, 4.84, "192.0.2.0/24", "geneva", "chicago"),
    ClientPlace("toronto", 43.65, -79.38, "198.51.100.0/24", "chicago", "geneva"),
    ClientPlace("osaka", 34.69, 135.50, "203.0.113.0/24", "tokyo", "geneva"),
)
REPLICAS: Final = ("amsterdam", "vancouver")
EDGE_ADDRESSES: Final = tuple(place.address for place in EDGES)


def edge_named(name: str) -> EdgePlace:
    """The edge of a city."""
    return next(place for place in EDGES if place.name == name)


def edge_at(address: str) -> str:
    """The city of an edge's address; the address itself if it is none of ours."""
    return next((place.name for place in EDGES if place.address == address), address)
