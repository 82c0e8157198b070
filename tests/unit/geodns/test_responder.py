"""The hot path: what is kept, for whom, and when it is forgotten."""

import dns.message
import pytest

from cdn.clock import ManualClock
from geodns.answer_cache import ANSWER_BYTES_KEPT_MAX, AnswerCache
from geodns.geo import Location
from geodns.responder import Responder
from geodns.routing import HealthView
from geodns.statistics import Statistics
from tests.fakes.geodns import (
    CHICAGO,
    CHICAGO_CLIENT,
    GENEVA,
    GENEVA_CLIENT,
    TOKYO_CLIENT,
    ZONE,
    ask,
    authority,
    query,
    subnet_option,
)

EDGE = query(f"edge.{ZONE}", 1)


@pytest.fixture
def responder() -> Responder:
    return new_responder()


def new_responder(**settings) -> Responder:
    return Responder(authority(), Statistics(), ManualClock(), **{"cache_entries_max": 100, **settings})


def addresses(reply: bytes | None) -> list[str]:
    assert reply is not None
    return [str(record) for rrset in dns.message.from_wire(reply).answer for record in rrset]


def test_a_repeated_query_is_answered_from_memory_under_its_own_identifier(responder):
    responder.respond_udp(EDGE, GENEVA_CLIENT)
    again = responder.respond_udp(b"\xbe\xef" + EDGE[2:], GENEVA_CLIENT)
    assert again is not None
    assert again[:2] == b"\xbe\xef"
    assert responder._statistics.cache_hits == 1


def test_repeated_answers_rotate(responder):
    firsts = [addresses(responder.respond_udp(EDGE, GENEVA_CLIENT))[0] for _ in range(6)]
    assert set(firsts[:3]) == set(GENEVA)
    assert firsts[3:] == firsts[:3]


def test_an_answer_for_one_client_is_not_given_to_another(responder):
    assert set(addresses(responder.respond_udp(EDGE, GENEVA_CLIENT))) == set(GENEVA)
    assert addresses(responder.respond_udp(EDGE, CHICAGO_CLIENT)) == list(CHICAGO)


def test_an_answer_for_a_client_subnet_serves_every_resolver(responder):
    message = query(f"edge.{ZONE}", 1, options=subnet_option("198.51.100.0", 24))
    for resolver in (GENEVA_CLIENT, TOKYO_CLIENT):
        assert addresses(responder.respond_udp(message, resolver)) == list(CHICAGO)
    assert responder._statistics.cache_hits == 1


def test_letters_in_another_case_are_another_question(responder):
    responder.respond_udp(EDGE, GENEVA_CLIENT)
    reply = responder.respond_udp(query(f"EDGE.{ZONE}", 1), GENEVA_CLIENT)
    assert reply is not None
    assert b"\x04EDGE" in reply


def test_a_truncated_udp_answer_is_not_given_over_tcp(responder):
    message = query(f"huge.{ZONE}", 16)
    short, long = responder.respond_udp(message, GENEVA_CLIENT), responder.respond_tcp(message, GENEVA_CLIENT)
    assert short is not None
    assert long is not None
    assert len(short) < 512 < len(long)


def test_news_of_health_count_at_once(responder):
    responder.respond_udp(EDGE, CHICAGO_CLIENT)
    responder.replace_authority(responder.authority.with_health(HealthView(down=frozenset({"c1"}))))
    assert set(addresses(responder.respond_udp(EDGE, CHICAGO_CLIENT))) == set(GENEVA)


def test_what_deserves_silence_gets_it_and_is_counted(responder):
    assert responder.respond_udp(b"", GENEVA_CLIENT) is None
    assert responder.respond_udp(query("example.org", 1, flags=0x8000), GENEVA_CLIENT) is None
    assert responder._statistics.dropped == 2


def test_above_the_rate_clients_are_sent_to_tcp_and_tcp_itself_is_free():
    limited = new_responder(replies_per_second=1)
    replies = [limited.respond_udp(EDGE, GENEVA_CLIENT) for _ in range(3)]
    assert addresses(replies[0])
    assert replies[1] is not None
    assert replies[1][2] & 0x02
    assert replies[2] is None
    assert all(limited.respond_tcp(EDGE, GENEVA_CLIENT) for _ in range(5))


def test_a_mistake_of_ours_is_a_servfail_and_is_not_kept():
    class Broken:
        broken = True

        def locate(self, address: bytes) -> Location:
            if self.broken:
                raise RuntimeError("a mistake")
            return Location(None, 0)

    good, geography = authority(), Broken()
    responder = Responder(type(good)(good.zones, geography), Statistics(), ManualClock(), cache_entries_max=10)
    reply = responder.respond_udp(EDGE, GENEVA_CLIENT)
    assert reply is not None
    assert dns.message.from_wire(reply).rcode() == 2
    geography.broken = False
    assert addresses(responder.respond_udp(EDGE, GENEVA_CLIENT))


def test_counters_have_labels_from_closed_sets_only(responder):
    for kind in range(1, 200):
        responder.respond_udp(query(f"x{kind}.{ZONE}", kind), GENEVA_CLIENT)
    responder.respond_udp(EDGE, GENEVA_CLIENT)
    counted = responder._statistics
    assert set(counted.by_type) <= {"A", "NS", "CNAME", "SOA", "HINFO", "TXT", "AAAA", "OPT", "other"}
    assert counted.by_site == {"geneva": 1}
    assert sum(counted.by_code.values()) == 200


class TestAnswerCache:
    answer = ask(authority(), EDGE)

    def test_it_never_holds_more_than_its_bound(self):
        cache = AnswerCache(100)
        for number in range(10_000):
            cache.keep(b"query %d" % number, "192.0.2.1", self.answer)
            assert len(cache) <= 100

    def test_what_is_used_survives_a_flood_of_what_is_not(self):
        cache = AnswerCache(100)
        cache.keep(b"useful", "192.0.2.1", self.answer)
        for number in range(1000):
            cache.keep(b"flood %d" % number, "192.0.2.1", self.answer)
            assert cache.find(b"useful", "192.0.2.1") is not None

    def test_long_queries_and_answers_are_not_kept(self):
        cache = AnswerCache(100)
        cache.keep(b"x" * 513, "192.0.2.1", self.answer)
        message = bytes(ANSWER_BYTES_KEPT_MAX + 1)
        cache.keep(b"x", "192.0.2.1", type(self.answer)(message, self.answer.code))
        assert len(cache) == 0

    def test_a_bound_of_zero_keeps_nothing(self):
        cache = AnswerCache(0)
        cache.keep(b"x", "192.0.2.1", self.answer)
        assert cache.find(b"x", "192.0.2.1") is None
