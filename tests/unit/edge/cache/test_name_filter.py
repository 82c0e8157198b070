"""The table of names that are surely not on disk."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from edge.cache.name_filter import PLACES_MAX, PLACES_MIN, NameFilter

CODES = st.integers(0, 3 * PLACES_MIN)


@given(st.lists(st.tuples(st.booleans(), CODES), max_size=300))
def test_what_is_there_is_never_denied(changes):
    names, there = NameFilter(0), Counter()
    for comes, code in changes:
        if comes:
            names.add(code)
            there[code] += 1
        elif there[code]:
            names.discard(code)
            there[code] -= 1
        assert all(names.may_hold(each) for each, count in there.items() if count)
    for code, count in there.items():
        for _ in range(count):
            names.discard(code)
    assert not any(names.may_hold(code) for code in there), "when all are gone, nothing is left of them"


def test_a_full_count_stays_full():
    names = NameFilter(0)
    for _ in range(300):
        names.add(7)
    for _ in range(299):
        names.discard(7)
    assert names.may_hold(7)


def test_what_is_not_there_cannot_go():
    names = NameFilter(0)
    names.discard(7)
    names.add(7)
    assert names.may_hold(7)


def test_it_is_never_larger_than_its_bound():
    assert len(NameFilter(1 << 60)._counts) == PLACES_MAX
