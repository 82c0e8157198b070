"""Who asks for what: requests and bytes by kind of content and by repository, counted where a request finds its place.

Strangers can ask for repositories of any name, so only those have a row of their own that are configured by name or
whose manifest came from an upstream, and only so many; all others are counted together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from edge.content import Content

REPOSITORIES_MAX: Final = 100
OTHERS: Final = "other"


class Tally:
    """What was asked of one kind of content of one repository.

    Hits from memory are by far the most frequent; they are counted here alone, everything else also elsewhere.
    """

    __slots__ = ("bytes", "hit_bytes", "hits", "label", "repository", "requests")

    def __init__(self, label: str, repository: str) -> None:
        self.label = label
        self.repository = repository
        self.hits = 0
        self.hit_bytes = 0
        self.requests = 0
        self.bytes = 0


NOBODYS: Final = Tally(OTHERS, OTHERS)
"""For what is not counted."""


class Tallies:
    """All of them."""

    def __init__(self) -> None:
        self._tallies: dict[tuple[str, str], Tally] = {}
        self._repositories: set[str] = set()

    def admit(self, repositories: Iterable[str]) -> bool:
        """Gives repositories rows of their own, while there are some left; whether that changed anything."""
        before = len(self._repositories)
        for repository in repositories:
            if len(self._repositories) < REPOSITORIES_MAX:
                self._repositories.add(repository)
        return len(self._repositories) > before

    def of(self, content: Content) -> Tally:
        """Where requests for some content are counted; content of no repository has the empty one."""
        name = content.repository
        key = (content.label, name if name in self._repositories or not name else OTHERS)
        known = self._tallies.get(key)
        return self._tallies.setdefault(key, Tally(*key)) if known is None else known

    @property
    def hits(self) -> int:
        """Hits from memory."""
        return sum(each.hits for each in list(self._tallies.values()))

    @property
    def hit_bytes(self) -> int:
        """Bytes of bodies given from memory at once."""
        return sum(each.hit_bytes for each in list(self._tallies.values()))

    def hits_by_label(self) -> Counter[str]:
        """Hits from memory by kind of content."""
        found: Counter[str] = Counter()
        for each in list(self._tallies.values()):
            found[each.label] += each.hits
        return found

    def by_repository(self) -> dict[str, tuple[int, int]]:
        """Requests and bytes of each repository."""
        found: dict[str, tuple[int, int]] = {}
        for each in list(self._tallies.values()):
            if each.repository:
                requests, size = found.get(each.repository, (0, 0))
                found[each.repository] = requests + each.hits + each.requests, size + each.hit_bytes + each.bytes
        return found
