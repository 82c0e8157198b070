"""The bodies of answers piece by piece: from an arriving body, or from a file, hashed again while it is read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

from cdn.hashing import Hasher
from edge.cache.disk_cache import DamagedFileError, DiskCache, OpenFile
from edge.fetch.arriving_body import ArrivingBody
from edge.http.answering import Answer


async def arriving_pieces(body: ArrivingBody, answer: Answer) -> AsyncGenerator[bytes, None]:
    """What an answer has of a body, each byte as soon as it has arrived; raises as `ArrivingBody.piece_at`."""
    with body.open(answer.start, answer.stop) as reader:
        if not answer.parts:
            async for piece in reader.pieces():
                yield piece
        for part in answer.parts:
            if isinstance(part, bytes):
                yield part
                continue
            reader.go_to(part.start, part.stop)
            async for piece in reader.pieces():
                yield piece


async def file_pieces(
    file: OpenFile, answer: Answer, disk: DiskCache, piece_bytes: Callable[[], int]
) -> AsyncGenerator[bytes, None]:
    """What an answer has of a body on disk; the last bytes wait until those before are known to be right.

    Args:
        file: the body.
        answer: what is wanted of it.
        disk: where it lies.
        piece_bytes: how much is given at once just now.

    Raises:
        DamagedFileError: the disk changed it after it was verified.
    """
    if not answer.parts:
        async for piece in _range_pieces(
            file, answer.start, file.facts.size if answer.stop is None else answer.stop, disk, piece_bytes
        ):
            yield piece
    for part in answer.parts:
        if isinstance(part, bytes):
            yield part
            continue
        async for piece in _range_pieces(file, part.start, part.stop, disk, piece_bytes):
            yield piece


async def _range_pieces(
    file: OpenFile, start: int, stop: int, disk: DiskCache, piece_bytes: Callable[[], int]
) -> AsyncGenerator[bytes, None]:
    """A whole body is hashed on the way; of a part it only counts that nobody wrote to the file."""
    is_whole = file.digest is not None and (start, stop) == (0, file.facts.size)
    hasher = Hasher(file.digest.algorithm) if is_whole and file.digest is not None else None
    position = start
    while position < stop:
        piece = await asyncio.to_thread(_read, file, position, min(piece_bytes(), stop - position), hasher)
        position += len(piece)
        if position >= stop or not piece:
            await _check_end(file, disk, is_right=bool(piece) and (hasher is None or hasher.digest() == file.digest))
        yield piece


async def _check_end(file: OpenFile, disk: DiskCache, *, is_right: bool) -> None:
    """Before the last bytes are sent; a file that somebody wrote to is hashed again."""
    if is_right and file.is_unchanged():
        return
    if not await asyncio.to_thread(disk.confirm, file) or not is_right:
        raise DamagedFileError(file.facts.key)


def _read(file: OpenFile, start: int, size: int, hasher: Hasher | None) -> bytes:
    piece = file.read(start, size)
    if hasher is not None:
        hasher.update(piece)
    return piece
