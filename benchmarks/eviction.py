"""Which policy of eviction gets most requests, and most bytes, from the cache: traces replayed through each.

Nothing is timed, so a busy machine does no harm. Traces: zipf with scans and new revisions mixed in, and the files that
programs really opened (`--record` makes that trace anew), read by many nodes through one edge.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import random
import subprocess
import sys
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.harness.machine import ROOT, machine, revision
from benchmarks.harness.policies import IN_MEMORY, ON_DISK, Offline
from benchmarks.harness.report import table, write
from edge.cache.disk_places import occupied

PARTS: Final = (0.01, 0.1, 0.3)
TRACE: Final = ROOT / "benchmarks" / "traces" / "programs.json.gz"
FOOTER_BYTES: Final = 400
_HOOK: Final = """
import sys
opened = []
def note(name, arguments):
    if name == "open" and isinstance(arguments[0], str) and arguments[1] in ("r", "rb", None):
        opened.append(arguments[0])
sys.addaudithook(note)
try:
    exec(sys.argv.pop(1))
except BaseException: pass
import os
for each in filter(os.path.isfile, opened):
    print("\\n%d %s" % (os.path.getsize(each), os.path.realpath(each)))
"""
_MODULES: Final = (
    "aiohttp", "asyncio", "attr", "cdn.cli.main", "cdn.client", "click", "cryptography.x509", "ctypes", "dataclasses",
    "dns.resolver", "dns.zone", "edge.server", "email.message", "fsspec", "geodns.server", "hypothesis", "http.server",
    "importlib.metadata", "json", "mypy.build", "pip._internal.cli.main", "prometheus_client", "pytest", "pyfastcdc",
    "replica.cli", "rich.console", "setuptools", "sqlite3", "stamina", "stratum0.cli", "structlog", "tkinter",
    "unittest.mock", "urllib.request", "uvloop", "xml.dom.minidom", "yarl", "zstandard", "multiprocessing.pool",
    "concurrent.futures", "logging.config", "lib2to3.pgen2.driver", "distutils.core", "idlelib.editor", "pydoc",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests, as numbers of objects, and the size of each object."""

    name: str
    keys: array[int]
    sizes: list[int]

    @property
    def footprint(self) -> int:
        return sum(self.sizes[key] for key in set(self.keys))


def zipf(exponent: float, requests: int, *, scans: float, renewed: float, seed: int, objects: int = 50_000) -> Trace:
    """Zipf over objects of log-normal size (median 4 KiB, sigma 1.8), in steps of 20,000 requests.

    Args:
        exponent: of the distribution.
        requests: how many.
        scans: which part of each step reads, in one go, objects that nobody asked for before or asks for again.
        renewed: which part of the objects a new revision replaces after each step.
        seed: for the same trace each time.
    """
    dice = random.Random(seed)
    weights = list(accumulate(1 / (rank + 1) ** exponent for rank in range(objects)))
    current = list(range(objects))
    dice.shuffle(current)
    sizes = [_size(dice) for _ in range(objects)]
    keys: array[int] = array("L")

    def new() -> int:
        sizes.append(_size(dice))
        return len(sizes) - 1

    while len(keys) < requests:
        keys.extend(
            current[rank] for rank in dice.choices(range(objects), cum_weights=weights, k=int(20_000 * (1 - scans)))
        )
        keys.extend(new() for _ in range(int(20_000 * scans)))
        for _ in range(int(objects * renewed)):
            current[dice.randrange(objects)] = new()
    return Trace(f"zipf {exponent}, {scans:.0%} scans, {renewed:.1%} renewed", keys, sizes)


def _size(dice: random.Random) -> int:
    return min(max(int(dice.lognormvariate(math.log(4096), 1.8)), 64), 24 << 20) + FOOTER_BYTES


def record() -> None:
    """Runs programs, and keeps which files each opened, in which order, and how large they are.

    Each program is this Python importing one package; paths are replaced by numbers.
    """
    numbers: dict[str, int] = {}
    sizes: list[int] = []
    programs = []
    for module in _MODULES:
        command = [sys.executable, "-c", _HOOK, f"import {module}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)
        opened = []
        for line in done.stdout.splitlines():
            size, _, path = line.partition(" ")
            if path.startswith("/"):
                if path not in numbers:
                    numbers[path] = len(sizes)
                    sizes.append(int(size))
                opened.append(numbers[path])
        programs.append(opened)
    TRACE.parent.mkdir(exist_ok=True)
    document = {"sizes": sizes, "programs": [opened for opened in programs if opened]}
    TRACE.write_bytes(gzip.compress(json.dumps(document, separators=(",", ":")).encode(), mtime=0))
    print(f"{len(document['programs'])} programs, {len(sizes)} files, {sum(sizes) / 1e6:.0f} MB")


def recorded(requests: int, seed: int) -> Trace:
    """The recorded programs, run by nodes that come up empty, run a few jobs each and keep what they read.

    Which program a job is, is zipf 0.8; each starts with the manifest, and every 50 nodes a new revision replaces one
    file in fifty. Objects are as large as the files compressed to a third.
    """
    document = json.loads(gzip.decompress(TRACE.read_bytes()))
    dice = random.Random(seed)
    sizes = [size // 3 + FOOTER_BYTES for size in document["sizes"]]
    current = list(range(len(sizes)))
    programs: list[list[int]] = document["programs"]
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
    return Trace("recorded programs on many nodes", keys, sizes)


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


def replay(policy: Any, trace: Trace) -> tuple[float, float]:
    """The parts of the requests and of the bytes that were hits."""
    hits = hit_bytes = all_bytes = 0
    for key in trace.keys:
        size = trace.sizes[key]
        all_bytes += size
        if policy.access(key, size):
            hits += 1
            hit_bytes += size
    return hits / len(trace.keys), hit_bytes / all_bytes


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=400_000)
    parser.add_argument("--record", action="store_true", help="make the recorded trace anew, and nothing else")
    parser.add_argument("--no-results", action="store_true")
    chosen = parser.parse_args(arguments)
    if chosen.record:
        record()
        return 0
    traces = [
        zipf(0.7, chosen.requests, scans=0.1, renewed=0.0, seed=1),
        zipf(0.9, chosen.requests, scans=0.1, renewed=0.01, seed=2),
        zipf(1.1, chosen.requests, scans=0.3, renewed=0.0, seed=3),
        recorded(chosen.requests, seed=4),
    ]
    document = {
        "machine": machine(),
        "revision": revision(),
        "requests": chosen.requests,
        "traces": [_replayed(trace) for trace in traces],
    }
    text = _text(document)
    print(text)
    if not chosen.no_results:
        name = f"eviction-{datetime.now(UTC):%Y-%m-%d}-{document['machine']['name']}"
        write(ROOT / "benchmarks" / "results", name, document, text)
    return 0


def _replayed(trace: Trace) -> dict[str, Any]:
    on_disk = replace(trace, sizes=[occupied(size) for size in trace.sizes])
    return {
        "name": trace.name,
        "requests": len(trace.keys),
        "memory": {"footprint_bytes": trace.footprint, "ratios": _ratios(trace, IN_MEMORY)},
        "disk": {"footprint_bytes": on_disk.footprint, "ratios": _ratios(on_disk, ON_DISK)},
    }


def _ratios(trace: Trace, policies: dict[str, Any]) -> dict[str, list[tuple[float, float]]]:
    capacities = [int(trace.footprint * part) for part in PARTS]
    all_policies = policies | {"offline, knows the future": lambda capacity: Offline(capacity, trace.keys)}
    return {name: [replay(make(capacity), trace) for capacity in capacities] for name, make in all_policies.items()}


def _text(document: dict[str, Any]) -> str:
    lines = ["# Eviction: hit ratios of replayed traces", "", f"Revision {document['revision']}.", ""]
    lines += [f"- {name.replace('_', ' ')}: {value}" for name, value in document["machine"].items()]
    lines += ["", "Percent of requests / percent of bytes that were hits, by the cache's part of the footprint."]
    for trace in document["traces"]:
        lines += ["", f"## {trace['name'].capitalize()}, {trace['requests']:,} requests"]
        for tier, sizes in (("memory", "sizes as they are"), ("disk", "sizes in whole blocks")):
            found = trace[tier]
            rows = [
                [name, *(f"{100 * objects:.1f} / {100 * part:.1f}" for objects, part in ratios)]
                for name, ratios in found["ratios"].items()
            ]
            header = [f"{tier}, {sizes}, {found['footprint_bytes'] / 1e6:,.0f} MB", *(f"{part:.0%}" for part in PARTS)]
            lines += ["", table(header, rows)]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.exit(main())
