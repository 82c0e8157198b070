"""Rot in an edge's cache: finds a cached object of a known file and flips one bit of it on disk."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cdn.demo.report import DemoFailedError
from cdn.errors import DocumentError
from edge.cache.cache_file import FileFacts, read_facts

SIZE_MIN: Final = 32 << 10
"""Smaller objects may be in the edge's memory too, where damage on disk does not show."""
SIZE_MAX: Final = 4 << 20
_LOOKED_AT_MAX: Final = 400


@dataclass(frozen=True, slots=True)
class Victim:
    """An object in an edge's cache.

    Args:
        file: the cache file.
        key: what it is cached under.
        path: of a file in the repository with this content.
        size: of the object in bytes.
        sha256: of the object as it is cached.
    """

    file: Path
    key: str
    path: str
    size: int
    sha256: str

    def is_whole(self) -> bool:
        """Whether the cache holds the object as it was."""
        try:
            _, body = _read(self.file)
        except (OSError, DocumentError):
            return False
        return hashlib.sha256(body).hexdigest() == self.sha256


def find_victim(cache: Path, paths: Mapping[str, str]) -> Victim:
    """Finds a large cached object that holds a whole file.

    Args:
        cache: the edge's folder.
        paths: where in the repository a content is, by its SHA-256.

    Raises:
        DemoFailedError: there is none.
    """
    for file in _candidates(cache):
        try:
            facts, body = _read(file)
            plain = zlib.decompress(body)
        except (OSError, DocumentError, zlib.error):
            continue
        path = paths.get(hashlib.sha256(plain).hexdigest())
        if path is not None:
            return Victim(file, facts.key, path, facts.size, hashlib.sha256(body).hexdigest())
    raise DemoFailedError(f"no object in {cache} is large enough to be damaged")


def flip(victim: Victim) -> int:
    """Flips the lowest bit of the byte in the middle of an object, and returns where that is."""
    offset = victim.size // 2
    descriptor = os.open(victim.file, os.O_RDWR | os.O_CLOEXEC)
    try:
        byte = os.pread(descriptor, 1, offset)[0]
        os.pwrite(descriptor, bytes((byte ^ 1,)), offset)
    finally:
        os.close(descriptor)
    return offset


def _candidates(cache: Path) -> Iterator[Path]:
    """Cache files of a suitable size, the largest first."""
    sized = [(file.stat().st_size, file) for file in cache.glob("v1/*/*") if file.is_file()]
    suitable = sorted((each for each in sized if SIZE_MIN < each[0] < SIZE_MAX), reverse=True)
    yield from (file for _, file in suitable[:_LOOKED_AT_MAX])


def _read(file: Path) -> tuple[FileFacts, bytes]:
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        facts = read_facts(descriptor)
        return facts, os.pread(descriptor, facts.size, 0)
    finally:
        os.close(descriptor)
