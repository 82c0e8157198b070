from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdn.client.failover import (
    _NEXT,
    Attempts,
    Fault,
    Pair,
    RestPolicy,
    SourceEvent,
    SourceHealth,
    SourceState,
    fault_of,
    is_lasting,
)
from cdn.errors import (
    ExpiredError,
    HashMismatchError,
    NotFoundError,
    RollbackError,
    ShortTransferError,
    SlowPeerError,
    StatusError,
    StorageFullError,
    TooLargeError,
    UnreachableError,
)

POLICY = RestPolicy(failed_seconds=10, failed_seconds_max=35, slow_seconds=60)


def test_every_event_is_known_in_every_state():
    assert set(_NEXT) == set(itertools.product(SourceState, SourceEvent))


def test_a_failed_source_rests_then_one_transfer_may_try_it():
    health = SourceHealth(POLICY)
    health.learn(SourceEvent.FAILED, 0)
    assert (health.state(9), health.rank(9)) == (SourceState.RESTING, 2)
    assert (health.state(10), health.rank(10)) == (SourceState.ON_TRIAL, 0)
    health.chosen(10)
    assert health.rank(11) == 2, "the others do not try it at the same time"
    health.learn(SourceEvent.SUCCEEDED, 12)
    assert (health.state(12), health.rank(12)) == (SourceState.GOOD, 0)


def test_a_trial_that_nobody_ended_does_not_block_the_next():
    health = SourceHealth(POLICY)
    health.learn(SourceEvent.FAILED, 0)
    health.state(10)
    health.chosen(10)
    assert health.rank(20) == 0


def test_each_failure_in_a_row_doubles_the_rest_up_to_its_limit():
    health, now, rests = SourceHealth(POLICY), 0.0, []
    for _ in range(4):
        health.learn(SourceEvent.FAILED, now)
        rest = next(seconds for seconds in range(1000) if health.state(now + seconds) is SourceState.ON_TRIAL)
        rests.append(rest)
        now += rest
    assert rests == [10, 20, 35, 35]


def test_transfers_that_fail_together_count_as_one_failure():
    health = SourceHealth(POLICY)
    for _ in range(16):
        health.learn(SourceEvent.FAILED, 0)
    assert health.state(10) is SourceState.ON_TRIAL


def test_a_slow_source_is_used_less_but_not_lost():
    health = SourceHealth(POLICY)
    health.learn(SourceEvent.WAS_SLOW, 0)
    assert health.rank(0) == 1
    health.learn(SourceEvent.SUCCEEDED, 1)
    assert health.rank(1) == 1, "one good answer does not make it fast"
    assert health.state(60) is SourceState.GOOD


URL = "http://a/r/data/x"


@pytest.mark.parametrize(
    ("error", "direct", "proxied"),
    [
        (HashMismatchError(URL, "00"), Fault.CONTENT, Fault.CONTENT),
        (ExpiredError("x"), Fault.CONTENT, Fault.CONTENT),
        (RollbackError("x"), Fault.CONTENT, Fault.CONTENT),
        (NotFoundError(URL, 404), Fault.SERVER, Fault.SERVER),
        (StatusError(URL, 400), Fault.SERVER, Fault.SERVER),
        (StatusError(URL, 503), Fault.SERVER, Fault.SERVER),
        (StatusError(URL, 429), Fault.SERVER, Fault.SERVER),
        (StatusError(URL, 302), Fault.SERVER, Fault.SERVER),
        (StatusError(URL, 403), Fault.SERVER, Fault.PROXY),
        (StatusError(URL, 416), Fault.SERVER, Fault.SERVER),
        (StatusError(URL, 407), Fault.SERVER, Fault.PROXY),
        (UnreachableError(URL, "x"), Fault.SERVER, Fault.PROXY),
        (SlowPeerError(URL, "x"), Fault.SERVER, Fault.PROXY),
        (ShortTransferError(URL, "x"), Fault.SERVER, Fault.PROXY),
        (TooLargeError(URL, "x"), Fault.SERVER, Fault.SERVER),
        (StorageFullError("x"), Fault.NOBODY, Fault.NOBODY),
    ],
)
def test_faults_are_judged_as_the_protocol_says(error, direct, proxied):
    assert fault_of(error, through_proxy=False) is direct
    assert fault_of(error, through_proxy=True) is proxied


@pytest.mark.parametrize(
    ("error", "lasting"),
    [
        (NotFoundError(URL, 404), False),
        (StatusError(URL, 403), False),  # what some object stores say of what they do not have
        (StatusError(URL, 302), True),  # a portal that wants somebody to log in, say
        (StatusError(URL, 401), True),
        (StatusError(URL, 407), True),
        (StatusError(URL, 429), True),
        (StatusError(URL, 500), True),
        (HashMismatchError(URL, "00"), True),
    ],
)
def test_a_missing_object_says_nothing_about_the_source_and_other_answers_do(error, lasting):
    assert is_lasting(error) is lasting


def test_a_fault_of_the_server_moves_to_the_next_server_through_the_same_proxy():
    attempts = Attempts([0, 1], [0, 1])
    first = attempts.next()
    attempts.failed(first, Fault.SERVER)
    assert (first, attempts.next()) == (Pair(0, 0), Pair(1, 0))


def test_a_fault_of_the_proxy_moves_to_the_next_proxy_to_the_same_server():
    attempts = Attempts([0, 1], [0, 1])
    attempts.failed(attempts.next(), Fault.PROXY)
    assert attempts.next() == Pair(0, 1)


def test_when_every_proxy_failed_for_one_server_they_are_tried_with_the_next():
    attempts = Attempts([0, 1], [0, 1])
    for _ in range(2):
        attempts.failed(attempts.next(), Fault.PROXY)
    assert attempts.next() == Pair(1, 0)


def test_company_goes_to_another_server_if_there_is_one():
    attempts = Attempts([0, 1], [0, 1])
    first = attempts.next()
    assert attempts.next(besides=[first]) == Pair(1, 0)
    alone = Attempts([0], [0, 1])
    assert alone.next(besides=[alone.next()]) == Pair(0, 1)


def test_more_company_goes_by_turns_to_another_proxy_and_another_server():
    attempts = Attempts([0, 1, 2], [0, 1])
    busy = [attempts.next()]
    for _ in range(4):
        busy.append(attempts.next(besides=busy))
    assert busy == [Pair(0, 0), Pair(1, 0), Pair(0, 1), Pair(2, 0), Pair(1, 1)]


@given(st.integers(1, 4), st.integers(1, 4), st.data())
def test_no_pair_is_tried_twice_and_no_server_is_left_out(servers, proxies, data):
    attempts = Attempts(range(servers), range(proxies))
    tried = []
    while (pair := attempts.next()) is not None:
        tried.append(pair)
        attempts.failed(pair, data.draw(st.sampled_from([Fault.SERVER, Fault.PROXY, Fault.CONTENT])))
    assert len(tried) == len(set(tried)) <= servers * proxies
    assert {pair.server for pair in tried} == set(range(servers))
