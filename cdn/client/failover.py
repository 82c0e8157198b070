"""Which source is asked next: the states of servers and proxies, and the order of one transfer's attempts (spec §8.6).

Pure: no socket, no task, no clock; `now` is handed in. Two things are kept apart.

**How a source is** outlives transfers. A `SourceHealth` is in one of four states and moves by the table `_NEXT`:

    GOOD        asked in the configured order
    SLOW        asked after the good ones until it has rested: used less, not declared lost
    RESTING     failed; asked only when all others failed too. Each failure in a row doubles the rest
    ON_TRIAL    has rested; one transfer may try it in its old place, the others go on as if it rested

So the order returns to the configured one by itself, which is what real clients' reset timers are for, and a dead
source costs one transfer its connect timeout now and then.

**What one transfer has tried** is an `Attempts`: it gives each pair of server and proxy at most once. A fault of the
server moves on to the next server through the same proxy; a fault of the proxy to the next proxy to the same server;
when all proxies failed for one server they are tried again with the next, since it may have been the server after all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from cdn.errors import DocumentError, StatusError, TransportError, TrustError

_REST_DOUBLINGS_MAX: Final = 16
_TOO_MANY_REQUESTS: Final = 429
_RANGE_NOT_SATISFIABLE: Final = 416
_ABOUT_THE_CONTENT: Final = frozenset({400, 404, 410, _RANGE_NOT_SATISFIABLE, _TOO_MANY_REQUESTS})
_ABOUT_THE_SOURCE: Final = frozenset({401, 407, _TOO_MANY_REQUESTS})


class SourceState(Enum):
    """How a server or proxy is."""

    GOOD = "good"
    SLOW = "slow"
    RESTING = "resting"
    ON_TRIAL = "on trial"


class SourceEvent(Enum):
    """What a transfer learned about a source."""

    SUCCEEDED = "succeeded"
    WAS_SLOW = "was slow"
    FAILED = "failed"
    RESTED = "rested"


_G, _S, _R, _T = SourceState.GOOD, SourceState.SLOW, SourceState.RESTING, SourceState.ON_TRIAL
_NEXT: Final = {
    (_G, SourceEvent.SUCCEEDED): _G,
    (_G, SourceEvent.WAS_SLOW): _S,
    (_G, SourceEvent.FAILED): _R,
    (_G, SourceEvent.RESTED): _G,
    (_S, SourceEvent.SUCCEEDED): _S,  # one good answer does not make it fast; time does
    (_S, SourceEvent.WAS_SLOW): _S,
    (_S, SourceEvent.FAILED): _R,
    (_S, SourceEvent.RESTED): _G,
    (_R, SourceEvent.SUCCEEDED): _G,
    (_R, SourceEvent.WAS_SLOW): _S,
    (_R, SourceEvent.FAILED): _R,
    (_R, SourceEvent.RESTED): _T,
    (_T, SourceEvent.SUCCEEDED): _G,
    (_T, SourceEvent.WAS_SLOW): _S,
    (_T, SourceEvent.FAILED): _R,
    (_T, SourceEvent.RESTED): _T,
}


@dataclass(frozen=True, slots=True)
class RestPolicy:
    """How long a source rests.

    Args:
        failed_seconds: after its first failure; doubled with each failure in a row.
        failed_seconds_max: the doubling ends here.
        slow_seconds: after it was slow.
    """

    failed_seconds: float = 15.0
    failed_seconds_max: float = 1800.0
    slow_seconds: float = 60.0


class SourceHealth:
    """How one source is; changes with what transfers learn and with time."""

    __slots__ = ("_failures", "_policy", "_rested_at", "_state", "_trial_ends_at")

    def __init__(self, policy: RestPolicy) -> None:
        self._policy = policy
        self._state = SourceState.GOOD
        self._failures = 0
        self._rested_at = 0.0
        self._trial_ends_at = 0.0

    def state(self, now: float) -> SourceState:
        """The state at this time (seconds of a monotonic clock)."""
        if self._state in (SourceState.SLOW, SourceState.RESTING) and now >= self._rested_at:
            self._state = _NEXT[self._state, SourceEvent.RESTED]
        return self._state

    def learn(self, what: SourceEvent, now: float) -> None:
        """Takes what a transfer learned."""
        before = self.state(now)
        self._state = _NEXT[before, what]
        self._trial_ends_at = 0.0
        if what is SourceEvent.SUCCEEDED:
            self._failures = 0
        elif what is SourceEvent.WAS_SLOW:
            self._rested_at = now + self._policy.slow_seconds
        elif what is SourceEvent.FAILED and before is not SourceState.RESTING:
            # Transfers under way when it failed all fail: together they count once.
            self._failures += 1
            doubled = self._policy.failed_seconds * 2.0 ** min(self._failures - 1, _REST_DOUBLINGS_MAX)
            self._rested_at = now + min(doubled, self._policy.failed_seconds_max)

    def rank(self, now: float) -> int:
        """Where it stands among its kind: the smaller, the earlier it is asked."""
        state = self.state(now)
        if state is SourceState.GOOD or (state is SourceState.ON_TRIAL and now >= self._trial_ends_at):
            return 0
        return 1 if state is SourceState.SLOW else 2

    def chosen(self, now: float) -> None:
        """Says that a transfer begins with it: a trial is for one at a time."""
        if self.state(now) is SourceState.ON_TRIAL:
            self._trial_ends_at = now + self._policy.failed_seconds


# --------------------------------------------------------------------------------------------------- whose fault it was


class Fault(Enum):
    """Who is to blame for a failed attempt, which decides what is tried next."""

    CONTENT = "content"  # wrong bytes: may be a cache on the way
    SERVER = "server"
    PROXY = "proxy"
    NOBODY = "nobody"  # this machine's own trouble: no other source would help


def fault_of(error: Exception, *, through_proxy: bool) -> Fault:
    """Who is to blame (spec §8.2)."""
    if isinstance(error, DocumentError | TrustError):
        return Fault.CONTENT
    if isinstance(error, StatusError):
        return Fault.PROXY if through_proxy and _is_proxy_status(error.status) else Fault.SERVER
    if isinstance(error, TransportError):
        return Fault.PROXY if through_proxy and not error.permanent else Fault.SERVER
    return Fault.NOBODY


def _is_proxy_status(status: int) -> bool:
    return 400 <= status < 500 and status not in _ABOUT_THE_CONTENT


def is_lasting(error: Exception) -> bool:
    """Whether the fault says something about the source beyond this one request; a missing object does not."""
    if isinstance(error, StatusError) and 400 <= error.status < 500:
        return error.status in _ABOUT_THE_SOURCE
    return True


# -------------------------------------------------------------------------------------------------------- one transfer


@dataclass(frozen=True, slots=True)
class Pair:
    """A server and the proxy it is asked through, by their places in the configured order."""

    server: int
    proxy: int


class Attempts:
    """The pairs that one transfer tries.

    Args:
        servers: places of the servers, the preferred first.
        proxies: places of the proxies, the preferred first.
    """

    def __init__(self, servers: Sequence[int], proxies: Sequence[int]) -> None:
        self._servers = tuple(servers)
        self._proxies = tuple(proxies)
        self._tried: set[Pair] = set()
        self._failed_servers: set[int] = set()
        self._failed_proxies: set[int] = set()

    @property
    def has_next(self) -> bool:
        """Whether there is a pair left to try."""
        return bool(self._left(set()))

    def next(self, *, besides: Sequence[Pair] = ()) -> Pair | None:
        """The next pair to try, or None when all failed.

        Args:
            besides: pairs being tried right now. A server that none of them uses is preferred, so that a second request
                does not wait for the same machine; then, by turns, a proxy that none of them uses, since it may be the
                proxy that is slow.
        """
        left = self._left(self._failed_proxies) or self._left(set())
        servers, proxies = {pair.server for pair in besides}, {pair.proxy for pair in besides}
        is_proxys_turn = len(servers) > len(proxies)
        pair = min(
            left, key=lambda pair: pair.proxy in proxies if is_proxys_turn else pair.server in servers, default=None
        )  # of equals the first, which is the preferred one
        if pair is not None:
            self._tried.add(pair)
        return pair

    def failed(self, pair: Pair, fault: Fault) -> None:
        """Takes that a pair failed."""
        if fault is Fault.PROXY and len(self._proxies) > 1:
            self._failed_proxies.add(pair.proxy)
        else:
            self._failed_servers.add(pair.server)

    def _left(self, avoided_proxies: set[int]) -> list[Pair]:
        pairs = (Pair(server, proxy) for server in self._servers for proxy in self._proxies)
        return [
            pair
            for pair in pairs
            if pair not in self._tried and pair.server not in self._failed_servers and pair.proxy not in avoided_proxies
        ]
