"""Who stands in for workers that are gone."""

from hypothesis import given
from hypothesis import strategies as st

from edge.workers.standing_in import stand_ins


@given(st.integers(1, 12).flatmap(lambda count: st.tuples(st.just(count), st.sets(st.integers(0, count - 1)))))
def test_each_that_is_gone_has_one_stand_in_and_nobody_else_has(case):
    count, ready = case
    tasks = stand_ins(ready, count)
    assert set(tasks) == ready
    covered = [gone for others in tasks.values() for gone in others]
    assert sorted(covered) == (sorted(set(range(count)) - ready) if ready else [])


def test_those_that_are_gone_are_shared_out():
    assert stand_ins({1, 3}, 4) == {1: (0,), 3: (2,)}
    assert stand_ins({2}, 3) == {2: (0, 1)}
