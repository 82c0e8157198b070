"""Plain progress lines come at a bounded rate."""

from __future__ import annotations

import io
import threading

import pytest

from cdn.cli.progress import LineProgress
from cdn.clock import ManualClock


class Terminal(io.StringIO):
    def lines(self):
        return self.getvalue().splitlines()


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def stream():
    return Terminal()


@pytest.fixture
def progress(stream, clock):
    return LineProgress("Publishing", stream, clock)


def test_a_line_comes_every_five_seconds_while_something_happens(progress, stream, clock):
    progress.start(None, "files")
    for _ in range(12):
        clock.advance(1)
        progress.advance(1000)
    assert stream.lines() == ["Publishing: 5,000 files, 1,000/s", "Publishing: 10,000 files, 1,000/s"]


def test_a_line_comes_at_every_tenth_but_no_more_than_one_a_second(progress, stream, clock):
    progress.start(1000, "files")
    for _ in range(100):
        clock.advance(0.05)
        progress.advance(10)
    assert len(stream.lines()) == 4
    assert stream.lines()[0] == "Publishing: 200 of 1,000 files (20 %), 200/s, about 4.00 s left"


def test_bytes_are_shown_as_sizes(progress, stream, clock):
    progress.start(4 << 30, "bytes")
    clock.advance(8)
    progress.message("replicating")
    progress.advance(1 << 30)
    clock.advance(8)
    progress.advance(1 << 30)
    assert stream.lines()[-1] == ("Publishing: 2.0 GiB of 4.0 GiB (50 %), 128.0 MiB/s, about 16 s left, replicating")


def test_what_becomes_known_later_raises_the_total(progress, stream, clock):
    progress.start(None, "objects")
    progress.expect(10)
    progress.expect(10)
    clock.advance(6)
    progress.advance(5)
    assert stream.lines()[0].startswith("Publishing: 5 of 20 objects (25 %)")


def test_more_done_than_expected_is_never_over_a_hundred_per_cent(progress, stream, clock):
    progress.start(10, "objects")
    clock.advance(6)
    progress.advance(15)
    assert stream.lines() == ["Publishing: 15 of 10 objects (100 %), 2/s"]


def test_each_phase_ends_with_one_line(progress, stream, clock):
    with progress:
        progress.start(2, "catalogs")
        progress.advance(2)
        clock.advance(0.5)
        progress.start(300, "objects")
        progress.advance(300)
        clock.advance(90)
    assert stream.lines() == ["Publishing: 2 catalogs in 0.50 s", "Publishing: 300 objects in 1 min 30 s"]


def test_a_phase_that_failed_is_not_reported_as_done(progress, stream):
    with pytest.raises(OSError, match="full"), progress:
        progress.start(2, "catalogs")
        progress.advance(1)
        raise OSError("full")
    assert stream.lines() == []


def test_advancing_from_many_threads_loses_nothing(progress, stream):
    progress.start(None, "files")
    threads = [threading.Thread(target=lambda: [progress.advance() for _ in range(2000)]) for _ in range(4)]
    with progress:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert stream.lines()[-1].startswith("Publishing: 8,000 files in ")
