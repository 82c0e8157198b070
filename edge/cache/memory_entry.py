"""A complete response in memory, ready to be sent."""

from __future__ import annotations

import math
from typing import Final

from edge.content import Content
from edge.http.answering import HIT, Representation, answer_from, render_head
from edge.http.caching import Lifetime, StoredHead, must_always_validate, seconds_left
from edge.http.request import Request

ENTRY_OVERHEAD_BYTES: Final = 1300
"""What an entry takes besides its body and its fields: objects, tables, notes of the queue; measured, see the tests."""
FIELD_OVERHEAD_BYTES: Final = 200
"""What a header field takes besides its text."""


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
        "known_uses",
        "lifetime",
        "retry_at",
        "size",
        "ticket",
        "uses",
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
        self.size = len(body) + ENTRY_OVERHEAD_BYTES + 2 * len(key) + _size_of_fields(head)
        """How much memory it counts for."""
        self.uses = self.known_uses = self.ticket = 0
        self._head_second = -1
        self._head_bytes = b""

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


def _size_of_fields(head: StoredHead) -> int:
    """What fields take, once as they came and once in the head that is made of them."""
    pairs = head.headers.pairs
    return FIELD_OVERHEAD_BYTES * len(pairs) + 2 * sum([len(name) + len(value) for name, value in pairs])
