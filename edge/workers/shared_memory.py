"""Memory that the supervisor and its workers share, for what must hold for all of them at every instant.

It has no name and goes with the last process. Locks are the kernel's, on bytes of it, so that a process that is killed
leaves none behind.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import tempfile
from contextlib import AbstractContextManager
from dataclasses import dataclass
from io import FileIO
from types import TracebackType
from typing import Any, Final, cast

from edge.connection.client_table import ClientTable, TableShape

_SALT_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class SharedMemory:
    """What the processes of one edge share.

    Args:
        file: the memory.
        shape: of the table of clients in it.
        salt: with which all of them hash what strangers choose.
    """

    file: FileIO
    shape: TableShape
    salt: bytes

    @classmethod
    def new(cls, shape: TableShape) -> SharedMemory:
        """Fresh memory, all zero."""
        file = _nameless()
        file.truncate(shape.bytes)
        return cls(file, shape, os.urandom(_SALT_BYTES))

    @property
    def descriptor(self) -> int:
        """Of the memory, for processes that inherit it."""
        return self.file.fileno()

    def said(self) -> dict[str, Any]:
        """What a worker is told, who inherits the descriptor."""
        return {
            "descriptor": self.descriptor,
            "workers": self.shape.workers,
            "buckets": self.shape.buckets,
            "salt": self.salt.hex(),
        }

    @classmethod
    def heard(cls, said: dict[str, Any]) -> SharedMemory:
        """What a worker was told."""
        shape = TableShape(said["workers"], said["buckets"])
        return cls(FileIO(said["descriptor"], "r+"), shape, bytes.fromhex(said["salt"]))

    def table(self, index: int) -> ClientTable:
        """The table of clients, for one worker."""
        memory = cast("bytearray", mmap.mmap(self.descriptor, self.shape.bytes))  # which it is like
        return ClientTable(memory, self.shape, index, self.salt, ByteLocks(self.file))

    def close(self) -> None:
        """Lets go of it."""
        self.file.close()


class ByteLocks(AbstractContextManager[None]):
    """Locks on single bytes of a file, one at a time, against other processes.

    Args:
        file: which is open as long as the locks are used.
    """

    def __init__(self, file: FileIO) -> None:
        self._file = file
        self._byte = 0

    def __call__(self, byte: int) -> ByteLocks:
        """The lock on one byte, to be taken by a block at once."""
        self._byte = byte
        return self

    def __enter__(self) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_EX, 1, self._byte)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, self._byte)


def _nameless() -> FileIO:
    """A file without a name, in memory where the system has such."""
    if hasattr(os, "memfd_create"):
        return FileIO(os.memfd_create("edge"), "r+")
    with tempfile.TemporaryFile(buffering=0) as file:
        return FileIO(os.dup(file.fileno()), "r+")
