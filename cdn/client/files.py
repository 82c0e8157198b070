"""Reading the content of a regular file: a whole object, or only the chunks needed and the next ahead (spec §6)."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import AsyncIterator
from typing import Final, Protocol

from cdn.catalog.entries import Chunk, Entry
from cdn.client.content import Content
from cdn.client.objects import External, ObjectReader, Wanted
from cdn.compression import Compression
from cdn.errors import DocumentError, PathKindError
from cdn.objects import Kind, ObjectName

PIECE_BYTES: Final = 1 << 20
_CHUNKS_HELD: Final = 2
"""Of one open file: that being read and that read before or next."""
_AHEAD: Final = 2
"""How many chunks are fetched before they are asked for, once reading goes straight on."""


class OpenFile(Protocol):
    """A file open for reading; nothing needs to be closed but what is read ahead."""

    @property
    def size(self) -> int:
        """In bytes."""
        ...

    async def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`; fewer only at the end.

        Raises:
            AllSourcesFailedError: no source has the content, or none has it right.
        """
        ...

    async def close(self) -> None:
        """Gives up what is being read ahead."""
        ...


async def open_file(objects: ObjectReader, path: str, entry: Entry) -> OpenFile:
    """Opens a regular file; one that is a single object is fetched now, the chunks of others when they are read.

    Args:
        objects: gives content.
        path: of the file in the repository, below which external content lies elsewhere.
        entry: of the file.

    Raises:
        PathKindError: it is no regular file.
        ExternalContentError: its content is not in the repository, and nobody said where else.
        AllSourcesFailedError: no source has the content, or none has it right.
    """
    if not entry.is_file:
        raise PathKindError(f"{'a directory' if entry.is_directory else 'not a regular file'}: {path or '/'}")
    if entry.chunks:
        return ChunkedFile(objects, path, entry)
    if entry.digest is None:
        raise DocumentError(f"the entry of {path}", "it names no content")
    name = ObjectName(entry.digest, Kind.FILE)
    external = External(path) if entry.is_external else None
    return WholeFile(await objects.read(Wanted(name, entry.compression, entry.size, external=external)))


async def pieces_of(file: OpenFile, size: int = PIECE_BYTES) -> AsyncIterator[bytes]:
    """The whole file, piece by piece."""
    offset = 0
    while offset < file.size:
        piece = await file.read(offset, size)
        offset += len(piece)
        yield piece


class WholeFile:
    """A file that is one object; an `OpenFile`."""

    def __init__(self, content: Content) -> None:
        self._content = content

    @property
    def size(self) -> int:
        return self._content.size

    async def read(self, offset: int, size: int) -> bytes:
        if size <= PIECE_BYTES:
            return self._content.read(offset, size)
        return await asyncio.to_thread(self._content.read, offset, size)

    async def close(self) -> None:
        pass


class ChunkedFile:
    """A file in chunks; an `OpenFile`.

    Args:
        objects: gives content.
        path: of the file in the repository.
        entry: of the file.

    Raises:
        DocumentError: the chunks are not the whole file, or cannot be found in it.
    """

    def __init__(self, objects: ObjectReader, path: str, entry: Entry) -> None:
        end = 0
        for chunk in entry.chunks:
            if chunk.offset != end or chunk.size <= 0:
                raise DocumentError(f"the entry of {path}", "its chunks do not follow one another")
            end += chunk.size
        if end != entry.size:
            raise DocumentError(f"the entry of {path}", f"its chunks have {end} bytes where it has {entry.size}")
        if entry.is_external and entry.compression is not Compression.NONE:  # its offsets are those of the plain file
            raise DocumentError(f"the entry of {path}", "it is an external file in chunks that are compressed")
        self._objects = objects
        self._path = path
        self._entry = entry
        self._offsets = [chunk.offset for chunk in entry.chunks]
        self._held: OrderedDict[int, Content] = OrderedDict()
        self._ahead: dict[int, asyncio.Task[Content]] = {}
        self._last = -1

    @property
    def size(self) -> int:
        return self._entry.size

    async def read(self, offset: int, size: int) -> bytes:
        if offset < 0 or size <= 0:
            return b""
        end = min(offset + size, self.size)
        parts = []
        while offset < end:
            number = bisect_right(self._offsets, offset) - 1
            chunk = self._entry.chunks[number]
            content = await self._content(number)
            parts.append(content.read(offset - chunk.offset, min(end, chunk.offset + chunk.size) - offset))
            offset += len(parts[-1])
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def close(self) -> None:
        for task in self._ahead.values():
            task.cancel()
        await asyncio.gather(*self._ahead.values(), return_exceptions=True)
        self._ahead.clear()
        self._held.clear()

    async def _content(self, number: int) -> Content:
        if number == self._last + 1:
            self._read_ahead(number)
        self._last = number
        content = self._held.get(number)
        if content is None:
            task = self._ahead.pop(number, None)
            content = await (task or self._fetch(number))
            self._held[number] = content
        self._held.move_to_end(number)
        while len(self._held) > _CHUNKS_HELD:
            self._held.popitem(last=False)
        return content

    def _read_ahead(self, number: int) -> None:
        """Starts fetching the next chunks; if that fails, whoever asks for one hears of it."""
        for ahead in range(number + 1, min(number + 1 + _AHEAD, len(self._entry.chunks))):
            if ahead not in self._held and ahead not in self._ahead:
                task = self._ahead[ahead] = asyncio.create_task(self._fetch(ahead))
                task.add_done_callback(_look_at)
        for behind in [other for other in self._ahead if not number <= other <= number + _AHEAD]:
            self._ahead.pop(behind).cancel()

    async def _fetch(self, number: int) -> Content:
        chunk: Chunk = self._entry.chunks[number]
        external = External(self._path, chunk.offset) if self._entry.is_external else None
        name = ObjectName(chunk.digest, Kind.CHUNK)
        return await self._objects.read(Wanted(name, self._entry.compression, chunk.size, external=external))


def _look_at(task: asyncio.Task[Content]) -> None:
    if not task.cancelled():
        task.exception()
