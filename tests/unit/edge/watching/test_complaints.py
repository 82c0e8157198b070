"""How many warnings a storm of failures makes."""

from hypothesis import given
from hypothesis import strategies as st

from edge.watching.complaints import AT_ONCE_MAX, SUBJECTS_MAX, Complaints


def test_the_first_are_told_and_then_one_each_second_with_the_number_of_the_others():
    complaints = Complaints()
    assert [complaints.turn("a", 5.0) for _ in range(AT_ONCE_MAX)] == [{}] * AT_ONCE_MAX
    assert [complaints.turn("a", 5.0) for _ in range(90)] == [None] * 90
    assert complaints.turn("b", 5.0) == {}
    assert complaints.turn("a", 6.0) == {"untold": 90}
    assert complaints.turn("a", 6.0) is None
    assert complaints.turn("a", 7.0) == {"untold": 1}


@given(st.lists(st.floats(0, 3), max_size=200))
def test_nothing_is_lost_and_no_storm_gets_through(pauses):
    complaints, now, told, untold = Complaints(), 0.0, 0, 0
    for pause in pauses:
        now += pause
        said = complaints.turn("a", now)
        if said is not None:
            told += 1
            untold += said.get("untold", 0)
    assert told <= AT_ONCE_MAX + now
    assert told + untold <= len(pauses)
    last = complaints.turn("a", now + 1.0)
    assert last is not None
    assert told + untold + last.get("untold", 0) == len(pauses)


def test_there_are_only_so_many_subjects():
    complaints = Complaints()
    for number in range(SUBJECTS_MAX * 2 + 1):
        assert complaints.turn(str(number), 0.0) == {}
    assert len(complaints._subjects) == 1
