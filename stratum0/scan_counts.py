"""What scans and tarballs have in common: what they saw, and how many changes they hand over at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

STAGED_CHANGES_MAX: Final = 2_000


@dataclass(slots=True)
class ScanCounts:
    """What a scan saw; sizes are bytes."""

    folders: int = 0
    files: int = 0
    files_read: int = 0
    bytes_read: int = 0
    bytes_stored: int = 0
    objects_new: int = 0
    put: int = 0
    removed: int = 0
