"""What waits to be written to disk: only so much, so that a disk slower than the upstreams costs no memory. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from cdn.errors import StorageError

WAITING_BYTES_MAX: Final = 64 << 20
WAITING_OVERHEAD_BYTES: Final = 16 << 10
"""What a fetch takes besides its body."""
OF_ONE_URL_MAX: Final = 16
"""How many answers of one URL wait at most: as many as there may be variants of it."""


class StoreQueue:
    """Counts what waits.

    Args:
        bytes_max: how much that may be.
    """

    def __init__(self, bytes_max: int = WAITING_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._urls: Counter[str] = Counter()

    def __len__(self) -> int:
        return self._urls.total()

    @contextmanager
    def place(self, resource: str, size: int, *, is_certain: bool = False) -> Iterator[None]:
        """Has a place while the block runs.

        Args:
            resource: what is written, by the key of its URL.
            size: how many bytes of memory its body takes.
            is_certain: whether it gets one in any case.

        Raises:
            StorageError: there is none.
        """
        self.enter(resource, size, is_certain=is_certain)
        try:
            yield
        finally:
            self.leave(resource, size)

    def enter(self, resource: str, size: int, *, is_certain: bool = False) -> None:
        """Takes a place until `leave`; as `place`."""
        size += WAITING_OVERHEAD_BYTES
        is_full = self._bytes + size > self._bytes_max or self._urls.get(resource, 0) >= OF_ONE_URL_MAX
        if is_full and not is_certain:
            raise StorageError(f"the disk is too slow: {len(self)} answers wait for it")
        self._bytes += size
        self._urls[resource] = self._urls.get(resource, 0) + 1

    def leave(self, resource: str, size: int) -> None:
        """Gives a place back."""
        self._bytes -= size + WAITING_OVERHEAD_BYTES
        self._urls[resource] -= 1
        if not self._urls[resource]:
            del self._urls[resource]
