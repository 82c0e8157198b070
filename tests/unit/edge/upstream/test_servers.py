"""Whom to ask first."""

import random
from collections import Counter

from cdn.errors import StatusError, UnreachableError
from edge.routing import Source
from edge.upstream.health import RETURN_SECONDS
from edge.upstream.servers import HEDGE_SECONDS_INITIAL, HEDGE_SECONDS_MIN, Server, UpstreamHealth

SOURCES = tuple(Source(f"http://{name}/x", f"http://{name}", group) for group, name in enumerate("abc"))
EQUALS = tuple(Source(f"http://{name}/x", f"http://{name}") for name in "abc")
SERVERS = tuple(Server(source.server) for source in SOURCES)
DEAD = UnreachableError("http://a/x", "dead")


def upstreams(**changes) -> UpstreamHealth:
    return UpstreamHealth(SERVERS, 1.0, chance=random.Random(1).random, **changes)


def order(health: UpstreamHealth, now: float, sources: tuple[Source, ...] = SOURCES) -> str:
    return "".join(source.server[-1] for source in health.ordered(sources, now))


def test_groups_are_asked_in_their_order_and_who_failed_last():
    health = upstreams()
    assert order(health, 0) == "abc"
    health.note_failure("http://a", DEAD, 0)
    assert order(health, 0.5) == "bca"
    assert order(health, 1) == "abc"
    health.note_failure("http://a", DEAD, 1)
    assert order(health, 2.5) == "bca"
    health.note_success("http://a", 3)
    assert order(health, 3 + RETURN_SECONDS) == "abc"


def test_of_several_that_failed_the_one_due_first_is_asked_first():
    health = upstreams()
    for server, at in (("http://b", 0.0), ("http://a", 0.2), ("http://c", 0.4)):
        health.note_failure(server, DEAD, at)
    assert order(health, 0.5) == "bac"


def test_equals_share_the_traffic_and_a_group_is_asked_whole_before_the_next():
    health = upstreams()
    sources = (*EQUALS[:2], Source("http://c/x", "http://c", 1))
    firsts = Counter(order(health, 0, sources) for _ in range(300))
    assert set(firsts) == {"abc", "bac"}
    assert min(firsts.values()) > 100


def test_a_returning_server_gets_a_growing_share():
    health = upstreams()
    health.note_failure("http://a", DEAD, 0)
    health.note_success("http://a", 1)
    shares = [
        sum(order(health, 1 + seconds, EQUALS)[0] == "a" for _ in range(600)) / 600
        for seconds in (0.5, 4.0, 8.0, RETURN_SECONDS)
    ]
    assert shares == sorted(shares)
    assert shares[0] < 0.1
    assert shares[-1] > 0.25


def test_a_full_server_is_asked_after_its_equals_and_before_the_next_group():
    health = UpstreamHealth([Server("http://a", 1), *SERVERS[1:]], 1.0)
    health.servers["http://a"].begin(0)
    sources = (*EQUALS[:2], Source("http://c/x", "http://c", 1))
    assert {order(health, 0, sources) for _ in range(50)} == {"bac"}


def test_who_asked_for_a_pause_is_not_asked_and_it_is_said_why():
    health = upstreams()
    health.note_failure("http://a", StatusError("http://a/x", 503, 30.0), 0)
    assert order(health, 29) == "bc"
    assert [str(error) for error in health.pausing(SOURCES, 20)] == ["http://a/x: it asked not to be asked for 10 s"]
    assert order(health, 30) == "abc"
    assert health.pausing(SOURCES, 30) == []


def test_nothing_is_kept_of_servers_that_are_not_configured():
    health = upstreams()
    health.note_failure("http://elsewhere", DEAD, 0)
    health.note_success("http://elsewhere", 0)
    assert set(health.servers) == {server.name for server in SERVERS}
    assert health.of("http://elsewhere") is None
    assert order(health, 0, (Source("http://e/x", "http://e"),)) == "e"


def test_a_reload_keeps_what_is_known_of_those_that_stay():
    health = upstreams()
    health.note_failure("http://a", DEAD, 0)
    other = health.replaced((Server("http://a", 7), Server("http://d")), 2.0, 0.05)
    assert (other.servers["http://a"].failures, other.servers["http://d"].failures) == (1, 0)
    assert (other.servers["http://a"].connections_max, other.servers["http://a"].rest_seconds) == (7, 2.0)
    assert set(other.servers) == {"http://a", "http://d"}


def test_a_second_server_is_asked_after_what_the_first_usually_takes():
    health = upstreams()
    assert health.hedge_seconds("http://a") == health.hedge_seconds("http://elsewhere") == HEDGE_SECONDS_INITIAL
    for number in range(100):
        health.servers["http://a"].answered(number / 100, 0)
        health.servers["http://b"].answered(0.001, 0)
    assert 0.9 < health.hedge_seconds("http://a") < 1.0
    assert health.hedge_seconds("http://b") == HEDGE_SECONDS_MIN


def test_second_requests_are_a_twentieth_of_all_in_the_long_run():
    health = upstreams()
    sent = 0
    for _ in range(2000):
        health.earn_hedges()
        sent += health.may_hedge()
    assert 95 <= sent <= 105
    assert health.hedged == sent
    assert not any(upstreams(hedge_share=0.0).may_hedge() for _ in range(10))


def test_what_people_are_told():
    health = upstreams()
    for _ in range(3):
        health.servers["http://a"].begin(0)
    health.servers["http://b"].begin(0)
    health.servers["http://b"].answered(0.25, 0)
    health.note_failure("http://c", DEAD, 0)
    told = health.described(0)
    assert told["http://a"] == {
        "state": "closed",
        "share": 0.75,
        "latency_seconds": None,
        "in_flight": 3,
        "failures": 0,
        "openings": 0,
        "reason": "",
    }
    assert told["http://b"]["latency_seconds"] == 0.25
    assert (told["http://c"]["state"], told["http://c"]["reason"]) == ("open", "http://a/x: dead")
