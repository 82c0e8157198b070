"""What publishing a folder would change, found out as publishing does, but nothing is stored, staged or remembered."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, BinaryIO, Final, cast

from cdn.catalog.tree import CatalogTree
from cdn.telemetry import NullProgress, Progress
from stratum0 import publish
from stratum0.changes import Change
from stratum0.content import ContentStore
from stratum0.jobs import FileChanged
from stratum0.scan import Doubts, Scanner
from stratum0.stamps import Stamp

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from cdn.storage.base import ReadableStore, StagedObject
    from stratum0.pipeline import Pipeline
    from stratum0.repository import Repository
    from stratum0.staging import Row

_SEPARATOR: Final = "\0"


@dataclass(frozen=True, slots=True)
class Difference:
    """One path that would change: ``added``, ``changed`` or ``removed``."""

    path: str
    kind: str


@contextmanager
def preview(
    repository: Repository,
    source: str | os.PathLike[str],
    to: str = "",
    *,
    verify_content: bool = False,
    progress: Progress | None = None,
    warn: publish.Warn = lambda _: None,
) -> Iterator[Iterator[Difference]]:
    """What `publish_tree` would change; the differences are valid inside the `with` block.

    Raises:
        CdnError: as `publish_tree`.
    """
    folder = publish.checked_source(repository, source)
    head = repository.head()
    with (
        publish.source_memory(repository, folder, to) as memory,
        CatalogTree(repository.catalogs, head.root, head.root_size) as tree,
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="surrogateescape", newline="") as spool,
        publish.readable(),
    ):
        sink = _Sink(tree, spool)
        content = ContentStore(_UnwrittenStore(repository.store), repository.content_settings)
        Scanner(
            folder,
            to,
            tree=tree,
            memory=memory,
            doubts=Doubts(everywhere=True)
            if verify_content
            else publish.doubts_about(repository, memory, head.root, to),
            pipeline=cast("Pipeline", _Reader(content)),
            sink=sink,
            dirtab=publish.dirtab_of(folder, to),
            with_xattrs=repository.settings.include_xattrs,
            progress=progress or NullProgress(),
            warn=warn,
        ).run()
        yield sink.differences()


class _Sink:
    """Takes changes and keeps what they come to in a file."""

    def __init__(self, tree: CatalogTree, spool: IO[str]) -> None:
        self._tree = tree
        self._spool = spool

    def stage(self, changes: Iterable[Change], found: Iterable[str]) -> None:
        for change in changes:
            is_new = self._tree.find(change.path) is None
            kind = "removed" if change.entry is None else "added" if is_new else "changed"
            self._spool.write(f"{kind} {change.path}{_SEPARATOR}")

    def stage_new(self, rows: Iterable[Row], found: Iterable[str]) -> None:
        raise AssertionError("nothing looks into folders but the scan itself")

    def differences(self) -> Iterator[Difference]:
        self._spool.seek(0)
        rest = ""
        while piece := self._spool.read(1 << 16):
            *whole, rest = (rest + piece).split(_SEPARATOR)
            for text in whole:
                kind, _, path = text.partition(" ")
                yield Difference(path, kind)


class _Reader:
    """Stands in for the pipeline: computes what would be stored, in this process."""

    def __init__(self, content: ContentStore) -> None:
        self._content = content

    def store_file(self, path: bytes, stamp: Stamp, done: Any) -> None:
        try:
            content = self._content.store_path(os.fsdecode(path))
            is_same = Stamp.of(os.stat(path, follow_symlinks=False)) == stamp
        except (FileNotFoundError, NotADirectoryError):
            done(FileChanged())
        else:
            done(content if is_same else FileChanged())

    def drain(self) -> None:
        """Everything is done at once."""


class _UnwrittenStore:
    """A store that takes objects and forgets them."""

    def __init__(self, store: ReadableStore) -> None:
        self._store = store

    def exists(self, path: str) -> bool:
        return self._store.exists(path)

    def size(self, path: str) -> int:
        return self._store.size(path)

    def read(self, path: str, *, size_max: int) -> bytes:
        return self._store.read(path, size_max=size_max)

    def open(self, path: str) -> BinaryIO:
        return self._store.open(path)

    def put(self, path: str, data: Buffer) -> bool:
        return not self._store.exists(path)

    def stage(self) -> StagedObject:
        raise NotImplementedError

    def replace(self, path: str, data: Buffer) -> None:
        raise NotImplementedError

    def flush(self) -> None:
        """There is nothing to flush."""
