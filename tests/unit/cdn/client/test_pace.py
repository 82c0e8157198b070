from __future__ import annotations

from cdn.client.pace import Deadline, HedgePolicy, Pace

POLICY = HedgePolicy(delay_seconds_initial=1.0, delay_seconds_min=0.1, delay_seconds_max=5.0, burst=2.0)


def test_the_wait_follows_what_is_usual():
    pace = Pace(POLICY)
    assert pace.delay(0) == 1.0
    for _ in range(100):
        pace.took(0.4, 1000)
    assert 0.5 < pace.delay(0) < 0.7


def test_the_wait_has_bounds():
    quick, slow = Pace(POLICY), Pace(POLICY)
    for _ in range(10):
        quick.took(0.001, 0)
        slow.took(100, 0)
    assert (quick.delay(0), slow.delay(0)) == (0.1, 5.0)


def test_large_objects_may_take_longer_and_do_not_count_as_usual():
    pace = Pace(POLICY)
    assert pace.delay(8 << 20) > 20
    for _ in range(20):
        pace.took(30.0, 8 << 20)
    assert pace.delay(0) == 1.0


def test_second_requests_are_bounded_but_never_out_of_reach():
    pace = Pace(POLICY)
    assert [pace.may_hedge(0) for _ in range(3)] == [True, True, False]
    assert pace.may_hedge(1.0)
    for _ in range(20):
        pace.took(0.1, 0)
    assert pace.may_hedge(1.0)


def test_it_can_be_switched_off():
    assert not Pace(HedgePolicy(enabled=False)).may_hedge(0)


def test_time_runs_out_where_there_is_something_to_fall_back_on():
    deadline = Deadline(6.0, 100.0)
    assert [deadline.left(now) for now in (100.0, 104.0, 106.0, 200.0)] == [6.0, 2.0, 0.0, 0.0]
    assert [deadline.has_passed(now) for now in (100.0, 105.9, 106.0)] == [False, False, True]


def test_time_does_not_run_out_where_there_is_nothing_else():
    deadline = Deadline(None, 100.0)
    assert deadline.left(1e9) is None
    assert not deadline.has_passed(1e9)
