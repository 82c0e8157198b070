"""Copying one revision after another into a store, so that what is stored is always complete below itself (spec §9.1).

The invariant: **a stored catalog implies that everything reachable from it is stored.** So a catalog is put under its
name only after its own objects and all nested catalogs are there and durable. An interrupted run leaves complete
subtrees and objects nobody refers to yet; the next one finds both by looking and goes on.

Objects of all catalogs share one bounded queue and its workers; a catalog does not wait for another one's objects, only
for its own and for its children. Catalogs that are ready are made durable together: one flush for all that became ready
while the last one ran.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from cdn.catalog.reader import Catalog
from cdn.catalog.schema import NestedReference
from cdn.client.sources import Route, Sources
from cdn.client.threads import in_thread
from cdn.compression import Compression, Decompressor
from cdn.errors import AllSourcesFailedError, DocumentError, NotFoundError, RevisionGoneError
from cdn.hashing import Digest, Hasher
from cdn.objects import Kind, ObjectName
from cdn.storage.base import PrunableStore
from cdn.telemetry import NullProgress, Progress, event, fault_point
from cdn.transport.base import Fetcher
from cdn.transport.download import download_object
from replica.plan import object_bytes_max

CATALOG_BYTES_MAX: Final = 1 << 30
_CATALOGS_AT_ONCE: Final = 4
_BATCH: Final = 256
_PIECE_BYTES: Final = 1 << 20


@dataclass(slots=True)
class Counts:
    """What was fetched."""

    objects: int = 0
    bytes: int = 0
    catalogs: int = 0


@dataclass(slots=True, eq=False)
class _Awaited:
    """The objects that one catalog waits for."""

    left: int = 1  # the catalog itself, until all its references are read
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def finished_one(self) -> None:
        self.left -= 1
        if not self.left:
            self.done.set()


@dataclass(frozen=True, slots=True)
class _Ready:
    """A fetched catalog that may be stored once everything before it is durable."""

    name: ObjectName
    file: Path
    stored: asyncio.Future[None]


@dataclass(frozen=True, slots=True)
class PullSettings:
    """Limits of a `Puller`.

    Args:
        workers: how many objects are fetched at once.
        object_bytes_max: larger objects are refused.
        distrusts_store: whether objects that are there are believed only after a look at their content: after the
            machine went down in the middle of a run, files may have their names but not their bytes.
    """

    workers: int = 16
    object_bytes_max: int = 64 << 30
    distrusts_store: bool = False


class Puller:
    """Copies revisions; an asynchronous context manager, inside which any number of `pull` calls may be made.

    Args:
        store: where to.
        sources: where from.
        fetcher: sends requests.
        work: a folder for catalogs under way; emptied.
        settings: its limits.
        progress: told of every object.
    """

    def __init__(
        self,
        store: PrunableStore,
        sources: Sources,
        fetcher: Fetcher,
        work: Path,
        *,
        settings: PullSettings | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.counts = Counts()
        self._store = store
        self._sources = sources
        self._fetcher = fetcher
        self._work = work
        self._settings = settings or PullSettings()
        self._progress = progress or NullProgress()
        self._queue: asyncio.Queue[tuple[ObjectName, int]] = asyncio.Queue(4 * self._settings.workers)
        self._wanted: dict[ObjectName, list[_Awaited]] = {}
        self._slots = asyncio.Semaphore(_CATALOGS_AT_ONCE)
        self._under_way: dict[Digest, asyncio.Future[None]] = {}
        self._complete: set[Digest] = set()
        self._ready: list[_Ready] = []
        self._wake = asyncio.Event()
        self._tasks = asyncio.TaskGroup()
        self._background: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        shutil.rmtree(self._work, ignore_errors=True)
        self._work.mkdir(parents=True, mode=0o700)
        await self._tasks.__aenter__()
        self._background = [self._tasks.create_task(self._fetch_objects()) for _ in range(self._settings.workers)]
        self._background.append(self._tasks.create_task(self._store_catalogs()))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._background:
            task.cancel()
        try:
            await self._tasks.__aexit__(kind, error, trace)
        except BaseExceptionGroup as failures:
            raise _first(failures) from None
        finally:
            shutil.rmtree(self._work, ignore_errors=True)

    # -------------------------------------------------------------------------------------------------------- revisions

    async def pull(self, digest: Digest, path: str = "") -> None:
        """Copies a catalog and everything below it.

        Args:
            digest: of the catalog.
            path: where it is attached.

        Raises:
            RevisionGoneError: it is the root of a revision, and no source has it.
            AllSourcesFailedError: something below it cannot be had.
            DocumentError: a catalog is damaged.
            StorageError: the store is full, say.
        """
        await self._slots.acquire()
        try:
            await self._pull(NestedReference(path, digest, 0))
        except BaseExceptionGroup as failures:
            raise _first(failures) from None

    async def previous_of(self, digest: Digest) -> Digest | None:
        """The root catalog of the revision before, None for the first; the catalog is kept for `pull`.

        Raises:
            RevisionGoneError: no source has this one.
        """
        name = ObjectName(digest, Kind.CATALOG)
        await self._fetch_catalog(name, "")
        return await in_thread(self._read_previous, name)

    async def is_complete(self, digest: Digest) -> bool:
        """Whether the store has a catalog, and so everything below it."""
        if digest not in self._complete:
            if not await in_thread(self.is_stored_well, ObjectName(digest, Kind.CATALOG)):
                return False
            self._complete.add(digest)
        return True

    async def fetch(self, name: ObjectName, size_max: int, size: int = 0) -> int:
        """Copies one object, verified, whether it is there or not; gives its size.

        Args:
            name: which.
            size_max: more than this is refused.
            size: about how large it is, where that is known: a large one may take its time.
        """
        done = await self._sources.fetch(
            name.path, lambda route: self._download(route, name, size_max), size=min(size, size_max)
        )
        self.counts.objects += 1
        self.counts.bytes += done
        return done

    # --------------------------------------------------------------------------------------------------------- catalogs

    async def _pull(self, reference: NestedReference) -> None:
        """Copies a catalog; the caller took a slot, which is given back when its objects are queued."""
        other = self._under_way.get(reference.digest)
        if other is not None:
            self._slots.release()
            await asyncio.shield(other)
            return
        self._under_way[reference.digest] = future = asyncio.get_running_loop().create_future()
        try:
            await self._pull_once(reference)
        except BaseException as error:
            if isinstance(error, Exception):
                future.set_exception(error)
                future.exception()  # looked at; who else waits sees it too
            else:
                future.cancel()
            raise
        else:
            future.set_result(None)
        finally:
            del self._under_way[reference.digest]

    async def _pull_once(self, reference: NestedReference) -> None:
        name = ObjectName(reference.digest, Kind.CATALOG)
        awaited = _Awaited()
        try:
            if await self.is_complete(reference.digest):
                return
            await self._fetch_catalog(name, reference.path, reference.size)
            nested = await self._queue_objects(name, reference.path, awaited)
        finally:
            self._slots.release()
        await self._pull_nested(nested)
        await awaited.done.wait()
        await self._keep(name)

    async def _pull_nested(self, nested: list[NestedReference]) -> None:
        async with asyncio.TaskGroup() as children:
            for reference in nested:
                await self._slots.acquire()
                children.create_task(self._pull(reference))

    async def _queue_objects(self, name: ObjectName, path: str, awaited: _Awaited) -> list[NestedReference]:
        """Asks for everything the catalog's rows need; gives its nested catalogs."""
        with await in_thread(self._opened, name, path) as catalog:
            references = catalog.sized_references()
            while batch := await in_thread(self._missing_of_next, references):
                for missing, size in batch[1]:
                    await self._want(missing, size, awaited)
            nested = await in_thread(catalog.nested)
        awaited.finished_one()
        self._plain_file(name).unlink()
        return nested

    def _missing_of_next(
        self, references: Iterator[tuple[ObjectName, Compression, int]]
    ) -> tuple[int, list[tuple[ObjectName, int]]] | None:
        """Of the next references, how many they are and which of them the store lacks; None at the end."""
        batch = list(islice(references, _BATCH))
        has = self.is_stored_well if self._settings.distrusts_store else lambda name: self._store.exists(name.path)
        return (len(batch), [(name, size) for name, _, size in batch if not has(name)]) if batch else None

    def _opened(self, name: ObjectName, path: str) -> Catalog:
        """Inflates a fetched catalog into a file, and opens that."""
        document = f"catalog {path or '/'} ({name.digest})"
        plain = self._plain_file(name)
        decoder = Decompressor(size_max=CATALOG_BYTES_MAX, document=document)
        with self._stored_file(name).open("rb") as source, plain.open("wb") as target:
            while piece := source.read(_PIECE_BYTES):
                target.writelines(decoder.feed(piece))
        decoder.finish()
        catalog = Catalog.open(plain, document=document)
        if catalog.root_prefix != path:
            catalog.close()
            raise DocumentError(document, f"it was made for {catalog.root_prefix[:200]!r}")
        return catalog

    def _read_previous(self, name: ObjectName) -> Digest | None:
        with self._opened(name, "") as catalog:
            previous = catalog.previous
        self._plain_file(name).unlink()
        return previous

    async def _fetch_catalog(self, name: ObjectName, path: str, size: int = 0) -> None:
        """Fetches a catalog into the work folder, where it waits until what is below it is stored."""
        if self._stored_file(name).exists():
            return
        sink = _FileSink(self._stored_file(name))
        try:
            done = await self._sources.fetch(
                name.path,
                lambda route: self._download(route, name, CATALOG_BYTES_MAX, sink),
                size=min(size, CATALOG_BYTES_MAX),
            )
        except AllSourcesFailedError as error:
            if not path and error.causes and all(isinstance(cause, NotFoundError) for cause in error.causes):
                raise RevisionGoneError(name.digest.text) from error
            raise
        self.counts.objects += 1
        self.counts.catalogs += 1
        self.counts.bytes += done

    async def _keep(self, name: ObjectName) -> None:
        """Stores a catalog whose closure is stored, after making that durable."""
        ready = _Ready(name, self._stored_file(name), asyncio.get_running_loop().create_future())
        self._ready.append(ready)
        self._wake.set()
        await ready.stored
        self._complete.add(name.digest)

    async def _store_catalogs(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            batch, self._ready = self._ready, []
            await in_thread(self._store_batch, batch)
            for ready in batch:
                if not ready.stored.done():
                    ready.stored.set_result(None)

    def _store_batch(self, batch: list[_Ready]) -> None:
        self._store.flush()
        fault_point("replica.objects.flushed")
        for ready in batch:
            _copy(ready.file, self._store, ready.name)
            ready.file.unlink()
            fault_point("replica.catalog.stored")

    # ---------------------------------------------------------------------------------------------------------- objects

    async def _want(self, name: ObjectName, size: int, awaited: _Awaited) -> None:
        awaited.left += 1
        waiting = self._wanted.get(name)
        if waiting is not None:  # another catalog wants it too
            waiting.append(awaited)
            return
        self._wanted[name] = [awaited]
        self._progress.expect(1)
        await self._queue.put((name, size))

    async def _fetch_objects(self) -> None:
        while True:
            name, size = await self._queue.get()
            await self.fetch(name, object_bytes_max(size, self._settings.object_bytes_max), size)
            fault_point("replica.object.stored")
            self._progress.advance()
            for awaited in self._wanted.pop(name):
                awaited.finished_one()

    async def _download(self, route: Route, name: ObjectName, size_max: int, sink: _FileSink | None = None) -> int:
        request = route.request(name.path)
        return (await download_object(self._fetcher, request, name, sink or self._store, size_max=size_max)).size

    def is_stored_well(self, name: ObjectName) -> bool:
        """Whether the store has an object with the right content; a wrong one is removed."""
        if not self._store.exists(name.path):
            return False
        if digest_in(self._store, name) == name.digest:
            return True
        event("replica.object.damaged", level="warning", object=name.path)
        self._store.delete(name.path)
        return False

    def _stored_file(self, name: ObjectName) -> Path:
        return self._work / f"{name.digest}.stored"

    def _plain_file(self, name: ObjectName) -> Path:
        return self._work / f"{name.digest}.plain"


class _FileSink:
    """Where catalogs under way go; what `download_object` writes to."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def put(self, path: str, data: bytes) -> bool:
        with self.stage() as staged:
            staged.write(data)
            return staged.commit(path)

    def stage(self) -> _StagedFile:
        return _StagedFile(self._path)


class _StagedFile:
    def __init__(self, path: Path) -> None:
        self._target = path
        self._path = path.with_suffix(f".{os.urandom(6).hex()}")
        self._file = self._path.open("xb")

    def write(self, data: bytes) -> None:
        self._file.write(data)

    def commit(self, path: str) -> bool:
        self._file.close()
        self._path.replace(self._target)
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)


def digest_in(store: PrunableStore, name: ObjectName, path: str = "") -> Digest:
    """The digest that an object in a store really has, there or at another path."""
    hasher = Hasher(name.digest.algorithm)
    with store.open(path or name.path) as stream:
        while piece := stream.read(_PIECE_BYTES):
            hasher.update(piece)
    return hasher.digest()


def _copy(source: Path, store: PrunableStore, name: ObjectName) -> None:
    with source.open("rb") as stream, store.stage() as staged:
        while piece := stream.read(_PIECE_BYTES):
            staged.write(piece)
        staged.commit(name.path)


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """The failure that all the others follow from."""
    error: BaseException = failures
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
