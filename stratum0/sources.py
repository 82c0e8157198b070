"""What a source folder looked like when it was last published, so that what did not change is not opened again.

For each folder there is one row: the stat records of everything directly in it, packed and sorted by name. A folder in
which nothing changed is recognized by comparing two byte strings. What is remembered holds for the revision it was
published as; if the repository has moved on since, whoever uses it first finds out where (`stratum0.scan`).

A record holds type and permissions, owner, size, mtime, ctime, inode and link count. A file that changed so shortly
before it was looked at that another change might leave the same times gets no inode, so that it is read next time.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import stat
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cdn.closing import Closing
from cdn.errors import DocumentError
from cdn.hashing import Digest

if TYPE_CHECKING:
    from collections.abc import Iterable

RACY_NS: Final = 50_000_000
"""Times of a file are only as fine as the kernel's tick (4 to 10 ms): within a few of those they prove nothing."""

_RECORD: Final = struct.Struct("<IIIIqQqQ")
_MTIME_MASK: Final = (1 << 64) - 1
"""Anybody may set an mtime to before 1677 or after 2262, which 64 bits of nanoseconds hold only by wrapping around."""
_NAME: Final = struct.Struct("<H")
_NOTHING: Final = b""
_KIND_BITS: Final = 0o170000
_DEVICES: Final = frozenset({stat.S_IFBLK, stat.S_IFCHR})
_UNKNOWN_INODE: Final = 0
_VERSION: Final = "1"
_SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS folders (path BLOB PRIMARY KEY, records BLOB NOT NULL) WITHOUT ROWID",
)

Records = dict[bytes, bytes]
"""Packed stat records by name."""


def record_of(status: os.stat_result) -> bytes:
    """The packed record of a file's status. Of a directory only what is published counts, not its size or ctime."""
    if stat.S_ISDIR(status.st_mode):
        return _RECORD.pack(status.st_mode, status.st_uid, status.st_gid, 0, 0, status.st_mtime_ns & _MTIME_MASK, 0, 0)
    size = status.st_rdev if stat.S_ISBLK(status.st_mode) or stat.S_ISCHR(status.st_mode) else status.st_size
    return _RECORD.pack(
        status.st_mode,
        status.st_uid,
        status.st_gid,
        status.st_nlink,
        size,
        status.st_mtime_ns & _MTIME_MASK,
        status.st_ctime_ns,
        status.st_ino,
    )


def is_directory_record(record: bytes) -> bool:
    """Whether a record is that of a directory."""
    return stat.S_ISDIR(int.from_bytes(record[:4], "little"))


def link_of_record(record: bytes) -> tuple[int, int]:
    """The inode and link count of a record."""
    fields = _RECORD.unpack(record)
    return fields[7], fields[3]


def settled(record: bytes, looked_ns: int) -> bytes:
    """The record to remember: without an inode if the file may change unseen, having changed only just before.

    The ctime alone decides: whatever writes to a file moves it, and nobody can set it to another day.

    Args:
        record: what was seen.
        looked_ns: when, in nanoseconds since the epoch.
    """
    *fields, mtime_ns, ctime_ns, inode = _RECORD.unpack(record)
    if inode != _UNKNOWN_INODE and ctime_ns > looked_ns - RACY_NS:
        return _RECORD.pack(*fields, mtime_ns, ctime_ns, _UNKNOWN_INODE)
    return record


def is_settled(record: bytes) -> bool:
    """Whether a record proves by itself that a file is as it was published."""
    return is_directory_record(record) or link_of_record(record)[0] != _UNKNOWN_INODE


def packed_records(statuses: Iterable[tuple[bytes, os.stat_result]]) -> tuple[bytes, list[bytes]]:
    """The packed records of what is in a folder, and the names of the directories among it.

    It is `pack` of each name's `record_of`, in one loop, because a publication in which nothing changed is this loop.

    Args:
        statuses: names and statuses, in byte order of the names.
    """
    parts: list[bytes] = []
    directories: list[bytes] = []
    pack_name, pack_record = _NAME.pack, _RECORD.pack
    for name, status in statuses:
        mode = status.st_mode
        kind = mode & _KIND_BITS
        if kind == stat.S_IFDIR:
            directories.append(name)
            record = pack_record(mode, status.st_uid, status.st_gid, 0, 0, status.st_mtime_ns & _MTIME_MASK, 0, 0)
        elif kind in _DEVICES:
            record = record_of(status)
        else:
            record = pack_record(
                mode,
                status.st_uid,
                status.st_gid,
                status.st_nlink,
                status.st_size,
                status.st_mtime_ns & _MTIME_MASK,
                status.st_ctime_ns,
                status.st_ino,
            )
        parts += (pack_name(len(name)), name, record)
    return _NOTHING.join(parts), directories


def settled_records(packed: bytes, statuses: Iterable[tuple[bytes, os.stat_result]], looked_ns: int) -> bytes:
    """The packed records of a folder as they are to be remembered; see `settled`.

    Args:
        packed: what `packed_records` made of the statuses.
        statuses: names and statuses.
        looked_ns: when they were looked at.
    """
    if all(status.st_ctime_ns <= looked_ns - RACY_NS for _, status in statuses):
        return packed
    return pack((name, settled(record, looked_ns)) for name, record in unpack(packed).items())


def pack(records: Iterable[tuple[bytes, bytes]]) -> bytes:
    """One byte string of names and their records, in the order given."""
    return _NOTHING.join([part for name, record in records for part in (_NAME.pack(len(name)), name, record)])


def unpack(packed: bytes) -> Records:
    """The records by name."""
    records: Records = {}
    position = 0
    while position < len(packed):
        name_end = position + _NAME.size + _NAME.unpack_from(packed, position)[0]
        records[packed[position + _NAME.size : name_end]] = packed[name_end : name_end + _RECORD.size]
        position = name_end + _RECORD.size
    return records


class SourceMemory(Closing):
    """The memory of one source folder published to one place; a context manager that closes its file.

    Everything remembered between two `commit` is one change: after a crash the memory is that of the last commit.

    Args:
        folder: where memories are kept.
        source: the source folder, absolute.
        target: where in the repository it is published.
        settings: what else decides what is published; another value makes it another memory.
    """

    def __init__(self, folder: Path, source: bytes, target: str, settings: str) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        key = b"\0".join([source, target.encode("utf-8", "surrogateescape"), settings.encode(), _VERSION.encode()])
        self._file = folder / f"{hashlib.sha256(key).hexdigest()[:32]}.sqlite"
        try:
            self._connection = self._opened()
        except sqlite3.DatabaseError:  # a cache that is damaged is no cache
            self._file.unlink(missing_ok=True)
            self._connection = self._opened()

    def _opened(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._file, isolation_level=None)
        try:
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("PRAGMA cache_size = -16384")
            for statement in _SCHEMA:
                connection.execute(statement)
            connection.execute("BEGIN IMMEDIATE")
        except BaseException:
            connection.close()
            raise
        return connection

    @property
    def published(self) -> Digest | None:
        """The root catalog of the revision that the memory holds for, None if there is no memory."""
        row = self._connection.execute("SELECT value FROM facts WHERE name = 'published'").fetchone()
        try:
            return None if row is None else Digest.parse(row[0])
        except DocumentError:
            return None

    def records(self, folder: bytes) -> bytes | None:
        """The packed records of a folder, given relative to the source; None if it is not remembered."""
        row = self._connection.execute("SELECT records FROM folders WHERE path = ?", (folder,)).fetchone()
        return None if row is None else row[0]

    def remember(self, folder: bytes, records: bytes) -> None:
        """Remembers a folder's packed records."""
        self._connection.execute("INSERT OR REPLACE INTO folders VALUES (?, ?)", (folder, records))

    def forget(self, folder: bytes) -> None:
        """Forgets a folder and everything below it."""
        if folder:
            below = (folder + b"/", folder + b"0")  # "0" follows "/"
            self._connection.execute("DELETE FROM folders WHERE path = ? OR (path > ? AND path < ?)", (folder, *below))
        else:
            self._connection.execute("DELETE FROM folders")

    def commit(self, published: Digest) -> None:
        """Keeps what was remembered; it holds for this root catalog."""
        self._connection.execute("INSERT OR REPLACE INTO facts VALUES ('published', ?)", (published.text,))
        self._connection.execute("COMMIT")
        self._connection.execute("BEGIN IMMEDIATE")

    def close(self) -> None:
        """Forgets what was remembered since the last commit, and closes the file."""
        self._connection.execute("ROLLBACK")
        self._connection.close()
