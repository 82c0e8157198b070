"""Whom to ask first."""

from edge.routing import Source
from edge.upstreams import RETRY_SECONDS_MAX, UpstreamHealth

SOURCES = tuple(Source(f"http://{name}/x", f"http://{name}") for name in "abc")
SERVERS = tuple(source.server for source in SOURCES)


def order(health: UpstreamHealth, now: float) -> str:
    return "".join(source.server[-1] for source in health.ordered(SOURCES, now))


def test_who_failed_is_asked_last_for_a_while_longer_each_time_and_never_not_at_all():
    health = UpstreamHealth(SERVERS, 1.0)
    assert order(health, 0) == "abc"
    health.note_failure("http://a", "dead", 0)
    assert order(health, 0.5) == "bca"
    assert order(health, 1) == "abc"
    health.note_failure("http://a", "dead", 1)
    assert order(health, 2.5) == "bca"
    for _ in range(20):
        health.note_failure("http://a", "dead", 10)
    assert health.servers["http://a"].avoid_until == 10 + RETRY_SECONDS_MAX
    health.note_success("http://a")
    assert order(health, 11) == "abc"


def test_of_several_that_failed_the_one_due_first_is_asked_first():
    health = UpstreamHealth(SERVERS, 1.0)
    for server, at in (("http://b", 0.0), ("http://a", 0.2), ("http://c", 0.4)):
        health.note_failure(server, "dead", at)
    assert order(health, 0.5) == "bac"


def test_nothing_is_kept_of_servers_that_are_not_configured():
    health = UpstreamHealth(SERVERS, 1.0)
    health.note_failure("http://elsewhere", "dead", 0)
    health.note_success("http://elsewhere")
    assert set(health.servers) == set(SERVERS)


def test_a_reload_keeps_what_is_known_of_those_that_stay():
    health = UpstreamHealth(SERVERS, 1.0)
    health.note_failure("http://a", "dead", 0)
    other = health.replaced(("http://a", "http://d"), 1.0)
    assert (other.servers["http://a"].failures, other.servers["http://d"].failures) == (1, 0)
    assert set(other.servers) == {"http://a", "http://d"}
