"""Amounts as people read them."""

from __future__ import annotations

import pytest

from cdn.cli.output import CommandOutput
from cdn.reporting import Output, duration_text, size_text
from tests.fakes.reporting import RecordingOutput


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        ((1 << 20) - 1, "1.0 MiB"),
        (79 << 20, "79.0 MiB"),
        (5 << 40, "5.0 TiB"),
        (5 << 60, "5120.0 PiB"),
        (-2048, "-2.0 KiB"),
    ],
)
def test_sizes(size_bytes, text):
    assert size_text(size_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.004, "4 ms"),
        (0.42, "0.42 s"),
        (9.999, "10 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (185, "3 min 5 s"),
        (7800, "2 h 10 min"),
        (86400 * 9 + 3 * 3600 + 59, "9 d 3 h"),
    ],
)
def test_durations(seconds, text):
    assert duration_text(seconds) == text


def test_the_real_output_and_the_recording_one_have_the_same_interface():
    def speak(output: Output) -> None:
        output.result({})

    speak(CommandOutput())
    speak(RecordingOutput())
