"""One status and one set of metrics out of several."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from edge.workers.merging import Tally, merged_values


def text_of(requests: int, *, open_now: int = 1, failing: int = 0, lag: float = 0.0, took: float = 1.0) -> bytes:
    """What one worker says."""
    registry = CollectorRegistry()
    Counter("edge_requests", "Requests.", ["result"], registry=registry).labels("hit").inc(requests)
    Gauge("edge_connections_open", "Open.", registry=registry).set(open_now)
    Gauge("edge_upstream_failing", "Failing.", ["server"], registry=registry).labels("a").set(failing)
    Gauge("edge_loop_lag_seconds", "Lag.", registry=registry).set(lag)
    Histogram("edge_took_seconds", "Took.", buckets=(1, 2), registry=registry).observe(took)
    return generate_latest(registry)


def read(tally: Tally) -> dict[tuple, float]:
    families = text_string_to_metric_families(tally.render().decode())
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value for family in families for sample in family.samples
    }


def test_counters_gauges_and_histograms_are_added_up_and_the_worst_upstream_counts():
    tally = Tally()
    tally.note(0, text_of(3, failing=5, lag=0.25, took=0.5))
    tally.note(1, text_of(4, open_now=7, failing=2, lag=0.5, took=1.5))
    values = read(tally)
    assert values["edge_requests_total", ("result", "hit")] == 7
    assert values["edge_connections_open",] == 8
    assert values["edge_upstream_failing", ("server", "a")] == 5
    assert values["edge_loop_lag_seconds", ("worker", "0")] == 0.25
    assert values["edge_loop_lag_seconds", ("worker", "1")] == 0.5
    assert (values["edge_took_seconds_bucket", ("le", "1.0")], values["edge_took_seconds_count",]) == (1, 2)


def test_what_a_worker_counted_stays_when_it_is_gone_and_what_it_had_open_does_not():
    tally = Tally()
    tally.note(0, text_of(3))
    tally.note(1, text_of(4))
    tally.depart(1)
    assert read(tally)["edge_requests_total", ("result", "hit")] == 7
    assert read(tally)["edge_connections_open",] == 1
    tally.note(1, text_of(0))
    tally.depart(1)
    tally.depart(1)
    tally.note(1, text_of(10))
    assert read(tally)["edge_requests_total", ("result", "hit")] == 17
    assert read(tally)["edge_took_seconds_count",] == 4


def test_nothing_is_nothing():
    assert read(Tally()) == {}


def test_plain_values_are_merged_by_what_they_are():
    first = {
        "name": "edge",
        "listen": ["a", "b"],
        "draining": False,
        "requests": {"hits": 1},
        "upstreams": {"u": {"state": "used", "failures": 0, "reason": ""}},
        "purges": [{"what": "x", "soft": False, "at": 1.0, "shards_left": 3}],
    }
    second = {
        "name": "edge",
        "listen": ["b"],
        "draining": True,
        "requests": {"hits": 2, "stale": 1},
        "upstreams": {"u": {"state": "avoided", "failures": 4, "reason": "slow"}},
        "purges": [{"what": "x", "soft": False, "at": 1.5, "shards_left": 4}],
    }
    assert merged_values([first, second]) == {
        "name": "edge",
        "listen": ["a", "b"],
        "draining": True,
        "requests": {"hits": 3, "stale": 1},
        "upstreams": {"u": {"state": "avoided", "failures": 4, "reason": "slow"}},
        "purges": [{"what": "x", "soft": False, "at": 1.0, "shards_left": 7}],
    }


def test_of_an_upstream_the_worst_word_counts_and_what_all_do_there_is_added_up():
    first = {"state": "open", "share": 0.2, "in_flight": 1, "failures": 3, "openings": 1, "reason": "dead"}
    second = {"state": "closed", "share": 0.4, "in_flight": 2, "failures": 0, "openings": 0, "reason": ""}
    assert merged_values([second, first]) == {**first, "share": 0.3, "in_flight": 3}
