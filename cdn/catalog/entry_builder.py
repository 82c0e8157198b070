"""Changing the entries of a catalog: rows, link counts of directories, and what falls away with what is removed.

`cdn.catalog.writer` says what is kept at every step, and what happens after an error.
"""
# ruff: noqa: S608  # what is put into queries are names of tables and columns written in this package

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from cdn.catalog import statements as sql
from cdn.catalog.entries import Entry
from cdn.catalog.hardlinks import group_last
from cdn.catalog.inserting import EncodedEntry, Inserter, begun
from cdn.catalog.paths import is_at_or_below, is_path, name_of, parent_of
from cdn.catalog.reader import CatalogView, is_entered, read_layout
from cdn.catalog.rows import INSERT_CHUNK, INSERT_ROW, Row, encode_chunks, encode_row
from cdn.catalog.schema import (
    PARENT_INDEX,
    Counters,
    NestedReference,
    counted,
)
from cdn.closing import Closing
from cdn.database import guard
from cdn.errors import PathExistsError, PathKindError, PathMissingError, UsageError
from cdn.hashing import path_key

Totals = Callable[[NestedReference], Counters]
"""Tells what a nested catalog counts: its `Catalog.total_counters`."""

_BATCH_ROWS: Final = 20_000


class EntryBuilder(CatalogView, Closing):
    """A catalog being written, as far as its entries go; a context manager that closes the file."""

    def __init__(
        self, file: str, connection: sqlite3.Connection, root_prefix: str, subtree: Counters, totals: Totals | None
    ) -> None:
        layout = read_layout(connection, "new catalog")
        super().__init__(connection, layout, root_prefix, f"catalog {root_prefix or '/'}")
        self.file = file
        self.replaced: Counters | None = None
        self._subtree = subtree
        self._totals = totals
        self._attached: dict[str, Counters] = {}
        self._hardlinks_changed = False
        self._group_last: int | None = None
        self._is_broken = False
        self._is_indexed = False
        connection.execute(f"PRAGMA cache_size = -{sql.CACHE_KIBIBYTES}")

    def close(self) -> None:
        """Closes the file as it is."""
        self._connection.close()

    @property
    def own_counters(self) -> Counters:
        """What the catalog holds at the moment, counted anew each time."""
        return counted(self._connection, self.document)

    @property
    def subtree_counters(self) -> Counters:
        """What the attached catalogs hold together."""
        return self._subtree

    # ---------------------------------------------------------------------------------------------------------- entries

    def insert(self, path: str, entry: Entry) -> None:
        """Adds an entry.

        The last component of `path` is its name. A directory begins with the link count of an empty one; only that of a
        nested mountpoint is taken from the entry, as its content is elsewhere (`attach` follows).

        Raises:
            PathExistsError: the path is there already.
            PathMissingError: its directory is not in this catalog.
            PathKindError: its directory is none, or a mountpoint.
            UsageError, DocumentError: the format cannot hold the entry.
        """
        self._check_room(path)
        row, chunks = self._encoded(path, entry)
        with self._changing():
            self._connection.execute(INSERT_ROW, row)
            self._connection.executemany(INSERT_CHUNK, chunks)
            if entry.is_directory:
                self._link(parent_of(path), 1)

    def insert_many(self, entries: Iterable[tuple[str, Entry | EncodedEntry]]) -> int:
        """Adds many entries as `insert` does, fast; a directory comes before what it contains.

        Returns:
            How many there were.

        Raises:
            PathExistsError, PathMissingError, PathKindError, UsageError, DocumentError: as `insert`; after any of them
                the builder
                is broken.
        """
        inserter = Inserter(self._connection, self._check_directory)
        pending = iter(entries)
        while part := list(itertools.islice(pending, _BATCH_ROWS)):
            with self._changing():
                inserter.insert(part)
        self._hardlinks_changed |= inserter.has_hardlinks
        return inserter.count

    def replace(self, path: str, entry: Entry) -> None:
        """Gives an existing path other metadata or content.

        What the builder keeps itself stays: that a directory is a root or mountpoint, and the link count of a directory
            that is no mountpoint.

        Raises:
            PathMissingError: there is no such path.
            PathKindError: a directory that holds something would become something else.
            UsageError, DocumentError: the format cannot hold the entry.
        """
        before = self._existing(path)
        if before.is_directory and not entry.is_directory:
            self._check_empty(path, before)
        if before.is_directory:
            entry = replace(
                entry,
                is_nested_root=before.is_nested_root,
                is_nested_mountpoint=before.is_nested_mountpoint,
                is_bind_mountpoint=before.is_bind_mountpoint,
                link_count=before.link_count if is_entered(before) else entry.link_count,
            )
        row, chunks = self._encoded(path, entry, keeps_role=before.is_directory)
        with self._changing():
            self._connection.execute(sql.UPDATE_ROW, (*row[4:], *row[:2]))
            if before.chunks:
                self._connection.execute(sql.DELETE_CHUNKS, row[:2])
            self._connection.executemany(INSERT_CHUNK, chunks)
            if before.is_directory != entry.is_directory:
                self._link(parent_of(path), 1 if entry.is_directory else -1)
            self._hardlinks_changed |= before.hardlink_group != 0

    def remove(self, path: str) -> list[NestedReference]:
        """Removes a path and everything below it.

        Returns:
            The nested catalogs whose references fell away.

        Raises:
            PathMissingError: there is no such path.
            PathKindError: it is the root of the catalog.
        """
        before = self._existing(path)
        if path == self.root_prefix:
            raise PathKindError(f"the root of a catalog cannot be removed from it: {path or '/'}")
        fallen = self._references_from(path) if before.is_directory else []
        forgotten = sum((self._recorded(reference) for reference in fallen), Counters())
        key = path_key(path)
        with self._changing():
            if is_entered(before):
                with self._below(path):
                    self._connection.execute(f"DELETE FROM chunks WHERE {sql.IS_BELOW}")
                    self._connection.execute(f"DELETE FROM catalog WHERE {sql.IS_BELOW}")
            if before.is_directory:
                self._drop_references(path)
                self._link(parent_of(path), -1)
            if before.chunks:
                self._connection.execute(sql.DELETE_CHUNKS, key)
            self._connection.execute(sql.DELETE_ROW, key)
            self._subtree -= forgotten
            self._hardlinks_changed |= before.hardlink_group != 0
        for reference in fallen:
            self._attached.pop(reference.path, None)
        return fallen

    def next_hardlink_group(self) -> int:
        """A number that no group of hard links in this catalog has (spec §5.6)."""
        if self._group_last is None:
            with guard(self.document):
                self._group_last = group_last(self._connection)
        self._group_last += 1
        return self._group_last

    # ----------------------------------------------------------------------------------------------------------- inside

    def rows_below(self, key: tuple[int, int]) -> Iterator[Row]:
        """As in every view; builds the index that this needs, which costs less at once than row by row."""
        self._index()
        return super().rows_below(key)

    def _index(self) -> None:
        if not self._is_indexed:
            self._connection.execute(PARENT_INDEX)
            self._is_indexed = True

    @contextmanager
    def _changing(self) -> Iterator[None]:
        if self._is_broken:
            raise UsageError(f"{self.document} cannot be written any further: an earlier change failed half-way")
        try:
            with guard(self.document):
                yield
        except BaseException:
            self._is_broken = True
            raise

    def _existing(self, path: str) -> Entry:
        entry = self.find(path)
        if entry is None:
            raise PathMissingError(path)
        return entry

    def _check_room(self, path: str) -> None:
        if not path or not is_path(path) or not is_at_or_below(path, self.root_prefix):
            raise UsageError(f"{path[:200]!r} is no path within {self.document}")
        if self.find(path) is not None:
            raise PathExistsError(path)
        self._check_directory(parent_of(path))

    def _check_directory(self, path: str) -> None:
        if not is_entered(self._existing(path)):
            raise PathKindError(f"it is no directory of this catalog, so nothing can be put into it: {path or '/'}")

    def _check_empty(self, path: str, entry: Entry) -> None:
        is_root = path == self.root_prefix
        if is_root or entry.is_nested_mountpoint or entry.is_bind_mountpoint or next(self.listing(path), None):
            raise PathKindError(f"the directory is not empty: {path or '/'}")

    def _encoded(self, path: str, entry: Entry, *, keeps_role: bool = False) -> tuple[Row, list[Row]]:
        """The rows for an entry, which begins as no root or mountpoint unless it is told to keep its role."""
        if entry.is_directory and not keeps_role:
            entry = begun(entry)
        if entry.hardlink_group:
            self._hardlinks_changed = True
        key = path_key(path)
        parent = path_key(parent_of(path)) if path else (0, 0)
        return encode_row(key, parent, name_of(path), entry), encode_chunks(key, entry) if entry.chunks else []

    def _link(self, path: str, change: int) -> None:
        self._connection.execute(sql.ADD_LINKS, (change, *path_key(path)))

    @contextmanager
    def _below(self, path: str) -> Iterator[None]:
        """Collects the keys of all rows below a path, for `sql.IS_BELOW` to look at."""
        self._index()
        self._connection.execute(sql.CREATE_BELOW)
        self._connection.execute(sql.COLLECT_BELOW, path_key(path))
        yield
        self._connection.execute(sql.FORGET_BELOW)

    def _references_from(self, path: str) -> list[NestedReference]:
        with guard(self.document):
            return [self._reference(row) for row in self._connection.execute(sql.REFERENCES_FROM, sql.below(path))]

    def _drop_references(self, path: str) -> None:
        for statement in sql.DELETE_REFERENCES_FROM:
            self._connection.execute(statement, sql.below(path))

    def _recorded(self, reference: NestedReference, previous: Counters | None = None) -> Counters:
        """What the subtree counters hold of a nested catalog."""
        counters = self._attached.get(reference.path, previous)
        if counters is not None:
            return counters
        if self._totals is None:
            raise UsageError(f"to change the nested catalog at {reference.path}, what it counted so far must be given")
        return self._totals(reference)
