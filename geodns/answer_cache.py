"""Answers kept ready to send.

Most queries repeat: the same resolvers ask the same names with the same flags. What is kept is keyed by every byte of
the query after its identifier, so a hit needs no parsing at all, and by the client's address where that had a say.
Health and reloads empty it: it never outlives the `Authority` that its answers came from.

The bound holds by two generations: a full young one becomes the old one and the old one is dropped, so that keeping
and finding cost a dictionary access each, however hostile the traffic.
"""

from __future__ import annotations

from typing import Final

from geodns.answer import Answer

QUERY_BYTES_KEPT_MAX: Final = 512
"""Longer queries are answered but not kept; together with the largest UDP reply this bounds the memory of an entry."""
ANSWER_BYTES_KEPT_MAX: Final = 4096

CacheKey = bytes | tuple[str, bytes]


class CachedAnswer:
    """One answer in those of its rotations that were asked for so far, without the identifiers."""

    __slots__ = ("answer", "turn", "wires")

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.turn = 0
        self.wires: list[bytes | None] = [None] * answer.rotations
        self.wires[0] = answer.message[2:]

    def advance(self) -> int:
        """Returns the turn to send next."""
        self.turn = (self.turn + 1) % len(self.wires)
        return self.turn


class AnswerCache:
    """Holds at most `entries_max` answers.

    Args:
        entries_max: 0 keeps nothing.
    """

    def __init__(self, entries_max: int) -> None:
        self._generation_max = max(1, entries_max // 2)
        self._disabled = entries_max == 0
        self._young: dict[CacheKey, CachedAnswer] = {}
        self._old: dict[CacheKey, CachedAnswer] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def find(self, tail: bytes, host: str) -> CachedAnswer | None:
        """Returns the kept answer to a query.

        Args:
            tail: the query after its identifier.
            host: the client's address as text.
        """
        young = self._young
        found = young.get(tail) or young.get((host, tail))
        if found is None and self._old:
            found = self._find_old(tail, host)
        return found

    def _find_old(self, tail: bytes, host: str) -> CachedAnswer | None:
        keys: tuple[CacheKey, CacheKey] = (tail, (host, tail))
        for key in keys:
            found = self._old.pop(key, None)
            if found is not None:
                self._keep(key, found)
                return found
        return None

    def keep(self, tail: bytes, host: str, answer: Answer) -> None:
        """Keeps an answer for the same query from anyone, or from this client only if its address had a say."""
        if self._disabled or len(tail) > QUERY_BYTES_KEPT_MAX or len(answer.message) > ANSWER_BYTES_KEPT_MAX:
            return
        self._keep((host, tail) if answer.depends_on_client else tail, CachedAnswer(answer))

    def _keep(self, key: CacheKey, entry: CachedAnswer) -> None:
        if len(self._young) >= self._generation_max:
            self._old = self._young
            self._young = {}
        self._young[key] = entry

    def clear(self) -> None:
        """Forgets everything."""
        self._young = {}
        self._old = {}
