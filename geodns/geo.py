"""Where an address is, and how far that is from somewhere else.

A `Geography` says where an address is and for how large a block around it that is true, which is what a resolver may
cache the answer for (RFC 7871 §7.2.1). `NetworkMap` is the one made of prefixes an operator wrote down;
`LayeredGeography` asks several in turn. The one over a database file is in `geodns.geography_files`, since it needs a
file.

Addresses are packed bytes, 4 for IPv4 and 16 for IPv6: that is how they arrive and how they compare.
"""

from __future__ import annotations

import ipaddress
import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from cdn.errors import ConfigError

EARTH_RADIUS_KM: Final = 6371.0088
"""Mean radius; the distances of places, not of surveyors."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Position:
    """A point on the globe.

    Args:
        latitude: degrees north, -90 to 90.
        longitude: degrees east, -180 to 180.
    """

    latitude: float
    longitude: float

    def __post_init__(self) -> None:
        if not -90 <= self.latitude <= 90:  # false for NaN too
            raise ValueError(f"latitude: {self.latitude} is not between -90 and 90 degrees")
        if not -180 <= self.longitude <= 180:
            raise ValueError(f"longitude: {self.longitude} is not between -180 and 180 degrees")


UnitVector = tuple[float, float, float]


def unit_vector(position: Position) -> UnitVector:
    """Returns the point on a globe of radius 1, so that comparing distances needs no trigonometry."""
    latitude, longitude = math.radians(position.latitude), math.radians(position.longitude)
    level = math.cos(latitude)
    return level * math.cos(longitude), level * math.sin(longitude), math.sin(latitude)


def squared_chord(a: UnitVector, b: UnitVector) -> float:
    """Returns a number that grows with the distance along the globe: enough to sort by."""
    return (a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2 + (a[2] - b[2]) ** 2


def chord_to_km(chord: float) -> float:
    """Returns the distance along the globe that belongs to a squared chord."""
    return 2 * EARTH_RADIUS_KM * math.asin(min(1.0, math.sqrt(chord) / 2))


def distance_km(a: Position, b: Position) -> float:
    """Returns the great-circle distance."""
    return chord_to_km(squared_chord(unit_vector(a), unit_vector(b)))


# ------------------------------------------------------------------------------------------------------------ geography


@dataclass(frozen=True, slots=True)
class Location:
    """What is known of an address.

    Args:
        position: where it is; None if unknown.
        prefix_length: the whole block of this length around the address has the same answer.
    """

    position: Position | None
    prefix_length: int


class Geography(Protocol):
    """Says where addresses are."""

    def locate(self, address: bytes) -> Location:
        """Returns what is known of a packed address; never raises."""
        ...


def packed_address(text: str) -> bytes:
    """Returns an address as packed bytes; IPv4 written as IPv6 (``::ffff:192.0.2.1``) becomes IPv4, a zone is dropped.

    Raises:
        ValueError: if the text is no address.
    """
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.packed
    return address.packed


class NetworkMap:
    """Positions of networks; of several networks that hold an address, the one with the longest prefix counts.

    Nested networks are flattened once into ranges that do not overlap, so that a lookup is one bisection, and so that
    the prefix length told is right also beside a hole: what lies next to a nested network must not be cached for the
    whole outer one.

    Args:
        networks: each network once, with its position.
    """

    def __init__(self, networks: Iterable[tuple[Network, Position]] = ()) -> None:
        entries = list(networks)
        self._size = len(entries)
        self._v4 = _Ranges(32, [(n, p) for n, p in entries if n.version == 4])
        self._v6 = _Ranges(128, [(n, p) for n, p in entries if n.version == 6])

    @classmethod
    def of_addresses(cls, positions: Mapping[bytes, Position]) -> NetworkMap:
        """Returns the map of single addresses, each packed."""
        return cls((ipaddress.ip_network(address), position) for address, position in positions.items())

    def __len__(self) -> int:
        return self._size

    def locate(self, address: bytes) -> Location:
        """Returns the position of a packed address and the block it holds for."""
        ranges = self._v4 if len(address) == 4 else self._v6
        return ranges.locate(int.from_bytes(address, "big"))


class _Ranges:
    """The address space cut where the position changes: `_starts[i]` begins a range at `_positions[i]`."""

    def __init__(self, bits: int, networks: list[tuple[Network, Position]]) -> None:
        self._bits = bits
        self._starts: list[int] = [0]
        self._positions: list[Position | None] = [None]
        # Outer networks sort before the inner ones that begin with them; `enclosing` holds those not yet left.
        enclosing: list[tuple[int, Position]] = []
        for network, position in sorted(
            networks, key=lambda entry: (int(entry[0].network_address), entry[0].prefixlen)
        ):
            start = int(network.network_address)
            self._leave_before(start, enclosing)
            self._cut(start, position)
            enclosing.append((int(network.broadcast_address) + 1, position))
        self._leave_before(1 << bits, enclosing)

    def _leave_before(self, start: int, enclosing: list[tuple[int, Position]]) -> None:
        while enclosing and enclosing[-1][0] <= start:
            end, _ = enclosing.pop()
            if end < 1 << self._bits:
                self._cut(end, enclosing[-1][1] if enclosing else None)

    def _cut(self, start: int, position: Position | None) -> None:
        if self._starts[-1] == start:
            self._starts.pop()
            self._positions.pop()
        if not self._positions or self._positions[-1] != position:
            self._starts.append(start)
            self._positions.append(position)

    def locate(self, address: int) -> Location:
        index = bisect_right(self._starts, address) - 1
        before = self._starts[index] - 1
        after = self._starts[index + 1] if index + 1 < len(self._starts) else 1 << self._bits
        # The block must leave out the neighbours of the range: one bit more than the address has in common with either.
        prefix_length = 0
        for outside in (before, after):
            if 0 <= outside < 1 << self._bits:
                common = self._bits - (address ^ outside).bit_length()
                prefix_length = max(prefix_length, common + 1)
        return Location(self._positions[index], prefix_length)


class LayeredGeography:
    """Asks one geography after another until one knows: a few networks written by hand correct a database.

    Args:
        layers: the one that counts most first.
    """

    def __init__(self, layers: Sequence[Geography]) -> None:
        self._layers = tuple(layers)

    def locate(self, address: bytes) -> Location:
        """Returns what the first layer that knows says, for no larger a block than the layers above know nothing of."""
        prefix_length = 0
        for layer in self._layers:
            location = layer.locate(address)
            prefix_length = max(prefix_length, location.prefix_length)
            if location.position is not None:
                return Location(location.position, prefix_length)
        return Location(None, prefix_length)


# ------------------------------------------------------------------------------------------------------------ map files

MAP_MISTAKES_MAX: Final = 20
"""After so many mistakes a map file is plainly something else."""


def parse_network_map(text: str, source: str) -> NetworkMap:
    """Reads a map: one network a line, then latitude and longitude in degrees; ``#`` begins a comment.

    Args:
        text: the whole file.
        source: its name, for messages.

    Raises:
        ConfigError: naming every line with a mistake (the first twenty).
    """
    networks: dict[Network, Position] = {}
    mistakes: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.partition("#")[0].split()
        if not fields:
            continue
        try:
            network, position = _parse_map_line(fields)
            if network in networks:
                raise ValueError(f"{network} was given before")
        except ValueError as error:
            mistakes.append(f"{source}:{number}: {error}")
            if len(mistakes) == MAP_MISTAKES_MAX:
                break
            continue
        networks[network] = position
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    return NetworkMap(networks.items())


def _parse_map_line(fields: list[str]) -> tuple[Network, Position]:
    if len(fields) != 3:
        raise ValueError("a line is NETWORK LATITUDE LONGITUDE, for example 192.0.2.0/24 46.2 6.1")
    return parse_network(fields[0]), Position(_degrees(fields[1]), _degrees(fields[2]))


def _degrees(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text[:40]!r} is not a number of degrees") from None


def parse_network(text: str) -> Network:
    """Reads ``ADDRESS/LENGTH``, or an address alone for just that one.

    Raises:
        ValueError: saying what is wrong, and for bits beyond the prefix which network was probably meant.
    """
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text[:60]!r} is not a network such as 192.0.2.0/24 or 2001:db8::/32") from None
    if not text.partition("/")[2].isdigit() and "/" in text:
        raise ValueError(f"{text[:60]!r} is not a network: write the prefix as a number, as in 192.0.2.0/24")
    if ipaddress.ip_address(text.partition("/")[0]) != network.network_address:
        raise ValueError(f"{text[:60]!r} has bits set beyond its prefix: write {network}")
    return network
