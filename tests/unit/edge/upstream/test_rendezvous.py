"""Who keeps what."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.upstream.rendezvous import Member, owner

NAMES = [f"object:sw.example.org/data/{number:040x}" for number in range(2000)]
MEMBERS = st.lists(
    st.builds(Member, st.text(max_size=20), st.floats(0.1, 10.0)), min_size=2, max_size=12, unique_by=lambda m: m.name
)


@given(MEMBERS, st.integers(0, 11), st.lists(st.text(max_size=30), max_size=100))
def test_a_lost_member_moves_exactly_what_was_its(members, place, names):
    lost = members[place % len(members)]
    left = [member for member in members if member is not lost]
    for name in names:
        before, after = owner(name, members), owner(name, left)
        assert after is not lost
        assert before is lost or after is before


@given(MEMBERS, st.text(max_size=30), st.randoms(use_true_random=False))
def test_all_agree_in_whatever_order_they_know_one_another(members, name, source):
    mixed = list(members)
    source.shuffle(mixed)
    assert owner(name, mixed) == owner(name, members)


def test_the_shares_are_as_the_weights():
    members = [Member("http://a"), Member("http://b"), Member("http://c", 2.0)]
    counted = Counter(owner(name, members).name for name in NAMES)
    assert abs(counted["http://a"] / 2000 - 0.25) < 0.04
    assert abs(counted["http://b"] / 2000 - 0.25) < 0.04
    assert abs(counted["http://c"] / 2000 - 0.5) < 0.04


def test_what_a_lost_member_had_is_shared_by_all_others():
    members = [Member(f"http://{letter}") for letter in "abcde"]
    moved = Counter(owner(name, members[1:]).name for name in NAMES if owner(name, members) is members[0])
    assert len(moved) == 4
    assert min(moved.values()) > 0.5 * moved.total() / 4


def test_nobody_keeps_nothing():
    with pytest.raises(ValueError, match="empty"):
        owner("x", [])
