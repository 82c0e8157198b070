"""Time as a value."""

from __future__ import annotations

import time

import pytest

from cdn.clock import ManualClock, SystemClock


def test_a_manual_clock_moves_only_when_told_to() -> None:
    clock = ManualClock(1000.0)
    assert (clock.now(), clock.monotonic()) == (1000.0, 0.0)
    clock.advance(2.5)
    clock.advance(0)
    assert (clock.now(), clock.monotonic()) == (1002.5, 2.5)


def test_a_manual_clock_does_not_go_back() -> None:
    clock = ManualClock()
    with pytest.raises(ValueError, match="does not go back"):
        clock.advance(-1)
    assert clock.monotonic() == 0.0


def test_the_system_clock_is_the_machines_own() -> None:
    clock = SystemClock()
    before, started = time.time(), time.monotonic()
    assert before <= clock.now() <= time.time()
    assert started <= clock.monotonic() <= time.monotonic()
