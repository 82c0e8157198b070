"""Who among equals gets how much: simulations with a clock of their own."""

import heapq
import random
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.upstream.choice import PROBING_SHARE, in_turn, preference
from edge.upstream.health import ServerHealth
from edge.upstream.latency import BUCKETS_SECONDS, Latency


class Simulation:
    """Requests at a steady rate to servers whose answers take as long as they are told to."""

    def __init__(self, latencies: dict[str, float], per_second: float = 50.0, seed: int = 1) -> None:
        self.latencies = dict(latencies)
        self.servers = {name: ServerHealth(1.0) for name in latencies}
        self.interval = 1.0 / per_second
        self.random = random.Random(seed)
        self.now = 0.0
        self._ends: list[tuple[float, int, str, float]] = []
        self._number = 0

    def run(self, seconds: float) -> Counter[str]:
        """How many requests each server got meanwhile."""
        counted: Counter[str] = Counter()
        end = self.now + seconds
        while self.now < end:
            self.now += self.interval
            while self._ends and self._ends[0][0] <= self.now:
                at, _, name, took = heapq.heappop(self._ends)
                self.servers[name].answered(took, at)
                self.servers[name].end()
            chosen = in_turn(list(self.servers), self.servers.__getitem__, self.random.random)[0]
            self.servers[chosen].begin(self.now)
            took = self.latencies[chosen] * self.random.uniform(0.8, 1.2)
            self._number += 1
            heapq.heappush(self._ends, (self.now + took, self._number, chosen, took))
            counted[chosen] += 1
        return counted

    def shares(self, seconds: float) -> dict[str, float]:
        counted = self.run(seconds)
        return {name: counted[name] / counted.total() for name in self.latencies}


def test_equal_servers_get_equal_shares():
    shares = Simulation({"a": 0.02, "b": 0.02, "c": 0.02}).shares(60)
    assert all(abs(share - 1 / 3) < 0.05 for share in shares.values())


@pytest.mark.parametrize("factor", [1.5, 2, 4, 10, 100])
def test_a_slower_server_gets_less_and_still_something(factor):
    simulation = Simulation({"fast": 0.02, "slow": 0.02 * factor})
    simulation.run(30)
    shares = simulation.shares(120)
    assert 0.01 < shares["slow"] < 0.42
    assert factor < 4 or shares["slow"] < 0.1


def test_the_slower_it_is_the_less_it_gets_without_a_point_where_all_moves_at_once():
    shares = []
    for factor in (1.0, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0):
        simulation = Simulation({"fast": 0.02, "slow": 0.02 * factor})
        simulation.run(30)
        shares.append(simulation.shares(120)["slow"])
    assert all(later < earlier + 0.03 for earlier, later in pairwise(shares))
    assert max(earlier - later for earlier, later in pairwise(shares)) < 0.25


def test_nothing_flaps_while_nothing_changes():
    simulation = Simulation({"a": 0.03, "b": 0.04, "c": 0.05}, per_second=100)
    simulation.run(30)
    seen = [simulation.shares(5)["a"] for _ in range(30)]
    assert max(seen) - min(seen) < 0.2


def test_a_server_that_was_slow_has_its_share_back_soon_after_it_is_fast():
    simulation = Simulation({"a": 0.02, "b": 0.02})
    simulation.run(20)
    simulation.latencies["b"] = 2.0
    simulation.run(10)
    assert simulation.shares(20)["b"] < 0.08
    simulation.latencies["b"] = 0.02
    simulation.run(30)
    assert simulation.shares(60)["b"] > 0.4


def test_one_slow_answer_of_a_good_server_moves_little():
    latency = Latency()
    for number in range(20):
        latency.note(0.02, number * 0.1)
    latency.note(10.0, 2.0)
    assert latency.seconds is not None
    assert latency.seconds < 0.04


def test_a_server_that_hangs_loses_its_share_before_it_ever_answers():
    simulation = Simulation({"a": 0.02, "b": 0.02})
    simulation.run(20)
    simulation.latencies["b"] = 1000.0
    simulation.run(1)
    assert simulation.shares(10)["b"] < 0.05


@given(st.lists(st.floats(0.0, 100.0), min_size=1, max_size=200), st.floats(0.0, 60.0))
def test_an_estimate_is_between_what_was_seen(samples, pause):
    latency = Latency()
    for number, seconds in enumerate(samples):
        latency.note(seconds, number * pause)
    assert latency.seconds is not None
    assert max(min(samples), 0.0) - 1e-9 <= latency.seconds <= max(*samples, 0.001) + 1e-9
    assert sum(latency.counts) == len(samples)
    assert len(latency.counts) == len(BUCKETS_SECONDS) + 1


def test_what_was_not_waited_for_counts_only_upwards():
    latency = Latency()
    latency.note(0.1, 0.0)
    latency.note_at_least(0.05, 0.1)
    assert latency.seconds == 0.1
    latency.note_at_least(0.2, 0.2)
    assert latency.seconds > 0.1
    assert sum(latency.counts) == 1


@settings(max_examples=50)
@given(st.lists(st.floats(0.001, 10.0), max_size=8), st.randoms(use_true_random=False))
def test_everybody_is_in_the_order_once(latencies, source):
    servers = []
    for seconds in latencies:
        server = ServerHealth(1.0)
        server.answered(seconds, 0.0)
        servers.append(server)
    order = in_turn(range(len(servers)), servers.__getitem__, source.random)
    assert sorted(order) == list(range(len(servers)))


@given(st.floats(0.001, 1000), st.floats(0.001, 1000), st.integers(0, 1000), st.integers(0, 1000))
def test_a_preference_leaves_both_a_chance_and_is_the_same_seen_from_either_side(one, other, busy, other_busy):
    first, second = ServerHealth(1.0), ServerHealth(1.0)
    first.answered(one, 0.0)
    second.answered(other, 0.0)
    first.in_flight, second.in_flight = busy, other_busy
    assert PROBING_SHARE <= preference(first, second) <= 1 - PROBING_SHARE
    assert preference(first, second) + preference(second, first) == pytest.approx(1)
