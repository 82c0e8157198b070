"""The tables of a catalog, what its older versions lack, and the counters every catalog keeps (spec §5.2, §5.3, §5.10).

What we write is schema 2.5 in revision 7 with one column of ours in two tables (docs/formats/plain-digest.md). What we
read is
everything that real clients read: 2.5 in any revision, 2.4, and the 1.x layout without link counts and owners.
"""
# ruff: noqa: S608  # what is put into queries are names of tables and columns written in this package

from __future__ import annotations

from dataclasses import dataclass, fields
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from cdn.catalog.entries import FLAG_CHUNKED, FLAG_EXTERNAL
from cdn.database import guard
from cdn.errors import DocumentError
from cdn.hashing import Digest

if TYPE_CHECKING:
    import sqlite3

    from cdn.catalog.entries import Entry

SCHEMA_VERSION: Final = 2.5
SCHEMA_REVISION: Final = 7
_EPSILON: Final = 0.0005
_VERSION_WITH_OWNERS: Final = 2.1
_VERSION_WITH_CHUNKS: Final = 2.4
_VERSION_LEGACY_END: Final = 2.0
_REVISION_NESTED_SIZE: Final = 1
_REVISION_XATTR: Final = 2
_REVISION_EXTERNAL: Final = 3
_REVISION_BIND: Final = 4
_REVISION_SPECIAL: Final = 5
_REVISION_MTIME_NS: Final = 7

CATALOG_TABLE: Final = """
CREATE TABLE catalog (
  md5path_1 INTEGER, md5path_2 INTEGER, parent_1 INTEGER, parent_2 INTEGER, hardlinks INTEGER, hash BLOB,
  size INTEGER, mode INTEGER, mtime INTEGER, mtimens INTEGER, flags INTEGER, name TEXT, symlink TEXT, uid INTEGER,
  gid INTEGER, xattr BLOB, plain_digest BLOB,
  CONSTRAINT pk_catalog PRIMARY KEY (md5path_1, md5path_2))"""
PARENT_INDEX: Final = "CREATE INDEX IF NOT EXISTS idx_catalog_parent ON catalog (parent_1, parent_2)"
_CHUNKS_TABLE: Final = """
CREATE TABLE IF NOT EXISTS chunks (
  md5path_1 INTEGER, md5path_2 INTEGER, offset INTEGER, size INTEGER, hash BLOB, plain_digest BLOB,
  CONSTRAINT pk_chunks PRIMARY KEY (md5path_1, md5path_2, offset, size),
  FOREIGN KEY (md5path_1, md5path_2) REFERENCES catalog (md5path_1, md5path_2))"""
_REFERENCES_TABLE: Final = """
CREATE TABLE IF NOT EXISTS {0} (path TEXT, sha1 TEXT, size INTEGER, CONSTRAINT pk_{0} PRIMARY KEY (path))"""
OTHER_TABLES: Final = (
    "CREATE TABLE IF NOT EXISTS properties (key TEXT, value TEXT, CONSTRAINT pk_properties PRIMARY KEY (key))",
    _CHUNKS_TABLE,
    _REFERENCES_TABLE.format("nested_catalogs"),
    _REFERENCES_TABLE.format("bind_mountpoints"),
    """
CREATE TABLE IF NOT EXISTS statistics (counter TEXT, value INTEGER, CONSTRAINT pk_statistics PRIMARY KEY (counter))""",
)

_LATER_COLUMNS: Final = (
    ("nested_catalogs", "size", "INTEGER"),
    ("catalog", "xattr", "BLOB"),
    ("catalog", "mtimens", "INTEGER"),
    ("catalog", "plain_digest", "BLOB"),
    ("chunks", "plain_digest", "BLOB"),
)


# ------------------------------------------------------------------------------------------------------------- counters


@dataclass(frozen=True, slots=True)
class Counters:
    """How much of what there is; the fields are the format's counters without `self_` and `subtree_` (spec §5.10).

    Args:
        regular: regular files, chunked and external ones included.
        symlink, special, dir: entries of that kind; the root of a catalog is a `dir` of it, a mountpoint one of its
            parent.
        nested: references to nested catalogs; bind mountpoints do not count.
        chunked, chunks: files cut into chunks, and the number of chunks.
        file_size, chunked_size, external_file_size: plain bytes of all regular, the chunked, and the external files.
        xattr: entries with extended attributes.
        external: files whose content is not in the repository.
    """

    regular: int = 0
    symlink: int = 0
    special: int = 0
    dir: int = 0
    nested: int = 0
    chunked: int = 0
    chunks: int = 0
    file_size: int = 0
    chunked_size: int = 0
    xattr: int = 0
    external: int = 0
    external_file_size: int = 0

    def __add__(self, other: Counters) -> Counters:
        return Counters(*map(int.__add__, self.values, other.values))

    def __sub__(self, other: Counters) -> Counters:
        return Counters(*map(int.__sub__, self.values, other.values))

    @property
    def values(self) -> tuple[int, ...]:
        """The numbers in the order of `COUNTER_NAMES`."""
        values: tuple[int, ...] = _VALUES(self)
        return values

    @property
    def entries(self) -> int:
        """Rows of the table `catalog` that these counters count."""
        return self.regular + self.symlink + self.special + self.dir

    @classmethod
    def of_entry(cls, entry: Entry) -> Counters:
        """What one entry adds."""
        if not entry.is_file:
            return cls(
                symlink=int(entry.is_symlink),
                special=int(entry.is_special),
                dir=int(entry.is_directory),
                nested=int(entry.is_nested_mountpoint),
                xattr=int(bool(entry.xattrs)),
            )
        is_chunked = entry.is_chunked or bool(entry.chunks)
        return cls(
            regular=1,
            chunked=int(is_chunked),
            chunks=len(entry.chunks),
            file_size=entry.size,
            chunked_size=entry.size if is_chunked else 0,
            xattr=int(bool(entry.xattrs)),
            external=int(entry.is_external),
            external_file_size=entry.size if entry.is_external else 0,
        )


COUNTER_NAMES: Final = tuple(field.name for field in fields(Counters))
_VALUES: Final = attrgetter(*COUNTER_NAMES)

_KIND: Final = "(mode & 61440)"  # S_IFMT
_IS_FILE: Final = f"({_KIND} = 32768)"
_IS_CHUNKED: Final = f"({_IS_FILE} AND (flags & {FLAG_CHUNKED}) != 0)"
_IS_EXTERNAL: Final = f"({_IS_FILE} AND (flags & {FLAG_EXTERNAL}) != 0)"
_COUNT: Final = f"""
SELECT total({_IS_FILE}), total({_KIND} = 40960), total({_KIND} NOT IN (32768, 40960, 16384)), total({_KIND} = 16384),
       total({_IS_CHUNKED}), sum(size) FILTER (WHERE {_IS_FILE}), sum(size) FILTER (WHERE {_IS_CHUNKED}), count(xattr),
       total({_IS_EXTERNAL}), sum(size) FILTER (WHERE {_IS_EXTERNAL})
FROM catalog"""
_COUNT_CHUNKS: Final = f"SELECT count(*) FROM catalog JOIN chunks USING (md5path_1, md5path_2) WHERE {_IS_CHUNKED}"


def counted(connection: sqlite3.Connection, document: str) -> Counters:
    """The own counters of a catalog of the newest schema, from its rows in one scan.

    Raises:
        DocumentError: the file is damaged, or its sizes add up to more than fits.
    """
    with guard(document):
        numbers = [int(value or 0) for value in connection.execute(_COUNT).fetchone()]
        regular, symlink, special, directories, chunked, file_size, chunked_size, xattr, external, external_size = (
            numbers
        )
        chunks = connection.execute(_COUNT_CHUNKS).fetchone()[0] if chunked else 0
        nested = connection.execute("SELECT count(*) FROM nested_catalogs").fetchone()[0]
    return Counters(
        regular=regular,
        symlink=symlink,
        special=special,
        dir=directories,
        nested=nested,
        chunked=chunked,
        chunks=chunks,
        file_size=file_size,
        chunked_size=chunked_size,
        xattr=xattr,
        external=external,
        external_file_size=external_size,
    )


# ----------------------------------------------------------------------------------------------------------- references


@dataclass(frozen=True, slots=True)
class NestedReference:
    """Where another catalog is attached: a row of `nested_catalogs` or `bind_mountpoints`.

    Args:
        path: the mountpoint.
        digest: of the catalog's stored object.
        size: of the uncompressed catalog in bytes; 0 where a catalog of an old revision does not say.
    """

    path: str
    digest: Digest
    size: int = 0


# --------------------------------------------------------------------------------------------------------------- layout


@dataclass(frozen=True, slots=True)
class Layout:
    """What one catalog file has of the schema's history, and the queries that follow from it (spec §5.2)."""

    version: float
    revision: int
    columns: frozenset[tuple[str, str]]

    @property
    def is_current_version(self) -> bool:
        return abs(self.version - SCHEMA_VERSION) < _EPSILON

    @property
    def is_legacy(self) -> bool:
        """Whether this is the 1.x layout, without link counts, owners, chunks and content flags."""
        return self.version < _VERSION_WITH_OWNERS - _EPSILON

    @property
    def has_chunks(self) -> bool:
        return self.version > _VERSION_WITH_CHUNKS - _EPSILON and ("chunks", "hash") in self.columns

    @property
    def has_bind_mountpoints(self) -> bool:
        return self._reaches(_REVISION_BIND)

    @property
    def is_newest(self) -> bool:
        """Whether a writer can use the file as it is."""
        return self.is_current_version and self.revision >= SCHEMA_REVISION and not self.missing_columns()

    def _reaches(self, revision: int) -> bool:
        return self.is_current_version and self.revision >= revision

    def missing_columns(self) -> list[tuple[str, str, str]]:
        """Table, name and type of the columns that the newest schema has and this file has not."""
        return [column for column in _LATER_COLUMNS if column[:2] not in self.columns]

    @property
    def row_columns(self) -> str:
        """What to select so that every revision gives rows of one form (see `cdn.catalog.rows`)."""
        ours = "plain_digest" if ("catalog", "plain_digest") in self.columns else "NULL"
        keys = "md5path_1, md5path_2"
        if self.is_legacy:
            return f"hash, 1, size, mode, mtime, NULL, flags & 63, name, symlink, 0, 0, NULL, {ours}, {keys}"
        mtime_ns = "mtimens" if self._reaches(_REVISION_MTIME_NS) else "NULL"
        xattr = "xattr" if self._reaches(_REVISION_XATTR) else "NULL"
        return (
            f"hash, hardlinks, size, mode, mtime, {mtime_ns}, flags, name, symlink, uid, gid, {xattr}, {ours}, {keys}"
        )

    @property
    def chunk_columns(self) -> str:
        """What to select from the table `chunks`."""
        return "offset, size, hash, " + ("plain_digest" if ("chunks", "plain_digest") in self.columns else "NULL")

    @property
    def reference_columns(self) -> str:
        """What to select from the table `nested_catalogs`."""
        return "path, sha1, " + ("size" if self._reaches(_REVISION_NESTED_SIZE) else "0")

    def required_counters(self) -> frozenset[str]:
        """The counters without which real clients refuse the catalog (spec §5.10)."""
        if not self.is_current_version:
            return frozenset()
        later = {"xattr": _REVISION_XATTR, "special": _REVISION_SPECIAL}
        later |= {"external": _REVISION_EXTERNAL, "external_file_size": _REVISION_EXTERNAL}
        names = [name for name in COUNTER_NAMES if later.get(name, 0) <= self.revision]
        return frozenset(prefix + name for prefix in ("self_", "subtree_") for name in names)

    def required_columns(self) -> set[tuple[str, str]]:
        """Table and name of the columns that a catalog of this version and revision must have."""
        row = "md5path_1 md5path_2 parent_1 parent_2 hash size mode mtime flags name symlink"
        if not self.is_legacy:
            row += " hardlinks uid gid"
        if self._reaches(_REVISION_XATTR):
            row += " xattr"
        if self._reaches(_REVISION_MTIME_NS):
            row += " mtimens"
        wanted = {"catalog": row, "properties": "key value", "nested_catalogs": "path sha1"}
        if self._reaches(_REVISION_NESTED_SIZE):
            wanted["nested_catalogs"] = "path sha1 size"
        if self.is_current_version:
            wanted |= {"chunks": "md5path_1 md5path_2 offset size hash", "statistics": "counter value"}
        if self.has_bind_mountpoints:
            wanted["bind_mountpoints"] = "path sha1 size"
        return {(table, column) for table, names in wanted.items() for column in names.split()}

    @classmethod
    def of(cls, connection: sqlite3.Connection, version: float, revision: int, document: str) -> Layout:
        """The layout of an open file.

        Raises:
            DocumentError: real clients refuse this version, or a column that it must have is missing.
        """
        is_known = abs(version - SCHEMA_VERSION) < _EPSILON or abs(version - _VERSION_WITH_CHUNKS) < _EPSILON
        if not is_known and not 0 <= version < _VERSION_LEGACY_END - _EPSILON:
            raise DocumentError(document, f"its schema is {version}, of which nothing is known")
        tables = ("catalog", "chunks", "properties", "statistics", "nested_catalogs", "bind_mountpoints")
        with guard(document):
            found = [
                (t, c) for t in tables for (c,) in connection.execute("SELECT name FROM pragma_table_info(?)", (t,))
            ]
        layout = cls(version, revision, frozenset(found))
        missing = layout.required_columns() - layout.columns
        if missing:
            raise DocumentError(
                document, "it has no column " + " and no column ".join(map(".".join, sorted(missing)[:3]))
            )
        return layout
