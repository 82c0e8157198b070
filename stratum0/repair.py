"""Mending a store from a good copy: missing and damaged objects fetched, verified, and put in place atomically.

A damaged object is kept in the repository's ``quarantine`` folder for whoever wants to know what happened to it, and it
leaves its place only when its replacement takes it: readers find the old bytes or the right ones, never nothing.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from cdn.errors import CdnError, StorageError, StorageFullError, UsageError
from cdn.objects import STAGING_PATH, ObjectName
from cdn.storage.durability import sync_directory
from cdn.storage.local import LocalStore
from cdn.telemetry import NullProgress, Progress, event
from stratum0.locks import objects_lock, writers_lock

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Buffer

    from cdn.transport.base import Fetcher
    from stratum0.repository import Repository

QUARANTINE_FOLDER: Final = "quarantine"
CONCURRENCY: Final = 16
OBJECT_BYTES_MAX: Final = 1 << 30
"""What one object may have: 64 times as much as the largest that is published here. A source that sends without end
must not fill the disk, as how large a lost object was is not known."""
_NO_SPACE: Final = 28


@dataclass(frozen=True, slots=True)
class Repairer:
    """Fetches objects of one repository from a good copy.

    Args:
        repository: the one to mend.
        url: base URL of the copy, `http`, `https` or `file`.
    """

    repository: Repository
    url: str

    def __post_init__(self) -> None:
        if self.url.partition("://")[0] not in {"http", "https", "file"}:
            raise UsageError(f"{self.url!r} is no URL to repair from: give http://, https:// or file://")

    def repair(self, names: Iterable[ObjectName], progress: Progress | None = None) -> dict[ObjectName, CdnError]:
        """Fetches these objects and puts them in place.

        Returns:
            Why, for those that could not be had; empty if all could.
        """
        wanted = list(dict.fromkeys(names))
        if not wanted:
            return {}
        folder = self.repository.folder
        with objects_lock(folder), writers_lock(folder):
            return asyncio.run(self._repair(wanted, progress or NullProgress()))

    async def _repair(self, names: list[ObjectName], progress: Progress) -> dict[ObjectName, CdnError]:
        from cdn.transport.file import FileFetcher
        from cdn.transport.http import HttpFetcher
        from cdn.transport.retry import RetryingFetcher
        from cdn.transport.schemes import SchemeFetcher

        http = HttpFetcher()
        fetcher = RetryingFetcher(SchemeFetcher({"http": http, "https": http, "file": FileFetcher()}))
        try:
            return await self._repair_all(fetcher, names, progress)
        finally:
            await fetcher.close()

    async def _repair_all(
        self, fetcher: Fetcher, names: list[ObjectName], progress: Progress
    ) -> dict[ObjectName, CdnError]:
        failures: dict[ObjectName, CdnError] = {}
        pending = iter(names)

        async def work() -> None:
            for name in pending:
                try:
                    await self._fetch(fetcher, name)
                except CdnError as error:
                    failures[name] = error
                progress.advance()

        await asyncio.gather(*(work() for _ in range(min(CONCURRENCY, len(names)))))
        return failures

    async def _fetch(self, fetcher: Fetcher, name: ObjectName) -> None:
        from cdn.transport.download import download_object, object_request

        sink = ReplacingSink(self.repository.store, self.repository.folder / QUARANTINE_FOLDER)
        request = object_request(self.url, name, no_cache=True)
        download = await download_object(fetcher, request, name, sink, size_max=OBJECT_BYTES_MAX)
        event("stratum0.object.repaired", repository=self.repository.name, path=name.path, size=download.size)


@dataclass(frozen=True, slots=True)
class ReplacingSink:
    """Where repaired objects go: unlike a store it replaces what is there.

    Args:
        store: whose objects are replaced.
        quarantine: where replaced ones go.
    """

    store: LocalStore
    quarantine: Path

    def put(self, path: str, data: bytes) -> bool:
        """Puts an object in place."""
        with self.stage() as staged:
            staged.write(data)
            return staged.commit(path)

    def stage(self) -> _Replacement:
        """A replacement whose content comes in pieces."""
        self.store.prepare()
        descriptor, path = tempfile.mkstemp(prefix="repair-", dir=f"{self.store.root}/{STAGING_PATH}")
        return _Replacement(self, descriptor, path)


class _Replacement:
    def __init__(self, sink: ReplacingSink, descriptor: int, path: str) -> None:
        self._sink = sink
        self._file = os.fdopen(descriptor, "wb")
        self._path = path

    def write(self, data: Buffer) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            raise _refused(self._path, error) from error

    def commit(self, path: str) -> bool:
        target = f"{self._sink.store.root}/{path}"
        try:
            self._file.flush()
            os.fchmod(self._file.fileno(), 0o644)
            os.fsync(self._file.fileno())
            was_there = os.path.lexists(target)
            if was_there:
                self._keep_aside(path, target)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.replace(self._path, target)
            sync_directory(os.path.dirname(target))
        except OSError as error:
            raise _refused(target, error) from error
        return not was_there

    def _keep_aside(self, path: str, target: str) -> None:
        self._sink.quarantine.mkdir(mode=0o700, exist_ok=True)
        aside = self._sink.quarantine / path.replace("/", "-")
        with suppress(FileNotFoundError):
            aside.unlink()
        try:
            os.link(target, aside, follow_symlinks=False)
        except OSError:  # on another file system
            with suppress(FileNotFoundError):
                shutil.copy2(target, aside, follow_symlinks=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._file.close()
        with suppress(FileNotFoundError):
            os.unlink(self._path)


def _refused(path: str, error: OSError) -> StorageError:
    kind = StorageFullError if error.errno == _NO_SPACE else StorageError
    return kind(f"{path} could not be replaced: {error.strerror}")
