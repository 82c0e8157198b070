"""The reflog: every root-level object ever published, for garbage collection to find them again (spec §7.4).

Unlike all other databases it lies uncompressed beside the manifest (`.cvmfsreflog`), and its digest is over the file as
it is. The publisher and each replica keep their own.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from cdn import database
from cdn.errors import DocumentError
from cdn.hashing import Algorithm, Digest, Hasher
from cdn.objects import Kind, ObjectName

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Buffer  # type: ignore[attr-defined]  # typeshed has it from 3.12 on

_DOCUMENT: Final = "reflog"
_SCHEMA: Final = (1.0, 0)
_PIECE_BYTES: Final = 1 << 20
_NUMBERS: Final = {Kind.CATALOG: 0, Kind.CERTIFICATE: 1, Kind.HISTORY: 2, Kind.METAINFO: 3}
_KINDS: Final = {number: kind for kind, number in _NUMBERS.items()}


@dataclass(frozen=True, slots=True)
class ReflogEntry:
    """One object.

    Args:
        name: its digest and kind; of catalogs only root catalogs are listed.
        timestamp: when this server first listed it, in seconds since the epoch.
    """

    name: ObjectName
    timestamp: int

    def __post_init__(self) -> None:
        if self.name.kind not in _NUMBERS:
            raise ValueError(f"a reflog does not list {self.name}")


@dataclass(frozen=True, slots=True)
class Reflog:
    """All entries.

    Args:
        fqrn: the repository's name.
        entries: each digest once, oldest first.
    """

    fqrn: str
    entries: tuple[ReflogEntry, ...] = ()
    _digests: frozenset[Digest] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        digests = frozenset(entry.name.digest for entry in self.entries)
        if len(digests) != len(self.entries):
            raise ValueError("two entries have the same digest")
        object.__setattr__(self, "_digests", digests)

    def __contains__(self, name: ObjectName) -> bool:
        return name.digest in self._digests

    def of_kind(self, kind: Kind) -> tuple[ReflogEntry, ...]:
        """The entries of one kind."""
        return tuple(entry for entry in self.entries if entry.name.kind is kind)

    def with_objects(self, names: Iterable[ObjectName], timestamp: int) -> Reflog:
        """With these objects listed; those already there keep their time."""
        new = {name.digest: ReflogEntry(name, timestamp) for name in names if name not in self}
        return replace(self, entries=(*self.entries, *new.values()))

    def without(self, names: Iterable[ObjectName]) -> Reflog:
        """Without these objects, whether they were listed or not."""
        gone = frozenset(name.digest for name in names)
        return replace(self, entries=tuple(entry for entry in self.entries if entry.name.digest not in gone))

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Reflog:
        """Reads a reflog file.

        Raises:
            DocumentError: it is none, or of another schema than 1.0 revision 0.
            OSError: it cannot be read.
        """
        connection = database.open_readonly(path, _DOCUMENT)
        try:
            with database.guard(_DOCUMENT):
                return _read(connection)
        finally:
            connection.close()

    @classmethod
    def from_bytes(cls, data: Buffer) -> Reflog:
        """Reads the content of a reflog file.

        Raises:
            DocumentError: as `read`.
        """
        with tempfile.NamedTemporaryFile(prefix="reflog-") as file:
            file.write(data)
            file.flush()
            return cls.read(file.name)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Writes a new reflog file.

        Raises:
            OSError: the file exists already or cannot be written.
        """
        connection = database.create(path)
        try:
            _write(connection, self)
            connection.commit()
        finally:
            connection.close()


def checksum(path: str | os.PathLike[str], algorithm: Algorithm) -> Digest:
    """The digest of a reflog file, as key Y of the manifest and the local `reflog.chksum` have it.

    Raises:
        OSError: the file cannot be read.
    """
    hasher = Hasher(algorithm)
    with open(path, "rb") as file:
        while piece := file.read(_PIECE_BYTES):
            hasher.update(piece)
    return hasher.digest()


def _read(connection: sqlite3.Connection) -> Reflog:
    properties = database.properties(connection, _DOCUMENT)
    schema = database.schema_of(properties, _DOCUMENT)
    if schema != _SCHEMA:
        raise DocumentError(_DOCUMENT, f"its schema {schema[0]} revision {schema[1]} is not 1.0 revision 0")
    if "fqrn" not in properties:
        raise DocumentError(_DOCUMENT, "it does not name its repository (property fqrn)")
    return Reflog(properties["fqrn"], tuple(_entries(connection)))


def _entries(connection: sqlite3.Connection) -> Iterator[ReflogEntry]:
    for text, number, timestamp in connection.execute("SELECT hash, type, timestamp FROM refs"):
        kind = _KINDS.get(database.integer(number, _DOCUMENT, "an entry's type"))
        if kind is None:
            raise DocumentError(_DOCUMENT, f"there is no kind of object with number {number}")
        digest = Digest.parse(database.text(text, _DOCUMENT, "an entry's hash"))
        yield ReflogEntry(ObjectName(digest, kind), database.integer(timestamp, _DOCUMENT, "an entry's timestamp"))


def _write(connection: sqlite3.Connection, reflog: Reflog) -> None:
    connection.execute("CREATE TABLE properties (key TEXT, value TEXT, CONSTRAINT pk_properties PRIMARY KEY (key))")
    connection.execute(
        "CREATE TABLE refs (hash TEXT, type INTEGER, timestamp INTEGER, CONSTRAINT pk_refs PRIMARY KEY (hash))"
    )
    properties = {"schema": "1.0", "schema_revision": "0", "fqrn": reflog.fqrn}
    connection.executemany("INSERT INTO properties VALUES (?, ?)", properties.items())
    connection.executemany(
        "INSERT INTO refs VALUES (?, ?, ?)",
        ((entry.name.digest.text, _NUMBERS[entry.name.kind], entry.timestamp) for entry in reflog.entries),
    )
