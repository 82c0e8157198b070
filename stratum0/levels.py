"""The catalogs that are open while changes are applied: read from the base until something changes them.

`Level` is one of them; `Shelf` is where all come from and go to.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from cdn.catalog.nesting import AUTO_MARKER, CATALOG_MARKER
from cdn.catalog.schema import Counters, NestedReference
from cdn.catalog.writer import CatalogBuilder
from cdn.compression import compress
from cdn.hashing import Digest, digest_of
from cdn.objects import Kind, ObjectName
from stratum0 import balance

if TYPE_CHECKING:
    from cdn.catalog.entries import Entry
    from cdn.catalog.inserting import EncodedEntry
    from cdn.catalog.reader import Catalog
    from cdn.catalog.writer import FinishedCatalog
    from cdn.compression import Compression
    from cdn.hashing import Algorithm
    from cdn.storage.base import ObjectStore

_PENDING_MAX: Final = 5_000


class CatalogFiles(Protocol):
    """Where uncompressed catalogs come from and go to (`stratum0.catalogs.CatalogCache`)."""

    def load(self, digest: Digest, *, size: int = 0, path: str = "") -> Catalog: ...

    def copy(self, digest: Digest, target: str | os.PathLike[str], *, path: str = "") -> None: ...

    def keep(self, digest: Digest, file: str | os.PathLike[str]) -> None: ...


@dataclass(frozen=True, slots=True)
class ApplyOptions:
    """What decides how changes become catalogs.

    Args:
        algorithm, compression: of new objects; catalogs are always compressed.
        revision: number of the new revision.
        timestamp: its time, in seconds since the epoch.
        ttl_seconds: for the root catalog.
        entries_min, entries_max: what balancing aims at.
        is_balanced: whether catalogs are split and merged by size.
    """

    algorithm: Algorithm
    compression: Compression
    revision: int
    timestamp: int
    ttl_seconds: int
    entries_min: int = 1_000
    entries_max: int = 50_000
    is_balanced: bool = True

    @property
    def entries_max_possible(self) -> int:
        """What balancing aims at, but no more than clients cope with."""
        return min(self.entries_max, balance.ENTRIES_LIMIT)


class Shelf:
    """Where catalogs are taken from and put to."""

    def __init__(self, catalogs: CatalogFiles, store: ObjectStore, folder: Path, options: ApplyOptions) -> None:
        self.catalogs = catalogs
        self.store = store
        self.options = options
        self.markers = balance.Markers(store, options.algorithm, options.compression, options.timestamp)
        self.written = 0
        self.warnings: list[str] = []
        self._folder = folder
        self._numbers = itertools.count()

    def new_file(self) -> Path:
        """A name for a file that is not there."""
        return self._folder / f"{next(self._numbers)}.catalog"

    def totals(self, reference: NestedReference) -> Counters:
        """What a nested catalog counts in all."""
        with self.catalogs.load(reference.digest, size=reference.size, path=reference.path) as catalog:
            return catalog.total_counters

    def complete(self, builder: CatalogBuilder, previous: Digest | None) -> tuple[Digest, FinishedCatalog]:
        """Splits a catalog that is too large, finishes it and stores it.

        Args:
            builder: the catalog.
            previous: digest of the catalog that it follows.
        """
        self._balance(builder)
        options = self.options
        finished = builder.finish(
            revision=options.revision,
            previous=previous,
            last_modified=options.timestamp,
            ttl_seconds=None if builder.root_prefix else options.ttl_seconds,
        )
        return self._put(finished), finished

    def attach(self, above: CatalogBuilder, builder: CatalogBuilder, previous: Digest | None) -> None:
        """Completes a nested catalog and attaches it where it belongs."""
        digest, finished = self.complete(builder, previous)
        reference = NestedReference(builder.root_prefix, digest, finished.size)
        above.attach(reference, finished.total, root=finished.root, previous=finished.replaced)

    def _balance(self, builder: CatalogBuilder) -> None:
        options = self.options
        if options.is_balanced:
            limits = {"entries_min": options.entries_min, "entries_max": options.entries_max_possible}
            self._split(builder, balance.splits(builder, **limits))
            self._split(builder, balance.necessary_splits(builder))
        warning = balance.warning_about_size(builder.root_prefix, builder.entry_count)
        if warning is not None:
            self.warnings.append(warning)

    def _split(self, builder: CatalogBuilder, paths: list[str]) -> None:
        for path in paths:
            child = builder.split(path, self.new_file())
            try:
                if child.find(f"{path}/{CATALOG_MARKER}") is None:
                    marker = self.markers.entry(child.root)
                    child.insert_many((f"{path}/{name}", marker) for name in (CATALOG_MARKER, AUTO_MARKER))
                digest, finished = self._finished(child)
            finally:
                child.close()
            builder.attach(NestedReference(path, digest, finished.size), finished.total, root=finished.root)

    def _finished(self, child: CatalogBuilder) -> tuple[Digest, FinishedCatalog]:
        options = self.options
        finished = child.finish(revision=options.revision, previous=None, last_modified=options.timestamp)
        return self._put(finished), finished

    def _put(self, finished: FinishedCatalog) -> Digest:
        """Stores a finished catalog."""
        stored = compress(Path(finished.file).read_bytes())
        digest = digest_of(self.options.algorithm, stored)
        self.store.put(ObjectName(digest, Kind.CATALOG).path, stored)
        self.catalogs.keep(digest, finished.file)
        self.written += 1
        return digest


class Level:
    """A catalog on the way to the path being applied: read from the base until something changes it.

    Args:
        path: where it is attached.
        shelf: see there.
        reference: the base's catalog; None for a new one, whose `builder` is given.
        builder: see `reference`.
    """

    def __init__(
        self, path: str, shelf: Shelf, reference: NestedReference | None, builder: CatalogBuilder | None = None
    ) -> None:
        self.path = path
        self.reference = reference
        self.is_dissolved = False
        self._shelf = shelf
        self._catalog: Catalog | None = None
        self._builder = builder
        self._pending: list[tuple[str, Entry | EncodedEntry]] = []

    @property
    def view(self) -> Catalog | CatalogBuilder:
        """The catalog for looking; what was inserted a moment ago may not be in it yet."""
        if self._builder is not None:
            return self._builder
        if self._catalog is None:
            assert self.reference is not None
            reference = self.reference
            self._catalog = self._shelf.catalogs.load(reference.digest, size=reference.size, path=reference.path)
        return self._catalog

    def insert(self, path: str, entry: Entry | EncodedEntry) -> None:
        """Adds an entry, sooner or later."""
        self._pending.append((path, entry))
        if len(self._pending) >= _PENDING_MAX:
            self.flush()

    def flush(self) -> None:
        """Puts what is to be inserted into the catalog."""
        if self._pending:
            pending, self._pending = self._pending, []
            self._writable().insert_many(pending)

    @property
    def is_touched(self) -> bool:
        """Whether something was changed, or will be by what waits to be inserted."""
        return self._builder is not None or bool(self._pending)

    def builder(self) -> CatalogBuilder:
        """The catalog for changing, with everything in it."""
        self.flush()
        return self._writable()

    def close(self) -> None:
        """Closes the files."""
        for catalog in (self._catalog, self._builder):
            if catalog is not None:
                catalog.close()

    def _writable(self) -> CatalogBuilder:
        if self._builder is None:
            assert self.reference is not None
            if self._catalog is not None:
                self._catalog.close()
                self._catalog = None
            file = self._shelf.new_file()
            self._shelf.catalogs.copy(self.reference.digest, file, path=self.path)
            self._builder = CatalogBuilder.modify(
                file, totals=self._shelf.totals, document=f"catalog {self.path or '/'}"
            )
        return self._builder
