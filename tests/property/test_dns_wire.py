"""DNS packets of every kind against an independent implementation."""

import struct

import dns.edns
import dns.exception
import dns.message
import dns.name
from hypothesis import given
from hypothesis import strategies as st

from geodns.geo import packed_address
from geodns.wire import (
    Name,
    Query,
    Record,
    RecordType,
    Rejection,
    ResponseCode,
    Sections,
    encode_rejection,
    encode_reply,
    parse_query,
)
from tests.fakes.geodns import GENEVA_CLIENT, ZONE, authority, query

LABELS = st.text(alphabet="abcdefgxyzABCXYZ0123456789-_", min_size=1, max_size=20)
NAMES = st.lists(LABELS, min_size=1, max_size=8).map(".".join)
AUTHORITY = authority()


@st.composite
def subnets(draw) -> dns.edns.ECSOption:
    if draw(st.booleans()):
        return dns.edns.ECSOption(str(draw(st.ip_addresses(v=4))), draw(st.integers(0, 32)))
    return dns.edns.ECSOption(str(draw(st.ip_addresses(v=6))), draw(st.integers(0, 128)))


@st.composite
def queries(draw) -> dns.message.QueryMessage:
    name = draw(st.one_of(NAMES, st.sampled_from(["edge", "www", "eDgE", "text", "deep"]).map(f"{{}}.{ZONE}".format)))
    message = dns.message.make_query(name, draw(st.sampled_from([1, 2, 5, 6, 15, 16, 28, 65, 255])))
    if draw(st.booleans()):
        options = draw(st.lists(st.one_of(st.just(dns.edns.GenericOption(10, b"12345678")), subnets()), max_size=1))
        message.use_edns(0, payload=draw(st.integers(0, 65535)), options=options)
        message.want_dnssec(draw(st.booleans()))
    return message


@given(queries())
def test_what_a_resolver_writes_is_read_as_it_meant_it(message):
    parsed = parse_query(message.to_wire())
    assert isinstance(parsed, Query)
    (question,) = message.question
    assert parsed.identifier == message.id
    assert parsed.question[:-4] == question.name.to_wire()
    assert parsed.name == question.name.canonicalize().to_wire()
    assert parsed.type == question.rdtype
    assert (parsed.edns is not None) == (message.edns >= 0)
    if parsed.edns is not None:
        assert parsed.edns.udp_bytes_max == message.payload
        assert (parsed.edns.client_subnet is not None) == any(option.otype == 8 for option in message.options)


@given(queries(), st.booleans())
def test_every_reply_is_well_formed_fits_and_belongs_to_its_query(message, tcp):
    answer = AUTHORITY.answer(message.to_wire(), packed_address(GENEVA_CLIENT), tcp=tcp)
    assert answer is not None
    reply = dns.message.from_wire(answer.message)
    assert message.is_response(reply)
    assert reply.question[0].name.to_wire() == message.question[0].name.to_wire()  # the case of each letter
    assert (reply.edns >= 0) == (message.edns >= 0)
    if not tcp:
        assert len(answer.message) <= (min(max(message.payload, 512), 1232) if message.edns >= 0 else 512)


@given(queries(), st.binary(max_size=40), st.data())
def test_a_mangled_query_never_raises_and_gets_a_well_formed_reply_or_silence(message, garbage, data):
    wire = bytearray(message.to_wire())
    start = data.draw(st.integers(0, len(wire)))
    wire[start : start + data.draw(st.integers(0, 12))] = garbage
    check_any(bytes(wire))


@given(st.binary(max_size=600))
def test_garbage_never_raises_and_gets_a_well_formed_reply_or_silence(garbage):
    check_any(garbage)


@given(st.binary(max_size=200), st.tuples(*[st.integers(0, 3)] * 4))
def test_garbage_behind_a_plausible_header_neither(garbage, counts):
    check_any(struct.pack("!6H", 7, 0x0100, *counts) + garbage)


def check_any(wire: bytes) -> None:
    answer = AUTHORITY.answer(wire, packed_address(GENEVA_CLIENT))
    if len(wire) < 12 or wire[2] & 0x80:
        assert answer is None
        return
    assert answer is not None
    assert answer.message[:2] == wire[:2]
    assert answer.message[2] & 0x80
    # A question with an odd class or meta type is repeated as it came, which the other implementation refuses.
    try:
        reply = dns.message.from_wire(answer.message)
    except dns.exception.DNSException:
        parsed = parse_query(wire)
        assert isinstance(parsed, (Query, Rejection))
        assert answer.code is not ResponseCode.NOERROR
    else:
        assert reply.rcode() == answer.code


records = st.builds(
    Record,
    name=NAMES.map(Name.from_text),
    type=st.sampled_from([RecordType.NS, RecordType.CNAME]),
    ttl_seconds=st.integers(0, 2**31 - 1),
    data=st.tuples(NAMES.map(Name.from_text)),
)


@given(st.lists(records, max_size=60), st.lists(records, max_size=5))
def test_compressed_names_come_out_as_they_went_in(answers, authorities):
    asked = parse_query(query("edge.cdn.example.org", 1))
    assert isinstance(asked, Query)
    message = encode_reply(asked, Sections(ResponseCode.NOERROR, True, tuple(answers), tuple(authorities)), 65535)
    reply = dns.message.from_wire(message, one_rr_per_rrset=True)
    assert [rrset.name.canonicalize().to_wire() for rrset in reply.answer] == [record.name.folded for record in answers]
    assert [rrset[0].target.canonicalize().to_wire() for rrset in reply.answer] == [
        Name(record.data[0]).folded for record in answers
    ]
    assert len(reply.authority) == len(authorities)
    assert len(message) <= 29 + 12 + sum(
        len(record.name) + len(record.data[0]) + 10 for record in (*answers, *authorities)
    )


@given(NAMES)
def test_names_read_as_the_other_implementation_reads_them(text):
    name = Name.from_text(text)
    assert name == dns.name.from_text(text).to_wire()
    assert Name.from_text(name.text) == name


@given(st.integers(0, 65535), st.integers(0, 65535), st.sampled_from(list(ResponseCode)))
def test_a_rejection_repeats_nothing_but_what_it_should(identifier, flags, code):
    rejected = encode_rejection(Rejection(identifier, flags & 0x7FFF, code))
    assert rejected[:2] == identifier.to_bytes(2, "big")
    assert rejected[2] & 0x80
    assert not rejected[2] & 0x06  # neither authoritative nor truncated
    assert rejected[3] == code & 0xF
