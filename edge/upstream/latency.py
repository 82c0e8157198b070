"""What a server's answers cost in time: an estimate that follows it, and a histogram for people. Pure.

The estimate is a decayed average that goes up step by step and comes down with time. One slow answer of a good server
moves it by a bounded factor; a server that has become slow is known as such after a handful of answers; and one asked
seldom, since it was slow, is believed quickly when it is fast again.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from typing import Final

BUCKETS_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
FADING_SECONDS: Final = 10.0
"""After so long without an answer, the next one counts for almost two thirds of the estimate."""
_WEIGHT_MIN: Final = 0.25
_OUTLIER_FACTOR: Final = 4.0
_SECONDS_MIN: Final = 0.001
"""Below this all servers are equally fast."""


class Latency:
    """How long one server takes to answer."""

    __slots__ = ("_noted_at", "counts", "seconds", "total_seconds")

    def __init__(self) -> None:
        self.seconds: float | None = None
        """The estimate; None while nothing is known."""
        self.counts = [0] * (len(BUCKETS_SECONDS) + 1)
        """Answers within each bucket, those beyond the last one at the end."""
        self.total_seconds = 0.0
        self._noted_at = 0.0

    def note(self, seconds: float, now: float) -> None:
        """Takes how long an answer took."""
        self.counts[bisect_left(BUCKETS_SECONDS, seconds)] += 1
        self.total_seconds += seconds
        self._follow(seconds, now)

    def note_at_least(self, seconds: float, now: float) -> None:
        """Takes that an answer had not come after so long, when it was not waited for any more."""
        if self.seconds is None or seconds > self.seconds:
            self._follow(seconds, now)

    def _follow(self, seconds: float, now: float) -> None:
        known, seconds = self.seconds, max(seconds, _SECONDS_MIN)
        if known is None:
            self.seconds = seconds
        else:
            faded = 1.0 - math.exp(-max(0.0, now - self._noted_at) / FADING_SECONDS)
            weight = _WEIGHT_MIN if seconds > known else max(_WEIGHT_MIN, faded)
            self.seconds = known + weight * (min(seconds, _OUTLIER_FACTOR * known) - known)
        self._noted_at = now
