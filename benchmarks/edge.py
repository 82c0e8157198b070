"""How fast does the edge serve, and what does it cost, beside the caches people use today?

    python benchmarks/edge.py [--rounds 5] [--seconds 2] [--only hits,misses,...] [--peers nginx,varnish,squid] ...

`cdn edge`, nginx, Varnish and Squid cache the same origin. Each runs on one core, `wrk` and the origin on another. They
are measured in turn, in one order in odd rounds and in the opposite one in even rounds: hits of several sizes, misses,
a zipf mix, a crowd at one cold object, memory for each object, a second worker. See README.md in this folder for what
keeps it fair and what the figures mean.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime as dt
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.harness import wrk
from benchmarks.harness.caches import PEERS, Edge, chosen_peers
from benchmarks.harness.edge_phases import PHASES, QUICK, Bench, Scope, profile_of_hits, seconds_expected
from benchmarks.harness.edge_report import Measured, aims, as_document, document_text
from benchmarks.harness.machine import file_system, machine, revision
from benchmarks.harness.report import write

RESULTS: Final = Path(__file__).resolve().parent / "results"
_FILES_WANTED: Final = 65_536
_ROOM_BYTES: Final = 8_000_000_000


class Results:
    """The results, written again whenever a phase has ended, so that a run that breaks off leaves what it has."""

    def __init__(self, options: argparse.Namespace, bench: Bench, skipped: dict[str, str]) -> None:
        self._bench = bench
        self._folder: Path | None = options.results
        self._document: dict[str, Any] = {
            "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            "revision": revision(),
            "machine": machine(),
            "file_system": file_system(bench.folder),
            "load_before": round(os.getloadavg()[0], 2),
            "versions": {kind.package: kind.version() for kind in bench.kinds} | {"load": wrk.version()},
            "cores": _cores_text(bench),
            "skipped": skipped,
            "options": _shown(options),
            "profile": "",
        }
        self._name = f"edge-{self._document['date'][:10]}-{self._document['machine']['name']}"
        self.text = ""

    def save(self, unfinished: str = "", profile: str = "") -> list[Path]:
        """Writes what there is."""
        bench, document = self._bench, self._document
        measured = Measured(bench.found)
        listed = aims(measured)
        document["profile"] = profile or document["profile"]
        document |= {"unfinished": unfinished, "load_after": round(os.getloadavg()[0], 2)}
        document |= {"problems": _plain(bench, bench.problems), "configurations": _settled(bench)}
        self.text = document_text(document, measured, listed)
        if self._folder is None:
            return []
        return [*write(self._folder, self._name, document | as_document(bench.found, listed), self.text)]


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if reason := _why_not(options):
        print(f"edge: {reason}", file=sys.stderr)
        return 2
    peers, skipped = chosen_peers(options.peers)
    for name, why in skipped.items():
        print(f"{name}: {why}; skipped", flush=True)
    _allow_many_files()
    with _workdir(options.workdir) as folder:
        bench = Bench(folder, [Edge, *peers], _scope(options), *_cores(), _progress())
        results = Results(options, bench, skipped)
        _measure(options, bench, results)
        written = results.save()
    print(f"\n{results.text}")
    if written:
        print("written:", *written)
    return 0


def _measure(options: argparse.Namespace, bench: Bench, results: Results) -> None:
    expected = {phase: seconds_expected(phase, bench.scope, len(bench.kinds)) for phase in options.only}
    began = time.monotonic()
    for phase in options.only:
        left = sum(list(expected.values())[list(expected).index(phase) :])
        print(f"== {phase}: about {expected[phase]:.0f} s; {left / 60:.0f} minutes to go", flush=True)
        try:
            PHASES[phase](bench)
        except Exception as error:  # noqa: BLE001 -- one phase must not take the others' results with it
            bench.problem(f"{phase}: {type(error).__name__}: {error}")
        results.save(unfinished=f"this is what there was after the phase of {phase}.")
    if options.profile:
        print("== profile", flush=True)
        results.save(profile=profile_of_hits(bench))
    print(f"== done in {time.monotonic() - began:.0f} s", flush=True)


def _progress() -> Callable[[str], None]:
    """Prints lines with the seconds since now."""
    began = time.monotonic()
    return lambda line: print(f"{time.monotonic() - began:6.0f} s  {line}", flush=True)


def _why_not(options: argparse.Namespace) -> str:
    if not sys.platform.startswith("linux"):
        return "measuring needs /proc, which only Linux has"
    if not wrk.is_here() or shutil.which("taskset") is None:
        return "wrk and taskset are needed (Debian: apt install wrk util-linux)"
    parent = options.workdir or Path("/var/tmp")
    if not options.quick and (free := shutil.disk_usage(parent).free) < _ROOM_BYTES:
        return f"{(_ROOM_BYTES - free) / 1e9:.1f} GB more free space is needed in {parent}"
    return ""


def _cores() -> tuple[int | None, int | None]:
    """The core that is measured and the one for the rest; none if there is only one."""
    cores = sorted(os.sched_getaffinity(0))
    return (cores[-1], cores[0]) if len(cores) > 1 else (None, None)


def _cores_text(bench: Bench) -> str:
    if bench.server_core is None:
        return (
            "There is one core only, which servers, origin and wrk share: this is not to be compared with other runs."
        )
    return (
        f"Each server runs on core {bench.server_core}; wrk, with one thread, and the origin on core {bench.load_core}."
        " Only for two workers against one nothing is pinned."
    )


def _allow_many_files() -> None:
    """Open files for 10,000 clients; root may raise its limit, others get what they may have."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(hard, _FILES_WANTED),) * 2)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextlib.contextmanager
def _workdir(parent: Path | None) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="stratocast-bench-", dir=parent or "/var/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _scope(options: argparse.Namespace) -> Scope:
    chosen = {key: getattr(options, key) for key in ("rounds", "seconds") if getattr(options, key) is not None}
    return dataclasses.replace(QUICK if options.quick else Scope(), **chosen)


def _settled(bench: Bench) -> dict[str, dict[str, str]]:
    """The configurations with a name in place of the temporary folder."""
    return {
        server: {name: text.replace(str(bench.folder), "FOLDER") for name, text in files.items()}
        for server, files in bench.configurations.items()
    }


def _plain(bench: Bench, texts: Sequence[str]) -> list[str]:
    return [" ".join(text.replace(str(bench.folder), "FOLDER").split()) for text in texts]


def _shown(options: argparse.Namespace) -> str:
    """The options that shape the figures, as they would be typed."""
    scope = _scope(options)
    shown = ["--quick"] if options.quick else []
    shown += [f"--rounds {scope.rounds} --seconds {scope.seconds} --peers {','.join(options.peers) or 'none'}"]
    shown += [f"--only {','.join(options.only)}"] if list(options.only) != list(PHASES) else []
    return " ".join([*shown, *(["--profile"] if options.profile else [])])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Measure the edge beside nginx, Varnish and Squid.",
        epilog="See benchmarks/README.md for what is measured and how to read it.",
    )
    parser.add_argument("--rounds", type=_number, help="how often to measure each cell (default 5)")
    parser.add_argument("--seconds", type=_number, help="for how long each time (default 2)")
    parser.add_argument(
        "--only",
        type=_names(PHASES),
        default=list(PHASES),
        metavar="NAMES",
        help=f"of {','.join(PHASES)} (default all)",
    )
    parser.add_argument(
        "--peers", type=_names(PEERS), default=list(PEERS), metavar="NAMES", help=f"of {','.join(PEERS)}, or none"
    )
    parser.add_argument("--quick", action="store_true", help="a little of everything, to see that it works")
    parser.add_argument(
        "--profile", action="store_true", help="also profile hits of ours, with perf and py-spy if here"
    )
    parser.add_argument("--workdir", type=Path, help="a folder on the file system for the caches (default /var/tmp)")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER", help="where results are written")
    parser.add_argument("--no-results", dest="results", action="store_const", const=None, help="only print them")
    return parser


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= 100):
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to 100")
    return int(text)


def _names(known: dict[str, Any]) -> Any:
    def parse(text: str) -> list[str]:
        names = [] if text == "none" else text.split(",")
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(known)}")
        return names

    return parse


def _ended(number: int, _: object) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _ended)  # so that no server stays behind
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
