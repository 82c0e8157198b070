"""The locks of a repository: files that processes lock with `flock`, so that a lock ends with its holder however it dies.

| lock | shared by | alone |
| --- | --- | --- |
| ``commit`` | | whoever replaces the manifest: commits, tags, rollback, rotation, and recovery of what they left |
| ``objects`` | publishers while they see that an object is there and record that they need it; commits | the final step of garbage collection |
| ``writers`` | everybody who stores objects, for as long as they do | sweeping what dead writers left in the store's staging folder |

Who needs several takes them in the order of the table.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Self

from cdn.errors import RepositoryError, StorageError

if TYPE_CHECKING:
    from types import TracebackType

_BUSY: Final = (errno.EWOULDBLOCK, errno.EACCES)
_POLL_SECONDS: Final = 0.02
_held: set[int] = set()


def _forget_in_child() -> None:
    """Closes what a forked child inherited; the parent's locks stay, but no longer outlive the parent."""
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_forget_in_child)


class FileLock:
    """One `flock` on one file; held until `close` or the end of the process. A context manager.

    Args:
        path: the file, created if it is not there.
        shared: whether others may hold it shared at the same time.
        timeout_seconds: how long to wait for it; None for as long as it takes.

    Raises:
        LockHeldError: somebody else had it until the end of the timeout.
        StorageError: the file cannot be locked.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, shared: bool = False, timeout_seconds: float | None = None
    ) -> None:
        self.path: Final = os.fspath(path)
        try:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StorageError(f"cannot lock {self.path}: {error.strerror}") from error
        try:
            _lock(self._fd, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, timeout_seconds)
        except OSError as error:
            os.close(self._fd)
            if error.errno in _BUSY:
                raise LockHeldError(f"{self.path} is locked by another process") from None
            raise StorageError(f"cannot lock {self.path}: {error.strerror}") from error
        except BaseException:
            os.close(self._fd)
            raise
        self._pid = os.getpid()
        _held.add(self._fd)

    def close(self) -> None:
        """Lets go; does nothing if it was let go already, or is a parent process's."""
        fd, self._fd = self._fd, -1
        if fd >= 0 and self._pid == os.getpid():
            _held.discard(fd)
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class LockHeldError(RepositoryError):
    """Another process has the lock; it may be free later."""

    permanent = False


class Locks:
    """The locks of one repository.

    Args:
        folder: ``locks/`` of the repository, created when first needed.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = os.fspath(folder)

    def commit(self, *, timeout_seconds: float | None = None) -> FileLock:
        """For replacing the manifest."""
        return self._lock("commit", timeout_seconds=timeout_seconds)

    def objects_shared(self) -> FileLock:
        """While an object is seen to be there and is recorded as needed."""
        return self._lock("objects", shared=True)

    def objects_alone(self, *, timeout_seconds: float | None = None) -> FileLock:
        """While objects are deleted."""
        return self._lock("objects", timeout_seconds=timeout_seconds)

    def writers_shared(self) -> FileLock:
        """While objects are being stored."""
        return self._lock("writers", shared=True)

    def writers_alone(self, *, timeout_seconds: float | None = None) -> FileLock:
        """While the store's staging folder is swept."""
        return self._lock("writers", timeout_seconds=timeout_seconds)

    @contextmanager
    def publishing(self) -> Iterator[None]:
        """All that a replacement of the manifest needs: alone among commits, safe from garbage collection."""
        with self.commit(), self.objects_shared(), self.writers_shared():
            yield

    def _lock(self, name: str, *, shared: bool = False, timeout_seconds: float | None = None) -> FileLock:
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        return FileLock(f"{self._folder}/{name}.lock", shared=shared, timeout_seconds=timeout_seconds)


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
