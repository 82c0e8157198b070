"""What is read from strangers, and what is written back."""

import struct

import dns.flags
import dns.message
import dns.rcode
import pytest

from geodns.wire import (
    ClientSubnet,
    Edns,
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
    udp_reply_bytes_max,
)
from tests.fakes.geodns import query, subnet_option


def rejected(message: bytes) -> ResponseCode:
    parsed = parse_query(message)
    assert isinstance(parsed, Rejection)
    dns.message.from_wire(encode_rejection(parsed))  # whatever is refused is refused in good form
    return parsed.code


def accepted(message: bytes) -> Query:
    parsed = parse_query(message)
    assert isinstance(parsed, Query)
    return parsed


def with_counts(message: bytes, *counts: int) -> bytes:
    return message[:4] + struct.pack("!4H", *counts) + message[12:]


PLAIN = query("edge.cdn.example.org", RecordType.A)


class TestReading:
    def test_a_plain_query_is_understood(self):
        asked = accepted(PLAIN)
        assert (asked.name.text, asked.type, asked.record_class, asked.edns) == ("edge.cdn.example.org", 1, 1, None)

    def test_the_case_of_the_name_survives_in_the_question_and_not_in_the_name(self):
        asked = accepted(query("eDgE.example.org", 1))
        assert asked.question.startswith(b"\x04eDgE")
        assert asked.name.text == "edge.example.org"

    def test_the_root_may_be_asked_for(self):
        assert accepted(query("", 2)).name == Name(b"\0")

    @pytest.mark.parametrize("length", range(12))
    def test_a_packet_without_a_whole_header_gets_silence(self, length):
        assert parse_query(PLAIN[:length]) is None

    def test_a_reply_gets_silence_lest_two_servers_talk_for_ever(self):
        assert parse_query(query("example.org", 1, flags=0x8000)) is None

    @pytest.mark.parametrize("opcode", range(1, 16))
    def test_other_opcodes_are_not_implemented(self, opcode):
        assert rejected(query("example.org", 1, flags=opcode << 11)) is ResponseCode.NOTIMP

    @pytest.mark.parametrize("length", range(12, len(PLAIN)))
    def test_a_cut_off_query_is_malformed(self, length):
        assert rejected(PLAIN[:length]) is ResponseCode.FORMERR

    @pytest.mark.parametrize("questions", [0, 2, 65535])
    def test_anything_but_one_question_is_malformed(self, questions):
        assert rejected(with_counts(PLAIN, questions, 0, 0, 0)) is ResponseCode.FORMERR

    @pytest.mark.parametrize("counts", [(1, 1, 0, 0), (1, 0, 1, 0), (1, 0, 0, 1), (1, 65535, 65535, 65535)])
    def test_counts_that_lie_are_malformed(self, counts):
        assert rejected(with_counts(PLAIN, *counts)) is ResponseCode.FORMERR

    def test_bytes_after_the_last_record_are_malformed(self):
        assert rejected(PLAIN + b"\0") is ResponseCode.FORMERR

    def test_a_message_of_64_kilobytes_is_refused_unread(self):
        assert rejected(PLAIN + bytes(60_000)) is ResponseCode.FORMERR

    @pytest.mark.parametrize(
        "name", [b"\xc0\x0c", b"\xc0\x00", b"\x04edge\xc0\x0c", b"\x40x\0", b"\x80x\0", b"\xff\xff"]
    )
    def test_a_question_with_a_pointer_or_an_odd_label_is_malformed(self, name):
        assert rejected(PLAIN[:12] + name + b"\0\1\0\1") is ResponseCode.FORMERR

    def test_a_name_of_255_bytes_is_read_and_one_of_256_is_not(self):
        longest = ".".join(["x" * 63] * 3 + ["y" * 61])
        assert len(accepted(query(longest, 1)).name) == 255
        assert rejected(query(longest + "z", 1)) is ResponseCode.FORMERR

    def test_records_before_the_options_are_passed_over_without_following_pointers(self):
        looping = b"\xc0\x1c" + struct.pack("!HHIH", 16, 1, 0, 2) + b"hi"
        options = b"\0" + struct.pack("!HHIH", 41, 4096, 0, 0)
        asked = accepted(with_counts(PLAIN, 1, 0, 1, 1) + looping + options)
        assert asked.edns == Edns(4096)

    def test_a_record_name_of_endless_labels_is_malformed(self):
        endless = b"\x01x" * 200 + b"\0" + struct.pack("!HHIH", 16, 1, 0, 0)
        assert rejected(with_counts(PLAIN, 1, 0, 0, 1) + endless) is ResponseCode.FORMERR


class TestOptions:
    def test_the_client_subnet_is_read(self):
        asked = accepted(query("example.org", 1, options=subnet_option("192.0.2.0", 24)))
        assert asked.edns is not None
        assert asked.edns.client_subnet == ClientSubnet(1, 24, bytes((192, 0, 2, 0)))

    def test_an_ipv6_subnet_is_filled_up_with_zeros(self):
        asked = accepted(query("example.org", 1, options=subnet_option("2001:db8:aa::", 48)))
        assert asked.edns is not None
        assert asked.edns.client_subnet is not None
        assert asked.edns.client_subnet.address == bytes.fromhex("20010db800aa") + bytes(10)

    def test_a_subnet_without_family_and_bits_is_accepted(self):
        asked = accepted(query("example.org", 1, options=bytes.fromhex("0008000400000000")))
        assert asked.edns is not None
        assert asked.edns.client_subnet == ClientSubnet(0, 0, b"")

    @pytest.mark.parametrize(
        "option",
        [
            "0008000300011800",  # too short for its head
            "00080004000118",  # cut off
            "0008000700011818c00002",  # a scope in a query
            "0008000700031800c00002",  # no such family
            "0008000700000800c00002",  # no family, but bits
            "0008000600011800c000",  # an address too short for its prefix
            "0008000800011800c0000200",  # and one too long
            "0008000700011700c00003",  # a bit beyond the prefix
            "0008000900012100c000020101",  # 33 bits of IPv4
            "000800070001180000000200080007000118000000",  # another option, cut off
            "0008000700011800c000020008000700011800c00002",  # two subnets
            "ffff",  # half an option
        ],
    )
    def test_a_damaged_subnet_is_malformed_and_the_reply_still_has_options(self, option):
        message = query("example.org", 1, options=bytes.fromhex(option))
        assert rejected(message) is ResponseCode.FORMERR
        parsed = parse_query(message)
        assert isinstance(parsed, Rejection)
        assert dns.message.from_wire(encode_rejection(parsed)).edns == 0

    def test_cookies_and_unknown_options_are_passed_over(self):
        asked = accepted(query("example.org", 1, options=bytes.fromhex("000a00080102030405060708fff00000")))
        assert asked.edns == Edns(1232)

    def test_a_later_version_gets_badvers(self):
        message = bytearray(query("example.org", 1, options=b"\xff"))
        message[-6] = 1  # the version octet; the options of version 1 may look like anything
        parsed = parse_query(bytes(message))
        assert isinstance(parsed, Rejection)
        reply = dns.message.from_wire(encode_rejection(parsed))
        assert (reply.rcode(), reply.edns) == (dns.rcode.BADVERS, 0)
        assert len(reply.question) == 1

    @pytest.mark.parametrize("place", ["twice", "named", "answer section"])
    def test_a_misplaced_opt_record_is_malformed(self, place):
        opt = struct.pack("!HHIH", 41, 1232, 0, 0)
        message = {
            "twice": with_counts(PLAIN, 1, 0, 0, 2) + (b"\0" + opt) * 2,
            "named": with_counts(PLAIN, 1, 0, 0, 1) + b"\x01x\0" + opt,
            "answer section": with_counts(PLAIN, 1, 1, 0, 0) + b"\0" + opt,
        }[place]
        assert rejected(message) is ResponseCode.FORMERR

    @pytest.mark.parametrize(("offered", "used"), [(0, 512), (511, 512), (900, 900), (1232, 1232), (65535, 1232)])
    def test_udp_replies_stay_within_what_the_client_takes_and_1232(self, offered, used):
        assert udp_reply_bytes_max(Edns(offered)) == used
        assert udp_reply_bytes_max(None) == 512


class TestWriting:
    def test_names_are_compressed_against_the_question_and_one_another(self):
        asked = accepted(PLAIN)
        host = Name.from_text("ns1.cdn.example.org")
        records = (
            Record(asked.name, RecordType.CNAME, 30, (host,)),
            Record(host, RecordType.A, 30, (bytes(4),)),
            Record(host, RecordType.A, 30, (bytes(4),)),
        )
        message = encode_reply(asked, Sections(ResponseCode.NOERROR, True, records), 512)
        assert message.count(b"example") == 1
        assert [str(rrset.name) for rrset in dns.message.from_wire(message).answer] == [
            "edge.cdn.example.org.",
            "ns1.cdn.example.org.",
        ]

    def test_a_reply_repeats_identifier_question_and_recursion_desired(self):
        asked = accepted(query("eDgE.example.org", 1, identifier=77, flags=0x0110))
        reply = dns.message.from_wire(encode_reply(asked, Sections(ResponseCode.NXDOMAIN), 512))
        assert reply.id == 77
        assert reply.flags & ~0xF == dns.flags.QR | dns.flags.RD
        assert str(reply.question[0].name) == "eDgE.example.org."

    def test_additional_records_are_left_out_before_anything_is_truncated(self):
        asked = accepted(PLAIN)
        answer = Record(asked.name, RecordType.A, 30, (bytes(4),))
        extra = Record(asked.name, RecordType.TXT, 30, (b"\xff" + b"x" * 255,) * 2)
        message = encode_reply(asked, Sections(ResponseCode.NOERROR, True, (answer,), additionals=(extra,)), 512)
        reply = dns.message.from_wire(message)
        assert (len(reply.answer), len(reply.additional), reply.flags & dns.flags.TC) == (1, 0, 0)

    def test_a_reply_that_does_not_fit_says_only_that(self):
        asked = accepted(query("example.org", 16, options=b""))
        long = Record(asked.name, RecordType.TXT, 30, (b"\xff" + b"x" * 255,) * 5)
        message = encode_reply(asked, Sections(ResponseCode.NOERROR, True, (long,)), 1232)
        reply = dns.message.from_wire(message)
        assert len(message) < 100
        assert (reply.answer, bool(reply.flags & dns.flags.TC), reply.edns) == ([], True, 0)

    def test_names_beyond_the_reach_of_a_pointer_are_written_out(self):
        asked = accepted(PLAIN)
        filler = Record(asked.name, RecordType.TXT, 30, (b"\xff" + b"x" * 255,) * 70)
        late = Record(Name.from_text("late.example.net"), RecordType.A, 30, (bytes(4),))
        message = encode_reply(asked, Sections(ResponseCode.NOERROR, True, (filler, late, late)), 65535)
        assert message.count(b"\x04late") == 2
        assert str(dns.message.from_wire(message).answer[-1].name) == "late.example.net."


class TestNames:
    @pytest.mark.parametrize("text", ["", ".", "a..b", "-x" * 40, "x y.org", "ä.org", "*.org", "a." * 128, "a/b"])
    def test_what_is_no_host_name_is_refused(self, text):
        with pytest.raises(ValueError, match="not a domain name"):
            Name.from_text(text)

    def test_ancestors_are_found_by_whole_labels(self):
        name = Name.from_text("edge.cdn.example.org")
        assert name.is_under(Name.from_text("example.org"))
        assert not name.is_under(Name.from_text("ample.org"))
        assert not Name.from_text("example.org").is_under(name)

    def test_odd_bytes_are_shown_escaped(self):
        assert Name(b"\x03a\x00.\x01-\0").text == "a\\000\\046.-"
