"""The bytes that wait for slow clients: within the limit after every step, and the slowest pay for it."""

from hypothesis import given
from hypothesis import strategies as st

from edge.connection.slow_readers import SlowReaders

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
