"""Reading whole bodies and verified objects: limits on size, the meaning of statuses, and the digest, in one place."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from types import MappingProxyType
from typing import Final, Protocol

from cdn.errors import HashMismatchError, NotFoundError, StatusError, TooLargeError
from cdn.hashing import Hasher
from cdn.objects import ObjectName
from cdn.transport.base import Fetcher, Request, Response
from cdn.transport.urls import url_of

SPOOL_BYTES: Final = 1 << 20
"""Objects up to this size are stored in one go; larger ones are written to the store in pieces of about this size."""

NO_CACHE: Final[Mapping[str, str]] = MappingProxyType({"Pragma": "no-cache", "Cache-Control": "no-cache"})
"""Asks every cache on the way to look again at what it has (spec §8.1); the way to get rid of a damaged copy."""


class StagedSink(Protocol):
    """What a large object is written to; a store's `StagedObject`."""

    def write(self, data: bytes) -> None:
        """Appends bytes."""
        ...

    def commit(self, path: str) -> bool:
        """Gives the object its name; True if it is new."""
        ...


class Sink(Protocol):
    """Where objects go; any `ObjectStore`."""

    def put(self, path: str, data: bytes) -> bool:
        """Stores an object; True if it is new."""
        ...

    def stage(self) -> AbstractContextManager[StagedSink]:
        """A new object whose content comes in pieces."""
        ...


@dataclass(frozen=True, slots=True)
class Download:
    """What `download_object` did: how many bytes came, and whether the store did not have the object yet."""

    size: int
    is_new: bool


def object_request(
    base_url: str,
    name: ObjectName,
    *,
    no_cache: bool = False,
    proxy: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Request:
    """The request for an object.

    Args:
        base_url: of the repository.
        name: which object.
        no_cache: ask caches to look again.
        proxy: URL of a proxy to ask through.
        headers: further header fields.
    """
    every = {**(headers or {}), **(NO_CACHE if no_cache else {})}
    return Request(url_of(base_url, name.path), headers=MappingProxyType(every), proxy=proxy)


async def read_body(fetcher: Fetcher, request: Request, *, size_max: int) -> bytes:
    """The whole body of the answer to a request.

    Raises:
        NotFoundError: 404 or 410.
        StatusError: any other status than 200.
        TooLargeError: it is larger than `size_max` bytes; no more than that was kept.
        TransportError: it did not arrive.
    """
    async with fetcher.send(request) as response:
        return b"".join([piece async for piece in body_pieces(request, response, size_max=size_max)])


async def fetch_object(fetcher: Fetcher, request: Request, name: ObjectName, *, size_max: int) -> bytes:
    """The stored bytes of an object, verified.

    Args:
        fetcher: sends the request.
        request: made by `object_request`, say.
        name: which object it must be.
        size_max: the limit in bytes.

    Raises:
        HashMismatchError: what came has another digest.
        TransportError: as `read_body`.
    """
    hasher = Hasher(name.digest.algorithm)
    data = await read_body(fetcher, request, size_max=size_max)
    hasher.update(data)
    _check(hasher, name, request.url)
    return data


async def download_object(
    fetcher: Fetcher, request: Request, name: ObjectName, sink: Sink, *, size_max: int
) -> Download:
    """Stores an object, verified while it arrives, in bounded memory; nothing gets its name unless it is right.

    Args:
        fetcher: sends the request.
        request: made by `object_request`, say.
        name: which object it must be.
        sink: where it goes. It is called in threads.
        size_max: the limit in bytes.

    Raises:
        HashMismatchError: what came has another digest.
        TransportError: as `read_body`.
        StorageError: it could not be stored.
    """
    hasher = Hasher(name.digest.algorithm)
    async with fetcher.send(request) as response:
        blocks = _blocks(body_pieces(request, response, size_max=size_max), hasher)
        first = await anext(blocks, b"")
        if len(first) >= SPOOL_BYTES:
            return await _download_in_blocks(first, blocks, hasher, name, request.url, sink)
    _check(hasher, name, request.url)
    return Download(len(first), await asyncio.to_thread(sink.put, name.path, first))


async def body_pieces(request: Request, response: Response, *, size_max: int) -> AsyncIterator[bytes]:
    """The body of an answer with status 200, as long as it keeps to the limit.

    Raises:
        StatusError, TooLargeError, TransportError: as `read_body`.
    """
    if response.status != 200:
        raise status_error(request.url, response)
    async for piece in _limited(request, response, size_max):
        yield piece


def range_header(offset: int, size: int) -> Mapping[str, str]:
    """The header field that asks for this many bytes from there; `range_pieces` reads the answer."""
    return MappingProxyType({"Range": f"bytes={offset}-{offset + size - 1}"})


async def range_pieces(request: Request, response: Response, *, offset: int, size: int) -> AsyncIterator[bytes]:
    """What was asked for with `range_header`, as far as it is there, whether or not the peer sent no more than that.

    A peer may know no ranges and send everything (RFC 9110 §14.2): what is before them is passed over, and what is
    behind them is not read. That they are the right bytes is for their digest to say.

    Raises:
        StatusError: any other status than 206 and 200.
        TooLargeError, TransportError: as `read_body`.
    """
    if response.status == 206:
        async for piece in _limited(request, response, size):
            yield piece
        return
    if response.status != 200:
        raise status_error(request.url, response)
    position, end = 0, offset + size
    async for piece in response.chunks():
        wanted = piece[max(0, offset - position) : end - position]
        position += len(piece)
        if wanted:
            yield wanted
        if position >= end:
            return


async def _limited(request: Request, response: Response, size_max: int) -> AsyncIterator[bytes]:
    if response.size is not None and response.size > size_max:
        raise TooLargeError(request.url, f"its {response.size} bytes exceed the limit of {size_max}")
    left = size_max
    async for piece in response.chunks():
        left -= len(piece)
        if left < 0:
            raise TooLargeError(request.url, f"it exceeds the limit of {size_max} bytes")
        yield piece


def status_error(url: str, response: Response) -> StatusError:
    """What an answer without success means."""
    kind = NotFoundError if response.status in {404, 410} else StatusError
    return kind(url, response.status, retry_after_seconds(response.headers))


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """How long the peer asks to wait: seconds, or a date that is read by the peer's own clock (RFC 9110 §10.2.3)."""
    text = headers.get("Retry-After", "").strip()
    try:
        if text.isascii() and text.isdigit():
            return float(text[:12])
        seconds = (parsedate_to_datetime(text) - parsedate_to_datetime(headers.get("Date", ""))).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


async def _download_in_blocks(
    first: bytes, blocks: AsyncIterator[bytes], hasher: Hasher, name: ObjectName, url: str, sink: Sink
) -> Download:
    size = len(first)
    with sink.stage() as staged:
        await asyncio.to_thread(staged.write, first)
        async for block in blocks:
            await asyncio.to_thread(staged.write, block)
            size += len(block)
        _check(hasher, name, url)
        return Download(size, await asyncio.to_thread(staged.commit, name.path))


async def _blocks(pieces: AsyncIterator[bytes], hasher: Hasher) -> AsyncIterator[bytes]:
    """The pieces joined to blocks of at least `SPOOL_BYTES`, the last one excepted, and hashed."""
    waiting: list[bytes] = []
    size = 0
    async for piece in pieces:
        hasher.update(piece)
        waiting.append(piece)
        size += len(piece)
        if size >= SPOOL_BYTES:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)


def _check(hasher: Hasher, name: ObjectName, url: str) -> None:
    digest = hasher.digest()
    if digest != name.digest:
        raise HashMismatchError(url, digest.text)
