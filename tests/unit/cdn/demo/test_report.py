"""What the demonstration keeps of what it saw."""

import pytest

from cdn.clock import ManualClock
from cdn.demo.report import DemoFailedError, NullView, Recorder
from cdn.errors import StorageError
from cdn.reporting import Table


class Watching(NullView):
    def __init__(self):
        self.ended = []

    def end(self, step):
        self.ended.append((step.title, step.is_good, step.seconds))


@pytest.fixture
def clock():
    return ManualClock()


def test_a_report_is_good_when_every_step_was_done_and_every_check_held(clock):
    view = Watching()
    record = Recorder(2, view, clock)
    with record.step("one"):
        record.check("it is so", is_good=True, seen="it")
        record.outcome("fine")
        clock.advance(2)
    assert not record.is_good, "there is a second step"
    with record.step("two"):
        clock.advance(1)
    assert record.is_good
    assert view.ended == [("one", True, 2.0), ("two", True, 1.0)]
    assert record.document()["seconds"] == 3.0
    *_, table = record.summary()
    assert table.rows == [
        (1, "one", 2.0, "ok", "fine"),
        (2, "two", 1.0, "ok", ""),
        (None, "all of it", 3.0, "ok", "1 of 1 checks held"),
    ]


def test_a_check_that_does_not_hold_says_what_was_seen_and_the_rest_goes_on(clock):
    record = Recorder(1, NullView(), clock)
    with record.step("one"):
        record.check("the sky is blue", is_good=False, seen="it is grey")
        record.check("grass is green", is_good=True, seen="it is")
    assert not record.is_good
    assert [(check.name, check.seen) for check in record.failures] == [("the sky is blue", "it is grey")]
    assert record.document()["steps"][0]["checks"][0] == {
        "name": "the sky is blue",
        "ok": False,
        "seen": "it is grey",
    }


def test_a_step_that_cannot_be_done_is_a_failed_check_and_ends_the_rest(clock):
    record = Recorder(3, NullView(), clock)
    with pytest.raises(DemoFailedError, match="the disk is full"), record.step("one"):
        raise StorageError("the disk is full")
    *_, table = record.summary()
    assert table.rows[-1][3:] == ("FAILED", "0 of 1 checks held, 2 step(s) not begun")


def test_an_interruption_passes_through_and_the_step_does_not_count_as_done(clock):
    view = Watching()
    record = Recorder(1, view, clock)
    with pytest.raises(KeyboardInterrupt), record.step("one"):
        raise KeyboardInterrupt
    assert view.ended == [("one", False, 0.0)]
    assert not record.is_good


def test_totals_are_a_table_of_their_own(clock):
    record = Recorder(0, NullView(), clock)
    record.totals = {"files_read": 21204, "edge_hit_ratio": 0.25}
    totals, steps = record.summary()
    assert isinstance(totals, Table)
    assert totals.rows == [("files read", "21,204"), ("edge hit ratio", "0.25")]
    assert steps.rows[-1][1] == "all of it"
