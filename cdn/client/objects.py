"""Plain content of objects: from the cache, or else from the sources, verified while it arrives (spec §3.3, §4).

However many readers want an object at the same time, it is fetched once. Nothing of it is given to anybody before its
digest, its size and its compressed form have all proved right.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Final
from weakref import WeakValueDictionary

from cdn.client.cache import ObjectCache
from cdn.client.content import Content, Spool
from cdn.client.sources import Route, Sources
from cdn.client.threads import in_thread
from cdn.compression import Compression, Decompressor, decompress
from cdn.errors import DocumentError, ExternalContentError, HashMismatchError
from cdn.hashing import Hasher
from cdn.objects import ObjectName
from cdn.transport.base import Fetcher, Request, Response
from cdn.transport.download import SPOOL_BYTES, body_pieces, range_header, range_pieces

FETCHES_MAX: Final = 32
SIZE_UNKNOWN: Final = -1
_INLINE_BYTES: Final = 128 << 10
_ContentKey = tuple[ObjectName, Compression, int]
_NO_HEADERS: Final[Mapping[str, str]] = {}


@dataclass(frozen=True, slots=True)
class External:
    """Where content lies that its publisher keeps outside of the repository (spec §5.11).

    Args:
        path: of the file, in the repository and below every external URL.
        offset: where in the file the content begins; None if it is the whole file.
    """

    path: str
    offset: int | None = None


_FetchKey = tuple[_ContentKey, External | None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """An object to read.

    Args:
        name: which.
        compression: how it is stored.
        size: of its plain content; anything else is refused. `SIZE_UNKNOWN` where nobody says.
        size_max: the limit where the size is unknown.
        size_about: how large it is said to be there, which is not held against it.
        path: where to fetch it from, if not from its usual place.
        external: where it lies, if not in the repository. A part of a file must have its size, and be stored as it is.
    """

    name: ObjectName
    compression: Compression = Compression.ZLIB
    size: int = SIZE_UNKNOWN
    size_max: int = 0
    size_about: int = 0
    path: str = ""
    external: External | None = None

    @property
    def what(self) -> str:
        """What is fetched: a path below the URL of a source."""
        return self.external.path.removeprefix("/") if self.external else self.path or self.name.path

    @property
    def fetch_key(self) -> _FetchKey:
        """What tells its transfer from others: the same content may lie in several places, of which some lack it."""
        return self.content_key, self.external

    @property
    def content_key(self) -> _ContentKey:
        """What tells its content from others: a file may be stored raw whose bytes are another one's stored form."""
        return self.name, self.compression, self.size

    @property
    def plain_bytes_max(self) -> int:
        """How large the plain content may be."""
        return self.size_max if self.size == SIZE_UNKNOWN else self.size

    @property
    def stored_bytes_max(self) -> int:
        """How large the stored form may be: deflate makes nothing much larger, however badly it is done."""
        if self.compression is Compression.NONE:
            return self.plain_bytes_max
        return self.plain_bytes_max + self.plain_bytes_max // 8 + 4096


class ObjectReader:
    """Gives the content of objects.

    Args:
        fetcher: sends requests.
        sources: whom to ask.
        cache: where content is kept.
        external: whom to ask for content that is not in the repository; None where nobody is known.
        fetches_max: how many objects are fetched at once, and how many external ones besides.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        sources: Sources,
        cache: ObjectCache,
        *,
        external: Sources | None = None,
        fetches_max: int = FETCHES_MAX,
    ) -> None:
        self._fetcher = fetcher
        self._sources = sources
        self._external = external
        self._cache = cache
        self._slots = asyncio.Semaphore(fetches_max)
        self._external_slots = asyncio.Semaphore(fetches_max)  # one kind of servers does not keep the other waiting
        self._open: WeakValueDictionary[_ContentKey, Content] = WeakValueDictionary()
        self._under_way: dict[_FetchKey, _Shared] = {}
        self.fetched_objects = 0
        self.fetched_bytes = 0

    async def read(self, wanted: Wanted) -> Content:
        """The content of an object.

        Raises:
            AllSourcesFailedError: no source has it, or none has it right.
            ExternalContentError: it is not in the repository, and nobody said where else.
            StorageError: there is no room for it anywhere.
        """
        key = wanted.content_key
        content = self._open.get(key)
        if content is not None:
            return content
        shared = self._under_way.get(wanted.fetch_key)
        if shared is None or shared.is_given_up:
            if (cached := self._cached_now(wanted)) is not None:
                return cached
            shared = self._start(wanted)
        content = await shared.result()
        self._open[key] = content
        return content

    async def close(self) -> None:
        """Gives up what is under way."""
        tasks = [shared.task for shared in self._under_way.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, wanted: Wanted) -> _Shared:
        key = wanted.fetch_key
        shared = self._under_way[key] = _Shared(asyncio.create_task(self._load(wanted)))

        def forget(_: object) -> None:
            if self._under_way.get(key) is shared:
                del self._under_way[key]

        shared.task.add_done_callback(forget)
        return shared

    def _cached_now(self, wanted: Wanted) -> Content | None:
        """What the cache has, if looking takes less time than handing the question to a thread."""
        if not 0 <= wanted.size <= _INLINE_BYTES:
            return None
        cached = self._cache.open(wanted.name)
        if cached is None or cached.size != wanted.size:
            return None
        self._open[wanted.content_key] = cached
        return cached

    async def _load(self, wanted: Wanted) -> Content:
        if not 0 <= wanted.size <= _INLINE_BYTES:
            cached = await asyncio.to_thread(self._cache.open, wanted.name)
            if cached is not None and wanted.size in (SIZE_UNKNOWN, cached.size):
                return cached
        sources, slots = self._sources_of(wanted)
        async with slots:
            size = min(wanted.size_about, wanted.size_max) if wanted.size == SIZE_UNKNOWN else wanted.size
            return await sources.fetch(wanted.what, lambda route: self._fetch(route, wanted), size=size)

    def _sources_of(self, wanted: Wanted) -> tuple[Sources, asyncio.Semaphore]:
        if wanted.external is None:
            return self._sources, self._slots
        if self._external is None:
            raise ExternalContentError(
                f"the content of {wanted.external.path} is not in the repository but elsewhere (an external file): ask "
                "its publisher where, and name that place with --external-url (or external_urls)"
            )
        return self._external, self._external_slots

    async def _fetch(self, route: Route, wanted: Wanted) -> Content:
        request = route.request(wanted.what, headers=_headers(wanted))
        async with self._fetcher.send(request) as response:
            pieces = _joined(_stored_pieces(request, response, wanted))
            first = await anext(pieces, b"")
            if len(first) >= SPOOL_BYTES:
                content, size = await self._fetch_large(first, pieces, request.url, wanted)
            else:
                size = len(first)
                content = await asyncio.to_thread(self._keep_small, first, request.url, wanted)
        self.fetched_objects += 1
        self.fetched_bytes += size
        return content

    def _keep_small(self, stored: bytes, url: str, wanted: Wanted) -> Content:
        """Verifies and keeps an object that came in one piece."""
        hasher = Hasher(wanted.name.digest.algorithm)
        hasher.update(stored)
        _check_digest(hasher, wanted, url)  # before inflating: what is wrong need not be looked into
        plain = decompress(
            stored,
            wanted.compression,
            size_max=wanted.plain_bytes_max,
            size_expected=None if wanted.size == SIZE_UNKNOWN else wanted.size,
            document=url,
        )
        _check_size(len(plain), wanted, url)
        spool = self._cache.stage()
        try:
            spool.write(plain)
            return self._cache.keep(spool, wanted.name, hashlib.sha256(plain).digest())
        finally:
            spool.discard()

    async def _fetch_large(
        self, first: bytes, pieces: AsyncIterator[bytes], url: str, wanted: Wanted
    ) -> tuple[Content, int]:
        """Verifies and keeps an object while it arrives, in bounded memory."""
        inflation = _Inflation(self._cache.stage(), wanted, url)
        size = 0
        try:
            piece = first
            while piece:
                size += len(piece)
                await in_thread(inflation.feed, piece)
                piece = await anext(pieces, b"")
            return await in_thread(inflation.finish, self._cache), size
        finally:
            inflation.spool.discard()


class _Shared:
    """A task with several who wait for it; it is cancelled when the last of them is."""

    def __init__(self, task: asyncio.Task[Content]) -> None:
        self.task = task
        self._waiting = 0

    @property
    def is_given_up(self) -> bool:
        """Whether it was cancelled, so that nobody new should wait for it."""
        return self.task.cancelling() > 0

    async def result(self) -> Content:
        self._waiting += 1
        try:
            return await asyncio.shield(self.task)
        finally:
            self._waiting -= 1
            if not self._waiting and not self.task.done():
                self.task.cancel()


class _Inflation:
    """Stored bytes on their way to being plain content."""

    def __init__(self, spool: Spool, wanted: Wanted, url: str) -> None:
        self.spool = spool
        self._wanted = wanted
        self._url = url
        self._stored = Hasher(wanted.name.digest.algorithm)
        self._plain = hashlib.sha256()
        self._decoder = Decompressor(wanted.compression, size_max=wanted.plain_bytes_max, document=url)

    def feed(self, stored: bytes) -> None:
        self._stored.update(stored)
        for plain in self._decoder.feed(stored):
            self._plain.update(plain)
            self.spool.write(plain)

    def finish(self, cache: ObjectCache) -> Content:
        _check_digest(self._stored, self._wanted, self._url)
        self._decoder.finish()
        _check_size(self.spool.size, self._wanted, self._url)
        return cache.keep(self.spool, self._wanted.name, self._plain.digest())


def _headers(wanted: Wanted) -> Mapping[str, str]:
    if wanted.external is None or wanted.external.offset is None:
        return _NO_HEADERS
    return range_header(wanted.external.offset, wanted.size)


def _stored_pieces(request: Request, response: Response, wanted: Wanted) -> AsyncIterator[bytes]:
    if wanted.external is None or wanted.external.offset is None:
        return body_pieces(request, response, size_max=wanted.stored_bytes_max)
    return range_pieces(request, response, offset=wanted.external.offset, size=wanted.size)


def _check_digest(hasher: Hasher, wanted: Wanted, url: str) -> None:
    digest = hasher.digest()
    if digest != wanted.name.digest:
        raise HashMismatchError(url, digest.text)


def _check_size(size: int, wanted: Wanted, url: str) -> None:
    if wanted.size not in (SIZE_UNKNOWN, size):
        raise DocumentError(url, f"it has {size} bytes where its catalog says {wanted.size}")


async def _joined(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The pieces joined to blocks of at least `SPOOL_BYTES`, the last one excepted."""
    waiting: list[bytes] = []
    size = 0
    async for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        if size >= SPOOL_BYTES:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)
