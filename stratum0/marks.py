"""A set of objects too large for memory: one file for each of the 256 folders of a store, holding fixed-size records.

Collecting garbage and checking both ask which objects are needed, of repositories with many millions of them. Records
are appended as they are found, in any order and more than once; what is asked later is one folder at a time, whose
records fit in memory. A file that grows is freed of its repetitions now and then, so the disk space is bounded as well.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Final

from cdn.errors import DocumentError
from cdn.hashing import Algorithm, Digest
from cdn.objects import Kind, ObjectName
from cdn.storage.paths import SHARDS

RECORD_BYTES: Final = 22
"""Digest value, number of the algorithm, letter of the kind."""
_BUFFER_BYTES: Final = RECORD_BYTES * 4096
_COMPACT_BYTES: Final = RECORD_BYTES * 65536
_NO_LETTER: Final = 0
_KINDS: Final = {kind: ord(kind.value) if kind.value else _NO_LETTER for kind in Kind}
_BY_LETTER: Final = {letter: kind for kind, letter in _KINDS.items()}


class ObjectMarks:
    """The set; one thread at a time.

    Args:
        folder: for its files; created if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._buffers = [bytearray() for _ in SHARDS]
        self._compact_at = [_COMPACT_BYTES] * len(SHARDS)

    def add(self, name: ObjectName) -> None:
        """Adds an object."""
        buffer = self._buffers[name.digest.value[0]]
        buffer += record_of(name)
        if len(buffer) >= _BUFFER_BYTES:
            self._flush(name.digest.value[0])

    def add_paths(self, paths: Iterable[str]) -> None:
        """Adds objects by their paths; paths of anything else are passed over."""
        for path in paths:
            name = name_of_path(path)
            if name is not None:
                self.add(name)

    def flush(self) -> None:
        """Writes everything to the files."""
        for number in range(len(SHARDS)):
            self._flush(number)

    def shard(self, number: int) -> AbstractSet[bytes]:
        """The records of one of the 256 folders, each once."""
        self._flush(number)
        return _records(self._read(number))

    def names(self, number: int) -> list[ObjectName]:
        """The objects of one of the 256 folders, in the order of their digests."""
        return [name_of_record(record) for record in sorted(self.shard(number))]

    def file(self, number: int) -> Path:
        """The file of one of the 256 folders; it may not be there."""
        return self._folder / f"{SHARDS[number]}.marks"

    def sizes(self) -> list[int]:
        """How long each file is now, for `truncate`."""
        self.flush()
        return [self.file(number).stat().st_size if self.file(number).exists() else 0 for number in range(len(SHARDS))]

    def truncate(self, sizes: list[int]) -> bool:
        """Goes back to an earlier state; False if a file has less than it had then."""
        for number, size in enumerate(sizes):
            file = self.file(number)
            if (file.stat().st_size if file.exists() else 0) < size:
                return False
            if file.exists():
                os.truncate(file, size)
        return True

    def _flush(self, number: int) -> None:
        buffer = self._buffers[number]
        if not buffer:
            return
        with self.file(number).open("ab") as file:
            file.write(buffer)
            size = file.tell()
        buffer.clear()
        if size >= self._compact_at[number]:
            self._compact(number)

    def _compact(self, number: int) -> None:
        records = b"".join(sorted(_records(self._read(number))))
        staged = self.file(number).with_suffix(".new")
        staged.write_bytes(records)
        staged.replace(self.file(number))
        self._compact_at[number] = max(_COMPACT_BYTES, 2 * len(records))

    def _read(self, number: int) -> bytes:
        try:
            return self.file(number).read_bytes()
        except FileNotFoundError:
            return b""


def record_of(name: ObjectName) -> bytes:
    """The record of an object."""
    return b"%b%c%c" % (name.digest.value, name.digest.algorithm.number, _KINDS[name.kind])


def name_of_record(record: bytes) -> ObjectName:
    """The object of a record."""
    return ObjectName(Digest(Algorithm.from_number(record[20]), record[:20]), _BY_LETTER[record[21]])


def name_of_path(path: str) -> ObjectName | None:
    """The object of a path, None if it is none that a catalog or manifest can name."""
    try:
        return ObjectName.parse(path)
    except DocumentError:
        return None


def records_in(file: Path) -> Iterator[bytes]:
    """The records of a file in order, each once."""
    yield from sorted(_records(file.read_bytes()))


def _records(data: bytes) -> AbstractSet[bytes]:
    return {data[offset : offset + RECORD_BYTES] for offset in range(0, len(data) - RECORD_BYTES + 1, RECORD_BYTES)}
