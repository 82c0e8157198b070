"""Plain counters for the hot path: an increment of an integer, turned into metrics only when somebody asks."""

from __future__ import annotations

from collections import Counter
from typing import Final

from geodns.answer import Answer
from geodns.wire import RecordType, ResponseCode

_TYPE_NAMES: Final = {int(kind): kind.name for kind in RecordType}


class Statistics:
    """What happened since the start.

    Labels come from closed sets (our sites, known types, known codes), so that strangers cannot make the metrics grow.
    """

    __slots__ = (
        "_by_answer",
        "cache_hits",
        "dropped",
        "failures",
        "rate_limited",
        "reloads_failed",
        "reloads_good",
        "tcp_connections",
        "tcp_open",
        "tcp_refused",
        "tcp_replies",
        "udp_replies",
    )

    def __init__(self) -> None:
        self._by_answer: Counter[tuple[ResponseCode, int, str | None]] = Counter()
        self.cache_hits = 0
        self.dropped = 0
        self.failures = 0
        self.rate_limited = 0
        self.reloads_failed = 0
        self.reloads_good = 0
        self.tcp_connections = 0
        self.tcp_open = 0
        self.tcp_refused = 0
        self.tcp_replies = 0
        self.udp_replies = 0

    def count(self, answer: Answer) -> None:
        """Counts one reply that is about to be sent."""
        kind = answer.type if answer.type in _TYPE_NAMES else 0
        self._by_answer[answer.code, kind, answer.site] += 1

    @property
    def by_code(self) -> dict[str, int]:
        """Replies by response code."""
        totals: Counter[str] = Counter()
        for (code, _, _), number in list(self._by_answer.items()):
            totals[code.name] += number
        return dict(totals)

    @property
    def by_type(self) -> dict[str, int]:
        """Replies by record type asked for; all rare types together are ``other``."""
        totals: Counter[str] = Counter()
        for (_, kind, _), number in list(self._by_answer.items()):
            totals[_TYPE_NAMES.get(kind, "other")] += number
        return dict(totals)

    @property
    def by_site(self) -> dict[str, int]:
        """Replies that named a site."""
        totals: Counter[str] = Counter()
        for (_, _, site), number in list(self._by_answer.items()):
            if site is not None:
                totals[site] += number
        return dict(totals)
