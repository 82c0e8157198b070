"""Making files survive a power cut, with as few waits as the platform allows."""

from __future__ import annotations

import ctypes
import os
from functools import cache
from typing import Any


def sync_file_system(fd: int) -> None:
    """Writes everything that is not on the disk yet in the file system of this descriptor, and waits for it.

    One call for any number of files is what makes storing 100,000 small objects durable in a second instead of minutes.

    Raises:
        OSError: something could not be written, now or since the descriptor was opened.
    """
    syncfs = _syncfs()
    if syncfs is None:
        os.sync()
    elif syncfs(fd) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def sync_directory(path: str) -> None:
    """Makes the names in a folder durable.

    Raises:
        OSError: they could not be written.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@cache
def _syncfs() -> Any:
    """The C library's `syncfs`, or None where there is none."""
    try:
        return ctypes.CDLL(None, use_errno=True).syncfs
    except (OSError, AttributeError):
        return None
