"""Reading a catalog: lookups, listings, references and counters, whoever wrote the file (spec §5).

`CatalogView` is what a file open for reading and one being written have in common; `Catalog` opens a file for reading.
Nothing but `DocumentError` comes out of a damaged file, and nothing is held in memory that grows with it: listings and
walks are iterators, sorting happens in SQLite, which spills to disk.
"""
# ruff: noqa: S608  # what is put into queries are names of tables and columns written in this package

from __future__ import annotations

import sqlite3
import stat
from typing import TYPE_CHECKING, Final

from cdn.catalog.entries import encode_name
from cdn.catalog.paths import PATH_BYTES_MAX, check_path, is_at_or_below, moved, name_of, prefixes
from cdn.catalog.rows import Row, as_text, decode_chunks, decode_row, has_chunks
from cdn.catalog.schema import COUNTER_NAMES, Counters, Layout, NestedReference
from cdn.closing import Closing
from cdn.compression import Compression
from cdn.database import guard, open_readonly, properties, schema_of
from cdn.errors import DocumentError, PathMissingError
from cdn.hashing import Algorithm, Digest, path_key
from cdn.objects import Kind, ObjectName

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping

    from cdn.catalog.entries import Entry

REFERENCES_MAX: Final = 1 << 18
"""Nested catalogs of one catalog: more than anybody has, few enough for a list."""
_BATCH: Final = 64
"""Rows of a listing taken at once: small directories are read whole, so that their query is free for the next."""
_DIGEST_BYTES: Final = 20
_NUMBER_DIGITS_MAX: Final = 18
"""So many fit 64 bits."""

_OBJECTS: Final = """
SELECT hash, flags >> 8 & 7, flags >> 11 & 7, 0 FROM catalog
WHERE length(hash) > 0 AND flags & 128 = 0 AND mode & 61440 <> 16384"""
_CHUNK_OBJECTS: Final = """
UNION SELECT chunks.hash, flags >> 8 & 7, flags >> 11 & 7, 1 FROM chunks JOIN catalog USING (md5path_1, md5path_2)
WHERE flags & 128 = 0"""
_SIZED: Final = (
    """
SELECT hash, flags >> 8 & 7, flags >> 11 & 7, 0, max(size) FROM catalog
WHERE length(hash) > 0 AND flags & 128 = 0 AND mode & 61440 <> 16384 GROUP BY 1, 2, 3""",
    """
UNION ALL SELECT chunks.hash, flags >> 8 & 7, flags >> 11 & 7, 1, max(chunks.size)
FROM chunks JOIN catalog USING (md5path_1, md5path_2) WHERE flags & 128 = 0 GROUP BY 1, 2, 3""",
)
_LEGACY_SIZED: Final = """
SELECT hash, 0, 0, 0, max(size) FROM catalog WHERE length(hash) > 0 AND mode & 61440 <> 16384 GROUP BY 1"""
_LEGACY_OBJECTS: Final = "SELECT DISTINCT hash, 0, 0, 0 FROM catalog WHERE length(hash) > 0 AND mode & 61440 <> 16384"


class CatalogView:
    """What can be asked of a catalog, whether it is a finished one or one being written.

    Paths are those the catalog was written for. One that is mounted elsewhere (a bind mountpoint) is asked with
    `translated` paths.

    Args:
        connection: to the file.
        layout: what the file has of the schema.
        root_prefix: path of the catalog's root.
        document: what to call the catalog in an error.
    """

    def __init__(self, connection: sqlite3.Connection, layout: Layout, root_prefix: str, document: str) -> None:
        self.layout = layout
        self.root_prefix = root_prefix
        self.document = document
        self._connection = connection
        rows, chunks, references = layout.row_columns, layout.chunk_columns, layout.reference_columns
        self._find = f"SELECT {rows} FROM catalog WHERE md5path_1 = ? AND md5path_2 = ?"
        self._list = f"SELECT {rows} FROM catalog WHERE parent_1 = ? AND parent_2 = ? ORDER BY name"
        self._chunks = f"SELECT {chunks} FROM chunks WHERE md5path_1 = ? AND md5path_2 = ? ORDER BY offset"
        self._references = f"SELECT {references} FROM nested_catalogs"
        self._binds = "SELECT path, sha1, size FROM bind_mountpoints"

    # ---------------------------------------------------------------------------------------------------------- entries

    @property
    def root(self) -> Entry:
        """The entry of the catalog's root.

        Raises:
            DocumentError: there is none, or it is no directory.
        """
        root = self.find(self.root_prefix)
        if root is None or not root.is_directory:
            raise DocumentError(self.document, "it has no directory as its root")
        return root

    @property
    def entry_count(self) -> int:
        """How many rows the catalog has."""
        with guard(self.document):
            return int(self._connection.execute("SELECT count(*) FROM catalog").fetchone()[0])

    def find(self, path: str) -> Entry | None:
        """The entry at this path, None if this catalog has none.

        Raises:
            DocumentError: the row is damaged.
        """
        try:
            row = self._connection.execute(self._find, path_key(path)).fetchone()
            if row is None:
                return None
            if row[7] != name_of(path):
                raise DocumentError(self.document, f"the row of {path[:200]!r} is named {row[7]!r:.80}")
            return self.entry_of(row)
        except (sqlite3.Error, ValueError, OverflowError, MemoryError):
            with guard(self.document):  # only now: entering it for each lookup would be a tenth of its time
                raise

    def listing(self, path: str) -> Iterator[Entry]:
        """The entries of a directory in byte order of their names, hidden ones included; none if it is not there.

        Raises:
            DocumentError: a row is damaged, or two have the same name.
        """
        with guard(self.document):
            before = b""
            for row in self.rows_below(path_key(path)):
                entry = self.entry_of(row)
                name = encode_name(entry.name)
                if name <= before:
                    raise DocumentError(
                        self.document, f"{path[:200]!r} has two entries {entry.name!r}, or one without a name"
                    )
                before = name
                yield entry

    def walk(self, path: str | None = None) -> Iterator[tuple[str, Entry]]:
        """Everything this catalog has at and below a path: parents before children, siblings in order of name bytes.

        Mountpoints are met but not entered. The number of open queries is bounded by the depth, which is bounded by the
        length of paths.

        Args:
            path: where to begin; the catalog's root if omitted.

        Raises:
            PathMissingError: there is no such path in this catalog.
            DocumentError: the catalog is damaged.
        """
        start = self.root_prefix if path is None else path
        top = self.root if path is None else self.find(start)
        if top is None:
            raise PathMissingError(start)
        yield start, top
        pending = [(start, self.listing(start))] if is_entered(top) or start == self.root_prefix else []
        while pending:
            directory, entries = pending[-1]
            entry = next(entries, None)
            if entry is None:
                pending.pop()
                continue
            child = f"{directory}/{entry.name}"
            yield child, entry
            if is_entered(entry):
                if len(child) > PATH_BYTES_MAX:
                    raise DocumentError(
                        self.document, f"its tree is deeper than paths of {PATH_BYTES_MAX} bytes can say"
                    )
                pending.append((child, self.listing(child)))

    def rows_below(self, key: tuple[int, int]) -> Iterator[Row]:
        """The undecoded rows whose directory has this path key, ordered by name; for use inside `guard`."""
        cursor = self._connection.execute(self._list, key)
        rows = cursor.fetchmany(_BATCH)
        while rows:
            yield from rows
            rows = cursor.fetchmany(_BATCH) if len(rows) == _BATCH else []

    def entry_of(self, row: Row) -> Entry:
        """The entry that an undecoded row holds, with its chunks; for use inside `guard`.

        Raises:
            DocumentError: the row is damaged.
        """
        if not has_chunks(row):
            return decode_row(row, self.document)
        if not self.layout.has_chunks:
            raise DocumentError(self.document, f"{row[7]!r:.80} is cut into chunks, for which it has no table")
        chunks = decode_chunks(self._connection.execute(self._chunks, row[13:]), row, self.document)
        return decode_row(row, self.document, chunks)

    # ------------------------------------------------------------------------------------------------------- references

    def nested(self) -> list[NestedReference]:
        """The nested catalogs attached directly to this one, in order of their paths.

        Raises:
            DocumentError: a reference is damaged, or there are more than `REFERENCES_MAX`.
        """
        return self._all_references(self._references)

    def bind_mountpoints(self) -> list[NestedReference]:
        """The catalogs of other revisions mounted in this one (spec §5.9), in order of their paths.

        Raises:
            DocumentError: as `nested`.
        """
        return self._all_references(self._binds) if self.layout.has_bind_mountpoints else []

    def nested_at(self, path: str) -> NestedReference | None:
        """The nested catalog attached at exactly this path.

        Raises:
            DocumentError: the reference is damaged.
        """
        return self._reference_at(self._references, path)

    def bind_mountpoint_at(self, path: str) -> NestedReference | None:
        """The catalog bind-mounted at exactly this path.

        Raises:
            DocumentError: the reference is damaged.
        """
        return self._reference_at(self._binds, path) if self.layout.has_bind_mountpoints else None

    def covering(self, path: str) -> NestedReference | None:
        """The nested or bind-mounted catalog a path lies in: attached at the path or at the deepest directory above.

        Raises:
            DocumentError: the reference is damaged.
        """
        for prefix in prefixes(path):
            if len(prefix) <= len(self.root_prefix):
                return None
            found = self.nested_at(prefix) or self.bind_mountpoint_at(prefix)
            if found is not None:
                return found
        return None

    def _reference_at(self, query: str, path: str) -> NestedReference | None:
        with guard(self.document):
            row = self._connection.execute(f"{query} WHERE path = CAST(? AS TEXT)", (as_text(path),)).fetchone()
            return None if row is None else self._reference(row)

    def _all_references(self, query: str) -> list[NestedReference]:
        with guard(self.document):
            rows = self._connection.execute(f"{query} ORDER BY path LIMIT ?", (REFERENCES_MAX + 1,))
            references = [self._reference(row) for row in rows]
        if len(references) > REFERENCES_MAX:
            raise DocumentError(self.document, f"it has more than {REFERENCES_MAX} nested catalogs")
        return references

    def _reference(self, row: tuple[object, ...]) -> NestedReference:
        path, text, size = row
        size = 0 if size is None else size
        if not isinstance(path, str) or not isinstance(text, str) or not isinstance(size, int) or size < 0:
            raise DocumentError(
                self.document, f"the nested catalog at {path!r:.200} has digest {text!r:.80} and size {size!r:.40}"
            )
        check_path(path, self.document)
        if path == self.root_prefix or not is_at_or_below(path, self.root_prefix):
            raise DocumentError(
                self.document, f"the nested catalog at {path!r} does not lie below {self.root_prefix!r}"
            )
        try:
            return NestedReference(path, Digest.parse(text), size)
        except DocumentError as error:
            raise DocumentError(self.document, f"the nested catalog at {path!r}: {error.reason}") from error

    def translated(self, path: str, mountpoint: str) -> str:
        """The path to ask for when the catalog is mounted at `mountpoint`, not at its own root prefix (spec §5.9).

        Raises:
            ValueError: `path` is not at or below `mountpoint`.
        """
        return moved(path, mountpoint, self.root_prefix)


def is_entered(entry: Entry) -> bool:
    """Whether what is below this entry is in the same catalog."""
    return stat.S_ISDIR(entry.mode) and not (entry.is_nested_mountpoint or entry.is_bind_mountpoint)


class Catalog(CatalogView, Closing):
    """A catalog open for reading; a context manager. One thread at a time."""

    def __init__(self, connection: sqlite3.Connection, layout: Layout, document: str) -> None:
        values = properties(connection, document)
        super().__init__(connection, layout, read_root_prefix(values, document), document)
        self.schema = layout.version
        self.schema_revision = layout.revision
        self.revision = _number(values, "revision", document) or 0
        self.last_modified = _number(values, "last_modified", document) or 0
        self.ttl_seconds = _number(values, "TTL", document)
        self.is_volatile = bool(_number(values, "volatile", document))
        self.authorization = values.get("voms_authz")
        self.branch = values.get("branch", "")
        previous = values.get("previous_revision")
        self.previous = _digest(previous, document) if previous else None
        self._counters = read_counters(connection, layout, document)
        self._mountpoints: dict[str, NestedReference] | None = None

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, document: str = "catalog") -> Catalog:
        """Opens an uncompressed catalog file, which must not change while it is open.

        Args:
            path: of the file.
            document: what to call it in an error, e.g. ``catalog /software``.

        Raises:
            DocumentError: it is no catalog that real clients read.
            OSError: the file is not there or cannot be read.
        """
        connection = open_readonly(path, document)
        try:
            return cls(connection, read_layout(connection, document), document)
        except BaseException:
            connection.close()
            raise

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()

    def covering(self, path: str) -> NestedReference | None:
        """As in every view; the references are read once, as nobody changes them."""
        if self._mountpoints is None:
            self._mountpoints = {reference.path: reference for reference in (*self.bind_mountpoints(), *self.nested())}
        if not self._mountpoints:
            return None
        return next((self._mountpoints[prefix] for prefix in prefixes(path) if prefix in self._mountpoints), None)

    @property
    def own_counters(self) -> Counters:
        """What the catalog says it holds itself."""
        return self._counters[0]

    @property
    def subtree_counters(self) -> Counters:
        """What the catalog says all nested catalogs below it hold together."""
        return self._counters[1]

    @property
    def total_counters(self) -> Counters:
        """Both together: what attaching this catalog adds to its parent's subtree."""
        return self._counters[0] + self._counters[1]

    def references(self) -> Iterator[tuple[ObjectName, Compression]]:
        """Every distinct object that the rows need, external files excluded and nested catalogs not included.

        The query sorts on disk where there are many. An object that two rows say to be compressed differently comes
        twice.

        Raises:
            DocumentError: a digest is damaged.
        """
        query = _LEGACY_OBJECTS
        if not self.layout.is_legacy:
            query = _OBJECTS + (_CHUNK_OBJECTS if self.layout.has_chunks else "")
        for name, compression, _ in self._objects_of(f"SELECT *, 0 FROM ({query})"):
            yield name, compression

    def sized_references(self) -> Iterator[tuple[ObjectName, Compression, int]]:
        """As `references`, each with the size of its plain content, which limits what a source may send for it.

        Raises:
            DocumentError: as `references`, or a size is no number.
        """
        query = _LEGACY_SIZED
        if not self.layout.is_legacy:
            query = _SIZED[0] + (_SIZED[1] if self.layout.has_chunks else "")
        yield from self._objects_of(query)

    def _objects_of(self, query: str) -> Iterator[tuple[ObjectName, Compression, int]]:
        with guard(self.document):
            for raw, algorithm, compression, is_chunk, size in self._connection.execute(query):
                if not isinstance(raw, bytes) or len(raw) != _DIGEST_BYTES:
                    raise DocumentError(self.document, f"a digest is {raw!r:.80}, not {_DIGEST_BYTES} bytes")
                if not isinstance(size, int) or size < 0:
                    raise DocumentError(self.document, f"the size of an object is {size!r:.80}")
                if not any(raw):
                    continue
                digest = Digest(Algorithm.from_number(algorithm + 1), raw)
                yield ObjectName(digest, Kind.CHUNK if is_chunk else Kind.FILE), Compression(compression), size


# ---------------------------------------------------------------------------------------------- properties and counters


def read_layout(connection: sqlite3.Connection, document: str) -> Layout:
    """The layout of an open file, from its properties and tables.

    Raises:
        DocumentError: it is no catalog that real clients read.
    """
    version, revision = schema_of(properties(connection, document), document)
    return Layout.of(connection, version, revision, document)


def read_root_prefix(values: Mapping[str, str], document: str) -> str:
    """The path of a catalog's root, from its properties.

    Raises:
        DocumentError: it is no path.
    """
    return check_path(values.get("root_prefix", ""), document)


def _number(values: Mapping[str, str], key: str, document: str) -> int | None:
    text = values.get(key)
    if not text:
        return None
    digits = text.removeprefix("-")
    if not digits.isascii() or not digits.isdigit() or len(digits) > _NUMBER_DIGITS_MAX:
        raise DocumentError(document, f"its property {key} is {text[:80]!r}, not a number")
    return int(text)


def _digest(text: str, document: str) -> Digest:
    try:
        return Digest.parse(text)
    except DocumentError as error:
        raise DocumentError(document, error.reason) from error


def read_counters(connection: sqlite3.Connection, layout: Layout, document: str) -> tuple[Counters, Counters]:
    """The own and the subtree counters that a catalog says; those that its revision does not have are 0.

    Raises:
        DocumentError: one that it must have is missing (spec §5.10), or is no integer.
    """
    found: dict[str, int] = {}
    names = [prefix + name for prefix in ("self_", "subtree_") for name in COUNTER_NAMES]
    if ("statistics", "value") in layout.columns:
        query = f"SELECT counter, value FROM statistics WHERE counter IN ({', '.join('?' * len(names))})"
        with guard(document):
            for name, value in connection.execute(query, names):
                if not isinstance(value, int):
                    raise DocumentError(document, f"its counter {name} is {value!r:.80}")
                found[name] = value
    missing = layout.required_counters() - found.keys()
    if missing:
        raise DocumentError(document, f"it has no counter {min(missing)}")
    own, subtree = ([found.get(prefix + name, 0) for name in COUNTER_NAMES] for prefix in ("self_", "subtree_"))
    return Counters(*own), Counters(*subtree)
