"""Plain counters: an increment of an integer on the way, turned into metrics only when somebody asks."""

from __future__ import annotations

from collections import Counter
from enum import Enum
from typing import Final

from edge.watching.distinct import ClientCount
from edge.watching.histogram import Histogram
from edge.watching.tallies import Tallies

SECONDS_BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
LAG_BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)


class Result(Enum):
    """How a request was answered."""

    __hash__ = object.__hash__  # there is one of each, and the library's own way takes ten times as long

    HIT = "hit"
    MISS = "miss"
    COLLAPSED = "collapsed"
    REVALIDATED = "revalidated"
    STALE = "stale"
    PASSED = "passed"
    REFUSED = "refused"
    FAILED = "failed"


class Statistics:
    """What happened since the start.

    Labels come from closed sets (our results, kinds of content and configured upstreams), so that strangers cannot make
    the metrics grow.

    Args:
        salt: the same for several workers that count their clients together.
    """

    def __init__(self, salt: bytes | None = None) -> None:
        self.requests: Counter[tuple[Result, str]] = Counter()
        self.tallies = Tallies()
        """Hits answered from memory at once, by far the most frequent, are counted only there."""
        self.relayed_hit_bytes = 0
        """Bytes of such hits that another worker sent to its client, and counted."""
        self.seconds = {result.value: Histogram(SECONDS_BOUNDS) for result in Result}
        """How long answers took that were not ready in memory."""
        self.lag = Histogram(LAG_BOUNDS)
        """How late the event loop came to what was due."""
        self.clients = ClientCount(salt)
        self.statuses: Counter[int] = Counter()
        self.bytes_sent = 0
        self.bytes_fetched = 0
        self.fetches: Counter[str] = Counter()
        self.fetch_failures: Counter[str] = Counter()
        self.hash_failures = 0
        """Bodies from upstreams that did not have their digest."""
        self.disk_failures = 0
        """Bodies from our own disk that did not have their digest, or were truncated."""
        self.older_manifests = 0
        self.storage_failures = 0
        self.evictions = 0
        self.prefetches = 0
        self.manifests_held_back = 0
        self.purges = 0
        self.purged_files = 0
        self.connections = 0
        self.connections_open = 0
        self.connections_refused = 0
        self.handshakes_failed = 0
        """TLS handshakes that were broken off or took too long."""
        self.timeouts = 0
        self.requests_limited = 0
        """Requests refused because their address makes too many."""
        self.slow_readers_cut = 0
        self.aborted_answers = 0
        self.failures = 0
        """Requests that failed by a mistake of this program."""
        self.log_lines_dropped = 0
        self.relayed = 0
        """Requests answered by the worker that owns what they are for."""
        self.relay_failures = 0
        """Requests whose owner could not be asked, answered without it."""
        self.reloads_good = 0
        self.reloads_failed = 0

    @property
    def memory_hits(self) -> int:
        """Hits answered from memory at once."""
        return self.tallies.hits

    def of(self, result: Result) -> int:
        """How many requests ended so."""
        counted = sum(number for (each, _), number in self.requests.items() if each is result)
        return counted + (self.memory_hits if result is Result.HIT else 0)

    @property
    def requests_answered(self) -> int:
        """All requests."""
        return sum(self.requests.values()) + self.memory_hits

    @property
    def hits(self) -> int:
        """Requests answered from the cache without asking upstream."""
        return self.of(Result.HIT)

    @property
    def misses(self) -> int:
        """Requests that caused a fetch."""
        return self.of(Result.MISS)

    @property
    def collapsed(self) -> int:
        """Requests that waited for a fetch that another one had caused."""
        return self.of(Result.COLLAPSED)

    @property
    def bytes_served(self) -> int:
        """Bytes of bodies given to clients."""
        return self.bytes_sent + self.tallies.hit_bytes - self.relayed_hit_bytes

    @property
    def bytes_saved(self) -> int:
        """Bytes that clients got and upstreams did not have to send; of one of several workers it may be negative."""
        return self.bytes_served - self.bytes_fetched
