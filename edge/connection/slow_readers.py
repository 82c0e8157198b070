"""What waits in memory for clients that do not take it, in all, and whom to cut off when that is too much.

An answer that waits keeps its body in memory even when the cache has let it go. So many slow clients, each with another
large object, could hold any number of bytes; the limit here holds whatever they ask for.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final, Generic, TypeVar

PIECE_BYTES_MIN: Final = 16 << 10
PIECE_BYTES_MAX: Final = 256 << 10

Reader = TypeVar("Reader", bound=Hashable)


class SlowReaders(Generic[Reader]):
    """Those who have something to take, the one that has taken nothing for longest first.

    Args:
        bytes_max: how much may wait.
    """

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.waiting_bytes = 0
        self._waiting: dict[Reader, int] = {}

    def note(self, reader: Reader, size: int) -> None:
        """Notes how much waits for one."""
        before = self._waiting.get(reader, 0)
        self.waiting_bytes += size - before
        if size < before:  # it took something, so that others have waited longer
            del self._waiting[reader]
        if size:
            self._waiting[reader] = size

    def forget(self, reader: Reader) -> None:
        """Nothing waits for one any more."""
        self.waiting_bytes -= self._waiting.pop(reader, 0)

    def excess(self) -> list[Reader]:
        """Those to be cut off, so that what waits for the others is within the limit; they are forgotten."""
        cut: list[Reader] = []
        while self.waiting_bytes > self.bytes_max and self._waiting:
            reader = next(iter(self._waiting))
            self.forget(reader)
            cut.append(reader)
        return cut


def fair_piece_bytes(bytes_max: int, readers: int) -> int:
    """How much of a large body one reader gets at once, so that all who take what they get stay within half the limit.

    Args:
        bytes_max: how much may wait for all.
        readers: how many there are.
    """
    return min(PIECE_BYTES_MAX, max(PIECE_BYTES_MIN, bytes_max // (2 * max(1, readers))))
