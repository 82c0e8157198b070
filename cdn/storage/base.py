"""Where objects lie: three growing interfaces that every store, real or wrapped, is written against.

A path is relative to the repository and uses ``/``: ``data/ab/cdef…`` or ``.cvmfspublished``. Stores are synchronous,
because files are; asynchronous callers run them in threads (docs/decisions/0003-synchronous-storage.md). All methods
may be called from several threads at once. The contract is tests/contracts/object_store.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from typing_extensions import Buffer


@dataclass(frozen=True, slots=True)
class StoredObject:
    """What a listing says of one object: path, size in bytes, last modification in seconds since the epoch."""

    path: str
    size: int
    modified: float


class ReadableStore(Protocol):
    """A store that can be read."""

    def exists(self, path: str) -> bool:
        """Whether the store holds this path."""
        ...

    def size(self, path: str) -> int:
        """Its size in bytes.

        Raises:
            ObjectMissingError: the store does not hold it.
        """
        ...

    def read(self, path: str, *, size_max: int) -> bytes:
        """The whole object.

        Raises:
            ObjectMissingError: the store does not hold it.
            StorageError: it is larger than `size_max`, or cannot be read.
        """
        ...

    def open(self, path: str) -> BinaryIO:
        """The object as a seekable stream, for objects too large to hold.

        Raises:
            ObjectMissingError: the store does not hold it.
        """
        ...


class ObjectStore(ReadableStore, Protocol):
    """A store that can be written."""

    def put(self, path: str, data: Buffer) -> bool:
        """Stores an immutable object under its final name, whole or not at all.

        An object that is already there is left alone. Durability comes with the next `flush`: who stores an object that
        stands for others being there, as a replica's catalogs do, calls `flush` before.

        Returns:
            True if the object is new.

        Raises:
            StorageFullError, StorageReadOnlyError, StorageError: it could not be stored; nothing is left under that
            name.
        """
        ...

    def stage(self) -> StagedObject:
        """A new object whose name is not known before its last byte."""
        ...

    def replace(self, path: str, data: Buffer) -> None:
        """Replaces a mutable document atomically and durably.

        Readers see the old or the new bytes, also after a power cut. Everything stored before is durable when this
        returns: it is the step that commits.
        """
        ...

    def flush(self) -> None:
        """Makes everything stored so far durable."""
        ...


class PrunableStore(ObjectStore, Protocol):
    """A store from which objects can be removed, as garbage collection and repair do."""

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """What lies in ``data/``, ``data/ab/`` or, for the empty prefix, in the whole store; in no particular order.

        Files of other names, staged objects among them, are passed over. What is stored or deleted meanwhile may be in
        it or not.
        """
        ...

    def delete(self, path: str) -> bool:
        """Removes an object; False if it was not there."""
        ...

    def sweep_staging(self, *, older_than: float) -> int:
        """Removes staged objects that nobody finished, where a writer that dies leaves such.

        Args:
            older_than: those written to since then are left alone, in seconds since the epoch.

        Returns:
            how many were removed.
        """
        ...


class StagedObject(Protocol):
    """An object being written; leaving its `with` block without `commit` discards it."""

    def write(self, data: Buffer) -> None:
        """Appends bytes."""
        ...

    def commit(self, path: str) -> bool:
        """Gives the object its final name; as `ObjectStore.put` otherwise."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
