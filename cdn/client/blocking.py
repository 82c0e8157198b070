"""The client for programs without an event loop: every call waits until it is done.

import cdn.client

with cdn.client.open("sw.example.org", servers="http://…", keys=["sw.example.org.pub"]) as repository:
    with repository.open("/data/table.csv") as file:
        print(file.readline())
"""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any, Final, TypeVar

from cdn.catalog.entries import Entry
from cdn.client.files import OpenFile, open_file
from cdn.client.repository import MountedRepository, Refreshed, open_repository
from cdn.closing import Closing

T = TypeVar("T")

_BATCH: Final = 256
_BUFFER_BYTES: Final = 1 << 20


class BlockingRepository(Closing):
    """A repository open for reading; a context manager. Any number of threads may use it.

    Args:
        options: as for `cdn.client.repository.open_repository`.
    """

    def __init__(self, fqrn: str, **options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"cdn-{fqrn}", daemon=True)
        self._thread.start()
        try:
            self._mounted: MountedRepository = self._wait(open_repository(fqrn, **options))
        except BaseException:
            self._stop()
            raise

    @property
    def fqrn(self) -> str:
        """The repository's name."""
        return self._mounted.fqrn

    @property
    def revision(self) -> int:
        """The number of the revision being read."""
        return self._mounted.revision

    @property
    def is_offline(self) -> bool:
        """Whether the last look for a newer revision failed."""
        return self._mounted.is_offline

    def refresh(self) -> Refreshed:
        """Looks for a newer revision; what is open stays as it is."""
        return self._wait(self._mounted.refresh())

    def stat(self, path: str, *, follow: bool = True) -> Entry:
        """The entry at a path."""
        return self._wait(self._mounted.files.stat(path, follow=follow))

    def exists(self, path: str) -> bool:
        """Whether there is something at a path, links followed."""
        return self._wait(self._mounted.files.exists(path))

    def readlink(self, path: str) -> str:
        """The target of a symlink, its variables replaced."""
        return self._wait(self._mounted.files.readlink(path))

    def listdir(self, path: str = "") -> Iterator[Entry]:
        """The entries of a directory in byte order of their names."""
        return self._each(self._mounted.files.listdir(path))

    def walk(self, path: str = "", *, depth_max: int | None = None) -> Iterator[tuple[str, Entry]]:
        """Everything at and below a path, parents before children."""
        return self._each(self._mounted.files.walk(path, depth_max=depth_max))

    def read(self, path: str, offset: int = 0, size: int | None = None) -> bytes:
        """Bytes of a file."""
        return self._wait(self._mounted.files.read(path, offset, size))

    def open(self, path: str) -> io.BufferedReader:
        """A regular file as a binary stream that can be searched."""
        return io.BufferedReader(_RawFile(self, self._wait(self._opened(path))), _BUFFER_BYTES)

    def close(self) -> None:
        """Lets go of everything."""
        if self._thread.is_alive():
            try:
                self._wait(self._mounted.close())
            finally:
                self._stop()

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """What a coroutine of this repository returns."""
        return self._wait(work)

    async def _opened(self, path: str) -> OpenFile:
        found = await self._mounted.files.resolve(path)
        return await open_file(self._mounted.objects, found.path, found.entry)

    def _each(self, items: AsyncIterator[T]) -> Iterator[T]:
        async def batch() -> list[T]:
            found: list[T] = []
            async for item in items:
                found.append(item)
                if len(found) == _BATCH:
                    break
            return found

        while found := self._wait(batch()):
            yield from found

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        running = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return running.result()
        except BaseException:
            running.cancel()
            raise

    def _stop(self) -> None:
        async def finish() -> None:
            await self._loop.shutdown_asyncgens()
            await self._loop.shutdown_default_executor()

        asyncio.run_coroutine_threadsafe(finish(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class _RawFile(io.RawIOBase):
    """A file of the repository as Python's streams want it."""

    def __init__(self, repository: BlockingRepository, file: OpenFile) -> None:
        self._repository = repository
        self._file = file
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._file.size}[whence]
        if start + offset < 0:
            raise ValueError(f"negative position {start + offset}")
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer).cast("B")
        data = self._repository.wait(self._file.read(self._position, len(view)))
        view[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._repository.wait(self._file.close())
        super().close()
