"""From the bytes of a query to the bytes of the answer.

Nothing here reads a socket, a clock or a file: the same query, client, zones, geography and health give the same
bytes. That is what makes answers safe to keep, and `Answer` says for whom: for every client, or only for the one that
asked.

Sources: RFC 1034 §4.3.2 (finding an answer), RFC 2308 (negative answers), RFC 6604 (codes after CNAME), RFC 7871
(client subnet), RFC 8482 (ANY).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from typing import Final

from geodns.geo import Geography, Location
from geodns.routing import ALL_WELL, Edge, HealthView, rotated
from geodns.wire import (
    CLASS_IN,
    TCP_REPLY_BYTES_MAX,
    Name,
    Query,
    Record,
    RecordData,
    RecordType,
    Rejection,
    ResponseCode,
    Sections,
    encode_rejection,
    encode_reply,
    encode_truncated,
    parse_query,
    udp_reply_bytes_max,
)
from geodns.zone import GeoName, Node, RecordSet, Zone, Zones

CNAME_LINKS_MAX: Final = 8
ROTATIONS_MAX: Final = 16
"""How many orders of one answer are worth keeping."""
ANY_TTL_SECONDS: Final = 3600
_ANY_DATA: Final[RecordData] = (b"\x07RFC8482\x00",)
_FAMILIES: Final[dict[int, int]] = {RecordType.A: 4, RecordType.AAAA: 6}
_META_TYPES: Final = range(128, 256)


@dataclass(frozen=True, slots=True)
class Answer:
    """What to send, and what the server needs to know of it.

    Args:
        message: the reply, ready to send.
        code: how it ends, for counting.
        type: the record type asked for; 0 where none could be read.
        depends_on_client: whether another client's address might have given another answer.
        rotations: how many orders of the addresses there are; `turn` picks one of them.
        site: the site named in the answer, if any.
    """

    message: bytes
    code: ResponseCode
    type: int = 0
    depends_on_client: bool = False
    rotations: int = 1
    site: str | None = None


@dataclass(frozen=True, slots=True)
class _Finding:
    """What a name came to, on the way to an answer."""

    sections: Sections
    rotations: int = 1
    located: bool = False
    site: str | None = None


@dataclass(frozen=True, slots=True)
class Authority:
    """Everything answers are made from, at one instant.

    Args:
        zones: the names.
        geography: where clients are.
        health: how the edges are.
    """

    zones: Zones
    geography: Geography
    health: HealthView = ALL_WELL

    def with_health(self, health: HealthView) -> Authority:
        """Returns the same with newer health marks."""
        return replace(self, health=health)

    def answer(self, message: bytes, client: bytes, *, tcp: bool = False, turn: int = 0) -> Answer | None:
        """Answers one message.

        Args:
            message: what the client sent, without the length that precedes it on TCP.
            client: the packed address it came from.
            tcp: whether there is room for a long reply.
            turn: goes through the orders of the addresses, which begin at one picked by client and query.

        Returns:
            The answer, or None where nothing must be sent.
        """
        query = parse_query(message)
        if query is None:
            return None
        if isinstance(query, Rejection):
            return Answer(encode_rejection(query), query.code)
        seed = zlib.crc32(message[2:], zlib.crc32(client))
        asked = _Asked(self.geography, query, client, seed=seed, turn=turn)
        finding = self._find(asked)
        bytes_max = TCP_REPLY_BYTES_MAX if tcp else udp_reply_bytes_max(query.edns)
        return Answer(
            encode_reply(query, finding.sections, bytes_max),
            finding.sections.code,
            query.type,
            depends_on_client=finding.located and not asked.from_subnet,
            rotations=finding.rotations,
            site=finding.site,
        )

    def _find(self, asked: _Asked) -> _Finding:
        query = asked.query
        if query.record_class != CLASS_IN:
            return _Finding(Sections(ResponseCode.REFUSED))
        if query.type in _META_TYPES and query.type != RecordType.ANY:
            is_transfer = query.type in (RecordType.AXFR, RecordType.IXFR)
            return _Finding(Sections(ResponseCode.REFUSED if is_transfer else ResponseCode.NOTIMP))
        if query.type == RecordType.OPT:
            return _Finding(Sections(ResponseCode.FORMERR))
        zone = self.zones.find(query.name)
        if zone is None:
            return _Finding(Sections(ResponseCode.REFUSED))
        return self._find_in_zone(zone, asked)

    def _find_in_zone(self, zone: Zone, asked: _Asked) -> _Finding:
        name = asked.query.name
        links: list[Record] = []
        node = zone.find(name)
        while (alias := _alias(node, asked.query.type)) is not None and len(links) < CNAME_LINKS_MAX:
            target = Name(alias.data[0][0])
            links.append(Record(name, RecordType.CNAME, alias.ttl_seconds, alias.data[0]))
            if not target.is_under(zone.origin):
                return _Finding(Sections(ResponseCode.NOERROR, True, tuple(links)))
            name, node = target, zone.find(target)
        finding = self._find_at_node(zone, name, node, asked)
        answers = (*links, *finding.sections.answers)
        return replace(finding, sections=replace(finding.sections, answers=answers))

    def _find_at_node(self, zone: Zone, name: Name, node: Node | None, asked: _Asked) -> _Finding:
        if node is None:
            return _Finding(_negative(zone, ResponseCode.NXDOMAIN))
        record_type = asked.query.type
        if record_type == RecordType.ANY and (node.record_sets or node.geo):
            any_record = Record(name, RecordType.HINFO, ANY_TTL_SECONDS, _ANY_DATA)
            return _Finding(Sections(ResponseCode.NOERROR, True, (any_record,)))
        held = node.record_sets.get(record_type)
        if held is not None:
            return _Finding(_positive(zone, name, record_type, held))
        if node.geo is not None and record_type in _FAMILIES:
            return self._find_by_geography(zone, name, node.geo, asked)
        return _Finding(_negative(zone, ResponseCode.NOERROR))

    def _find_by_geography(self, zone: Zone, name: Name, geo: GeoName, asked: _Asked) -> _Finding:
        family = _FAMILIES[asked.query.type]
        location = asked.locate()
        route = geo.router.route(location.position, family, self.health)
        if route.site is None:
            return _Finding(_negative(zone, ResponseCode.NOERROR))
        addresses = addresses_of(route.edges, family)
        stride = max(1, len(addresses) // ROTATIONS_MAX)
        chosen = rotated(addresses, asked.seed + asked.turn * stride, geo.addresses_max)
        records = tuple(Record(name, asked.query.type, geo.ttl_seconds, (address,)) for address in chosen)
        scope = location.prefix_length if asked.from_subnet else 0
        return _Finding(
            Sections(ResponseCode.NOERROR, True, records, scope_prefix_length=scope),
            rotations=min(len(addresses), ROTATIONS_MAX),
            located=True,
            site=route.site.name,
        )


class _Asked:
    """A query and who asks it; locates the client only if the name asked for depends on that."""

    def __init__(self, geography: Geography, query: Query, client: bytes, *, seed: int, turn: int) -> None:
        self._geography = geography
        self.query = query
        self.seed = seed
        self.turn = turn
        subnet = query.edns.client_subnet if query.edns is not None else None
        # A source prefix of 0 says "do not locate my user": only the resolver's own place is left (RFC 7871 §7.1.2).
        self.from_subnet = subnet is not None and subnet.source_prefix_length > 0
        self._address = subnet.address if subnet is not None and self.from_subnet else client

    def locate(self) -> Location:
        return self._geography.locate(self._address)


def addresses_of(edges: tuple[Edge, ...], family: int) -> tuple[bytes, ...]:
    """Returns all addresses of some edges, in order."""
    return tuple(address for edge in edges for address in edge.addresses(family))


def truncated_answer(message: bytes) -> bytes | None:
    """Returns a reply that says only "ask again over TCP", for a client that asks too often.

    None where there is no question to repeat.
    """
    query = parse_query(message)
    if not isinstance(query, Query):
        return None
    return encode_truncated(query, Sections(ResponseCode.NOERROR))


def failure_answer(message: bytes) -> bytes | None:
    """Returns SERVFAIL, for when this server itself made a mistake: the resolver then asks another one at once."""
    query = parse_query(message)
    if query is None:
        return None
    return encode_rejection(Rejection(query.identifier, query.flags, ResponseCode.SERVFAIL, query.question, query.edns))


def _alias(node: Node | None, record_type: int) -> RecordSet | None:
    if node is None or record_type in (RecordType.CNAME, RecordType.ANY):
        return None
    return node.record_sets.get(RecordType.CNAME)


def _positive(zone: Zone, name: Name, record_type: int, held: RecordSet) -> Sections:
    records = tuple(Record(name, record_type, held.ttl_seconds, data) for data in held.data)
    additionals = _server_addresses(zone, held) if record_type == RecordType.NS else ()
    return Sections(ResponseCode.NOERROR, True, records, additionals=additionals)


def _server_addresses(zone: Zone, name_servers: RecordSet) -> tuple[Record, ...]:
    """The addresses of our own name servers, saving a resolver the next question."""
    records: list[Record] = []
    for (target,) in name_servers.data:
        node = zone.nodes.get(Name(target))
        for record_type in _FAMILIES:
            held = node.record_sets.get(record_type) if node is not None else None
            if held is not None:
                records += [Record(Name(target), record_type, held.ttl_seconds, data) for data in held.data]
    return tuple(records)


def _negative(zone: Zone, code: ResponseCode) -> Sections:
    """No such name, or no such type at it: the SOA record says for how long that may be believed (RFC 2308 §3)."""
    ttl_seconds = min(zone.soa.ttl_seconds, zone.negative_ttl_seconds)
    soa = Record(zone.origin, RecordType.SOA, ttl_seconds, zone.soa.data[0])
    return Sections(code, True, authorities=(soa,))
