"""Writing a catalog: a new one, or a private copy of an existing one (spec §5).

A builder keeps what the format's checker demands at every step: link counts of directories, one row for each path, no
rows below a mountpoint. The rest is put right in `finish`: own counters are counted from the rows, groups of hard links
get the count of their members, wasted row ids are closed. The file has no journal (see `cdn.database`): after an error
in the middle of a change the builder says so, refuses to go on, and its file is thrown away by whoever made it. Checks
that refuse an operation come first and leave the builder usable.

The counters of a subtree are sums over catalogs that are not open here. Attaching and detaching needs to know what a
nested catalog counted *before*: the builder remembers those it attached itself and asks `totals` for the others.
"""
# ruff: noqa: S608  # what is put into queries are names of tables and columns written in this package

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from cdn import database
from cdn.catalog import statements as sql
from cdn.catalog import upgrade
from cdn.catalog.entries import Entry
from cdn.catalog.entry_builder import EntryBuilder, Totals
from cdn.catalog.hardlinks import group_last, settle_hardlinks
from cdn.catalog.inserting import begun, copied
from cdn.catalog.paths import check_path, is_at_or_below, name_of, parent_of
from cdn.catalog.reader import Catalog, CatalogView, is_entered, read_counters, read_layout, read_root_prefix
from cdn.catalog.rows import INSERT_CHUNK, INSERT_ROW, Row, as_text, encode_row
from cdn.catalog.schema import (
    CATALOG_TABLE,
    OTHER_TABLES,
    SCHEMA_REVISION,
    SCHEMA_VERSION,
    Counters,
    NestedReference,
)
from cdn.catalog.weights import Weight, subtree_weights
from cdn.database import guard
from cdn.errors import PathKindError, PathMissingError, UsageError
from cdn.hashing import Digest, path_key

_READ_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class FinishedCatalog:
    """A catalog file that is complete and closed.

    Args:
        file: where it is.
        size: in bytes; what goes into the parent's reference and the manifest.
        root: its root entry, which the parent's mountpoint must equal.
        own, subtree: its counters.
        plain_digest: SHA-256 of the file.
        replaced: what the catalog it was made from counted in all, None for a new one.
    """

    file: str
    size: int
    root: Entry
    own: Counters
    subtree: Counters
    plain_digest: bytes
    replaced: Counters | None = None

    @property
    def total(self) -> Counters:
        """What attaching it adds to its parent's subtree."""
        return self.own + self.subtree


class CatalogBuilder(EntryBuilder):
    """A catalog being written; a context manager that closes the file, finished or not. One thread at a time."""

    # ---------------------------------------------------------------------------------------------- opening and closing

    @classmethod
    def create(
        cls, file: str | os.PathLike[str], *, root_prefix: str, root: Entry, totals: Totals | None = None
    ) -> CatalogBuilder:
        """Begins a new catalog.

        Args:
            file: where; must not exist.
            root_prefix: path of the directory it describes; empty for a repository's root catalog.
            root: that directory's entry; its link count and roles follow by themselves.
            totals: see the module.

        Raises:
            UsageError: `root` is no directory.
            OSError: the file exists or cannot be made.
        """
        check_path(root_prefix, "root prefix")
        if not root.is_directory:
            raise UsageError(f"the root of a catalog must be a directory: {root_prefix or '/'}")
        connection = database.create(file)
        try:
            for statement in (CATALOG_TABLE, *OTHER_TABLES):  # the index follows when something asks by parent
                connection.execute(statement)
            sql.write_properties(connection, {"schema": str(SCHEMA_VERSION), "schema_revision": str(SCHEMA_REVISION)})
            if root_prefix:
                sql.write_properties(connection, {"root_prefix": root_prefix})
            connection.execute(INSERT_ROW, _root_row(root_prefix, root))
            return cls(os.fspath(file), connection, root_prefix, Counters(), totals)
        except BaseException:
            connection.close()
            raise

    @classmethod
    def modify(
        cls, file: str | os.PathLike[str], *, totals: Totals | None = None, document: str = "catalog"
    ) -> CatalogBuilder:
        """Takes over a private, uncompressed copy of an existing catalog and brings it to the newest schema.

        Properties, counters, tables and columns that we do not know stay as they are.

        Raises:
            DocumentError: it is no catalog that real clients read.
            OSError: the file is not there or cannot be written.
        """
        connection = database.open_writable(file, document)
        try:
            layout = read_layout(connection, document)
            own, subtree = read_counters(connection, layout, document)
            root_prefix = read_root_prefix(database.properties(connection, document), document)
            if not layout.is_newest:
                with guard(document):
                    upgrade.to_newest(connection, layout)
            builder = cls(os.fspath(file), connection, root_prefix, subtree, totals)
            builder.replaced = own + subtree
            builder.root  # noqa: B018  # raises if there is none
            return builder
        except BaseException:
            connection.close()
            raise

    # -------------------------------------------------------------------------------------------------- nested catalogs

    def attach(
        self,
        reference: NestedReference,
        subtree: Counters,
        *,
        root: Entry | None = None,
        previous: Counters | None = None,
    ) -> None:
        """Makes an empty directory the mountpoint of a nested catalog, or gives a mountpoint another catalog.

        Args:
            reference: the nested catalog.
            subtree: what it counts in all (`FinishedCatalog.total`).
            root: its root entry (`FinishedCatalog.root`), which the mountpoint then equals as the format demands.
            previous: what the catalog attached there so far counted in all, if there is one that neither was attached
                by this
                builder nor can be asked for by `totals`.

        Raises:
            PathMissingError: there is no such path here.
            PathKindError: it is no directory, has entries, or is this catalog's own root.
            UsageError: nothing tells what the catalog attached there so far counted.
        """
        path = reference.path
        entry = self._existing(path)
        known = self.nested_at(path)
        if not entry.is_directory or path == self.root_prefix or entry.is_bind_mountpoint:
            raise PathKindError(f"a nested catalog needs a directory of its own: {path or '/'}")
        if known is None:
            self._check_empty(path, entry)
        forgotten = Counters() if known is None else self._recorded(known, previous)
        entry = replace(root or entry, is_nested_mountpoint=True, is_nested_root=False, is_bind_mountpoint=False)
        row, _ = self._encoded(path, entry, keeps_role=True)
        with self._changing():
            self._connection.execute(sql.UPDATE_ROW, (*row[4:], *row[:2]))
            self._connection.execute(sql.SET_REFERENCE, (as_text(path), reference.digest.text, reference.size))
            self._subtree += subtree - forgotten
        self._attached[path] = subtree

    def detach(self, path: str, *, previous: Counters | None = None) -> NestedReference:
        """Takes the nested catalog away from a mountpoint, which becomes an empty directory.

        Returns:
            The reference that was there.

        Raises:
            PathMissingError: no nested catalog is attached there.
            UsageError: nothing tells what it counted; see `attach`.
        """
        reference = self.nested_at(path)
        if reference is None:
            raise PathMissingError(path)
        forgotten = self._recorded(reference, previous)
        entry = replace(self._existing(path), is_nested_mountpoint=False, link_count=2)
        row, _ = self._encoded(path, entry, keeps_role=True)
        with self._changing():
            self._connection.execute(sql.UPDATE_ROW, (*row[4:], *row[:2]))
            self._connection.execute(sql.DELETE_REFERENCE, (as_text(path),))
            self._subtree -= forgotten
        self._attached.pop(path, None)
        return reference

    def bind(self, reference: NestedReference) -> None:
        """Makes an empty directory a bind mountpoint, or points it elsewhere (spec §5.9).

        Raises:
            PathMissingError, PathKindError: as `attach`.
        """
        entry = self._existing(reference.path)
        if not entry.is_directory or reference.path == self.root_prefix or entry.is_nested_mountpoint:
            raise PathKindError(f"a bind mountpoint needs a directory of its own: {reference.path or '/'}")
        if not entry.is_bind_mountpoint:
            self._check_empty(reference.path, entry)
        row, _ = self._encoded(reference.path, replace(entry, is_bind_mountpoint=True), keeps_role=True)
        with self._changing():
            self._connection.execute(sql.UPDATE_ROW, (*row[4:], *row[:2]))
            self._connection.execute(sql.SET_BIND, (as_text(reference.path), reference.digest.text, reference.size))

    def split(self, path: str, file: str | os.PathLike[str]) -> CatalogBuilder:
        """Moves everything below a directory into a new nested catalog, which is not attached yet.

        References to deeper nested catalogs move along. Finish the new builder, then `attach` it here.

        Raises:
            PathMissingError: there is no such path.
            PathKindError: it is no directory of this catalog, or its root.
            UsageError: nothing tells what a deeper catalog counted; see `attach`.
            OSError: the file exists or cannot be made.
        """
        entry = self._existing(path)
        if not is_entered(entry) or path == self.root_prefix:
            raise PathKindError(f"a nested catalog needs a directory of its own: {path or '/'}")
        moving = {reference.path: self._recorded(reference) for reference in self._references_from(path)}
        child = CatalogBuilder.create(file, root_prefix=path, root=entry, totals=self._totals)
        try:
            with self._changing(), child._changing(), self._below(path):  # noqa: SLF001  # another of this class
                child._take(self, sql.IS_BELOW, (), path)  # noqa: SLF001 -- of this class, too
                child._connection.execute(sql.SET_LINKS, (entry.link_count, *path_key(path)))  # noqa: SLF001 -- of this class, too
                self._connection.execute(f"DELETE FROM chunks WHERE {sql.IS_BELOW}")
                self._connection.execute(f"DELETE FROM catalog WHERE {sql.IS_BELOW}")
                self._drop_references(path)
                self._connection.execute(sql.SET_LINKS, (2, *path_key(path)))
        except BaseException:
            child.close()
            raise
        gone = sum(moving.values(), Counters())
        self._subtree -= gone
        child._subtree += gone  # noqa: SLF001 -- of this class, too
        child._attached |= moving  # noqa: SLF001 -- of this class, too
        child._hardlinks_changed = self._hardlinks_changed  # noqa: SLF001 -- of this class, too
        for mountpoint in moving:
            self._attached.pop(mountpoint, None)
        return child

    def merge(self, child: Catalog | CatalogBuilder) -> None:
        """Takes everything of a nested catalog into this one and forgets the reference to it.

        The child is only read. Its marker file comes along like any other; whoever merges removes it.

        Raises:
            PathMissingError: the child's root prefix is not here.
            PathKindError: there is something else than a mountpoint or an empty directory.
            DocumentError: a row of the child is damaged; the builder is broken then.
        """
        path = child.root_prefix
        entry = self._existing(path)
        known = self.nested_at(path)
        if not entry.is_directory or entry.is_bind_mountpoint or path == self.root_prefix:
            raise PathKindError(f"no nested catalog can be merged here: {path or '/'}")
        if known is None:
            self._check_empty(path, entry)
        forgotten = Counters() if known is None else self._recorded(known, _recorded_by(child))
        root = replace(child.root, is_nested_root=False, is_nested_mountpoint=False)
        row, _ = self._encoded(path, root, keeps_role=True)
        with self._changing():
            if known is not None:
                self._connection.execute(sql.DELETE_REFERENCE, (as_text(path),))
            self._connection.execute(sql.UPDATE_ROW, (*row[4:], *row[:2]))
            self._take(child, "(md5path_1, md5path_2) <> (?, ?)", path_key(path), path)
            if not child.layout.is_current_version:
                upgrade.count_links(self._connection)
            self._subtree += child.subtree_counters - forgotten
        self._attached.pop(path, None)
        if isinstance(child, CatalogBuilder):
            self._attached |= child._attached  # noqa: SLF001 -- of this class, too
            self._hardlinks_changed |= child._hardlinks_changed  # noqa: SLF001 -- of this class, too

    def subtree_weights(self) -> Iterator[Weight]:
        """How heavy each directory is, deepest first: what `cdn.catalog.nesting.choose_splits` takes.

        Raises:
            DocumentError: the catalog is damaged.
        """
        self._index()
        return subtree_weights(self._connection, self.root_prefix, self.document)

    # -------------------------------------------------------------------------------------------------------- finishing

    def finish(
        self,
        *,
        revision: int,
        previous: Digest | None,
        last_modified: int,
        ttl_seconds: int | None = None,
        properties: Mapping[str, str | None] | None = None,
    ) -> FinishedCatalog:
        """Completes the catalog and closes its file.

        Args:
            revision: the catalog's own number; for a root catalog that of the manifest.
            previous: digest of the catalog this one follows, None for the first.
            last_modified: seconds since the epoch.
            ttl_seconds: for root catalogs; the value that is there stays if omitted.
            properties: others to set, such as ``volatile``; None removes one.

        Raises:
            UsageError: an earlier change failed half-way.
        """
        values: dict[str, str | None] = {
            "revision": str(revision),
            "previous_revision": previous.text if previous else None,
            "last_modified": str(last_modified),
            **({} if ttl_seconds is None else {"TTL": str(ttl_seconds)}),
            **(properties or {}),
        }
        with self._changing():
            if self._hardlinks_changed:
                settle_hardlinks(self._connection)
            row, _ = self._encoded(self.root_prefix, self.root, keeps_role=True)
            self._connection.execute(sql.UPDATE_ROW, (*row[4:], *row[:2]))
            own, root = self.own_counters, self.root
            self._repair_subtree()
            self._index()
            sql.write_properties(self._connection, values)
            sql.write_counters(self._connection, own, self._subtree)
            self._connection.commit()
            sql.compact(self._connection)
        self.close()
        size, plain_digest = _measured(self.file)
        return FinishedCatalog(self.file, size, root, own, self._subtree, plain_digest, self.replaced)

    # ----------------------------------------------------------------------------------------------------------- inside

    def _take(self, source: CatalogView, condition: str, key: tuple[int, ...], top: str) -> None:
        """Copies rows and chunks of another catalog as they are, and its references at and below a path."""
        origin = source._connection  # noqa: SLF001  # another of this class
        keys, layout = "md5path_1, md5path_2", source.layout
        rows = origin.execute(
            f"SELECT {keys}, parent_1, parent_2, {layout.row_columns} FROM catalog WHERE {condition} ORDER BY rowid",
            key,
        )
        self._connection.executemany(INSERT_ROW, copied(rows, source.document, group_last(self._connection)))
        self._group_last = None
        if layout.has_chunks:
            query = f"SELECT {keys}, {layout.chunk_columns} FROM chunks WHERE {condition} ORDER BY rowid"
            self._connection.executemany(INSERT_CHUNK, origin.execute(query, key))
        for statement, references in ((sql.SET_REFERENCE, source.nested()), (sql.SET_BIND, source.bind_mountpoints())):
            rows_moving = [
                (as_text(reference.path), reference.digest.text, reference.size)
                for reference in references
                if is_at_or_below(reference.path, top)
            ]
            self._connection.executemany(statement, rows_moving)

    def _repair_subtree(self) -> None:
        """Counts anew where what a stranger recorded cannot have been true."""
        if min(self._subtree.values) >= 0:
            return
        if self._totals is None:
            self._subtree = Counters(*(max(value, 0) for value in self._subtree.values))
        else:
            self._subtree = sum(map(self._recorded, self.nested()), Counters())


def _root_row(path: str, entry: Entry) -> Row:
    root = replace(begun(replace(entry, is_nested_mountpoint=False)), is_nested_root=bool(path))
    return encode_row(path_key(path), path_key(parent_of(path)) if path else (0, 0), name_of(path), root)


def _recorded_by(child: Catalog | CatalogBuilder) -> Counters | None:
    return child.total_counters if isinstance(child, Catalog) else child.replaced


def _measured(file: str) -> tuple[int, bytes]:
    """Size and plain digest of a file."""
    digest = hashlib.sha256()
    size = 0
    with open(file, "rb") as stream:
        while piece := stream.read(_READ_BYTES):
            size += len(piece)
            digest.update(piece)
    return size, digest.digest()
