"""Which policy of eviction gets most requests, and most bytes, from the cache: traces replayed through each.

Nothing is timed, so a busy machine does no harm. What ours was tuned on stands apart from what it was not: see
`benchmarks.harness.traces`. `--record` makes the recorded traces anew.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from multiprocessing import Pool
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.harness.machine import ROOT, machine, revision
from benchmarks.harness.policies import IN_MEMORY, ON_DISK, Offline
from benchmarks.harness.report import table, tell
from benchmarks.harness.traces import OTHER_PROGRAMS, PYTHON_PROGRAMS, Trace, for_tuning, from_file, held_out
from edge.cache.disk_places import occupied

PARTS: Final = (0.01, 0.05, 0.1, 0.25)
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
_OTHER_COMMANDS: Final = (
    *(["perl", f"-M{module}", "-e", "1"] for module in (
        "Archive::Tar", "CPAN", "Data::Dumper", "Digest::SHA", "Encode", "ExtUtils::MakeMaker", "File::Copy",
        "Getopt::Long", "HTTP::Tiny", "IO::Socket::IP", "JSON::PP", "Math::BigFloat", "Module::CoreList", "Net::FTP",
        "POSIX", "Pod::Man", "Pod::Usage", "Storable", "TAP::Harness", "Test::More", "Text::Balanced", "Time::Piece",
        "Unicode::UCD", "threads",
    )),
    *(["sh", "-c", f"echo '{headers}' | gcc -x {language} -o /dev/null -S -"] for language, headers in (
        ("c", "#include <stdio.h>"), ("c", "#include <pthread.h>"), ("c", "#include <sys/socket.h>"),
        ("c", "#include <math.h>"), ("c", "#include <signal.h>"), ("c", "#include <linux/fs.h>"),
        ("c++", "#include <vector>"), ("c++", "#include <iostream>"), ("c++", "#include <regex>"),
        ("c++", "#include <filesystem>"), ("c++", "#include <algorithm>"), ("c++", "#include <thread>"),
    )),
    *(["node", "-e", f"require('{module}')"] for module in (
        "/usr/lib/node_modules/npm/lib/npm.js", "/usr/lib/node_modules/npm/node_modules/pacote", "node:http",
        "node:crypto", "/usr/lib/node_modules/npm/node_modules/@npmcli/arborist",
        "/usr/lib/node_modules/npm/node_modules/tar",
    )),
    ["git", "log", "-1"], ["git", "status"], ["git", "grep", "-c", "edge", "--", "edge"], ["tclsh", "/dev/null"],
)  # fmt: skip
_OPENED: Final = re.compile(r'open(?:at)?\((?:[^,"]*, )?"(/[^"]+)", O_RDONLY[^)]*\) = \d')


def record() -> None:
    """Runs programs, and keeps which files each opened, in which order, and how large they are, but no names."""
    _keep(PYTHON_PROGRAMS, map(_opened_by_python, _MODULES))
    _keep(OTHER_PROGRAMS, map(_opened_by, _OTHER_COMMANDS))


def _opened_by_python(module: str) -> Iterator[tuple[str, int]]:
    command = [sys.executable, "-c", _HOOK, f"import {module}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)
    for line in done.stdout.splitlines():
        size, _, path = line.partition(" ")
        if path.startswith("/"):
            yield path, int(size)


def _opened_by(command: list[str]) -> Iterator[tuple[str, int]]:
    with tempfile.NamedTemporaryFile("r", errors="replace") as log:
        traced = ["strace", "-f", "-qq", "-e", "trace=open,openat", "-o", log.name, *command]
        subprocess.run(traced, capture_output=True, timeout=120, check=False, cwd=ROOT)
        for path in dict.fromkeys(_OPENED.findall(log.read())):
            if not path.startswith(("/proc/", "/sys/", "/dev/", "/tmp/")) and Path(path).is_file():
                yield path, Path(path).stat().st_size


def _keep(recording: Path, programs: Iterable[Iterable[tuple[str, int]]]) -> None:
    numbers: dict[str, int] = {}
    sizes: list[int] = []
    kept = []
    for program in programs:
        opened = []
        for path, size in program:
            if path not in numbers:
                numbers[path] = len(sizes)
                sizes.append(size)
            opened.append(numbers[path])
        kept.append(opened)
    document = {"sizes": sizes, "programs": [opened for opened in kept if opened]}
    recording.parent.mkdir(exist_ok=True)
    recording.write_bytes(gzip.compress(json.dumps(document, separators=(",", ":")).encode(), mtime=0))
    print(f"{recording.name}: {len(document['programs'])} programs, {len(sizes)} files, {sum(sizes) / 1e6:.0f} MB")


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
    parser.add_argument("--requests", type=int, default=300_000)
    parser.add_argument("--trace", type=Path, action="append", default=[], help="one of yours: name,size on each line")
    parser.add_argument("--record", action="store_true", help="make the recorded traces anew, and nothing else")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--no-results", action="store_true")
    chosen = parser.parse_args(arguments)
    if chosen.record:
        record()
        return 0
    document = {
        "machine": machine(),
        "revision": revision(),
        "requests": chosen.requests,
        "traces": _replayed_all(chosen),
    }
    tell("eviction", document, _text(document), None if chosen.no_results else ROOT / "benchmarks" / "results")
    return 0


def _replayed_all(chosen: argparse.Namespace) -> list[dict[str, Any]]:
    works = [("tuned on", trace) for trace in for_tuning(chosen.requests)]
    works += [("held out", trace) for trace in held_out(chosen.requests)]
    works += [("held out", from_file(path)) for path in chosen.trace]
    if chosen.processes == 1:
        return [_replayed(*work) for work in works]
    with Pool(chosen.processes) as pool:
        return pool.starmap(_replayed, works, chunksize=1)


def _replayed(role: str, trace: Trace) -> dict[str, Any]:
    on_disk = replace(trace, sizes=[occupied(size) for size in trace.sizes])
    return {
        "name": trace.name,
        "role": role,
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
    for role in ("tuned on", "held out"):
        chosen = [trace for trace in document["traces"] if trace["role"] == role]
        lines += ["", f"## Traces that ours was {'not ' * (role == 'held out')}tuned on: the mean of {len(chosen)}"]
        lines += _tables(_mean(chosen))
    for trace in document["traces"]:
        lines += [
            "",
            f"## {trace['name'][:1].upper()}{trace['name'][1:]} ({trace['role']}), {trace['requests']:,} requests",
        ]
        lines += _tables(trace)
    return "\n".join([*lines, ""])


def _tables(trace: dict[str, Any]) -> Iterator[str]:
    for tier, sizes in (("memory", "sizes as they are"), ("disk", "sizes in whole blocks")):
        found = trace[tier]
        rows = [
            [name, *(f"{100 * objects:.1f} / {100 * part:.1f}" for objects, part in ratios)]
            for name, ratios in found["ratios"].items()
        ]
        header = [f"{tier}, {sizes}, {found['footprint_bytes'] / 1e6:,.0f} MB", *(f"{part:.0%}" for part in PARTS)]
        yield from ("", table(header, rows))


def _mean(traces: list[dict[str, Any]]) -> dict[str, Any]:
    """One trace for many: every ratio the mean of theirs, each trace counting the same."""
    mean: dict[str, Any] = {}
    for tier in ("memory", "disk"):
        tables = [trace[tier]["ratios"] for trace in traces]
        mean[tier] = {
            "footprint_bytes": sum(trace[tier]["footprint_bytes"] for trace in traces) / len(traces),
            "ratios": {
                name: [
                    tuple(sum(ratios[name][part][which] for ratios in tables) / len(tables) for which in (0, 1))
                    for part in range(len(PARTS))
                ]
                for name in tables[0]
            },
        }
    return mean


if __name__ == "__main__":
    sys.exit(main())
