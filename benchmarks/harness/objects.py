"""Objects to be cached: bodies made from a number and a size, named by their digests as repositories name them.

Nothing is stored: whoever knows number and size can make the body, so an origin serves a million objects from one
mebibyte of noise.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

REPOSITORY: Final = "bench.example.org"
MEBIBYTE: Final = 1 << 20
ZIPF_MEDIAN_BYTES: Final = 4_000
ZIPF_SIGMA: Final = 1.0
ZIPF_BYTES_MAX: Final = 200_000

_NOISE: Final = random.Random("noise").randbytes(MEBIBYTE)
_HEAD_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class CachedObject:
    """One object of an origin.

    Args:
        path: what clients ask for.
        number: tells it from others of its size.
        size: of its body, 16 at least.
    """

    path: str
    number: int
    size: int

    @property
    def digest(self) -> str:
        """The hex digest of its body."""
        return self.path.partition("/data/")[2].replace("/", "")


def body_pieces(number: int, size: int) -> Iterator[memoryview]:
    """The body, in pieces of a mebibyte at most."""
    yield memoryview(b"%015x\n" % number)
    noise, left = memoryview(_NOISE), size - _HEAD_BYTES
    while left > 0:
        yield noise[:left]
        left -= MEBIBYTE


def digest_of(number: int, size: int) -> str:
    """The hex digest of a body."""
    digest = hashlib.sha1(usedforsecurity=False)
    for piece in body_pieces(number, size):
        digest.update(piece)
    return digest.hexdigest()


def objects(sizes: Iterable[int], first: int = 0) -> list[CachedObject]:
    """An object of each size; numbers count from `first`, so that sets of objects can be told apart."""
    return [_object(number, size) for number, size in enumerate(sizes, first)]


def _object(number: int, size: int) -> CachedObject:
    name = digest_of(number, size)
    return CachedObject(f"/cvmfs/{REPOSITORY}/data/{name[:2]}/{name[2:]}", number, size)


def mixed_sizes(count: int, seed: str) -> list[int]:
    """Sizes as of files in software repositories: log-normal around 4 kB, 200 kB at most."""
    generator = random.Random(f"{seed}/sizes")
    drawn = (int(ZIPF_MEDIAN_BYTES * generator.lognormvariate(0, ZIPF_SIGMA)) for _ in range(count))
    return [max(_HEAD_BYTES, min(ZIPF_BYTES_MAX, size)) for size in drawn]


def zipf_sequence(count: int, length: int, seed: str) -> list[int]:
    """Which of `count` objects are asked for: the one of rank r in proportion to 1/r, ranks in no order of size."""
    generator = random.Random(f"{seed}/requests")
    total, cumulative = 0.0, []
    for rank in range(1, count + 1):
        total += 1 / rank
        cumulative.append(total)
    return generator.choices(range(count), cum_weights=cumulative, k=length)


def write_index(file: Path, held: Sequence[CachedObject]) -> None:
    """Writes what an origin has to know."""
    file.write_text("".join(f"{each.path}\t{each.number}\t{each.size}\n" for each in held), encoding="ascii")


def read_index(file: Path) -> dict[bytes, tuple[int, int]]:
    """Number and size of each object by its path."""
    lines = (line.split(b"\t") for line in file.read_bytes().splitlines())
    return {path: (int(number), int(size)) for path, number, size in lines}
