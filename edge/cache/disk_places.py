"""How a file on disk carries its place in the order of eviction, so that a restart keeps it: in its modification time.

A place is worth above a level, as in `cache.eviction`, and levels begin at the present time; so places are seconds near
the present, and what was written by something else is as old as it looks. The number of uses is in the last digits.
"""

from __future__ import annotations

import os
import stat
from typing import Final, NamedTuple

from edge.cache.eviction import USES_MAX, worth
from edge.cache.shards import PINNED

BLOCK_BYTES: Final = 4096
"""What files occupy is counted in whole blocks of this size, as file systems give them out."""
PINNED_MODE: Final = stat.S_IXUSR
"""Marks a file that is pinned although its name does not say so."""
_STEPS: Final = 100


def occupied(size: int) -> int:
    """How much room a file of a size takes."""
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


class ListedFile(NamedTuple):
    """A cache file as its folder shows it; a tuple, since each eviction makes some hundred of them.

    Args:
        name: of the file.
        occupied_bytes: how much room it takes.
        place: in the order of eviction; the lowest goes first.
        uses: how often it was used.
        changed_at: when its place was written last, in seconds since the epoch.
        is_pinned: whether it stays.
    """

    name: str
    occupied_bytes: int
    place: float
    uses: int
    changed_at: float
    is_pinned: bool


def listed_file(name: str, facts: os.stat_result) -> ListedFile:
    """Reads what a file's status says."""
    seconds, rest = divmod(facts.st_mtime_ns, 1_000_000_000)
    return ListedFile(
        name,
        occupied(facts.st_size),
        seconds + rest / 1e9,
        min(USES_MAX, max(1, rest % _STEPS)),
        facts.st_ctime,
        name.endswith(PINNED) or bool(facts.st_mode & PINNED_MODE),
    )


def time_of_place(level: float, occupied_bytes: int, uses: int) -> int:
    """The time of modification, in nanoseconds, of a file that is used now."""
    uses = min(USES_MAX, uses)
    nanoseconds = int((level + worth(occupied_bytes, uses)) * 1e9)
    return nanoseconds - nanoseconds % _STEPS + uses
