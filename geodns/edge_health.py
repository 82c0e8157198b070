"""The states of one edge's health and the steps between them.

Hysteresis both ways: an edge leaves the answers after several failures in a row and returns after several successes in
a row, so that one lost packet moves nobody and a server that flaps is not trusted at once. Late answers are no
failures: an edge that answers slowly becomes slow, which only means that its faster neighbours are preferred.

    unknown ──good──> up <──rise goods── recovering
       │ failed      │ ▲ │                ▲     │ failed
       ▼      failed ▼ │ └─fall lates─> slow    │
      down        failing ──fall fails──> down <┘

The first result counts at once: at the start there is nothing to be loyal to.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from geodns.routing import HealthView


class Outcome(Enum):
    """How one check ended."""

    GOOD = "good"
    LATE = "late"
    FAILED = "failed"


class EdgeState(Enum):
    """How an edge is."""

    UNKNOWN = "unknown"
    UP = "up"
    SLOW = "slow"
    FAILING = "failing"
    DOWN = "down"
    RECOVERING = "recovering"


class Threshold(Enum):
    """How many equal outcomes in a row a step takes."""

    AT_ONCE = "at once"
    FALL = "fall"
    RISE = "rise"


@dataclass(frozen=True, slots=True)
class _Step:
    """Where an outcome leads: to `after` once the threshold is met, to `until` before that."""

    until: EdgeState
    threshold: Threshold
    after: EdgeState


def _at_once(state: EdgeState) -> _Step:
    return _Step(state, Threshold.AT_ONCE, state)


_S, _T = EdgeState, Threshold

TRANSITIONS: Final[dict[tuple[EdgeState, Outcome], _Step]] = {
    (_S.UNKNOWN, Outcome.GOOD): _at_once(_S.UP),
    (_S.UNKNOWN, Outcome.LATE): _at_once(_S.SLOW),
    (_S.UNKNOWN, Outcome.FAILED): _at_once(_S.DOWN),
    (_S.UP, Outcome.GOOD): _at_once(_S.UP),
    (_S.UP, Outcome.LATE): _Step(_S.UP, _T.FALL, _S.SLOW),
    (_S.UP, Outcome.FAILED): _Step(_S.FAILING, _T.FALL, _S.DOWN),
    (_S.SLOW, Outcome.GOOD): _Step(_S.SLOW, _T.RISE, _S.UP),
    (_S.SLOW, Outcome.LATE): _at_once(_S.SLOW),
    (_S.SLOW, Outcome.FAILED): _Step(_S.FAILING, _T.FALL, _S.DOWN),
    (_S.FAILING, Outcome.GOOD): _at_once(_S.UP),
    (_S.FAILING, Outcome.LATE): _at_once(_S.SLOW),
    (_S.FAILING, Outcome.FAILED): _Step(_S.FAILING, _T.FALL, _S.DOWN),
    (_S.DOWN, Outcome.GOOD): _Step(_S.RECOVERING, _T.RISE, _S.UP),
    (_S.DOWN, Outcome.LATE): _Step(_S.RECOVERING, _T.RISE, _S.SLOW),
    (_S.DOWN, Outcome.FAILED): _at_once(_S.DOWN),
    (_S.RECOVERING, Outcome.GOOD): _Step(_S.RECOVERING, _T.RISE, _S.UP),
    (_S.RECOVERING, Outcome.LATE): _Step(_S.RECOVERING, _T.RISE, _S.SLOW),
    (_S.RECOVERING, Outcome.FAILED): _at_once(_S.DOWN),
}

OUT_OF_USE: Final = frozenset({EdgeState.DOWN, EdgeState.RECOVERING})
"""Not named in answers; an edge that began to fail still is."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """How patient the checks are.

    Args:
        fall: failures in a row until an edge is down, or late answers in a row until it is slow.
        rise: successes in a row until it is up again.
    """

    fall: int = 3
    rise: int = 2

    def number(self, threshold: Threshold) -> int:
        """Returns how many equal outcomes in a row are meant."""
        return {Threshold.AT_ONCE: 1, Threshold.FALL: self.fall, Threshold.RISE: self.rise}[threshold]


@dataclass(frozen=True, slots=True)
class EdgeHealth:
    """What is known of one edge.

    Args:
        state: how it is.
        outcome: how the last check ended; None before the first.
        streak: how many checks in a row ended so; while it recovers, how many were answered.
        reason: what the last check that was not good said; empty if all is well.
        latency_seconds: how long the last answer took; None if there was none.
    """

    state: EdgeState = EdgeState.UNKNOWN
    outcome: Outcome | None = None
    streak: int = 0
    reason: str = ""
    latency_seconds: float | None = None

    def after(self, result: CheckResult, thresholds: Thresholds) -> EdgeHealth:
        """Returns what is known after one more check."""
        streak = self.streak + 1 if self._continues(result.outcome) else 1
        step = TRANSITIONS[self.state, result.outcome]
        state = step.after if streak >= thresholds.number(step.threshold) else step.until
        return EdgeHealth(state, result.outcome, streak, result.reason, result.latency_seconds)

    def _continues(self, outcome: Outcome) -> bool:
        """Whether an outcome goes on with the streak; to come back from being down, late answers count too."""
        if self.state is EdgeState.RECOVERING:
            return outcome is not Outcome.FAILED
        return outcome is self.outcome


@dataclass(frozen=True, slots=True)
class CheckResult:
    """How one check of an edge went.

    Args:
        outcome: good, late or failed.
        reason: why it was not good; empty otherwise.
        latency_seconds: how long the answer took; None if there was none.
    """

    outcome: Outcome
    reason: str = ""
    latency_seconds: float | None = None


def health_view(marks: dict[str, EdgeHealth]) -> HealthView:
    """Returns what routing needs to know, from what is known of each edge by name."""
    down = frozenset(name for name, mark in marks.items() if mark.state in OUT_OF_USE)
    slow = frozenset(name for name, mark in marks.items() if mark.state is EdgeState.SLOW)
    return HealthView(down, slow)
