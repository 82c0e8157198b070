"""When a server is asked in its turn, and when it is left to rest."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdn.errors import (
    DocumentError,
    HashMismatchError,
    MalformedAnswerError,
    ShortTransferError,
    SlowPeerError,
    StatusError,
    UnreachableError,
)
from edge.upstream.health import (
    REST_SECONDS_MAX,
    RETURN_SECONDS,
    RETURN_SHARE,
    TRIAL_SECONDS,
    CircuitState,
    ServerHealth,
    UpstreamBusyError,
    pause_seconds,
    weight_of,
)

URL = "http://a/x"
DEAD = UnreachableError(URL, "dead")
DAMAGED = HashMismatchError(URL, "0" * 40)


def proven(rest_seconds: float = 1.0, *, is_probed: bool = False) -> ServerHealth:
    """A server that has answered often."""
    health = ServerHealth(rest_seconds, is_probed=is_probed)
    for _ in range(10):
        health.succeeded(0.0)
    return health


def failures_until_open(health: ServerHealth, error: Exception) -> int:
    for number in range(1, 100):
        health.failed(error, 0.0)
        if health.state(0.0) is CircuitState.OPEN:
            return number
    raise AssertionError("it never opened")


@pytest.mark.parametrize(
    ("error", "at_first", "later"),
    [
        (DAMAGED, 1, 1),
        (DEAD, 1, 2),
        (SlowPeerError(URL, "slow"), 1, 2),
        (ShortTransferError(URL, "short"), 1, 2),
        (MalformedAnswerError(URL, "what"), 1, 2),
        (DocumentError("manifest", "what"), 1, 2),
        (StatusError(URL, 500), 2, 3),
    ],
)
def test_how_many_failures_open_the_circuit_of_a_new_and_of_a_proven_server(error, at_first, later):
    assert failures_until_open(ServerHealth(1.0), error) == at_first
    assert failures_until_open(proven(), error) == later


def test_a_server_that_fails_now_and_then_stays_in_use():
    health = proven()
    for number in range(1000):
        if number % 5 == 0:
            health.failed(StatusError(URL, 502), float(number))
        else:
            health.succeeded(float(number))
        assert health.state(float(number)) is CircuitState.CLOSED
    assert health.openings == 0


def test_waiting_for_ones_turn_is_no_failure_of_the_server():
    health = ServerHealth(1.0)
    for _ in range(10):
        health.failed(UpstreamBusyError(URL, "busy"), 0.0)
    assert (health.failures, health.state(0.0)) == (0, CircuitState.CLOSED)


def test_after_a_rest_one_request_tries_it_then_its_share_grows():
    health = ServerHealth(1.0)
    health.failed(DEAD, 0.0)
    assert (health.state(0.9), health.share(0.9)) == (CircuitState.OPEN, 0.0)
    assert (health.state(1.0), health.share(1.0)) == (CircuitState.HALF_OPEN, 1.0)
    health.begin(1.0)
    assert health.share(1.1) == 0.0
    health.succeeded(1.2)
    shares = [health.share(1.2 + step * RETURN_SECONDS / 10) for step in range(10)]
    assert shares[0] == RETURN_SHARE
    assert shares == sorted(shares)
    assert health.state(1.2 + RETURN_SECONDS) is CircuitState.CLOSED


def test_a_trial_that_comes_to_nothing_does_not_keep_others_from_trying_for_ever():
    health = ServerHealth(1.0)
    health.failed(DEAD, 0.0)
    health.begin(1.0)
    assert health.share(1.0 + TRIAL_SECONDS) == 1.0


def test_a_server_that_is_probed_is_tried_by_no_client():
    health = ServerHealth(1.0, is_probed=True)
    health.failed(DEAD, 0.0)
    assert health.share(5.0) == 0.0
    health.succeeded(5.0)
    assert health.share(5.0) == RETURN_SHARE


def test_a_server_that_comes_and_goes_rests_longer_each_time_and_is_forgiven_after_a_good_minute():
    health, now, rests = ServerHealth(1.0), 0.0, []
    for _ in range(9):
        health.failed(DAMAGED, now)
        rests.append(health.rests_until - now)
        now = health.rests_until
        health.succeeded(now)
        now += RETURN_SECONDS + 1
        assert health.state(now) is CircuitState.CLOSED
    assert rests == [1, 2, 4, 8, 16, 32, REST_SECONDS_MAX, REST_SECONDS_MAX, REST_SECONDS_MAX]
    health.failed(DAMAGED, now + 60)
    assert health.rests_until == now + 60 + 1


def test_requests_that_were_under_way_when_it_opened_count_once():
    health = ServerHealth(1.0)
    for _ in range(50):
        health.failed(DEAD, 0.0)
    assert (health.rests_until, health.openings, health.failures) == (1.0, 1, 50)


def test_one_that_answers_after_all_others_failed_returns_at_once():
    health = ServerHealth(1.0)
    health.failed(DEAD, 0.0)
    health.succeeded(0.5)
    assert (health.state(0.5), health.share(0.5)) == (CircuitState.HALF_OPEN, RETURN_SHARE)


@pytest.mark.parametrize(("status", "asked"), [(503, True), (429, True), (500, False), (502, False)])
def test_a_pause_is_granted_to_who_asks_for_it(status, asked):
    error = StatusError(URL, status, 7.0)
    assert pause_seconds(error) == (7.0 if asked else None)
    health = proven()
    health.failed(error, 0.0)
    assert health.wants_pause(6.9) is asked
    assert not health.wants_pause(7.0)


def test_a_pause_is_not_cut_short_by_an_answer_that_was_under_way_and_never_longer_than_a_minute():
    health = proven()
    health.failed(StatusError(URL, 503, 1e9), 0.0)
    health.succeeded(1.0)
    assert health.wants_pause(1.0)
    assert not health.wants_pause(REST_SECONDS_MAX)


EVENTS = st.lists(
    st.tuples(st.sampled_from(["begin", "success", "dead", "damaged", "500", "pause", "wait"]), st.integers(0, 30)),
    max_size=60,
)


@given(EVENTS)
def test_whatever_happens_the_share_is_a_share_and_no_rest_is_longer_than_allowed(events):
    health, now = ServerHealth(1.0), 0.0
    errors = {"dead": DEAD, "damaged": DAMAGED, "500": StatusError(URL, 500), "pause": StatusError(URL, 503, 99.0)}
    for what, seconds in events:
        now += seconds
        if what in errors:
            assert weight_of(errors[what]) > 0
            health.failed(errors[what], now)
        elif what == "success":
            health.succeeded(now)
        elif what == "begin":
            health.begin(now)
        assert 0.0 <= health.share(now) <= 1.0
        assert health.rests_until - now <= REST_SECONDS_MAX
        if health.state(now) is CircuitState.CLOSED:
            assert health.share(now) == 1.0
    assert health.state(now + REST_SECONDS_MAX) is not CircuitState.OPEN


@given(st.integers(1, 30))
def test_however_often_it_failed_a_server_that_is_well_again_gets_its_whole_share_back(failures):
    health, now = ServerHealth(1.0), 0.0
    for _ in range(failures):
        health.failed(DAMAGED, now)
        now = max(now, health.rests_until)
    for _ in range(200):
        now += 1.0
        if health.share(now) > 0:
            health.succeeded(now)
    assert health.state(now) is CircuitState.CLOSED
