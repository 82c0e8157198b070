"""What is told of a disk that fails: counted each time, warned of once a minute."""

from __future__ import annotations

import time
from typing import Final

from cdn.telemetry import event
from edge.watching.statistics import Statistics

COMPLAINT_SECONDS: Final = 60.0


class DiskTrouble:
    """Warns of a disk.

    Args:
        statistics: counts failures.
    """

    def __init__(self, statistics: Statistics) -> None:
        self._statistics = statistics
        self._complained_at = -COMPLAINT_SECONDS

    def refused(self, action: str, error: OSError) -> None:
        """The disk did not do what it was told; warned of once a minute."""
        self._statistics.storage_failures += 1
        if time.monotonic() - self._complained_at >= COMPLAINT_SECONDS:
            self._complained_at = time.monotonic()
            event("edge.cache.failing", level="warning", action=action, reason=str(error))

    def damaged(self, path: str, reason: str) -> None:
        """A file is not what it was when it was written."""
        self._statistics.disk_failures += 1
        event("edge.cache.damaged", level="warning", file=path, reason=reason)
