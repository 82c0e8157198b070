"""What rules say of what is stored."""

import pytest

from cdn.errors import DocumentError
from edge.cache.purging import Rule, Verdict, judge

SW = "sw.example.org"
OBJECT = f"object:{SW}/data/ab/cdef"


def test_what_came_later_is_kept():
    made = Rule("it", 100.0, prefixes=(f"object:{SW}/",))
    assert judge([made], OBJECT, 100.0, 200.0) is Verdict.GONE
    assert judge([made], OBJECT, 100.5, 200.0) is Verdict.KEPT
    assert judge([made], "object:tw/data/ab/c", 1.0, 200.0) is Verdict.KEPT


def test_what_comes_from_the_future_is_as_old_as_can_be():
    assert judge([Rule("all", 100.0, prefixes=("",))], OBJECT, 300.0, 200.0) is Verdict.GONE


def test_of_a_soft_and_a_hard_purge_the_hard_one_counts():
    soft, hard = Rule("all", 100.0, is_soft=True, prefixes=("",)), Rule("it", 100.0, prefixes=(f"object:{SW}/",))
    for rules in ([soft, hard], [hard, soft]):
        assert judge(rules, OBJECT, 1.0, 200.0) is Verdict.GONE
        assert judge(rules, "/cvmfs/tw/x", 1.0, 200.0) is Verdict.STALE


@pytest.mark.parametrize("change", [{"at": "x"}, {"prefixes": 7}, {"at": None}, {"repositories": None}])
def test_a_damaged_rule_is_told(change):
    with pytest.raises(DocumentError, match="malformed"):
        Rule.parse({**Rule("all", 100.0, prefixes=("",)).to_document(), **change})
