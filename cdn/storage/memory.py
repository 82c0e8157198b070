"""A store in memory: for tests, for demonstrations, and for documents that live as long as the process."""

from __future__ import annotations

import io
import threading
from typing import TYPE_CHECKING, BinaryIO, Final, Self

from cdn.clock import Clock, SystemClock
from cdn.errors import ObjectMissingError, StorageError, StorageFullError
from cdn.storage.base import StoredObject
from cdn.storage.paths import checked_path, checked_prefix

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from typing_extensions import Buffer

_WHERE: Final = "the memory store"


class MemoryStore:
    """A store in a dictionary; a `PrunableStore`.

    Args:
        clock: gives the times of last modification.
        bytes_max: how many bytes it holds at most, staged objects included; None for as many as there is memory.
    """

    def __init__(self, *, clock: Clock | None = None, bytes_max: int | None = None) -> None:
        self._clock = clock or SystemClock()
        self._bytes_max = bytes_max
        self._used = 0
        self._objects: dict[str, tuple[bytes, float]] = {}
        self._staged: dict[_StagedBytes, float] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"MemoryStore({len(self._objects)} objects, {self._used} bytes)"

    def exists(self, path: str) -> bool:
        return checked_path(path) in self._objects

    def size(self, path: str) -> int:
        return len(self._data(path))

    def read(self, path: str, *, size_max: int) -> bytes:
        data = self._data(path)
        if len(data) > size_max:
            raise StorageError(f"{path} in {_WHERE} is larger than the limit of {size_max} bytes")
        return data

    def open(self, path: str) -> BinaryIO:
        return io.BytesIO(self._data(path))

    def put(self, path: str, data: Buffer) -> bool:
        checked_path(path)
        with self._lock:
            if path in self._objects:
                return False
            self._keep(path, bytes(data), replaced=0)
            return True

    def stage(self) -> _StagedBytes:
        staged = _StagedBytes(self)
        with self._lock:
            self._staged[staged] = self._clock.now()
        return staged

    def replace(self, path: str, data: Buffer) -> None:
        checked_path(path)
        with self._lock:
            self._keep(path, bytes(data), replaced=len(self._objects.get(path, (b"",))[0]))

    def flush(self) -> None:
        """Nothing to do: memory is never durable."""

    def list(self, prefix: str) -> Iterator[StoredObject]:
        checked_prefix(prefix)
        with self._lock:
            found = [
                StoredObject(path, len(data), modified)
                for path, (data, modified) in self._objects.items()
                if path.startswith(prefix)
            ]
        yield from found

    def delete(self, path: str) -> bool:
        checked_path(path)
        with self._lock:
            found = self._objects.pop(path, None)
            if found is not None:
                self._used -= len(found[0])
            return found is not None

    def sweep_staging(self, *, older_than: float) -> int:
        with self._lock:
            left = [staged for staged, modified in self._staged.items() if modified < older_than]
            for staged in left:
                self._drop(staged)
            return len(left)

    def _data(self, path: str) -> bytes:
        found = self._objects.get(checked_path(path))
        if found is None:
            raise ObjectMissingError(path, _WHERE)
        return found[0]

    def _keep(self, path: str, data: bytes, *, replaced: int) -> None:
        self._reserve(len(data) - replaced)
        self._objects[path] = (data, self._clock.now())

    def _reserve(self, size: int) -> None:
        if self._bytes_max is not None and self._used + size > self._bytes_max:
            raise StorageFullError(f"cannot store {size} bytes more in {_WHERE}: its limit is {self._bytes_max} bytes")
        self._used += size

    def _drop(self, staged: _StagedBytes) -> bool:
        """Forgets a staged object; False if it was not staged any more."""
        if self._staged.pop(staged, None) is None:
            return False
        self._used -= len(staged.data)
        return True


class _StagedBytes:
    """An object growing in memory; the store's lock guards it."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.data = bytearray()

    def write(self, data: Buffer) -> None:
        store = self._store
        view = memoryview(data).cast("B")
        with store._lock:  # noqa: SLF001  a part of the store
            self._check_open()
            store._reserve(len(view))  # noqa: SLF001 -- of this module
            self.data += view
            store._staged[self] = store._clock.now()  # noqa: SLF001 -- of this module

    def commit(self, path: str) -> bool:
        store = self._store
        checked_path(path)
        with store._lock:  # noqa: SLF001 -- of this module
            self._check_open()
            store._drop(self)  # noqa: SLF001 -- of this module
            if path in store._objects:  # noqa: SLF001 -- of this module
                return False
            store._keep(path, bytes(self.data), replaced=0)  # noqa: SLF001 -- of this module
            return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._store._lock:  # noqa: SLF001 -- of this module
            self._store._drop(self)  # noqa: SLF001 -- of this module

    def _check_open(self) -> None:
        if self not in self._store._staged:  # noqa: SLF001 -- of this module
            raise StorageError(f"a staged object in {_WHERE} is already finished")
