"""A folder of which nothing is published yet: looked at, read and stored in one go, where the content pipeline works.

A first publication is made of such folders. What there is to say of an ordinary small file is said right where it is
read, as the row that staging holds, so that the process that scans has next to nothing to do for it. Whatever is not an
ordinary small file, or does not stay what it was when it was looked at, is handed back for `stratum0.scan` to handle.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from cdn.catalog.entries import decode_name
from cdn.catalog.paths import NAME_BYTES_MAX, PATH_BYTES_MAX
from cdn.catalog.rows import encode_plain_file
from cdn.chunking import CHUNKED_ABOVE_BYTES
from cdn.objects import Kind, ObjectName
from stratum0.content import index_row
from stratum0.sources import packed_records, settled_records
from stratum0.staging import Row, new_file_row
from stratum0.stamps import Stamp, read_stamped

if TYPE_CHECKING:
    from stratum0.content import ContentStore, IndexRow, StoredPiece

FILES_MAX: Final = 2_000
"""An answer must not become too large; the files above this number are handed back."""
BATCH_FILES: Final = 64
BATCH_BYTES: Final = 2 << 20
"""What is read before it is stored, so much at a time."""

Statuses = list[tuple[bytes, os.stat_result]]


class NewFolder(NamedTuple):
    """Store the small files of a folder.

    Args:
        folder: where it is.
        key: its path in the repository, as staging's keys have it.
        looked_ns: a time before anybody looks at it, in nanoseconds since the epoch.
    """

    folder: bytes
    key: bytes
    looked_ns: int


class StoredFolder(NamedTuple):
    """What became of a folder.

    Args:
        seen: how many names are in it.
        records: what is in it, packed.
        settled: the same, as it is to be remembered.
        rest: names and statuses of what was not stored, in byte order of the names.
        rows: what to stage for what was stored.
        index_rows: the same for the content index.
        found: paths of the objects that the store had before.
        bytes_read, bytes_stored, objects_new: as in `stratum0.scan_counts.ScanCounts`.
    """

    seen: int
    records: bytes
    settled: bytes
    rest: Statuses
    rows: list[Row]
    index_rows: list[IndexRow]
    found: list[str]
    bytes_read: int
    bytes_stored: int
    objects_new: int


def store_new_folder(job: NewFolder, content: ContentStore) -> StoredFolder:
    """Stores the ordinary small files of a folder.

    Raises:
        StorageError: they cannot be stored.
        OSError: the folder, or a file in it, cannot be read.
    """
    statuses = listed(job.folder)
    records, _ = packed_records(statuses)
    ordinary, rest = _parted(statuses, len(job.key))
    rows: list[Row] = []
    index_rows: list[IndexRow] = []
    found: list[str] = []
    read = stored = new = 0
    for batch in _batches(ordinary):
        names, data = [], []
        for name, status in batch:
            plain = read_stamped(job.folder + b"/" + name, Stamp.of(status), 0, status.st_size)
            if plain is None:
                rest.append((name, status))
            else:
                names.append((name, status))
                data.append((plain, Kind.FILE))
        pieces = content.store_pieces(data)
        index_rows += [index_row(piece, Kind.FILE, content.settings) for piece in pieces]
        for (name, status), piece in zip(names, pieces, strict=True):
            rows.append(_row(job.key, name, status, piece, content))
            read += piece.size
            if piece.is_new:
                stored += piece.stored_size
                new += 1
            else:
                found.append(ObjectName(piece.digest, Kind.FILE).path)
    rest.sort(key=lambda pair: pair[0])
    return StoredFolder(
        len(statuses),
        records,
        settled_records(records, statuses, job.looked_ns),
        rest,
        rows,
        index_rows,
        found,
        read,
        stored,
        new,
    )


def listed(folder: bytes) -> Statuses:
    """Name and status of everything in a folder, in byte order of the names.

    Raises:
        OSError: it cannot be read.
    """
    found: Statuses = []
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                found.append((entry.name, entry.stat(follow_symlinks=False)))
            except FileNotFoundError:  # it went since the folder was listed
                continue
    found.sort(key=lambda pair: pair[0])
    return found


def _parted(statuses: Statuses, key_bytes: int) -> tuple[Statuses, Statuses]:
    """The ordinary small files, and the rest."""
    ordinary: Statuses = []
    rest: Statuses = []
    name_bytes_max = min(NAME_BYTES_MAX, PATH_BYTES_MAX - key_bytes - 1)
    for pair in statuses:
        name, status = pair
        is_ordinary = (
            stat.S_ISREG(status.st_mode)
            and status.st_size <= CHUNKED_ABOVE_BYTES
            and status.st_nlink == 1
            and len(name) <= name_bytes_max
            and len(ordinary) < FILES_MAX
        )
        (ordinary if is_ordinary else rest).append(pair)
    return ordinary, rest


def _batches(files: Statuses) -> Iterator[Statuses]:
    batch: Statuses = []
    size = 0
    for pair in files:
        batch.append(pair)
        size += pair[1].st_size
        if len(batch) >= BATCH_FILES or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _row(key: bytes, name: bytes, status: os.stat_result, piece: StoredPiece, content: ContentStore) -> Row:
    columns = encode_plain_file(
        decode_name(name),
        size=piece.size,
        mode=status.st_mode,
        mtime_ns=status.st_mtime_ns,
        uid=status.st_uid,
        gid=status.st_gid,
        digest=piece.digest,
        plain_digest=piece.plain_digest,
        compression=content.settings.compression,
    )
    return new_file_row(key + b"\0" + name, columns)
