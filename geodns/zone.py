"""What names exist, and what they hold.

A `Zone` is built once from checked settings and never changes; a reload builds new ones. Names are folded `Name`s,
data is ready for the wire. A node holds record sets, and may be a geo name besides, whose addresses are chosen per
client.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from geodns.routing import SiteRouter
from geodns.wire import Name, RecordData, RecordType

CHARACTER_STRING_BYTES_MAX: Final = 255
TTL_SECONDS_MAX: Final = 2**31 - 1
"""RFC 2181 §8."""


@dataclass(frozen=True, slots=True)
class RecordSet:
    """All records of one name and type.

    Args:
        ttl_seconds: how long resolvers may keep them.
        data: the data of each record.
    """

    ttl_seconds: int
    data: tuple[RecordData, ...]


@dataclass(frozen=True, slots=True)
class GeoName:
    """A name whose A and AAAA records depend on who asks.

    Args:
        router: chooses among the sites of this name.
        ttl_seconds: how long resolvers may keep an answer, and so how long a dead edge goes on being named.
        addresses_max: how many addresses one answer holds at most.
    """

    router: SiteRouter
    ttl_seconds: int
    addresses_max: int


@dataclass(frozen=True, slots=True)
class Node:
    """What one name holds.

    Args:
        record_sets: by record type.
        geo: chooses its A and AAAA records, which `record_sets` then has not.
    """

    record_sets: Mapping[int, RecordSet]
    geo: GeoName | None = None


_NOTHING_HERE: Final = Node({})


@dataclass(frozen=True, slots=True)
class Zone:
    """One zone and everything in it.

    Args:
        origin: the name of the zone, folded.
        negative_ttl_seconds: how long "no such name" may be kept (RFC 2308 §5).
        nodes: what each name holds; the origin has at least its SOA record.
    """

    origin: Name
    negative_ttl_seconds: int
    nodes: Mapping[Name, Node]
    _empty: frozenset[Name] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_empty", frozenset(_empty_non_terminals(self.origin, self.nodes)))

    @property
    def soa(self) -> RecordSet:
        """The one SOA record."""
        return self.nodes[self.origin].record_sets[RecordType.SOA]

    def find(self, name: Name) -> Node | None:
        """Returns what a name holds: an empty node if there are only names below it, None if it does not exist."""
        node = self.nodes.get(name)
        if node is None and name in self._empty:
            return _NOTHING_HERE
        return node


def _empty_non_terminals(origin: Name, nodes: Iterable[Name]) -> Iterable[Name]:
    """Names that exist only because of what is below them: NXDOMAIN would deny all that too (RFC 8020)."""
    for node in nodes:
        name = node.parent
        while name is not None and len(name) > len(origin):
            yield name
            name = name.parent


class Zones:
    """The zones that this server answers for.

    Args:
        zones: each origin once.
    """

    def __init__(self, zones: Iterable[Zone] = ()) -> None:
        self._zones = {zone.origin: zone for zone in zones}

    def __iter__(self) -> Iterator[Zone]:
        return iter(self._zones.values())

    def find(self, name: Name) -> Zone | None:
        """Returns the zone a name lies in: the one with the longest origin."""
        ancestor: Name | None = name
        while ancestor is not None:
            zone = self._zones.get(ancestor)
            if zone is not None:
                return zone
            ancestor = ancestor.parent
        return None


# ---------------------------------------------------------------------------------------------------------- record data


def absolute_name(text: str, origin: Name) -> Name:
    """Reads a name as zone files have it: ``@`` is the origin, a final dot makes it absolute, others are relative.

    Raises:
        ValueError: if it is no name, or too long below this origin.
    """
    if text == "@":
        return origin
    if text.endswith("."):
        return Name.from_text(text).folded
    relative = Name.from_text(text).folded
    return Name.from_text(f"{relative.text}.{origin.text}")


def record_data(record_type: RecordType, value: str, origin: Name) -> RecordData:
    """Reads the text of one record's data.

    Args:
        record_type: A, AAAA, CNAME, NS or TXT.
        value: an address, a name (relative ones are below the origin), or any text.
        origin: the zone's origin.

    Raises:
        ValueError: if the text is none for this type.
    """
    if record_type is RecordType.A:
        return (ipaddress.IPv4Address(value).packed,)
    if record_type is RecordType.AAAA:
        return (ipaddress.IPv6Address(value.partition("%")[0]).packed,)
    if record_type is RecordType.TXT:
        return _character_strings(value)
    return (absolute_name(value, origin),)


def _character_strings(value: str) -> RecordData:
    """A text longer than 255 bytes travels in several strings of one record, which readers join (RFC 7208 §3.3)."""
    octets = value.encode("utf-8")
    starts = range(0, max(len(octets), 1), CHARACTER_STRING_BYTES_MAX)
    strings = [octets[start : start + CHARACTER_STRING_BYTES_MAX] for start in starts]
    return tuple(bytes((len(string),)) + string for string in strings)


_SOA_NUMBERS = struct.Struct("!IIIII")


def soa_data(primary_server: Name, contact: Name, *, serial: int, negative_ttl_seconds: int) -> RecordData:
    """Returns the data of a SOA record; the timers for transfers are customary, as there are none."""
    return (primary_server, contact, _SOA_NUMBERS.pack(serial, 7200, 1800, 1209600, negative_ttl_seconds))
