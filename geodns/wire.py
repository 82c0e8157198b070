"""Every byte of DNS that this server reads or writes.

`parse_query` turns a packet from a stranger into a `Query`, a `Rejection` that says how to refuse it, or None where
silence is the only safe reply; it never raises. `encode_reply` turns records into a packet. Neither knows what a zone
is, nor a socket.

Sources: RFC 1035 (messages, names, compression), RFC 6891 (EDNS), RFC 7871 (client subnet), RFC 8482 (ANY), RFC 9619
(one question).
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from cdn.errors import DocumentError

HEADER_BYTES: Final = 12
QUERY_BYTES_MAX: Final = 4096
"""Longer queries are refused unread: no honest one comes near, and reading costs time in proportion."""
QUERY_RECORDS_MAX: Final = 16
NAME_BYTES_MAX: Final = 255
LABEL_BYTES_MAX: Final = 63
UDP_REPLY_BYTES_PLAIN: Final = 512
UDP_REPLY_BYTES_MAX: Final = 1232
"""What fits one unfragmented IPv6 packet anywhere; larger UDP replies get lost or spoofed."""
TCP_REPLY_BYTES_MAX: Final = 65535
CLASS_IN: Final = 1

_HEADER = struct.Struct("!6H")
_TYPE_AND_CLASS = struct.Struct("!HH")
_RECORD = struct.Struct("!HHIH")
_OPTION = struct.Struct("!HH")
_SUBNET = struct.Struct("!HBB")

_LABEL: Final = re.compile(r"[A-Za-z0-9_-]+")

_REPLY: Final = 0x8000
_OPCODE: Final = 0x7800
_AUTHORITATIVE: Final = 0x0400
_TRUNCATED: Final = 0x0200
_RECURSION_DESIRED: Final = 0x0100
_DNSSEC_OK: Final = 0x8000
_OPTION_CLIENT_SUBNET: Final = 8
_POINTER: Final = 0xC000
_POINTER_OFFSET_MAX: Final = 0x3FFF


class RecordType(IntEnum):
    """The record types that this server holds or treats in a special way."""

    A = 1
    NS = 2
    CNAME = 5
    SOA = 6
    HINFO = 13
    TXT = 16
    AAAA = 28
    OPT = 41
    TKEY = 249
    TSIG = 250
    IXFR = 251
    AXFR = 252
    ANY = 255


class ResponseCode(IntEnum):
    """How a reply ends (RFC 1035 §4.1.1, RFC 6891 §9)."""

    NOERROR = 0
    FORMERR = 1
    SERVFAIL = 2
    NXDOMAIN = 3
    NOTIMP = 4
    REFUSED = 5
    BADVERS = 16


class Name(bytes):
    """A domain name in uncompressed wire form, its final zero included.

    A length octet is at most 63 and so never an ASCII letter: the whole name may be folded to lower case as bytes.
    """

    __slots__ = ()

    @classmethod
    def from_text(cls, text: str) -> Name:
        """Reads a host name such as ``edge.cdn.example.org``; a final dot changes nothing.

        Raises:
            ValueError: for anything that is not letters, digits, hyphens and underscores in labels of 1 to 63.
        """
        labels = text.removesuffix(".").split(".")
        for label in labels:
            if not 1 <= len(label) <= LABEL_BYTES_MAX:
                raise ValueError(f"{text!r} is not a domain name: each label has 1 to 63 characters")
            if _LABEL.fullmatch(label) is None:
                raise ValueError(f"{text!r} is not a domain name: labels are letters, digits, '-' and '_'")
        wire = b"".join(bytes((len(label),)) + label.encode("ascii") for label in labels) + b"\0"
        if len(wire) > NAME_BYTES_MAX:
            raise ValueError(f"{text!r} is not a domain name: it is longer than 253 characters")
        return cls(wire)

    @property
    def folded(self) -> Name:
        """The same name in lower case: how names are compared and found."""
        return Name(self.lower())

    @property
    def parent(self) -> Name | None:
        """The name without its first label; None above the root."""
        return Name(self[1 + self[0] :]) if self[0] else None

    def is_under(self, origin: Name) -> bool:
        """Whether this name is `origin` or lies below it; both folded."""
        name: Name | None = self
        while name is not None and len(name) >= len(origin):
            if name == origin:
                return True
            name = name.parent
        return False

    @property
    def text(self) -> str:
        r"""For people: labels with dots, whatever is unprintable as ``\DDD``, no final dot except for the root."""
        labels, rest = [], bytes(self)
        while rest[0]:
            label, rest = rest[1 : 1 + rest[0]], rest[1 + rest[0] :]
            labels.append("".join(_printable(octet) for octet in label))
        return ".".join(labels) or "."


def _printable(octet: int) -> str:
    character = chr(octet)
    return character if character.isascii() and (character.isalnum() or character in "-_*") else f"\\{octet:03d}"


@dataclass(frozen=True, slots=True)
class ClientSubnet:
    """The network a resolver asks for (RFC 7871).

    Args:
        family: 1 for IPv4, 2 for IPv6, 0 only with a source prefix of 0.
        source_prefix_length: how many bits of the address the resolver gave; 0 asks not to be located by it.
        address: the address, its unknown bits zero, in 4 or 16 bytes; empty for family 0.
    """

    family: int
    source_prefix_length: int
    address: bytes

    def encode(self, scope_prefix_length: int) -> bytes:
        """Returns the option for the reply, with the prefix length that the answer is good for."""
        sent = self.address[: (self.source_prefix_length + 7) // 8]
        body = _SUBNET.pack(self.family, self.source_prefix_length, scope_prefix_length) + sent
        return _OPTION.pack(_OPTION_CLIENT_SUBNET, len(body)) + body


@dataclass(frozen=True, slots=True)
class Edns:
    """What the OPT record of a query says (RFC 6891).

    Args:
        udp_bytes_max: the largest UDP reply the client can take; below 512 means 512.
        version: anything but 0 is answered with BADVERS.
        dnssec_ok: copied into the reply, as RFC 3225 §3 asks.
        client_subnet: the network to answer for, if given.
    """

    udp_bytes_max: int
    version: int = 0
    dnssec_ok: bool = False
    client_subnet: ClientSubnet | None = None


@dataclass(frozen=True, slots=True)
class Query:
    """A well-formed question.

    Args:
        identifier: to be repeated in the reply.
        flags: the second header word as it came.
        question: the question section byte for byte, so that the case of its letters survives (0x20).
        name: the name asked for, in lower case.
        type: the record type asked for; any number.
        record_class: the class asked for; any number.
        edns: what the OPT record said, if there was one.
    """

    identifier: int
    flags: int
    question: bytes
    name: Name
    type: int
    record_class: int
    edns: Edns | None


@dataclass(frozen=True, slots=True)
class Rejection:
    """A packet that gets an error and nothing else.

    Args:
        identifier: to be repeated in the reply.
        flags: the second header word as it came.
        code: the error.
        question: the question section where it could be read, else empty.
        edns: what the OPT record said, where it could be read.
    """

    identifier: int
    flags: int
    code: ResponseCode
    question: bytes = b""
    edns: Edns | None = None


# -------------------------------------------------------------------------------------------------------------- reading


def parse_query(message: bytes) -> Query | Rejection | None:
    """Reads a packet from a stranger.

    Args:
        message: one DNS message, without the length that precedes it on TCP.

    Returns:
        The query; how to refuse it; or None for what must not be answered at all: packets without a header, and
        replies, since answering those lets two servers be set to talk to each other for ever.
    """
    if len(message) < HEADER_BYTES:
        return None
    identifier, flags, questions, answers, authorities, additionals = _HEADER.unpack_from(message)
    if flags & _REPLY:
        return None
    if flags & _OPCODE:
        return Rejection(identifier, flags, ResponseCode.NOTIMP)
    reader = _QueryReader(message)
    try:
        reader.read(questions, answers + authorities, additionals)
    except DocumentError:
        return Rejection(identifier, flags, ResponseCode.FORMERR, reader.question, reader.edns)
    if reader.edns is not None and reader.edns.version != 0:
        return Rejection(identifier, flags, ResponseCode.BADVERS, reader.question, reader.edns)
    return Query(identifier, flags, reader.question, reader.name, reader.type, reader.record_class, reader.edns)


class _QueryReader:
    """Holds what has been understood so far, so that even a refusal can repeat it."""

    def __init__(self, message: bytes) -> None:
        self._message = message
        self._offset = HEADER_BYTES
        self.question = b""
        self.name = Name(b"\0")
        self.type = 0
        self.record_class = 0
        self.edns: Edns | None = None

    def read(self, questions: int, others: int, additionals: int) -> None:
        if len(self._message) > QUERY_BYTES_MAX or others + additionals > QUERY_RECORDS_MAX:
            raise DocumentError("the DNS query", "it is larger than any question needs to be")
        if questions != 1:
            raise DocumentError("the DNS query", f"it has {questions} questions instead of one")
        self._read_question()
        for _ in range(others):
            self._read_record(may_be_options=False)
        for _ in range(additionals):
            self._read_record(may_be_options=True)
        if self._offset != len(self._message):
            raise DocumentError("the DNS query", "bytes follow its last record")

    def _take(self, count: int) -> bytes:
        end = self._offset + count
        if end > len(self._message):
            raise DocumentError("the DNS query", "it ends in the middle of a record")
        taken = self._message[self._offset : end]
        self._offset = end
        return taken

    def _read_question(self) -> None:
        # A pointer here could only point into the header or at itself, so the first name of a message never has one.
        start = self._offset
        while length := self._take(1)[0]:
            if length > LABEL_BYTES_MAX:
                raise DocumentError("the DNS query", "its question has a label that is no plain label")
            self._take(length)
            if self._offset - start >= NAME_BYTES_MAX:
                raise DocumentError("the DNS query", "its question has a name that is too long")
        name = self._message[start : self._offset]
        self.type, self.record_class = _TYPE_AND_CLASS.unpack(self._take(4))
        self.name = Name(name.lower())
        self.question = self._message[start : self._offset]

    def _read_record(self, *, may_be_options: bool) -> None:
        is_root = self._skip_name()
        record_type, record_class, ttl, length = _RECORD.unpack(self._take(_RECORD.size))
        data = self._take(length)
        if record_type != RecordType.OPT:
            return
        if not (may_be_options and is_root and self.edns is None):
            raise DocumentError("the DNS query", "its OPT record is misplaced, named or repeated")
        version, dnssec_ok = ttl >> 16 & 0xFF, bool(ttl & _DNSSEC_OK)
        self.edns = Edns(record_class, version, dnssec_ok)
        if version == 0:  # options of a version we do not know may have another form
            self.edns = Edns(record_class, version, dnssec_ok, _parse_options(data))

    def _skip_name(self) -> bool:
        """Passes a name without following pointers: nothing here needs it, and what is not followed cannot loop."""
        start = self._offset
        while length := self._take(1)[0]:
            if length >= _POINTER >> 8:
                self._take(1)
                return False
            if length > LABEL_BYTES_MAX or self._offset + length - start >= NAME_BYTES_MAX:
                raise DocumentError("the DNS query", "a record has a name that is no name")
            self._take(length)
        return self._offset - start == 1


def _parse_options(data: bytes) -> ClientSubnet | None:
    subnet: ClientSubnet | None = None
    offset = 0
    while offset < len(data):
        if offset + _OPTION.size > len(data):
            raise DocumentError("the OPT record", "it ends in the middle of an option")
        code, length = _OPTION.unpack_from(data, offset)
        offset += _OPTION.size
        if offset + length > len(data):
            raise DocumentError("the OPT record", "an option is longer than the record")
        if code == _OPTION_CLIENT_SUBNET:
            if subnet is not None:
                raise DocumentError("the OPT record", "it names two client subnets")
            subnet = _parse_client_subnet(data[offset : offset + length])
        offset += length
    return subnet


_ADDRESS_BYTES: Final = {0: 0, 1: 4, 2: 16}


def _parse_client_subnet(body: bytes) -> ClientSubnet:
    """Reads the option strictly: RFC 7871 §7.1.2 asks for FORMERR on a wrong length and on bits beyond the prefix."""
    if len(body) < _SUBNET.size:
        raise DocumentError("the client subnet", "it is too short")
    family, source, scope = _SUBNET.unpack_from(body)
    address = body[_SUBNET.size :]
    size = _ADDRESS_BYTES.get(family)
    if size is None or source > size * 8 or scope != 0 or len(address) != (source + 7) // 8:
        raise DocumentError("the client subnet", "its family, prefix lengths and address do not fit together")
    if source % 8 and address[-1] & (0xFF >> source % 8):
        raise DocumentError("the client subnet", "it has bits set beyond its prefix")
    return ClientSubnet(family, source, address.ljust(size, b"\0"))


# -------------------------------------------------------------------------------------------------------------- writing

RecordData = tuple[bytes | Name, ...]
"""The parts of a record's data in order.

Those that are a `Name` may be compressed: in NS, CNAME and SOA only (RFC 3597 §4)."""


@dataclass(frozen=True, slots=True)
class Record:
    """One resource record of class IN."""

    name: Name
    type: int
    ttl_seconds: int
    data: RecordData


@dataclass(frozen=True, slots=True)
class Sections:
    """What a reply says after repeating the question.

    Args:
        code: how it ends.
        authoritative: whether the name lies in a zone of ours.
        answers: the records asked for.
        authorities: the SOA record of a negative answer.
        additionals: what is kind to add; left out first when room is short.
        scope_prefix_length: for which prefix of the client subnet the answer is good; 0 where geography had no say.
    """

    code: ResponseCode
    authoritative: bool = False
    answers: tuple[Record, ...] = ()
    authorities: tuple[Record, ...] = ()
    additionals: tuple[Record, ...] = ()
    scope_prefix_length: int = 0


def udp_reply_bytes_max(edns: Edns | None) -> int:
    """Returns how long a UDP reply may be: what the client can take, at least 512 and at most 1232."""
    if edns is None:
        return UDP_REPLY_BYTES_PLAIN
    return min(max(edns.udp_bytes_max, UDP_REPLY_BYTES_PLAIN), UDP_REPLY_BYTES_MAX)


def encode_reply(query: Query, sections: Sections, bytes_max: int) -> bytes:
    """Writes the reply to a query.

    Args:
        query: what is answered.
        sections: the records and the response code.
        bytes_max: the room there is; a reply that does not fit loses its additional records, then says TC and nothing
            else, which sends the client to TCP (RFC 2181 §9).
    """
    message = _encode(query, sections, sections.additionals)
    if len(message) > bytes_max and sections.additionals:
        message = _encode(query, sections, ())
    if len(message) > bytes_max:
        return encode_truncated(query, sections)
    return message


def encode_truncated(query: Query, sections: Sections) -> bytes:
    """Writes a reply that says nothing but "ask again over TCP"."""
    bare = Sections(sections.code, sections.authoritative, scope_prefix_length=sections.scope_prefix_length)
    return _encode(query, bare, (), extra_flags=_TRUNCATED)


def encode_rejection(rejection: Rejection) -> bytes:
    """Writes the error for a packet that could not be taken as a query."""
    flags = _REPLY | rejection.flags & (_OPCODE | _RECURSION_DESIRED) | rejection.code & 0xF
    options = _encode_options(rejection.edns, rejection.code, b"")
    counts = (1 if rejection.question else 0, 0, 0, 1 if options else 0)
    return _HEADER.pack(rejection.identifier, flags, *counts) + rejection.question + options


def _encode(query: Query, sections: Sections, additionals: tuple[Record, ...], extra_flags: int = 0) -> bytes:
    subnet = query.edns.client_subnet if query.edns is not None else None
    option = subnet.encode(sections.scope_prefix_length) if subnet is not None else b""
    options = _encode_options(query.edns, sections.code, option)
    flags = _REPLY | query.flags & _RECURSION_DESIRED | extra_flags | sections.code & 0xF
    if sections.authoritative:
        flags |= _AUTHORITATIVE
    counts = (1, len(sections.answers), len(sections.authorities), len(additionals) + (1 if options else 0))
    writer = _MessageWriter(_HEADER.pack(query.identifier, flags, *counts), query)
    for record in (*sections.answers, *sections.authorities, *additionals):
        writer.add(record)
    return bytes(writer.message) + options


def _encode_options(edns: Edns | None, code: ResponseCode, option: bytes) -> bytes:
    """Writes the OPT record, which a reply has exactly if the query had one (RFC 6891 §6.1.1)."""
    if edns is None:
        return b""
    extended = (code >> 4) << 24 | (_DNSSEC_OK if edns.dnssec_ok else 0)
    return b"\0" + _RECORD.pack(RecordType.OPT, UDP_REPLY_BYTES_MAX, extended, len(option)) + option


class _MessageWriter:
    """Appends records and remembers where each name began, so that later ones can point there (RFC 1035 §4.1.4)."""

    def __init__(self, header: bytes, query: Query) -> None:
        self.message = bytearray(header + query.question)
        self._offsets: dict[bytes, int] = {}
        self._remember(query.name, HEADER_BYTES)

    def add(self, record: Record) -> None:
        self._add_name(record.name)
        self.message += _RECORD.pack(record.type, CLASS_IN, record.ttl_seconds, 0)
        start = len(self.message)
        for part in record.data:
            if isinstance(part, Name):
                self._add_name(part)
            else:
                self.message += part
        self.message[start - 2 : start] = (len(self.message) - start).to_bytes(2, "big")

    def _add_name(self, name: Name) -> None:
        start, rest = len(self.message), bytes(name)
        while rest[0]:
            known = self._offsets.get(rest.lower())
            if known is not None:
                self._remember(name, start)
                self.message += (_POINTER | known).to_bytes(2, "big")
                return
            label_end = 1 + rest[0]
            self.message += rest[:label_end]
            rest = rest[label_end:]
        self.message.append(0)
        self._remember(name, start)

    def _remember(self, name: bytes, offset: int) -> None:
        rest = name.lower()
        while rest[0] and offset <= _POINTER_OFFSET_MAX:
            if rest in self._offsets:  # this label and all that follow were found, not written
                return
            self._offsets[rest] = offset
            offset += 1 + rest[0]
            rest = rest[1 + rest[0] :]
