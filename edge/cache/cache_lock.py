"""One edge at a time has a cache directory."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import Final

from cdn.errors import UsageError

TEMPORARY: Final = "tmp"
"""Where unfinished files are."""
PATIENCE_SECONDS: Final = 15.0
"""How long the workers of a dead supervisor, who have its lock as well, may take to end."""
_STEP_SECONDS: Final = 0.05


class CacheLock:
    """A cache directory, taken for this process and those that inherit `descriptor`.

    Args:
        directory: the cache.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.descriptor = -1
        self._is_held = False

    @property
    def is_held(self) -> bool:
        """Whether the directory is taken."""
        return self._is_held

    def take(self, patience_seconds: float = 0.0) -> None:
        """Takes the directory, makes it if need be, and removes what was left unfinished in it.

        Args:
            patience_seconds: how long it is waited for.

        Raises:
            UsageError: another edge uses it, or it cannot be made.
        """
        try:
            for directory in (self._directory, self._directory / TEMPORARY):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.descriptor < 0:
                self.descriptor = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._lock(patience_seconds)
            for left in (self._directory / TEMPORARY).iterdir():
                left.unlink(missing_ok=True)
        except BlockingIOError as error:
            self.close()
            raise UsageError(f"the cache {self._directory} is used by another edge") from error
        except OSError as error:
            self.close()
            raise UsageError(f"the cache {self._directory} cannot be used: {error.strerror}") from error

    def _lock(self, patience_seconds: float) -> None:
        deadline = time.monotonic() + patience_seconds
        while True:
            try:
                fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(_STEP_SECONDS)
            else:
                self._is_held = True
                return

    def release(self) -> None:
        """Gives it back for all who inherited it; `take` takes it for them again."""
        if self.descriptor >= 0:
            fcntl.flock(self.descriptor, fcntl.LOCK_UN)
        self._is_held = False

    def close(self) -> None:
        """Gives it back, if nobody inherited it."""
        self._is_held = False
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
