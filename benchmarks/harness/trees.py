"""Generated file trees: the same bytes for the same seed on every machine, and changes to them that are as repeatable.

Content is made to compress as files do. *Text* is words whose frequencies fall as they do in language and source code.
*Records* have uneven bytes in no order, as measurements have, and compress by a quarter. *Noise* does not compress,
like what is compressed already.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Protocol

MEBIBYTE: Final = 1 << 20
SMALL_FILES: Final = 100_000
SMALL_FOLDERS: Final = 2_000
SMALL_MEDIAN_BYTES: Final = 2_000
SMALL_SIGMA: Final = 1.35
SMALL_BYTES_MAX: Final = 200_000
LARGE_FILES: Final = 3
LARGE_BYTES: Final = 1_000_000_000
CHANGED_SHARE: Final = 0.01

_MTIME: Final = 1_600_000_000
_WORDS: Final = 6_000
_TABLE_ENTRIES: Final = 1 << 16
_READ_BYTES: Final = 4 * MEBIBYTE


class Tree(Protocol):
    """A tree that can be made and changed."""

    root: Path
    is_many_files: bool

    def make(self) -> None:
        """Writes it."""

    def change(self, generation: int) -> None:
        """Changes 1 % of it; the first change is generation 1, the next one 2."""


@dataclass(frozen=True, slots=True)
class TreeSize:
    """What a tree holds; bytes are the sum of the files' sizes."""

    files: int
    folders: int
    bytes: int


def size_of(root: Path) -> TreeSize:
    """What a tree holds now."""
    files = folders = size = 0
    for folder, _, names in os.walk(root):
        folders += 1
        files += len(names)
        size += sum(os.lstat(os.path.join(folder, name)).st_size for name in names)
    return TreeSize(files, folders, size)


def read_all(root: Path) -> None:
    """Reads every file once, so that whoever reads next finds all of it in the page cache."""
    for folder, _, names in os.walk(root):
        for name in names:
            with open(os.path.join(folder, name), "rb", buffering=0) as stream:
                while stream.read(_READ_BYTES):
                    pass


# ------------------------------------------------------------------------------------------------------------- content


class Content:
    """A source of bytes of the three kinds.

    Args:
        seed: the same seed gives the same vocabulary.
    """

    def __init__(self, seed: str) -> None:
        generator = random.Random(f"{seed}/words")
        words = [_word(generator) for _ in range(_WORDS)]
        weights = [1 / (rank + 3) for rank in range(_WORDS)]
        self._words = tuple(generator.choices(words, weights, k=_TABLE_ENTRIES))
        self._levels = bytes(min(255, int(generator.gauss(128, 12))) for _ in range(256))

    def text(self, generator: random.Random, size: int) -> bytes:
        """So many bytes of words and lines."""
        parts: list[bytes] = []
        missing = size
        while missing > 0:
            numbers = memoryview(generator.randbytes(2 * (missing // 5 + 8))).cast("H")
            part = b" ".join(map(self._words.__getitem__, numbers))
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)[:size]

    def records(self, generator: random.Random, size: int) -> bytes:
        """So many bytes that compress only for their uneven frequencies."""
        return generator.randbytes(size).translate(self._levels)

    def noise(self, generator: random.Random, size: int) -> bytes:
        """So many bytes that do not compress."""
        return generator.randbytes(size)


def _word(generator: random.Random) -> bytes:
    letters = "".join(generator.choices("eeeetttaaaooiinnsshrrddlcumwfgypbvk_", k=generator.randint(1, 9)))
    return generator.choices([letters, f"{letters}\n    ", f"{letters}(", f"{letters},"], [10, 2, 1, 1])[0].encode()


# --------------------------------------------------------------------------------------------------------- small files


class SmallFiles:
    """A tree of many small files, like a software installation: nine in ten are text, one in forty is there twice.

    Sizes are log-normal around 2 kB and end at 200 kB. One change rewrites 0.8 % of the files, adds 0.1 % and removes
    0.1 %.

    Args:
        root: where it goes; must not exist yet.
        seed: the same seed gives the same tree.
        scale: 1 for 100,000 files in 2,000 folders.
    """

    is_many_files = True

    def __init__(self, root: Path, seed: str, scale: float = 1.0) -> None:
        self.root = root
        self._seed = seed
        self._content = Content(seed)
        self._count = max(20, round(SMALL_FILES * scale))
        self._folders = max(4, round(SMALL_FOLDERS * scale))
        self._removed: set[int] = set()
        self._added = 0

    def make(self) -> None:
        for number in range(self._folders):
            os.makedirs(self.root / _folder_name(number), exist_ok=True)
        for number in range(self._count):
            self._write(number, generation=0)

    def change(self, generation: int) -> None:
        generator = random.Random(f"{self._seed}/small/change/{generation}")
        there = [number for number in range(self._count) if number not in self._removed]
        changed = max(3, round(self._count * CHANGED_SHARE))
        moved = max(1, changed // 10)
        chosen = generator.sample(there, changed - moved)
        for number in chosen[moved:]:
            self._write(number, generation)
        for number in chosen[:moved]:
            self._path(number).unlink()
            self._removed.add(number)
        for _ in range(moved):
            self._added += 1
            self._write(self._count + self._added, generation)

    def _path(self, number: int) -> Path:
        return self.root / _folder_name(number % self._folders) / f"file-{number:06d}.txt"

    def _write(self, number: int, generation: int) -> None:
        is_copy = number % 40 == 39 and not generation
        generator = random.Random(f"{self._seed}/small/{number - is_copy}/{generation}")
        size = min(SMALL_BYTES_MAX, int(SMALL_MEDIAN_BYTES * generator.lognormvariate(0, SMALL_SIGMA)))
        make = self._content.noise if generator.random() < 0.1 else self._content.text
        path = self._path(number)
        path.write_bytes(make(generator, size))
        os.utime(path, (_MTIME + generation, _MTIME + generation))


def _folder_name(number: int) -> str:
    """Three levels: up to ten packages, with sub-packages, with folders."""
    return f"package-{number % 10}/part-{number // 10 % 20:02d}/folder-{number:04d}"


# --------------------------------------------------------------------------------------------------------- large files


class LargeFiles:
    """A tree of a few large files in which text, records, noise and repeated parts alternate.

    One change overwrites 0.9 % of the bytes of each file in ten places, and inserts 0.1 % into the first one, which is
    written anew as a program saving it would.

    Args:
        root: where it goes; must not exist yet.
        seed: the same seed gives the same tree.
        scale: 1 for three files of 1 GB.
    """

    is_many_files = False

    def __init__(self, root: Path, seed: str, scale: float = 1.0) -> None:
        self.root = root
        self._seed = seed
        self._content = Content(seed)
        self._size = max(5_000_000, round(LARGE_BYTES * scale))

    def make(self) -> None:
        self.root.mkdir(parents=True)
        for number in range(LARGE_FILES):
            with self._path(number).open("wb") as stream:
                for segment in self._segments(random.Random(f"{self._seed}/large/{number}")):
                    stream.write(segment)
            os.utime(self._path(number), (_MTIME, _MTIME))

    def change(self, generation: int) -> None:
        generator = random.Random(f"{self._seed}/large/change/{generation}")
        for number in range(LARGE_FILES):
            with self._path(number).open("r+b") as stream:
                for _ in range(10):
                    stream.seek(generator.randrange(self._size - self._size // 1000))
                    stream.write(self._content.text(generator, self._size * 9 // 10_000))
        self._insert(self._path(0), generator.randrange(self._size), self._content.text(generator, self._size // 1000))

    def _path(self, number: int) -> Path:
        return self.root / f"dataset-{number}.bin"

    def _segments(self, generator: random.Random) -> Iterator[bytes]:
        makers = (self._content.text, self._content.records, self._content.noise, None)
        left = self._size
        last = b""
        while left:
            size = min(left, generator.randrange(256 << 10, 4 * MEBIBYTE))
            make = generator.choices(makers, [45, 30, 20, 5])[0]
            last = last[:size] if make is None and last else (make or makers[0])(generator, size)
            left -= len(last)
            yield last

    def _insert(self, path: Path, offset: int, data: bytes) -> None:
        copy = path.with_suffix(".new")
        with path.open("rb") as old, copy.open("wb") as new:
            _copy(old, new, offset)
            new.write(data)
            shutil.copyfileobj(old, new, _READ_BYTES)
        copy.replace(path)


def _copy(old: BinaryIO, new: BinaryIO, size: int) -> None:
    while size > 0:
        part = old.read(min(size, _READ_BYTES))
        new.write(part)
        size -= len(part)
