"""Reading a source file only if it still is the one that was looked at."""

from __future__ import annotations

import errno
import os
from typing import Final, NamedTuple

_NO_FILE: Final = frozenset({errno.ESPIPE, errno.EISDIR, errno.EAGAIN, errno.EINVAL})
_OPEN: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # what became a FIFO since must not hang


class Stamp(NamedTuple):
    """What says that a file is still the one that was scanned: inode, size in bytes, mtime and ctime in nanoseconds."""

    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        """The stamp of a file's status."""
        return cls(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def read_stamped(path: bytes, stamp: Stamp, offset: int, size: int) -> bytes | None:
    """A part of a file, or None if the file is not, or does not stay, the one that was scanned.

    Args:
        path: where it is; not followed if it is a symbolic link.
        stamp: what it must bear.
        offset, size: which part, in bytes.

    Raises:
        OSError: it cannot be read.
    """
    try:
        fd = os.open(path, _OPEN)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:  # it became a symbolic link
            return None
        raise
    try:
        data = _read_range(fd, offset, size)
        # Looking once, afterwards, is enough: the stamp is from before, and whatever writes to a file moves its ctime.
        return data if len(data) == size and Stamp.of(os.fstat(fd)) == stamp else None
    except OSError as error:
        if error.errno in _NO_FILE:  # a FIFO or a folder took its place
            return None
        raise
    finally:
        os.close(fd)


def _read_range(fd: int, offset: int, size: int) -> bytes:
    """The bytes, or fewer if there are no more."""
    data = os.pread(fd, size, offset)
    while len(data) < size and (more := os.pread(fd, size - len(data), offset + len(data))):
        data += more
    return data
