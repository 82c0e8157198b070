"""What is counted, and how."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.content import content_of
from edge.watching.distinct import WINDOW_SECONDS, ClientCount, DistinctCounter, JointClientCount
from edge.watching.histogram import Histogram
from edge.watching.tallies import REPOSITORIES_MAX, Tallies

HEX = "0123456789abcdef0123456789abcdef01234567"


def content(name: str, repository: str = "sw.example.org"):
    return content_of(f"/cvmfs/{repository}/{name}")


@pytest.mark.parametrize(
    ("name", "label"),
    [
        (f"data/01/{HEX[2:]}", "file"),
        (f"data/01/{HEX[2:]}P", "chunk"),
        (f"data/01/{HEX[2:]}C", "catalog"),
        (f"data/01/{HEX[2:]}H", "history"),
        (f"data/01/{HEX[2:]}X", "certificate"),
        (f"data/01/{HEX[2:]}M", "metainfo"),
        (f"data/01/{HEX[2:]}-shake128C", "catalog"),
        (f"data/01/{HEX[2:]}-shake128", "file"),
        (".cvmfspublished", "manifest"),
        (".cvmfswhitelist", "whitelist"),
        (".cvmfsreflog", "document"),
        ("api/v1.0/geo/x/a,b", "geo"),
        ("index.html", "other"),
    ],
)
def test_the_name_says_what_a_request_is_counted_as(name, label):
    assert content(name).label == label


def test_strangers_cannot_make_rows():
    tallies = Tallies()
    for number in range(3 * REPOSITORIES_MAX):
        tallies.of(content("x", f"r{number}.example.org")).requests += 1
    assert tallies.by_repository() == {"other": (3 * REPOSITORIES_MAX, 0)}


def test_only_so_many_repositories_have_rows():
    tallies = Tallies()
    assert tallies.admit(f"r{number}" for number in range(REPOSITORIES_MAX + 5))
    assert not tallies.admit(["one-more", "r1"])
    for number in range(REPOSITORIES_MAX + 5):
        tallies.of(content("x", f"r{number}")).hits += 2
    found = tallies.by_repository()
    assert len(found) == REPOSITORIES_MAX + 1
    assert found["other"] == (10, 0)


def test_hits_are_counted_by_kind_and_by_repository():
    tallies = Tallies()
    tallies.admit(["sw.example.org"])
    tally = tallies.of(content(f"data/01/{HEX[2:]}C"))
    tally.hits, tally.hit_bytes, tally.requests, tally.bytes = 5, 50, 2, 20
    assert tallies.of(content(f"data/01/{HEX[2:]}C")) is tally
    assert (tallies.hits, tallies.hit_bytes, tallies.hits_by_label()["catalog"]) == (5, 50, 5)
    assert tallies.by_repository() == {"sw.example.org": (7, 70)}


@given(st.lists(st.floats(0, 10)))
def test_a_histogram_counts_every_value_once(values):
    histogram = Histogram((1.0, 2.5, 5.0))
    for value in values:
        histogram.observe(value)
    buckets = dict(histogram.buckets())
    assert buckets == {
        "1.0": sum(value <= 1 for value in values),
        "2.5": sum(value <= 2.5 for value in values),
        "5.0": sum(value <= 5 for value in values),
        "+Inf": len(values),
    }
    assert histogram.sum == pytest.approx(sum(values))


@pytest.mark.parametrize("count", [0, 1, 100, 3000, 20_000])
def test_many_are_counted_in_little_room(count):
    counter = DistinctCounter(b"salt")
    for _ in range(2):
        for number in range(count):
            counter.add(f"192.0.2.{number}")
    assert counter.estimate == pytest.approx(count, rel=0.06)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 300)), max_size=300))
def test_several_workers_count_as_one_would(seen):
    alone, workers, joint = ClientCount(b"salt"), [ClientCount(b"salt") for _ in range(3)], JointClientCount()
    for worker, number in seen:
        for count in (alone, workers[worker]):
            count.note(f"192.0.2.{number}", 10.0)
        joint.note(workers[worker].said(10.0))  # what was said before may be said again
    assert joint.last_hour(20.0) == alone.last_hour(20.0)


def test_what_workers_counted_together_is_forgotten_by_the_hour():
    count, joint = ClientCount(b"salt"), JointClientCount()
    for hour in range(6):
        at = hour * WINDOW_SECONDS
        for number in range(10 + hour):
            count.note(f"192.0.2.{number}", at)
        joint.note(count.said(at))
    assert joint.last_hour(at) == pytest.approx(15, abs=1)
    assert joint.last_hour(at + WINDOW_SECONDS) == pytest.approx(15, abs=1)
    assert joint.last_hour(at + 2 * WINDOW_SECONDS) == 0
    assert len(joint) <= 3


def test_clients_are_counted_by_the_hour():
    clients = ClientCount()
    for number in range(50):
        clients.note(f"192.0.2.{number}", 10.0)
    assert clients.last_hour(20.0) == pytest.approx(50, abs=5)  # it is an estimate
    clients.note("192.0.2.1", WINDOW_SECONDS + 1)
    assert clients.last_hour(WINDOW_SECONDS + 2) == pytest.approx(50, abs=5)
    assert clients.last_hour(2 * WINDOW_SECONDS + 1) == 1
    assert clients.last_hour(9 * WINDOW_SECONDS) == 0
