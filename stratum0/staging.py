"""``changes.sqlite``: the net changes of one transaction, in bounded memory.

A row's key is its path with a NUL in place of every slash. No name contains a NUL and nothing sorts before it, so the
order of keys is the order of paths by components: a directory comes right before everything below it, and all below it
is one range.
"""
# ruff: noqa: S608  # what is put into queries are names and numbers written in this module

from __future__ import annotations

import itertools
import os
import sqlite3
import stat
import struct
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

from cdn.catalog.entries import (
    FLAG_BIND_MOUNTPOINT,
    FLAG_EXTERNAL,
    FLAG_NESTED_MOUNTPOINT,
    FLAG_NESTED_ROOT,
    Chunk,
    algorithm_of_flags,
    decode_name,
    encode_name,
)
from cdn.catalog.rows import decode_row, encode_row
from cdn.closing import Closing
from cdn.errors import StorageError
from cdn.hashing import Algorithm, Digest
from cdn.objects import Kind, ObjectName
from stratum0.changes import Change, ChangeKind

_BATCH: Final = 5_000
_LISTED: Final = 64
_FETCHED: Final = 500
_BUSY_SECONDS: Final = 60.0
_CACHE_KIB: Final = 8 << 10
_PUT: Final = 0
_CLEAR: Final = 1
_REMOVE: Final = 2
_NUMBERS: Final = {ChangeKind.PUT: _PUT, ChangeKind.CLEAR: _CLEAR, ChangeKind.REMOVE: _REMOVE}
_KINDS: Final = (ChangeKind.PUT, ChangeKind.CLEAR, ChangeKind.REMOVE)

_COLUMNS: Final = (
    "hash", "hardlinks", "size", "mode", "mtime", "mtimens", "flags", "name", "symlink", "uid", "gid", "xattr",
    "plain_digest", "chunks",
)  # fmt: skip
"""Those of a catalog's row, so that what is staged can be put into a catalog as it is, and the chunks packed."""
_TABLES: Final = (
    f"CREATE TABLE changes (key BLOB PRIMARY KEY, kind INTEGER NOT NULL, {', '.join(_COLUMNS)}) WITHOUT ROWID",
    "CREATE INDEX changes_in_groups ON changes (hardlinks) WHERE hardlinks > 4294967295",
)
_IS_DIRECTORY: Final = "({0}.mode & 61440) = 16384"
_INSERT: Final = f"INSERT INTO changes VALUES ({', '.join('?' * (len(_COLUMNS) + 2))})"
_UPSERT: Final = f"""{_INSERT}
ON CONFLICT (key) DO UPDATE SET
  kind = CASE WHEN excluded.kind = {_PUT} AND {_IS_DIRECTORY.format("excluded")}
                AND NOT (changes.kind = {_PUT} AND {_IS_DIRECTORY.format("changes")})
              THEN {_CLEAR} ELSE excluded.kind END,
  {", ".join(f"{column} = excluded.{column}" for column in _COLUMNS)}"""
"""A directory put where something else was staged is a new one: what the base has below that path is gone."""
_SELECT: Final = f"SELECT key, kind, {', '.join(_COLUMNS)} FROM changes"
_RANGE: Final = "key >= ? AND key < ?"
_LONE_MEMBERS: Final = """
UPDATE changes SET hardlinks = 1 WHERE key IN (
  SELECT min(key) FROM changes WHERE hardlinks > 4294967295
  GROUP BY folder(key), hardlinks >> 32 HAVING count(*) = 1)"""

_CHUNK: Final = struct.Struct("<qq20s?32s")
_NO_KEY: Final = (0, 0)
_IS_GROUPED: Final = 1 << 32
_ROLES: Final = FLAG_NESTED_MOUNTPOINT | FLAG_NESTED_ROOT | FLAG_BIND_MOUNTPOINT

Row = tuple[Any, ...]


def key_of(path: str) -> bytes:
    """The key of a path."""
    return encode_name(path).replace(b"/", b"\0")


def path_of(key: bytes) -> str:
    """The path that has this key."""
    return decode_name(key.replace(b"\0", b"/"))


class Staging(Closing):
    """The changes; a context manager that closes the file.

    Args:
        file: where; created if it is not there.
        durable: whether what was recorded must survive a power cut.
    """

    def __init__(self, file: str | os.PathLike[str], *, durable: bool = True) -> None:
        self.file: Final = os.fspath(file)
        with self._mapped():
            self._connection = sqlite3.connect(
                self.file, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            try:
                self._prepare(durable=durable)
            except BaseException:
                self._connection.close()
                raise
        weakref.finalize(self, self._connection.close).atexit = False  # a transaction that is dropped is let go

    def _prepare(self, *, durable: bool) -> None:
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        self._connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'OFF'}")
        self._connection.create_function("folder", 1, _folder, deterministic=True)
        if not self._connection.execute("SELECT 1 FROM sqlite_master").fetchone():
            with self._recording():
                for statement in _TABLES:
                    self._connection.execute(statement)

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()

    # -------------------------------------------------------------------------------------------------------- recording

    def record(self, changes: Iterable[Change]) -> None:
        """Records changes in place of earlier ones of the same paths, all or, after an error, none of them.

        What was staged below a path goes when the path is removed or becomes something else than a directory.

        Args:
            changes: in any order.
        """
        pending = iter(changes)
        with self._mapped(), self._recording():
            while batch := list(itertools.islice(pending, _BATCH)):
                rows = [row_of(change) for change in batch]
                self._cut(rows)
                self._connection.executemany(_UPSERT, rows)

    def record_new(self, rows: Iterable[Row]) -> None:
        """Records new files given as what `new_file_row` made, all or, after an error, none of them.

        Args:
            rows: of paths at and below which nothing is staged.
        """
        with self._mapped(), self._recording():
            self._connection.executemany(_INSERT, rows)

    def record_removal(self, path: str, gone: Iterable[Change], moved: Iterable[Change] = ()) -> None:
        """Records copies, then forgets what was staged for a path and everything below it and records its removal.

        All of that or, after an error, none of it. The copies may be read from what is staged at the path.

        Args:
            path: what goes.
            gone: its removal; nothing if the base does not have it.
            moved: the copies.
        """
        key, copies = key_of(path), iter(moved)
        with self._mapped(), self._recording():
            while batch := list(itertools.islice(copies, _BATCH)):
                self._connection.executemany(_UPSERT, map(row_of, batch))
            self._connection.execute("DELETE FROM changes WHERE key = ?", (key,))
            self._connection.execute(f"DELETE FROM changes WHERE {_RANGE}", _below(key))
            self._connection.executemany(_UPSERT, map(row_of, gone))

    def dissolve_lone_members(self) -> None:
        """Makes groups of hard links that have only one member in their folder ordinary files."""
        with self._mapped(), self._recording():
            self._connection.execute(_LONE_MEMBERS)

    # -------------------------------------------------------------------------------------------------------- questions

    @property
    def count(self) -> int:
        """How many paths are changed."""
        with self._mapped():
            return int(self._connection.execute("SELECT count(*) FROM changes").fetchone()[0])

    def find(self, path: str) -> Change | None:
        """The change of exactly this path."""
        with self._mapped():
            row = self._connection.execute(f"{_SELECT} WHERE key = ?", (key_of(path),)).fetchone()
        return None if row is None else change_of(row)

    def has_file(self, path: str) -> bool:
        """Whether the path becomes a regular file."""
        with self._mapped():
            query = f"SELECT 1 FROM changes WHERE key = ? AND kind = {_PUT} AND (mode & 61440) = 32768"
            return self._connection.execute(query, (key_of(path),)).fetchone() is not None

    def has_name(self, name: str) -> bool:
        """Whether some directory gets an entry of this name."""
        with self._mapped():
            query = f"SELECT 1 FROM changes WHERE name = ? AND kind <> {_REMOVE} LIMIT 1"
            return self._connection.execute(query, (name,)).fetchone() is not None

    def keys(self) -> Iterator[tuple[bytes, bool]]:
        """The keys of all paths that are not removed, in order, and whether they are directories."""
        with self._mapped():
            query = f"SELECT key, (mode & 61440) = 16384 FROM changes WHERE kind <> {_REMOVE} ORDER BY key"
            cursor = self._connection.execute(query)
            while rows := cursor.fetchmany(_FETCHED):
                yield from rows

    def hides(self, path: str) -> bool:
        """Whether a change of a directory above takes away what the base has at a path."""
        key = key_of(path)
        above = [key[:end] for end in range(len(key)) if key[end] == 0]
        with self._mapped():
            return any(
                kind != _PUT or not stat.S_ISDIR(mode)
                for prefix in above
                for kind, mode in self._connection.execute("SELECT kind, mode FROM changes WHERE key = ?", (prefix,))
            )

    def children(self, path: str) -> Iterator[Change]:
        """The changes of paths directly in a directory, in byte order of their names."""
        key = key_of(path)
        lower, upper = _below(key)
        start = len(lower)
        while True:
            with self._mapped():
                query = f"{_SELECT} WHERE {_RANGE} ORDER BY key LIMIT ?"
                rows = self._connection.execute(query, (lower, upper, _LISTED)).fetchall()
            if not rows:
                return
            for row in rows:
                end = row[0].find(b"\0", start)
                if end >= 0:  # deeper: on to what follows that folder
                    lower = row[0][:end] + b"\1"
                    break
                yield change_of(row)
                lower = row[0] + b"\0"

    def changes(self, path: str = "") -> Iterator[Change]:
        """The changes at and below a path, parents before what is below them."""
        return map(change_of, self.rows(path))

    def rows(self, path: str = "") -> Iterator[Row]:
        """The same undecoded, for `change_of` and `plain_file`; the first column is the key."""
        key = key_of(path)
        with self._mapped():
            cursor = self._connection.execute(f"{_SELECT} WHERE {_RANGE} ORDER BY key", (key, key + b"\1"))
            while rows := cursor.fetchmany(_FETCHED):
                yield from rows

    def objects(self) -> Iterator[str]:
        """Paths of the objects that the changes rely on; one may come more than once."""
        query = "SELECT hash, flags, chunks FROM changes WHERE hash IS NOT NULL OR chunks IS NOT NULL"
        with self._mapped():
            for value, flags, blob in self._connection.execute(query):
                if flags & FLAG_EXTERNAL:
                    continue
                algorithm = algorithm_of_flags(flags)
                if value is not None:
                    yield ObjectName(Digest(algorithm, value), Kind.FILE).path
                for chunk in _unpacked(blob or b"", algorithm):
                    yield ObjectName(chunk.digest, Kind.CHUNK).path

    # ----------------------------------------------------------------------------------------------------------- inside

    def _cut(self, rows: list[Row]) -> None:
        """Deletes what was staged below paths that have nothing below them any more."""
        tops = [row[0] for row in rows if row[1] == _REMOVE or not stat.S_ISDIR(row[5])]
        last = self._connection.execute("SELECT max(key) FROM changes").fetchone()[0]
        if not tops or last is None or last < min(tops):  # as when a scan comes in order: nothing can be below
            return
        self._connection.executemany(f"DELETE FROM changes WHERE {_RANGE}", (_below(top) for top in tops))

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Makes everything that is recorded within the block one step: all of it or, after an error, nothing."""
        with self._mapped(), self._recording():
            yield

    @contextmanager
    def _recording(self) -> Iterator[None]:
        is_part = self._connection.in_transaction  # of a batch
        self._connection.execute("SAVEPOINT part" if is_part else "BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("RELEASE part" if is_part else "COMMIT")
        except BaseException:
            if is_part:
                self._connection.execute("ROLLBACK TO part")
                self._connection.execute("RELEASE part")
            else:
                self._connection.rollback()  # where SQLite did not do so by itself
            raise

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.ProgrammingError:
            raise  # a mistake in this program
        except sqlite3.Error as error:
            raise StorageError(f"the staged changes in {self.file} cannot be used: {error}") from error


# ------------------------------------------------------------------------------------------------------ rows and values


def _below(key: bytes) -> tuple[bytes, bytes]:
    return key + b"\0", key + b"\1"


def _folder(key: bytes) -> bytes:
    return key.rpartition(b"\0")[0]


def row_of(change: Change) -> Row:
    """The row of a change.

    Raises:
        UsageError, DocumentError: the format cannot hold the entry.
    """
    key, entry = key_of(change.path), change.entry
    if entry is None:
        return (key, _REMOVE, *_REMOVED)
    if entry.is_directory and entry.flags & _ROLES:  # where catalogs begin is for applying to decide
        entry = replace(entry, is_nested_mountpoint=False, is_nested_root=False, is_bind_mountpoint=False)
    row = encode_row(_NO_KEY, _NO_KEY, change.path.rpartition("/")[2], entry)
    chunks = b"".join(map(_packed, entry.chunks)) if entry.chunks else None
    return (key, _NUMBERS[change.kind], *row[4:], chunks)


def new_file_row(key: bytes, columns: Row) -> Row:
    """The row of a regular file that is put where nothing is: one object, no other names, no extended attributes.

    It is `row_of` without the values in between, which are most of the work where files are small and many.

    Args:
        key: of its path.
        columns: what `encode_plain_file` made of it.
    """
    return (key, _PUT, *columns, None)


_REMOVED: Final = (None, 0, 0, 0, 0, None, 0, "", "", 0, 0, None, None, None)


def change_of(row: Row) -> Change:
    """The change that a row of `Staging.rows` holds."""
    path = decode_name(row[0].replace(b"\0", b"/"))
    if row[1] == _REMOVE:
        return Change(path, ChangeKind.REMOVE)
    name, symlink, blob = row[9], row[10], row[15]
    if type(name) is bytes or type(symlink) is bytes:
        name = decode_name(name) if type(name) is bytes else name
        symlink = decode_name(symlink) if type(symlink) is bytes else symlink
    chunks = () if blob is None else _unpacked(blob, algorithm_of_flags(row[8]))
    entry = decode_row((*row[2:9], name, symlink, *row[11:15], 0, 0), "staged changes", chunks)
    return Change(path, _KINDS[row[1]], entry)


def plain_file(row: Row) -> Row | None:
    """The catalog's columns of a row, if it is a new entry that nothing more must be known of.

    That is: no directory, not cut into chunks, in no group of hard links.
    """
    if row[1] != _PUT or row[15] is not None or row[3] >= _IS_GROUPED or stat.S_ISDIR(row[5]):
        return None
    return row[2:15]


def _packed(chunk: Chunk) -> bytes:
    plain = chunk.plain_digest
    return _CHUNK.pack(chunk.offset, chunk.size, chunk.digest.value, plain is not None, plain or b"")


def _unpacked(blob: bytes, algorithm: Algorithm) -> tuple[Chunk, ...]:
    return tuple(
        Chunk(offset, size, Digest(algorithm, value), plain if has_plain else None)
        for offset, size, value, has_plain, plain in _CHUNK.iter_unpack(blob)
    )
