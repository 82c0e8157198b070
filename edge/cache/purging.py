"""Which of the stored responses an operator wants forgotten.

A rule can be asked of any key at any time, without a list of what is stored: whatever it covers and is no newer than
the rule is gone from that instant on, and the files are removed later, at leisure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from typing import Any, Final

from cdn.errors import DocumentError
from edge.content import OBJECT_KEY

RULES_MAX: Final = 64
"""How many rules may wait for their files to be removed."""


class Verdict(Enum):
    """What rules say of a stored response."""

    KEPT = "kept"
    STALE = "stale"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Rule:
    """Keys that are covered, and since when.

    Args:
        text: what it is about, for people.
        at: what was answered later is not meant, in seconds since the epoch.
        is_soft: what is covered must be confirmed before it is used again, rather than being gone.
        prefixes: keys that begin with one of these are covered.
        repositories: objects of repositories that match one of these patterns are covered.
        segment: absolute URLs with this between two slashes are covered.
    """

    text: str
    at: float
    is_soft: bool = False
    prefixes: tuple[str, ...] = ()
    repositories: tuple[str, ...] = ()
    segment: str = ""

    def covers(self, key: str) -> bool:
        """Whether a key is meant."""
        if key.startswith(self.prefixes):
            return True
        if self.repositories and key.startswith(OBJECT_KEY):
            name = key[len(OBJECT_KEY) :].partition("/")[0]
            return any(fnmatchcase(name, pattern) for pattern in self.repositories)
        return bool(self.segment) and key.startswith("http") and f"/{self.segment}/" in key.partition("?")[0]

    def is_same(self, other: Rule) -> bool:
        """Whether both mean the same, whenever that was said."""
        return (self.prefixes, self.repositories, self.segment, self.is_soft) == (
            other.prefixes,
            other.repositories,
            other.segment,
            other.is_soft,
        )

    def to_document(self) -> dict[str, object]:
        """As plain values."""
        return {
            "text": self.text,
            "at": self.at,
            "soft": self.is_soft,
            "prefixes": list(self.prefixes),
            "repositories": list(self.repositories),
            "segment": self.segment,
        }

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Rule:
        """Reads what `to_document` wrote.

        Raises:
            DocumentError: it is something else.
        """
        try:
            return cls(
                text=str(document["text"]),
                at=float(document["at"]),
                is_soft=bool(document["soft"]),
                prefixes=tuple(str(each) for each in document["prefixes"]),
                repositories=tuple(str(each) for each in document["repositories"]),
                segment=str(document["segment"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DocumentError("list of purges", "an entry of it is malformed") from error


def judge(rules: Iterable[Rule], key: str, answered_at: float, now: float) -> Verdict:
    """What rules say of a response stored under a key.

    One from the future is as old as can be: the clock was set back since, and nobody knows when it came.

    Args:
        rules: which.
        key: what it is stored under.
        answered_at: when it came from the upstream, in seconds since the epoch.
        now: in seconds since the epoch.
    """
    verdict = Verdict.KEPT
    for rule in rules:
        if (answered_at <= rule.at or answered_at > now) and rule.covers(key):
            if not rule.is_soft:
                return Verdict.GONE
            verdict = Verdict.STALE
    return verdict


class StandingRules:
    """The rules in force, asked whenever something comes from disk."""

    def __init__(self) -> None:
        self.rules: tuple[Rule, ...] = ()
        self.generation = 0
        """Grows with every purge, so that whoever waited for the disk meanwhile looks again."""

    def judge(self, key: str, answered_at: float, now: float) -> Verdict:
        """See `judge`."""
        return judge(self.rules, key, answered_at, now) if self.rules else Verdict.KEPT
