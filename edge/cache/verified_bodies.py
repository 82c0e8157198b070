"""Bodies on disk against what they must hash to, and which ones were verified a short while ago."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Final

from cdn.errors import DocumentError
from cdn.hashing import Digest, Hasher
from edge.cache.cache_file import FileFacts

VERIFIED_MAX: Final = 100_000
_READ_BYTES: Final = 1 << 20

Identity = tuple[int, int, int, int]
"""Inode, size, modification and change time of a file: another value means that somebody wrote to it."""


class VerifiedBodies:
    """Remembers which large bodies were verified, while their files do not change; may be used from any thread.

    Args:
        trust_seconds: for how long.
    """

    def __init__(self, trust_seconds: float) -> None:
        self._trust_seconds = trust_seconds
        self._lock = threading.Lock()
        self._known: OrderedDict[str, tuple[Identity, float]] = OrderedDict()

    def is_trusted(self, name: str, identity: Identity) -> bool:
        """Whether this very file was verified not long ago."""
        with self._lock:
            known = self._known.get(name)
            return known is not None and known[0] == identity and time.monotonic() - known[1] < self._trust_seconds

    def note(self, name: str, identity: Identity) -> None:
        """Remembers that a file was verified now."""
        with self._lock:
            self._known[name] = (identity, time.monotonic())
            self._known.move_to_end(name)
            if len(self._known) > VERIFIED_MAX:
                self._known.popitem(last=False)

    def follow(self, name: str, before: Identity, after: Identity) -> None:
        """Follows a change of a file's times that we made ourselves."""
        with self._lock:
            known = self._known.get(name)
            if known is not None and known[0] == before:
                self._known[name] = (after, known[1])

    def forget(self, name: str) -> None:
        """Forgets a file that is gone."""
        with self._lock:
            self._known.pop(name, None)


def identity_of(facts: os.stat_result) -> Identity:
    """What tells a file from a changed one."""
    return (facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)


def check_body(facts: FileFacts, digest: Digest | None, pieces: Iterable[bytes]) -> None:
    """Compares a body with what it must hash to: its digest, or where there is none, the file's own checksum.

    Raises:
        DocumentError: it has rotted.
    """
    if digest is not None:
        hasher = Hasher(digest.algorithm)
        for piece in pieces:
            hasher.update(piece)
        is_right = hasher.digest() == digest
    else:
        plain = hashlib.sha256()
        for piece in pieces:
            plain.update(piece)
        is_right = plain.hexdigest() == facts.checksum
    if not is_right:
        raise DocumentError("cache file", "its body has another digest than it must have")


def pieces_of(descriptor: int, size: int) -> Iterator[bytes]:
    """A body, piece by piece.

    Raises:
        DocumentError: the file was cut short.
    """
    start = 0
    while start < size:
        piece = os.pread(descriptor, min(_READ_BYTES, size - start), start)
        if not piece:
            raise DocumentError("cache file", "it was cut short")
        yield piece
        start += len(piece)
