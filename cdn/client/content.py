"""The plain bytes of an object in a file that may have no name left: read at any offset, closed when nobody holds it.

Readers share one `Content` by holding a reference; there is nothing to close. That the bytes are verified is the
promise of whoever makes one.
"""

from __future__ import annotations

import errno
import os
import tempfile
import weakref
from contextlib import suppress
from typing import Final

from cdn.errors import StorageError, StorageFullError

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_COPY_BYTES: Final = 1 << 20


class Content:
    """Verified plain bytes.

    Args:
        fd: a descriptor of the file, which this object closes.
        size: how many bytes from the beginning of the file are content.
        path: of the file, for those who must open it by name.
        is_temporary: whether the file is removed with this object.
    """

    __slots__ = ("__weakref__", "_fd", "path", "size")

    def __init__(self, fd: int, size: int, path: str, *, is_temporary: bool = False) -> None:
        self._fd = fd
        self.size = size
        self.path = path
        weakref.finalize(self, _let_go, fd, path if is_temporary else None)

    def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`; fewer at the end.

        Raises:
            StorageError: the file cannot be read.
        """
        wanted = min(size, self.size - offset)
        if wanted <= 0 or offset < 0:
            return b""
        try:
            data = os.pread(self._fd, wanted, offset)
            while len(data) < wanted:
                piece = os.pread(self._fd, wanted - len(data), offset + len(data))
                if not piece:
                    raise StorageError(f"{self.path} became shorter while it was read")
                data += piece
        except OSError as error:
            raise StorageError(f"{self.path} cannot be read: {error.strerror}") from error
        return data


def _let_go(fd: int, path: str | None) -> None:
    os.close(fd)
    if path is not None:
        with suppress(OSError):
            os.unlink(path)


class Spool:
    """A file being written, which moves to another folder when the disk it began on is full.

    Args:
        folders: where it may lie, the preferred first; those that do not work are passed over.

    Raises:
        StorageFullError, StorageError: none of them takes a file.
    """

    def __init__(self, folders: tuple[str, ...]) -> None:
        self._folders = list(folders)
        self.size = 0
        self.fd = -1
        self.path = ""
        self._move(None)

    def write(self, data: bytes | memoryview) -> None:
        """Appends bytes.

        Raises:
            StorageFullError, StorageError: no folder has room for them.
        """
        view = memoryview(data)
        while view:
            try:
                written = os.write(self.fd, view)
            except OSError as error:
                self._move(error)
                continue
            self.size += written
            view = view[written:]

    def discard(self) -> None:
        """Removes the file."""
        if self.fd >= 0:
            _let_go(self.fd, self.path)
            self.fd = -1

    def released(self) -> int:
        """The descriptor, which the caller now owns."""
        fd, self.fd = self.fd, -1
        return fd

    def _move(self, cause: OSError | None) -> None:
        """Goes on in the next folder that takes what there is."""
        while self._folders:
            try:
                fd, path = tempfile.mkstemp(prefix="fetch-", dir=self._folders.pop(0))
            except OSError as error:
                cause = cause or error
                continue
            try:
                self._copy_to(fd)
            except OSError as error:
                _let_go(fd, path)
                cause = error
                continue
            if self.fd >= 0:
                _let_go(self.fd, self.path)
            self.fd, self.path = fd, path
            return
        self.discard()
        reason = cause.strerror if cause is not None else "no folder to write to"
        kind = StorageFullError if cause is not None and cause.errno in _FULL else StorageError
        raise kind(f"there is nowhere to keep what is read ({reason}): free some space or name another cache folder")

    def _copy_to(self, fd: int) -> None:
        offset = 0
        while offset < self.size:
            view = memoryview(os.pread(self.fd, min(_COPY_BYTES, self.size - offset), offset))
            if not view:
                raise OSError(errno.EIO, "the file became shorter")
            offset += len(view)
            while view:
                view = view[os.write(fd, view) :]


def temporary_folders() -> tuple[str, ...]:
    """Where content goes that no cache takes: the folder for temporary files, then memory."""
    return tuple(dict.fromkeys((tempfile.gettempdir(), "/dev/shm")))  # noqa: S108  # mkstemp makes names nobody guesses
