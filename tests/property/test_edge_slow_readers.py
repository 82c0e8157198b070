"""The bytes that wait for slow clients: within the limit after every step, and the slowest pay for it."""

from hypothesis import given
from hypothesis import strategies as st

from edge.connection.slow_readers import PIECE_BYTES_MAX, PIECE_BYTES_MIN, SlowReaders, fair_piece_bytes

STEPS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 60)), max_size=60)


@given(STEPS)
def test_what_waits_is_counted_and_never_more_than_allowed(steps):
    readers, model = SlowReaders[int](100), dict[int, int]()
    for reader, size in steps:
        readers.note(reader, size)
        took = size < model.get(reader, 0)
        if took:
            del model[reader]
        if size:
            model[reader] = size
        for cut in readers.excess():
            assert cut == next(iter(model)), "somebody else has waited longer"
            assert sum(model.values()) > 100, "nobody had to be cut off"
            del model[cut]
        assert readers.waiting_bytes == sum(model.values()) <= 100


def test_whoever_takes_something_goes_behind_those_who_do_not():
    readers = SlowReaders[str](100)
    readers.note("slow", 50)
    readers.note("dead", 50)
    readers.note("slow", 40)
    readers.note("new", 20)
    assert readers.excess() == ["dead"]
    readers.forget("slow")
    assert readers.waiting_bytes == 20


@given(st.integers(1, 1 << 40), st.integers(0, 100_000))
def test_pieces_for_all_who_read_stay_within_half_the_limit_if_it_has_room_for_the_smallest(bytes_max, readers):
    piece = fair_piece_bytes(bytes_max, readers)
    assert PIECE_BYTES_MIN <= piece <= PIECE_BYTES_MAX
    assert readers * piece <= max(bytes_max // 2, readers * PIECE_BYTES_MIN)
