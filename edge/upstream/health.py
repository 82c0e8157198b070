"""How one upstream server is. Pure: no socket, no task, no clock; `now` is handed in.

A circuit for each server decides whether it is asked in its turn:

    CLOSED      it is
    OPEN        it failed too much, or asked for a pause: others are asked before it until it has rested
    HALF_OPEN   it has rested: one request may try it; once it answers, its share of the traffic grows from a tenth to
                the whole in `RETURN_SECONDS`, and only then is the circuit closed

What counts as too much is `trouble`: each failure adds to it according to its weight, each success halves it, and a
server that has shown nothing yet begins with some. So one that is not there is found by the first request, one that
stops answering by two, one that sends wrong bytes by the first; and one that fails now and then among many successes
stays in use. A circuit that opens again soon after it closed rests for twice as long each time, so a server that comes
and goes is tried less and less often.

Being slow opens no circuit. It is the choice among equals that follows latencies (`upstream_choice`).
"""

from __future__ import annotations

import math
from enum import Enum
from typing import Final

from cdn.client.pace import UsualTime
from cdn.errors import HashMismatchError, SlowPeerError, StatusError
from edge.upstream.latency import Latency

REST_SECONDS_MAX: Final = 60.0
"""No server rests longer, whether it failed or asked for a pause."""
RETURN_SECONDS: Final = 10.0
"""How long a server takes to return to its whole share."""
RETURN_SHARE: Final = 0.1
"""With which share it begins."""
FORGIVEN_SECONDS: Final = 60.0
"""A circuit that was closed for so long begins with short rests again."""
TRIAL_SECONDS: Final = 10.0
"""How long one request may be the only one that tries a server."""
_TROUBLE_MAX: Final = 1.0
_TROUBLE_AT_FIRST: Final = 0.5
_REASON_LENGTH_MAX: Final = 300
_RECENT_SECONDS: Final = 60.0


class UpstreamBusyError(SlowPeerError):
    """As many requests are under way to a server as may be, and none ended in time; no fault of the server's."""


class CircuitState(Enum):
    """Whether a server is asked in its turn."""

    __hash__ = object.__hash__

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class CircuitEvent(Enum):
    """What changes it."""

    __hash__ = object.__hash__

    TRIPPED = "tripped"
    RESTED = "rested"
    ANSWERED = "answered"
    RETURNED = "returned"


_C, _O, _H = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN
_NEXT: Final = {
    (_C, CircuitEvent.TRIPPED): _O,
    (_C, CircuitEvent.RESTED): _C,
    (_C, CircuitEvent.ANSWERED): _C,
    (_C, CircuitEvent.RETURNED): _C,
    (_O, CircuitEvent.TRIPPED): _O,
    (_O, CircuitEvent.RESTED): _H,
    (_O, CircuitEvent.ANSWERED): _H,  # it was asked after all others had failed
    (_O, CircuitEvent.RETURNED): _O,
    (_H, CircuitEvent.TRIPPED): _O,
    (_H, CircuitEvent.RESTED): _H,
    (_H, CircuitEvent.ANSWERED): _H,
    (_H, CircuitEvent.RETURNED): _C,
}


class ServerHealth:
    """What is known of one server.

    Args:
        rest_seconds: how long it rests at first.
        connections_max: how many requests may be under way to it; 0 for any number.
        is_probed: whether somebody asks it now and then to see how it is; then no client's request has to try it.
    """

    def __init__(self, rest_seconds: float, *, connections_max: int = 0, is_probed: bool = False) -> None:
        self.rest_seconds = rest_seconds
        self.connections_max = connections_max
        self.is_probed = is_probed
        self.failures = 0
        """How many requests failed in a row."""
        self.reason = ""
        """What happened last."""
        self.openings = 0
        """How often the circuit opened."""
        self.in_flight = 0
        self.latency = Latency()
        self.usual = UsualTime()
        self.rests_until = 0.0
        self.heard_at: float | None = None
        """When it last answered or failed."""
        self._state = CircuitState.CLOSED
        self._trouble = _TROUBLE_AT_FIRST
        self._openings_in_row = 0
        self._closed_at = -math.inf
        self._answered_at: float | None = None
        self._tried_until = 0.0
        self._pause_asked = False
        self._recent = 0.0
        self._recent_at = 0.0

    # ------------------------------------------------------------------------------------------------ how it is

    def state(self, now: float) -> CircuitState:
        """The circuit's state at this time (seconds of a monotonic clock)."""
        if self._state is _O and now >= self.rests_until:
            self._rested()
        elif self._state is _H and self._answered_at is not None and now - self._answered_at >= RETURN_SECONDS:
            self._state = _NEXT[_H, CircuitEvent.RETURNED]
            self._closed_at = now
        return self._state

    def share(self, now: float) -> float:
        """How much of its usual traffic it gets, from 0 to 1."""
        state = self.state(now)
        if state is not _H:
            return 1.0 if state is _C else 0.0
        if self._answered_at is None:
            return 0.0 if self.is_probed or now < self._tried_until else 1.0
        return RETURN_SHARE + (1.0 - RETURN_SHARE) * max(0.0, now - self._answered_at) / RETURN_SECONDS

    def wants_pause(self, now: float) -> bool:
        """Whether it asked not to be asked (RFC 9110 §10.2.3)."""
        return self._pause_asked and self.state(now) is _O

    @property
    def is_full(self) -> bool:
        """Whether as many requests are under way to it as may be."""
        return 0 < self.connections_max <= self.in_flight

    def recent(self, now: float) -> float:
        """How many requests it got lately, fading away."""
        return self._recent * math.exp(-max(0.0, now - self._recent_at) / _RECENT_SECONDS)

    # ------------------------------------------------------------------------------------------------ what happens

    def begin(self, now: float) -> None:
        """A request to it begins."""
        self.in_flight += 1
        self._recent, self._recent_at = self.recent(now) + 1.0, now
        if self.state(now) is _H and self._answered_at is None:
            self._tried_until = now + TRIAL_SECONDS

    def end(self) -> None:
        """A request to it is over."""
        self.in_flight -= 1

    def answered(self, seconds: float, now: float) -> None:
        """The head of an answer came after so long."""
        self.latency.note(seconds, now)
        self.usual.took(seconds)

    def overtaken(self, seconds: float, now: float) -> None:
        """Nobody waited for its answer any longer, after so long."""
        self.latency.note_at_least(seconds, now)
        self.usual.took(seconds)

    def succeeded(self, now: float) -> None:
        """It did what it was asked for."""
        self.heard_at = now
        if self.wants_pause(now):
            return
        self.failures, self.reason, self._tried_until = 0, "", 0.0
        self._trouble /= 2
        if self.state(now) is _O:
            self._rested()
        self._state = _NEXT[self._state, CircuitEvent.ANSWERED]
        if self._state is _H and self._answered_at is None:
            self._answered_at = now

    def failed(self, error: Exception, now: float) -> None:
        """It did not."""
        if isinstance(error, UpstreamBusyError):
            return
        self.heard_at = now
        self.failures += 1
        self.reason = str(error)[:_REASON_LENGTH_MAX]
        pause = pause_seconds(error)
        self._trouble += weight_of(error)
        if pause is not None:
            self._trip(min(pause, REST_SECONDS_MAX), now, is_asked=True)
        elif self._trouble >= _TROUBLE_MAX or (self.state(now) is _H and self._answered_at is None):
            self._trip(0.0, now)

    def _rested(self) -> None:
        self._state = _NEXT[self._state, CircuitEvent.RESTED]
        self._answered_at, self._tried_until, self._pause_asked = None, 0.0, False
        self._trouble = _TROUBLE_AT_FIRST

    def _trip(self, seconds: float, now: float, *, is_asked: bool = False) -> None:
        if self.state(now) is _O:  # requests that were under way when it opened count once
            self.rests_until = max(self.rests_until, now + seconds)
        else:
            was_good = self._state is _C and now - self._closed_at >= FORGIVEN_SECONDS
            self._openings_in_row = 1 if was_good else self._openings_in_row + 1
            self.openings += 1
            rest = 0.0 if is_asked else self.rest_seconds * 2.0 ** min(self._openings_in_row - 1, 10)
            self.rests_until = now + max(seconds, min(rest, REST_SECONDS_MAX))
            self._state = _NEXT[self._state, CircuitEvent.TRIPPED]
        self._pause_asked = self._pause_asked or is_asked


def weight_of(error: Exception) -> float:
    """How much a failure says against a server; from 1 on the circuit opens."""
    if isinstance(error, HashMismatchError):
        return 1.0  # it served wrong bytes as if they were right
    return 0.34 if isinstance(error, StatusError) else 0.5


def pause_seconds(error: Exception) -> float | None:
    """How long the server asked to be left alone."""
    return error.retry_after_seconds if isinstance(error, StatusError) and error.status in {429, 503} else None
