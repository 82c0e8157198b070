"""The memory tier: whole responses, ready to be sent, least recently used out first."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from edge.answering import HIT, Representation, answer_from, render_head
from edge.content import Content
from edge.http_caching import Lifetime, StoredHead, must_always_validate, seconds_left
from edge.request import Request
from edge.shards import file_name

ENTRY_OVERHEAD_BYTES: Final = 2048
"""What an entry takes besides its body, about."""
NEGATIVES_MAX: Final = 10_000


class MemoryEntry:
    """A complete response in memory.

    Args:
        key: what it is cached under.
        head: status and fields.
        body: the whole body.
        content: what its name says.
        lifetime: of its kind and status.
        now: seconds since the epoch.
    """

    __slots__ = (
        "_head_bytes",
        "_head_second",
        "body",
        "content",
        "fresh_until",
        "head",
        "is_outdated",
        "key",
        "lifetime",
        "retry_at",
    )

    def __init__(
        self, key: str, head: StoredHead, body: bytes, content: Content, lifetime: Lifetime, now: float
    ) -> None:
        self.key = key
        self.head = head
        self.body = body
        self.content = content
        self.lifetime = lifetime
        self.fresh_until = _fresh_until(head, lifetime, now)
        """Until when a plain request may be answered without a further look; with `Vary` never."""
        self.is_outdated = False
        """Whether an upstream must confirm it before it is used again, however fresh it looks."""
        self.retry_at = 0.0
        """Until when a stale answer is given without asking the upstreams that failed."""
        self._head_second = -1
        self._head_bytes = b""

    @property
    def size(self) -> int:
        """How much memory it counts for."""
        return len(self.body) + ENTRY_OVERHEAD_BYTES

    def outdate(self) -> None:
        """Lets it be used only once an upstream has confirmed it, or while none can."""
        self.is_outdated, self.fresh_until = True, -math.inf

    def representation(self) -> Representation:
        """What answers are made from."""
        return Representation(self.head, self.content, self.lifetime, len(self.body))

    def plain_head(self, request: Request, now: float, edge_name: str) -> bytes:
        """The head of the answer to a plain request, made once a second."""
        second = int(now)
        if second != self._head_second:
            answer = answer_from(self.representation(), request, now, HIT, edge_name)
            self._head_bytes = render_head(answer, request, keeps_alive=True)
            self._head_second = second
        return self._head_bytes


def _fresh_until(head: StoredHead, lifetime: Lifetime, now: float) -> float:
    if head.selecting or must_always_validate(head):
        return -math.inf
    return math.inf if lifetime.is_immutable else now + seconds_left(head, lifetime, now)


class MemoryCache:
    """Responses in memory, up to a number of bytes.

    Args:
        bytes_max: how many.
        body_max: the largest body that is taken.
    """

    def __init__(self, bytes_max: int, body_max: int) -> None:
        self.bytes_max = bytes_max
        self.body_max = body_max
        self.used_bytes = 0
        self._entries: OrderedDict[str, MemoryEntry] = OrderedDict()
        self._names: dict[str, str] = {}
        self._negatives: OrderedDict[str, MemoryEntry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> MemoryEntry | None:
        """What is cached under a key."""
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
        return entry

    def put(self, entry: MemoryEntry) -> None:
        """Takes an entry, if it is not too large, and makes room for it."""
        self.remove(entry.key)
        if len(entry.body) > self.body_max or entry.size > self.bytes_max:
            return
        self._entries[entry.key] = entry
        self._names[file_name(entry.key, pinned=entry.content.is_pinned)] = entry.key
        self.used_bytes += entry.size
        while self.used_bytes > self.bytes_max:
            self.remove(next(iter(self._entries)))

    def remove(self, key: str) -> bool:
        """Forgets an entry; whether there was one."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.used_bytes -= entry.size
            self._names.pop(file_name(key, pinned=entry.content.is_pinned), None)
        return entry is not None

    def forget(self, key: str) -> bool:
        """Forgets what is known under a key, a missing name too; whether there was anything."""
        is_known = key in self._entries or key in self._negatives
        self.remove(key)
        self.forget_negative(key)
        return is_known

    def remove_matching(self, matches: Callable[[str], bool]) -> int:
        """Forgets everything whose key matches, missing names too; how many there were."""
        keys = [key for key in (*self._entries, *self._negatives) if matches(key)]
        return sum(self.forget(key) for key in keys)

    def keys(self) -> list[str]:
        """All keys, those of names that do not exist included."""
        return [*self._entries, *self._negatives]

    def peek(self, key: str) -> MemoryEntry | None:
        """What is cached under a key, without counting as its use."""
        return self._entries.get(key)

    def holds_file(self, name: str) -> bool:
        """Whether the body of this cache file is in memory; may be asked from any thread."""
        return name in self._names

    # ---------------------------------------------------------------------------------------- names that do not exist

    def negative(self, key: str) -> MemoryEntry | None:
        """An upstream's word that there is nothing under a key."""
        return self._negatives.get(key)

    def put_negative(self, entry: MemoryEntry) -> None:
        """Takes an upstream's word that there is nothing under a key."""
        self._negatives[entry.key] = entry
        self._negatives.move_to_end(entry.key)
        if len(self._negatives) > NEGATIVES_MAX:
            self._negatives.popitem(last=False)

    def forget_negatives(self, repository: str) -> None:
        """Forgets what a repository did not have: a newer manifest may have made it real."""
        for key in [key for key, entry in self._negatives.items() if entry.content.repository == repository]:
            del self._negatives[key]

    def forget_negative(self, key: str) -> bool:
        """Forgets that there was nothing under a key; whether that was known."""
        return self._negatives.pop(key, None) is not None
