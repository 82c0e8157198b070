"""When a second request is worth sending while the first still waits, and how often that may be (pure).

A source that is merely slow makes every read behind it slow, and no timeout short enough to prevent that is long
enough for a far but healthy one. So the wait that is normal is learned, and a transfer that takes longer than almost
all before it asks a second source as well; whichever answers first wins. What that costs is bounded by a budget.

How long to wait in all is a question only where there is something to fall back on: then a `Deadline` ends it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

_SAMPLES: Final = 64
_SAMPLES_MIN: Final = 8
_SMALL_BYTES: Final = 256 << 10


@dataclass(frozen=True, slots=True)
class HedgePolicy:
    """When to ask a second source.

    Args:
        enabled: whether to do it at all.
        delay_seconds_initial: while too little is known.
        delay_seconds_min, delay_seconds_max: bounds of what is learned.
        bytes_per_second_min: a large object may take this much longer.
        share: of all transfers, how many may be asked twice in the long run.
        burst: how many at once.
    """

    enabled: bool = True
    delay_seconds_initial: float = 1.0
    delay_seconds_min: float = 0.1
    delay_seconds_max: float = 5.0
    bytes_per_second_min: int = 256 << 10
    share: float = 0.05
    burst: float = 8.0


class UsualTime:
    """How long something usually takes, by the newest few times that it was done."""

    __slots__ = ("_seconds",)

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=_SAMPLES)

    def took(self, seconds: float) -> None:
        """Takes how long it took once."""
        self._seconds.append(seconds)

    @property
    def most(self) -> float | None:
        """The time that it does not exceed 95 times out of 100; None while too little is known."""
        if len(self._seconds) < _SAMPLES_MIN:
            return None
        return sorted(self._seconds)[len(self._seconds) * 95 // 100]


class HedgeBudget:
    """How many second requests may be sent.

    Args:
        share: earned with each first request.
        burst: how much is kept.
    """

    __slots__ = ("_burst", "_left", "_share")

    def __init__(self, share: float, burst: float) -> None:
        self._share = share
        self._burst = burst
        self._left = burst

    def earn(self, requests: float = 1.0) -> None:
        """Takes that so many first requests were sent."""
        self.add(requests * self._share)

    def add(self, hedges: float) -> None:
        """Allows so many more."""
        self._left = min(self._burst, self._left + hedges)

    def spend(self) -> bool:
        """Whether one may be sent now, which is then taken from what is left."""
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


class Pace:
    """What is known about how long transfers take."""

    def __init__(self, policy: HedgePolicy) -> None:
        self._policy = policy
        self._usual = UsualTime()
        self._budget = HedgeBudget(policy.share, policy.burst)
        self._refilled_at: float | None = None

    def took(self, seconds: float, size: int) -> None:
        """Takes how long a transfer of so many bytes took."""
        self._budget.earn()
        if size <= _SMALL_BYTES:
            self._usual.took(seconds)

    def delay(self, size: int) -> float:
        """How long to wait for an object of this many bytes before asking a second source, in seconds."""
        policy = self._policy
        most = self._usual.most
        usual = policy.delay_seconds_initial if most is None else 1.5 * most
        bounded = min(max(usual, policy.delay_seconds_min), policy.delay_seconds_max)
        return bounded + max(0, size - _SMALL_BYTES) / policy.bytes_per_second_min

    def may_hedge(self, now: float) -> bool:
        """Whether the budget allows a second request now, which is then taken from it.

        One is earned back each second, so that a transfer behind a source that trickles is never stuck for good.
        """
        if not self._policy.enabled:
            return False
        if self._refilled_at is not None:
            self._budget.add(max(0.0, now - self._refilled_at))
        self._refilled_at = now
        return self._budget.spend()


class Deadline:
    """When a fetch is given up for what its caller has already; never, where the caller has nothing.

    Args:
        seconds: how long there is; None for as long as it takes.
        now: seconds of a monotonic clock.
    """

    def __init__(self, seconds: float | None, now: float) -> None:
        self.seconds: Final = seconds
        self._ends_at = None if seconds is None else now + seconds

    def left(self, now: float) -> float | None:
        """How many seconds are left; None for as long as it takes."""
        return None if self._ends_at is None else max(0.0, self._ends_at - now)

    def has_passed(self, now: float) -> bool:
        """Whether no time is left."""
        return self._ends_at is not None and now >= self._ends_at
