"""One edge at a time has a cache directory."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final

from cdn.errors import UsageError

TEMPORARY: Final = "tmp"
"""Where unfinished files are."""


class CacheLock:
    """A cache directory, taken for this process and those that inherit `descriptor`.

    Args:
        directory: the cache.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.descriptor = -1

    def take(self) -> None:
        """Takes the directory, makes it if need be, and removes what was left unfinished in it.

        Raises:
            UsageError: another edge uses it, or it cannot be made.
        """
        try:
            for directory in (self._directory, self._directory / TEMPORARY):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.descriptor = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for left in (self._directory / TEMPORARY).iterdir():
                left.unlink()
        except BlockingIOError as error:
            self.close()
            raise UsageError(f"the cache {self._directory} is used by another edge") from error
        except OSError as error:
            self.close()
            raise UsageError(f"the cache {self._directory} cannot be used: {error.strerror}") from error

    def close(self) -> None:
        """Gives it back, if nobody inherited it."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
