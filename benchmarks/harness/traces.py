"""Traces of requests to replay: made by Zipf's law in several shapes, recorded from programs, or read from a file.

A trace that a policy was tuned on says little about it. `for_tuning` gives those that ours was; `held_out` gives
others, made in other ways and recorded from other programs, which are only ever looked at.
"""

from __future__ import annotations

import gzip
import json
import math
import random
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Final

from benchmarks.harness.machine import ROOT

PYTHON_PROGRAMS: Final = ROOT / "benchmarks" / "traces" / "programs.json.gz"
OTHER_PROGRAMS: Final = ROOT / "benchmarks" / "traces" / "others.json.gz"
FOOTER_BYTES: Final = 400
STEP: Final = 20_000
OBJECT_BYTES_MAX: Final = 24 << 20

Sizes = Callable[[random.Random], int]
"""Gives the size of another object."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests, as numbers of objects, and the size of each object."""

    name: str
    keys: array[int]
    sizes: list[int]

    @property
    def footprint(self) -> int:
        return sum(self.sizes[key] for key in set(self.keys))


def log_normal(median: int, sigma: float) -> Sizes:
    """Most are about as large as the median, few far larger."""
    return lambda dice: _bounded(dice.lognormvariate(math.log(median), sigma))


def pareto(least: int, exponent: float) -> Sizes:
    """All are at least so large, and a few hold most of the bytes."""
    return lambda dice: _bounded(least * dice.paretovariate(exponent))


def equal(size: int) -> Sizes:
    """All are as large."""
    return lambda _: _bounded(size)


def _bounded(size: float) -> int:
    return min(max(int(size), 64), OBJECT_BYTES_MAX) + FOOTER_BYTES


ORDINARY: Final = log_normal(4096, 1.8)


@dataclass(frozen=True, slots=True)
class Shape:
    """What requests by Zipf's law are mixed with.

    Args:
        exponent: of the law.
        sizes: of the objects.
        objects: how many the law is about.
        scans: which part of the requests reads, in order, objects that the law is not about.
        scan_objects: how many one scan reads in one go; those of one step if zero.
        scan_times: how often the same objects are scanned, one scan after another, before others are.
        renewed: which part of the objects a new revision replaces after each step.
        drift: which part of the ranks passes to other objects after each step.
        large_are_popular: whether the law prefers large objects, instead of not caring.
    """

    exponent: float
    sizes: Sizes = ORDINARY
    objects: int = 50_000
    scans: float = 0.0
    scan_objects: int = 0
    scan_times: int = 1
    renewed: float = 0.0
    drift: float = 0.0
    large_are_popular: bool = False


def zipf(name: str, shape: Shape, requests: int, seed: int) -> Trace:
    """Requests by Zipf's law, mixed with what a shape says, in steps of 20,000; the same for the same seed."""
    dice = random.Random(seed)
    weights = list(accumulate(1 / (rank + 1) ** shape.exponent for rank in range(shape.objects)))
    current = list(range(shape.objects))
    dice.shuffle(current)
    sizes = [shape.sizes(dice) for _ in range(shape.objects)]
    if shape.large_are_popular:
        current.sort(key=lambda key: -sizes[key] * dice.lognormvariate(0, 1))
    scanning = _scans(shape, dice, sizes)
    keys: array[int] = array("L")
    owed = 0.0
    while len(keys) < requests:
        ranks = dice.choices(range(shape.objects), cum_weights=weights, k=int(STEP * (1 - shape.scans)))
        keys.extend(current[rank] for rank in ranks)
        owed += STEP * shape.scans
        while owed >= max(1, shape.scan_objects or STEP * shape.scans):
            scan = next(scanning)
            owed -= len(scan)
            keys.extend(scan)
        for _ in range(int(shape.objects * shape.renewed)):
            sizes.append(shape.sizes(dice))
            current[dice.randrange(shape.objects)] = len(sizes) - 1
        for _ in range(int(shape.objects * shape.drift)):
            one, other = dice.randrange(shape.objects), int(dice.random() ** 3 * shape.objects)
            current[one], current[other] = current[other], current[one]
    return Trace(name, keys, sizes)


def _scans(shape: Shape, dice: random.Random, sizes: list[int]) -> Iterator[range]:
    length = shape.scan_objects or int(STEP * shape.scans)
    while True:
        first = len(sizes)
        sizes.extend(shape.sizes(dice) for _ in range(length))
        for _ in range(shape.scan_times):
            yield range(first, first + length)


def nodes(name: str, recording: Path, requests: int, seed: int, part: slice = slice(None)) -> Trace:
    """Recorded programs, run by nodes that come up empty, run a few jobs each and keep what they read.

    Which program a job is, is zipf 0.8; each starts with the manifest, and every 50 nodes a new revision replaces one
    file in fifty. Objects are as large as the files compressed to a third.

    Args:
        name: of the trace.
        recording: a file that `benchmarks.eviction` recorded.
        requests: how many.
        seed: for the same trace each time.
        part: which of the programs.
    """
    document = json.loads(gzip.decompress(recording.read_bytes()))
    dice = random.Random(seed)
    sizes = [size // 3 + FOOTER_BYTES for size in document["sizes"]]
    current = list(range(len(sizes)))
    programs: list[list[int]] = document["programs"][part]
    dice.shuffle(programs)
    weights = list(accumulate(1 / (rank + 1) ** 0.8 for rank in range(len(programs))))
    manifest = len(sizes)
    sizes.append(1000)
    keys: array[int] = array("L")
    for node in range(1 << 30):
        if node % 50 == 49:
            for file in dice.sample(range(len(current)), len(current) // 50):
                sizes.append(sizes[current[file]])
                current[file] = len(sizes) - 1
        keys.extend(_node(dice, programs, weights, current, manifest))
        if len(keys) >= requests:
            break
    return Trace(name, keys, sizes)


def _node(
    dice: random.Random, programs: list[list[int]], weights: list[float], current: list[int], manifest: int
) -> Iterator[int]:
    held: set[int] = set()
    for _ in range(dice.randint(1, 5)):
        yield manifest
        for file in dice.choices(programs, cum_weights=weights)[0]:
            key = current[file]
            if key not in held:
                held.add(key)
                yield key


def from_file(path: Path) -> Trace:
    """A trace of somebody's: on each line the name of an object and its size, parted by a comma."""
    numbers: dict[str, int] = {}
    sizes: list[int] = []
    keys: array[int] = array("L")
    for line in path.read_text(encoding="utf-8").splitlines():
        name, _, size = line.rpartition(",")
        if name not in numbers:
            numbers[name] = len(sizes)
            sizes.append(int(size))
        keys.append(numbers[name])
    return Trace(path.name, keys, sizes)


def for_tuning(requests: int) -> Iterator[Trace]:
    """What our policy was tuned on."""
    yield zipf("zipf 0.7, a tenth scans", Shape(0.7, scans=0.1), requests, 1)
    yield zipf("zipf 0.9, a tenth scans, new revisions", Shape(0.9, scans=0.1, renewed=0.01), requests, 2)
    yield zipf("zipf 1.1, a third scans", Shape(1.1, scans=0.3), requests, 3)
    yield nodes("Python programs on many nodes, one half of them", PYTHON_PROGRAMS, requests, 4, slice(0, None, 2))


def held_out(requests: int) -> Iterator[Trace]:
    """What it was not tuned on."""
    scans = Shape(0.8, log_normal(16384, 1.2), scans=0.3, scan_objects=40_000, scan_times=2)
    yield zipf("zipf 0.8, two scans of the same 40,000 objects at a time", scans, requests, 101)
    churn = Shape(1.0, pareto(1024, 1.1), renewed=0.05)
    yield zipf("zipf 1.0, sizes by Pareto, a twentieth renewed at each step", churn, requests, 102)
    yield zipf("zipf 0.6, all of 8 KiB, few scans", Shape(0.6, equal(8192), 20_000, scans=0.05), requests, 103)
    yield zipf("zipf 0.9, what is large is popular", Shape(0.9, scans=0.1, large_are_popular=True), requests, 104)
    yield zipf("zipf 0.9, popularity drifts", Shape(0.9, log_normal(8192, 1.5), drift=0.05), requests, 105)
    yield nodes("Python programs on many nodes, the other half", PYTHON_PROGRAMS, requests, 106, slice(1, None, 2))
    yield nodes("other programs on many nodes", OTHER_PROGRAMS, requests, 107)
