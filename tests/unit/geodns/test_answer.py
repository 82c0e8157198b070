"""From query bytes to answer bytes."""

import struct

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import pytest

from geodns.answer import failure_answer, truncated_answer
from geodns.geo import packed_address
from geodns.routing import HealthView
from geodns.wire import RecordType, ResponseCode
from tests.fakes.geodns import (
    CHICAGO,
    CHICAGO_CLIENT,
    GENEVA,
    GENEVA_CLIENT,
    TOKYO,
    TOKYO_CLIENT,
    UNKNOWN_CLIENT,
    ZONE,
    ask,
    authority,
    query,
    subnet_option,
)

A, AAAA, TXT, ANY = RecordType.A, RecordType.AAAA, RecordType.TXT, RecordType.ANY


def reply_to(
    message: bytes, client: str = GENEVA_CLIENT, health: HealthView | None = None, **how
) -> dns.message.Message:
    given = authority() if health is None else authority(health)
    return dns.message.from_wire(ask(given, message, client, **how).message)


def addresses(reply: dns.message.Message) -> set[str]:
    return {str(record) for rrset in reply.answer for record in rrset if rrset.rdtype in (1, 28)}


def name(label: str) -> str:
    return f"{label}.{ZONE}"


class TestGeography:
    @pytest.mark.parametrize(
        ("client", "expected"), [(GENEVA_CLIENT, GENEVA), (CHICAGO_CLIENT, CHICAGO), (TOKYO_CLIENT, TOKYO)]
    )
    def test_each_client_gets_its_nearest_site(self, client, expected):
        assert addresses(reply_to(query(name("edge"), A), client)) == set(expected)

    def test_an_unknown_client_gets_the_sites_in_configured_order(self):
        assert addresses(reply_to(query(name("edge"), A), UNKNOWN_CLIENT)) == set(GENEVA)
        assert addresses(reply_to(query(name("far"), A), UNKNOWN_CLIENT)) == set(TOKYO)

    def test_the_client_subnet_counts_and_the_resolver_does_not(self):
        message = query(name("edge"), A, options=subnet_option("198.51.100.0", 24))
        assert addresses(reply_to(message, TOKYO_CLIENT)) == set(CHICAGO)

    def test_the_scope_is_the_prefix_of_the_network_found(self):
        message = query(name("edge"), A, options=subnet_option("198.51.100.64", 28))
        (option,) = reply_to(message).options
        assert (option.address, option.srclen, option.scopelen) == ("198.51.100.64", 28, 24)

    def test_the_scope_may_be_longer_than_what_was_given(self):
        message = query(name("edge"), A, options=subnet_option("198.51.0.0", 16))
        (option,) = reply_to(message).options
        assert option.scopelen > 16

    def test_the_scope_of_an_unknown_network_stops_before_the_known_ones(self):
        message = query(name("edge"), A, options=subnet_option("192.0.3.0", 24))
        (option,) = reply_to(message).options
        assert option.scopelen == 24  # its neighbour 192.0.2.0/24 is known

    @pytest.mark.parametrize("asked", [query(name("ns1"), A, options=subnet_option("198.51.100.0", 24)),
                                       query(name("nothing"), A, options=subnet_option("198.51.100.0", 24)),
                                       query(name("edge"), TXT, options=subnet_option("198.51.100.0", 24)),
                                       query("other.org", A, options=subnet_option("198.51.100.0", 24))])  # fmt: skip
    def test_the_scope_is_zero_where_geography_had_no_say(self, asked):
        (option,) = reply_to(asked).options
        assert (option.srclen, option.scopelen) == (24, 0)

    def test_a_source_prefix_of_zero_means_going_by_the_resolver_and_telling_no_scope(self):
        message = query(name("edge"), A, options=subnet_option("0.0.0.0", 0))
        reply = reply_to(message, CHICAGO_CLIENT)
        assert addresses(reply) == set(CHICAGO)
        assert reply.options[0].scopelen == 0

    def test_an_ipv6_client_is_located_too(self):
        message = query(name("edge"), AAAA, options=subnet_option("2001:db8:aa::", 56))
        reply = reply_to(message)
        assert addresses(reply) == {"2001:db8:2::1"}
        assert reply.options[0].scopelen == 48

    def test_a_site_without_ipv6_is_passed_over_for_aaaa(self):
        assert addresses(reply_to(query(name("edge"), AAAA), TOKYO_CLIENT)) == {"2001:db8:1::1"}

    def test_a_name_without_any_ipv6_has_no_data_of_that_type(self):
        reply = reply_to(query(name("island"), AAAA))
        assert (reply.rcode(), reply.answer, len(reply.authority)) == (dns.rcode.NOERROR, [], 1)


class TestHealth:
    def test_a_dead_edge_is_not_named(self):
        reply = reply_to(query(name("edge"), A), health=HealthView(down=frozenset({"g2"})))
        assert addresses(reply) == {GENEVA[0], GENEVA[2]}

    def test_a_site_without_a_living_edge_gives_way_to_the_next_nearest(self):
        reply = reply_to(query(name("edge"), A), health=HealthView(down=frozenset({"g1", "g2", "g3"})))
        assert addresses(reply) == set(CHICAGO)

    def test_with_every_edge_dead_the_nearest_site_is_named_all_the_same(self):
        everybody = frozenset({"g1", "g2", "g3", "c1", "t1"})
        assert addresses(reply_to(query(name("edge"), A), health=HealthView(down=everybody))) == set(GENEVA)

    def test_a_slow_edge_is_left_out_while_another_of_its_site_is_fast(self):
        reply = reply_to(query(name("edge"), A), health=HealthView(slow=frozenset({"g1"})))
        assert addresses(reply) == set(GENEVA[1:])

    def test_a_slow_edge_is_still_used_where_it_is_the_only_one(self):
        reply = reply_to(query(name("edge"), A), CHICAGO_CLIENT, HealthView(slow=frozenset({"c1"})))
        assert addresses(reply) == set(CHICAGO)


class TestRotation:
    def first(self, turn: int) -> str:
        return str(reply_to(query(name("edge"), A), turn=turn).answer[0][0])

    def test_the_same_question_gets_the_same_bytes(self):
        message = query(name("edge"), A)
        assert ask(authority(), message).message == ask(authority(), message).message

    def test_turns_go_through_all_edges(self):
        assert {self.first(turn) for turn in range(3)} == set(GENEVA)
        assert self.first(0) == self.first(3)

    def test_different_clients_begin_at_different_edges(self):
        firsts = set()
        for host in range(1, 40):
            reply = reply_to(query(name("edge"), A), f"192.0.2.{host}")
            firsts.add(str(reply.answer[0][0]))
        assert firsts == set(GENEVA)

    def test_an_answer_tells_how_many_orders_it_has_and_whom_it_is_for(self):
        located = ask(authority(), query(name("edge"), A))
        given_subnet = ask(authority(), query(name("edge"), A, options=subnet_option("192.0.2.0", 24)))
        static = ask(authority(), query(name("ns1"), A))
        assert (located.rotations, located.depends_on_client, located.site) == (3, True, "geneva")
        assert (given_subnet.rotations, given_subnet.depends_on_client) == (3, False)
        assert (static.rotations, static.depends_on_client, static.site) == (1, False, None)


class TestStaticRecords:
    def test_the_origin_has_its_soa_and_ns_records(self):
        soa = reply_to(query(ZONE, RecordType.SOA)).answer[0][0]
        assert (str(soa.mname), str(soa.rname), soa.minimum) == (f"ns1.{ZONE}.", f"hostmaster.{ZONE}.", 60)
        reply = reply_to(query(ZONE, RecordType.NS))
        assert {str(record) for record in reply.answer[0]} == {f"ns1.{ZONE}.", "ns.elsewhere.example."}
        assert [str(rrset.name) for rrset in reply.additional] == [f"ns1.{ZONE}."]

    def test_an_alias_is_followed_to_the_geo_name(self):
        reply = reply_to(query(name("www"), A))
        assert [rrset.rdtype for rrset in reply.answer] == [dns.rdatatype.CNAME, dns.rdatatype.A]
        assert str(reply.answer[1].name) == f"edge.{ZONE}."
        assert addresses(reply) == set(GENEVA)

    def test_an_alias_out_of_the_zone_is_left_to_the_resolver(self):
        reply = reply_to(query(name("away"), A))
        assert str(reply.answer[0][0]) == "www.example.com."
        assert (reply.rcode(), len(reply.answer)) == (dns.rcode.NOERROR, 1)

    def test_an_alias_to_nothing_says_so_after_the_alias(self):
        reply = reply_to(query(name("broken"), A))
        assert (reply.rcode(), len(reply.answer), len(reply.authority)) == (dns.rcode.NXDOMAIN, 1, 1)

    def test_an_alias_to_itself_ends(self):
        assert reply_to(query(name("loop"), A)).rcode() == dns.rcode.NOERROR

    def test_asking_for_the_alias_itself_gets_just_that(self):
        assert [rrset.rdtype for rrset in reply_to(query(name("www"), RecordType.CNAME)).answer] == [5]

    def test_a_long_text_travels_in_several_strings_of_one_record(self):
        reply = reply_to(query(name("text"), TXT), tcp=True)
        assert b"".join(reply.answer[0][0].strings) == b"x" * 600

    def test_other_records_may_stand_beside_a_geo_name(self):
        assert reply_to(query(name("edge"), TXT)).answer[0][0].strings == (b"beside a geo name",)

    def test_letters_of_the_question_come_back_as_they_were_sent(self):
        reply = reply_to(query(name("eDgE"), A))
        assert str(reply.answer[0].name).startswith("eDgE.")
        assert reply.flags & dns.flags.AA


class TestNegativeAnswers:
    def test_a_name_that_does_not_exist_is_denied_with_the_soa_record(self):
        reply = reply_to(query(name("nothing"), A))
        assert (reply.rcode(), reply.answer) == (dns.rcode.NXDOMAIN, [])
        (soa,) = reply.authority
        assert (str(soa.name), soa.rdtype, soa.ttl) == (f"{ZONE}.", dns.rdatatype.SOA, 60)
        assert reply.flags & dns.flags.AA

    def test_a_name_without_this_type_exists_without_data(self):
        reply = reply_to(query(name("ns1"), RecordType.AAAA))
        assert (reply.rcode(), reply.answer, reply.authority[0].ttl) == (dns.rcode.NOERROR, [], 60)

    @pytest.mark.parametrize("label", ["deep", "b.deep"])
    def test_a_name_that_only_has_names_below_exists(self, label):
        assert reply_to(query(name(label), A)).rcode() == dns.rcode.NOERROR

    def test_a_name_below_an_existing_one_does_not_exist(self):
        assert reply_to(query(name("x.edge"), A)).rcode() == dns.rcode.NXDOMAIN


class TestRefusals:
    def code(self, message: bytes) -> int:
        return reply_to(message).rcode()

    def test_names_of_others_are_refused(self):
        assert self.code(query("example.org", A)) == dns.rcode.REFUSED
        assert self.code(query("", RecordType.NS)) == dns.rcode.REFUSED
        assert not reply_to(query("example.org", A)).flags & dns.flags.AA

    def test_other_classes_are_refused(self):
        chaos = query("version.bind", TXT)[:-2] + struct.pack("!H", 3)
        assert self.code(chaos) == dns.rcode.REFUSED

    @pytest.mark.parametrize("transfer", [RecordType.AXFR, RecordType.IXFR])
    def test_zone_transfers_are_refused(self, transfer):
        assert self.code(query(ZONE, transfer)) == dns.rcode.REFUSED

    @pytest.mark.parametrize("kind", [128, 249, 250, 253, 254])
    def test_other_meta_types_are_not_implemented(self, kind):
        assert self.code(query(name("edge"), kind)) == dns.rcode.NOTIMP

    def test_asking_for_options_is_malformed(self):
        assert self.code(query(name("edge"), RecordType.OPT)) == dns.rcode.FORMERR

    def test_any_gets_one_small_record_instead_of_everything(self):
        (rrset,) = reply_to(query(name("edge"), ANY)).answer
        assert (rrset.rdtype, rrset[0].cpu) == (dns.rdatatype.HINFO, b"RFC8482")
        assert self.code(query(name("nothing"), ANY)) == dns.rcode.NXDOMAIN

    def test_garbage_and_replies_get_silence(self):
        assert authority().answer(b"garbage", packed_address(GENEVA_CLIENT)) is None
        assert authority().answer(query(name("edge"), A, flags=0x8000), packed_address(GENEVA_CLIENT)) is None


class TestRoom:
    def test_a_long_reply_is_truncated_over_udp_and_whole_over_tcp(self):
        message = query(name("huge"), TXT, options=b"")
        assert reply_to(message).flags & dns.flags.TC
        whole = reply_to(message, tcp=True)
        assert not whole.flags & dns.flags.TC
        assert len(whole.answer[0]) == 10

    def test_without_options_512_bytes_are_the_limit(self):
        assert reply_to(query(name("text"), TXT)).flags & dns.flags.TC
        assert not reply_to(query(name("text"), TXT, options=b"")).flags & dns.flags.TC

    def test_the_dnssec_ok_bit_comes_back(self):
        message = bytearray(query(name("edge"), A, options=b""))
        message[-4] |= 0x80
        assert reply_to(bytes(message)).ednsflags & dns.flags.DO


def test_a_client_over_its_rate_is_told_to_use_tcp():
    reply = dns.message.from_wire(truncated_answer(query(name("edge"), A)) or b"")
    assert reply.flags & dns.flags.TC
    assert truncated_answer(b"\0" * 3) is None


def test_our_own_failure_is_told_as_such():
    failure = dns.message.from_wire(failure_answer(query(name("edge"), A)) or b"")
    assert failure.rcode() == ResponseCode.SERVFAIL
