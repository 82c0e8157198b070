"""The locks of a repository: files locked with `flock`, so that a lock ends with its holder however that dies.

commit    alone: whoever changes what is published, and recovery of what died while it did
objects   shared: publishers while they see that an object is there and note that they need it, and commits;
          alone: the final step of garbage collection
writers   shared: everybody who stores objects, for as long as they do;
          alone: sweeping what dead writers left in the store's staging folder

Who needs several takes them in this order.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cdn.closing import Closing
from cdn.errors import LockHeldError, StorageError

LOCKS_FOLDER: Final = "locks"
_BUSY: Final = (errno.EWOULDBLOCK, errno.EACCES)
_POLL_SECONDS: Final = 0.02
_held: Final[set[int]] = set()


def _let_go_in_child() -> None:
    """Closes what a forked child inherited, or a lock would outlive its holder in the holder's children."""
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_let_go_in_child)


class FileLock(Closing):
    """A lock on one file, held until `close` or the end of the process; a context manager.

    Args:
        path: the file, created if it is not there.
        shared: whether others may hold it shared at the same time.
        timeout_seconds: how long to wait for it; None for as long as it takes.

    Raises:
        LockHeldError: somebody else had it until the timeout.
        StorageError: the file cannot be locked.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, shared: bool = False, timeout_seconds: float | None = None
    ) -> None:
        self.path: Final = os.fspath(path)
        self._pid: Final = os.getpid()
        self._fd = -1
        fd = -1
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            _lock(fd, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, timeout_seconds)
            self._fd = fd
            _held.add(fd)
        except OSError as error:
            if error.errno in _BUSY and fd >= 0:
                raise LockHeldError(f"{self.path} is locked by another process: try again later") from None
            raise StorageError(f"cannot lock {self.path}: {error.strerror}") from error
        finally:
            if self._fd < 0 <= fd:
                os.close(fd)

    def close(self) -> None:
        """Lets go; does nothing if that was done already, or if the lock is a parent process's."""
        fd, self._fd = self._fd, -1
        if fd >= 0 and self._pid == os.getpid():
            _held.discard(fd)
            os.close(fd)


def commit_lock(folder: Path, *, timeout_seconds: float | None = None) -> FileLock:
    """For changing what is published.

    Args:
        folder: the repository's (`Repository.folder`).
        timeout_seconds: see `FileLock`.

    Raises:
        LockHeldError, StorageError: see `FileLock`.
    """
    return _named(folder, "commit", shared=False, timeout_seconds=timeout_seconds)


def objects_lock(folder: Path, *, alone: bool = False, timeout_seconds: float | None = None) -> FileLock:
    """While objects that are there are noted as needed; alone, for deleting objects."""
    return _named(folder, "objects", shared=not alone, timeout_seconds=timeout_seconds)


def writers_lock(folder: Path, *, alone: bool = False, timeout_seconds: float | None = None) -> FileLock:
    """While objects are being stored; alone, for sweeping the store's staging folder."""
    return _named(folder, "writers", shared=not alone, timeout_seconds=timeout_seconds)


@contextmanager
def publishing_locks(folder: Path, *, timeout_seconds: float | None = None) -> Iterator[None]:
    """All that publishing needs: alone among commits, safe from garbage collection and from sweeping.

    Args:
        folder: the repository's.
        timeout_seconds: how long to wait for other commits.
    """
    with commit_lock(folder, timeout_seconds=timeout_seconds), objects_lock(folder), writers_lock(folder):
        yield


def _named(folder: Path, name: str, *, shared: bool, timeout_seconds: float | None) -> FileLock:
    locks = folder / LOCKS_FOLDER
    locks.mkdir(mode=0o700, exist_ok=True)
    return FileLock(locks / f"{name}.lock", shared=shared, timeout_seconds=timeout_seconds)


def _lock(fd: int, operation: int, timeout_seconds: float | None) -> None:
    if timeout_seconds is None:
        fcntl.flock(fd, operation)
        return
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            fcntl.flock(fd, operation | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno not in _BUSY or time.monotonic() >= deadline:
                raise
        time.sleep(_POLL_SECONDS)
