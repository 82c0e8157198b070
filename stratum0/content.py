"""Content: plain bytes in, stored objects out, each piece of content compressed and written once.

The index remembers, for the SHA-256 of plain bytes, under which digest they are stored. So content that the repository
already has, wherever it came from, costs one hash and one look whether the object is still there. The index is a cache:
without it everything still works and costs what it costs the first time.
"""

from __future__ import annotations

import os
import sqlite3
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from cdn.catalog.entries import Chunk
from cdn.chunking import CHUNKED_ABOVE_BYTES, cut_stream
from cdn.closing import Closing
from cdn.compression import LEVEL_FASTEST, Compression, compress
from cdn.hashing import Algorithm, Digest, digest_of, plain_digest_of
from cdn.objects import Kind, ObjectName

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from typing_extensions import Buffer

    from cdn.storage.base import ObjectStore

PROBED_ABOVE_BYTES: Final = 256 << 10
_PROBE_BYTES: Final = 64 << 10
_PROBE_RATIO: Final = 0.97
_STORE_LEVEL: Final = 0
_BUSY_SECONDS: Final = 30.0
_CACHE_KIB: Final = 8 << 10
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS content (key BLOB PRIMARY KEY, digest BLOB NOT NULL, stored INTEGER NOT NULL) WITHOUT ROWID
"""


@dataclass(frozen=True, slots=True)
class ContentSettings:
    """How a repository stores content."""

    algorithm: Algorithm
    compression: Compression = Compression.ZLIB
    level: int = LEVEL_FASTEST


class StoredPiece(NamedTuple):
    """One object's worth of content.

    Args:
        digest: of the stored bytes.
        plain_digest: SHA-256 of the plain bytes.
        size: plain bytes.
        stored_size: bytes in the store.
        is_new: whether it was written now; False if the store already had it.
    """

    digest: Digest
    plain_digest: bytes
    size: int
    stored_size: int
    is_new: bool


class StoredContent(NamedTuple):
    """A whole file's content, stored: one object, or chunks.

    Args:
        size: plain bytes.
        compression: how it is stored.
        digest, plain_digest: of the object, None if there are chunks.
        chunks: in order, none for an unchunked file.
        found: paths of the objects that the store had before.
        stored_size: bytes newly written.
        objects_new: objects newly written.
    """

    size: int
    compression: Compression
    digest: Digest | None = None
    plain_digest: bytes | None = None
    chunks: tuple[Chunk, ...] = ()
    found: tuple[str, ...] = ()
    stored_size: int = 0
    objects_new: int = 0

    @property
    def entry_fields(self) -> dict[str, Any]:
        """What an `Entry` of this content is made with, to be passed as keywords."""
        return {
            "size": self.size,
            "compression": self.compression,
            "digest": self.digest,
            "plain_digest": self.plain_digest,
            "chunks": self.chunks,
            "is_chunked": bool(self.chunks),
        }


def content_of_piece(piece: StoredPiece, compression: Compression) -> StoredContent:
    """The content of a file that is one object."""
    if piece.is_new:
        return StoredContent(piece.size, compression, piece.digest, piece.plain_digest, (), (), piece.stored_size, 1)
    path = ObjectName(piece.digest, Kind.FILE).path
    return StoredContent(piece.size, compression, piece.digest, piece.plain_digest, (), (path,))


def content_of_chunks(pieces: Iterable[StoredPiece], compression: Compression) -> StoredContent:
    """The content of a file that is several objects, given in order."""
    chunks: list[Chunk] = []
    found: list[str] = []
    offset = written = new = 0
    for piece in pieces:
        chunks.append(Chunk(offset, piece.size, piece.digest, piece.plain_digest))
        offset += piece.size
        if piece.is_new:
            written += piece.stored_size
            new += 1
        else:
            found.append(ObjectName(piece.digest, Kind.CHUNK).path)
    return StoredContent(offset, compression, None, None, tuple(chunks), tuple(found), written, new)


# ------------------------------------------------------------------------------------------------------------ the index

IndexRow = tuple[bytes, bytes, int]
"""What the index remembers of a piece: the key of its plain bytes, the stored object's digest, and its size."""


def index_row(piece: StoredPiece, kind: Kind, settings: ContentSettings) -> IndexRow:
    """What the index remembers of a piece that is stored in this way."""
    return _key(piece.plain_digest, kind, settings), piece.digest.value, piece.stored_size


class ContentIndex(Closing):
    """Which plain bytes are stored under which digest; a context manager that closes its file.

    Several processes may read while one writes. One thread at a time.

    Args:
        file: an SQLite file; created if it is not there.
    """

    def __init__(self, file: str | os.PathLike[str]) -> None:
        self._connection = sqlite3.connect(file, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = OFF")  # a cache: losing it costs time, never content
            self._connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
            self._connection.execute(_SCHEMA)
        except BaseException:
            self._connection.close()
            raise
        weakref.finalize(self, self._connection.close).atexit = False  # nobody need close a repository

    def find(self, wanted: Iterable[tuple[bytes, Kind]], settings: ContentSettings) -> list[tuple[Digest, int] | None]:
        """Of each content, the digest under which it is stored in this way, and the stored size; None if it is not.

        Args:
            wanted: SHA-256 of the plain bytes, and what they are stored as; at most 1,000.
            settings: how.
        """
        keys = [_key(plain_digest, kind, settings) for plain_digest, kind in wanted]
        query = f"SELECT key, digest, stored FROM content WHERE key IN ({','.join('?' * len(keys))})"  # noqa: S608
        rows = self._connection.execute(query, keys).fetchall()
        found = {key: (Digest(settings.algorithm, value), stored) for key, value, stored in rows}
        return [found.get(key) for key in keys]

    def add(self, rows: Iterable[IndexRow]) -> None:
        """Remembers pieces that are in the store, all in one transaction."""
        rows = sorted(rows)  # neighbours fall onto the same pages
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            self._connection.executemany("INSERT OR REPLACE INTO content VALUES (?, ?, ?)", rows)
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def clear(self) -> None:
        """Forgets everything."""
        self._connection.execute("DELETE FROM content")

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()


def _key(plain_digest: bytes, kind: Kind, settings: ContentSettings) -> bytes:
    """Not the level: content once stored at another level is still the same content."""
    return plain_digest + bytes((ord(kind.value or "-"), settings.algorithm.number, settings.compression.value))


# ------------------------------------------------------------------------------------------------------------ the store


@dataclass(slots=True)
class ContentStore:
    """Stores content in this process, one piece at a time.

    Args:
        store: where objects go.
        settings: how they are stored.
        index: what is known to be stored; None to look at every piece anew.
    """

    store: ObjectStore
    settings: ContentSettings
    index: ContentIndex | None = None

    def store_piece(self, data: Buffer, kind: Kind) -> StoredPiece:
        """Stores bytes as one object, unless the store has them.

        Raises:
            StorageError: they cannot be stored.
        """
        return self.store_pieces([(data, kind)])[0]

    def store_pieces(self, pieces: Sequence[tuple[Buffer, Kind]]) -> list[StoredPiece]:
        """Stores each of these bytes as one object, unless the store has them; at most 1,000.

        Raises:
            StorageError: they cannot be stored.
        """
        wanted = [(plain_digest_of(data), kind) for data, kind in pieces]
        known = self.index.find(wanted, self.settings) if self.index is not None else [None] * len(wanted)
        return [
            self._store(data, kind, plain_digest, found)
            for (data, kind), (plain_digest, _), found in zip(pieces, wanted, known, strict=True)
        ]

    def _store(self, data: Buffer, kind: Kind, plain_digest: bytes, known: tuple[Digest, int] | None) -> StoredPiece:
        size = memoryview(data).nbytes
        if known is not None and self.store.exists(ObjectName(known[0], kind).path):
            return StoredPiece(known[0], plain_digest, size, known[1], is_new=False)
        stored = compress(data, self.settings.compression, self._level_for(data, size))
        digest = digest_of(self.settings.algorithm, stored)
        is_new = self.store.put(ObjectName(digest, kind).path, stored)
        return StoredPiece(digest, plain_digest, size, len(stored), is_new)

    def store_bytes(self, data: Buffer) -> StoredContent:
        """Stores a whole file's content given as bytes.

        Raises:
            StorageError: it cannot be stored.
        """
        if memoryview(data).nbytes > CHUNKED_ABOVE_BYTES:
            import io

            return self.store_stream(io.BytesIO(data))
        return self._store_whole(data)

    def store_stream(self, stream: Any) -> StoredContent:
        """Stores a whole file's content read from a binary stream, in bounded memory.

        Raises:
            StorageError: it cannot be stored.
            OSError: the stream cannot be read.
        """
        head = _read_up_to(stream, CHUNKED_ABOVE_BYTES + 1)
        if len(head) <= CHUNKED_ABOVE_BYTES:
            return self.store_bytes(head)
        parts = cut_stream(_Resumed(head, stream))
        first = bytes(next(parts))
        second = next(parts, None)
        if second is None:  # a single piece is a file of its own, not a chunk (spec §6)
            return self._store_whole(first)
        pieces = [self.store_piece(first, Kind.CHUNK), self.store_piece(second, Kind.CHUNK)]
        pieces += [self.store_piece(part, Kind.CHUNK) for part in parts]
        self._remember([(piece, Kind.CHUNK) for piece in pieces])
        return content_of_chunks(pieces, self.settings.compression)

    def store_path(self, path: str | os.PathLike[str]) -> StoredContent:
        """Stores a whole file's content.

        Raises:
            StorageError: it cannot be stored.
            OSError: the file cannot be read.
        """
        with open(path, "rb") as stream:
            return self.store_stream(stream)

    def _store_whole(self, data: Buffer) -> StoredContent:
        piece = self.store_piece(data, Kind.FILE)
        self._remember([(piece, Kind.FILE)])
        return content_of_piece(piece, self.settings.compression)

    def _remember(self, pieces: list[tuple[StoredPiece, Kind]]) -> None:
        if self.index is not None:
            self.index.add(index_row(piece, kind, self.settings) for piece, kind in pieces)

    def _level_for(self, data: Buffer, size: int) -> int:
        """Stores what a sample shows to be incompressible, instead of spending a second on each 80 MB of it."""
        if size <= PROBED_ABOVE_BYTES or self.settings.compression is Compression.NONE:
            return self.settings.level
        middle = size // 2
        sample = memoryview(data)[middle : middle + _PROBE_BYTES]
        is_incompressible = len(compress(sample, level=LEVEL_FASTEST)) > len(sample) * _PROBE_RATIO
        return _STORE_LEVEL if is_incompressible else self.settings.level


class _Resumed:
    """A stream that begins with bytes already read from it."""

    def __init__(self, head: bytes, rest: Any) -> None:
        self._head = memoryview(head)
        self._rest = rest

    def read(self, size: int) -> bytes:
        if self._head:
            part, self._head = bytes(self._head[:size]), self._head[size:]
            return part
        data: bytes = self._rest.read(size)
        return data


def _read_up_to(stream: Any, size: int) -> bytes:
    parts = []
    while size > 0 and (part := stream.read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
