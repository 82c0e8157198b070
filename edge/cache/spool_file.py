"""A body on its way to the disk: an unfinished file for which room is taken piece by piece."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from typing import Final

from cdn.errors import StorageError, StorageFullError
from edge.cache.disk_places import occupied
from edge.cache.disk_room import DiskRoom, storage_error

_NO_WAIT: Final = getattr(os, "RWF_NOWAIT", 0)


class SpoolFile:
    """An unfinished file; written at its end, read anywhere, given a name by `DiskCache.commit`.

    Args:
        room: where it takes the room for what is written.
        path: of the file, which does not exist yet.
    """

    def __init__(self, room: DiskRoom, path: str) -> None:
        self._room = room
        self.path = path
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self.size = 0
        """How many bytes may be written."""
        self.occupied_bytes = 0
        """How much room they take."""
        self.is_named = False
        self._writing = threading.Lock()

    def write(self, data: bytes) -> None:
        """Appends bytes.

        Raises:
            StorageError: there is no room, or the disk refuses.
        """
        with self._writing:  # a thread that still writes while the edge stops must not meet a closed descriptor
            if self.descriptor < 0:
                raise StorageError(f"{self.path} is closed")
            more = occupied(self.size + len(data)) - self.occupied_bytes
            if self.occupied_bytes + more > self._room.bytes_max // 2:
                raise StorageFullError(f"{self.path} would fill half of the cache by itself")
            self._room.reserve(more)
            self.occupied_bytes += more
            self.size += len(data)
            self._write(memoryview(data))

    def _write(self, view: memoryview) -> None:
        try:
            while view:
                view = view[os.write(self.descriptor, view) :]
        except OSError as error:
            raise storage_error(error, self.path) from error

    def read(self, start: int, size: int) -> bytes:
        """Bytes that were written."""
        return os.pread(self.descriptor, size, start)

    def read_at_once(self, start: int, size: int) -> bytes:
        """What of that is in the page cache, from its first byte on; nothing where that cannot be known."""
        buffer = bytearray(size)
        try:
            count = os.preadv(self.descriptor, [buffer], start, _NO_WAIT) if _NO_WAIT else 0
        except OSError:
            return b""
        return bytes(memoryview(buffer)[:count])

    def close(self) -> None:
        """Lets go of the file; without a name it disappears."""
        with self._writing:
            if self.descriptor < 0:
                return
            os.close(self.descriptor)
            self.descriptor = -1
        if not self.is_named:
            with suppress(OSError):  # what the disk will not remove goes on taking room
                with suppress(FileNotFoundError):
                    os.unlink(self.path)
                self._room.release(self.occupied_bytes)
