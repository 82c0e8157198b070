"""Which names are surely not on disk: a table of counts that answers without asking the disk. Pure.

Names share places, so it may say of one that is not there that it may be, never the other way round. What is counted up
to the end of a count stays there for good.
"""

from __future__ import annotations

from typing import Final

PLACE_BYTES: Final = 2048
"""For how much room on disk there is one place."""
PLACES_MIN: Final = 4096
PLACES_MAX: Final = 16 << 20
_COUNT_MAX: Final = 255


class NameFilter:
    """Counts names by hashes of them.

    Args:
        room_bytes: how much room the files may take whose names these are.
    """

    def __init__(self, room_bytes: int) -> None:
        self._places = min(PLACES_MAX, max(PLACES_MIN, room_bytes // PLACE_BYTES))
        self._counts = bytearray(self._places)

    def add(self, code: int) -> None:
        """Takes that there is one more name with this hash."""
        place = code % self._places
        if self._counts[place] < _COUNT_MAX:
            self._counts[place] += 1

    def discard(self, code: int) -> None:
        """Takes that one of them is gone."""
        place = code % self._places
        if 0 < self._counts[place] < _COUNT_MAX:
            self._counts[place] -= 1

    def may_hold(self, code: int) -> bool:
        """Whether there may be a name with this hash."""
        return self._counts[code % self._places] > 0
