"""How long does publishing take, and what does it cost, beside the tools people use today?

    python benchmarks/publish.py [--rounds 3] [--scale 1] [--only small|large] [--workdir FOLDER] ...

Two trees, 100,000 small files and three files of 1 GB, are published for the first time, again with nothing changed,
and again with 1 % changed, by `cdn publish` and by restic, borg, ostree and tar with zstd. All run in turn, in one
order in odd rounds and in the opposite one in even rounds, on one file system, on a tree that was just read. See
README.md in this folder for what the figures mean.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.harness.machine import file_system, machine, revision
from benchmarks.harness.processes import CommandFailedError, Usage
from benchmarks.harness.publishers import PEERS, Cdn, Publisher
from benchmarks.harness.report import Spread, megabytes, table, write
from benchmarks.harness.trees import LargeFiles, SmallFiles, Tree, TreeSize, read_all, size_of

PHASES: Final = {"first": "first publish", "unchanged": "nothing changed", "changed": "1 % changed"}
TREES: Final = {"small": "many small files", "large": "a few large files"}
RESULTS: Final = Path(__file__).resolve().parent / "results"
REPUBLISH_SECONDS_MAX: Final = 1.0
"""For 100,000 files of which none changed."""
MEMORY_BYTES_MAX: Final = 300_000_000
_FILES_OF_AIM: Final = 100_000
_OURS: Final = Cdn.name
_TICK: Final = 0.001  # what the clock of processor time may not see
_BYTES_PER_FILE: Final = 3_000  # what a file system may need beyond the file's size


@dataclass(frozen=True, slots=True)
class Measurement:
    """One run of one publisher: its store's files have `stored_bytes` and take up `disk_bytes`."""

    tree: str
    round: int
    phase: str
    publisher: str
    usage: Usage
    stored_bytes: int
    disk_bytes: int


@dataclass(frozen=True, slots=True)
class Aim:
    """Something the project wants to reach, and whether it did."""

    text: str
    reached: bool
    shown: str


Say = Callable[[str], None]


# ----------------------------------------------------------------------------------------------------------- measuring


def measure_tree(name: str, tree: Tree, publishers: Sequence[Publisher], rounds: int, say: Say) -> list[Measurement]:
    """All rounds of all publishers on one tree."""
    found: list[Measurement] = []
    for number in range(1, rounds + 1):
        order = list(publishers) if number % 2 else list(reversed(publishers))
        for publisher in order:
            publisher.prepare()
        for phase in PHASES:
            if phase == "changed":
                tree.change(number)
            size = size_of(tree.root)
            for publisher in order:
                found.append(_measure_once(name, number, phase, publisher, tree.root, size))
                say(_line(found[-1]))
        for publisher in order:
            if tree.is_many_files:
                publisher.set_aside(number)
            else:
                publisher.remove()
    for publisher in publishers:
        publisher.remove()
    return found


def _measure_once(name: str, number: int, phase: str, publisher: Publisher, root: Path, size: TreeSize) -> Measurement:
    read_all(root)
    os.sync()  # what others left to be written is not this one's to wait for
    usage = publisher.publish(root, size)
    return Measurement(name, number, phase, publisher.name, usage, *_sizes(publisher.store))


def _sizes(store: Path) -> tuple[int, int]:
    """The size of all files in a folder, and the room they take with their folders."""
    stored = room = 0
    for folder, _, names in os.walk(store):
        room += os.lstat(folder).st_blocks * 512
        for name in names:
            status = os.lstat(os.path.join(folder, name))
            stored += status.st_size
            room += status.st_blocks * 512
    return stored, room


def _line(one: Measurement) -> str:
    usage = one.usage
    return (
        f"{one.tree} round {one.round} {PHASES[one.phase]:<15} {one.publisher:<22} {usage.seconds:8.2f} s"
        f" {usage.cpu_seconds:8.2f} s CPU {megabytes(usage.memory_peak_bytes):>6} MB memory"
        f" {megabytes(one.stored_bytes):>6} MB stored"
    )


# ----------------------------------------------------------------------------------------------------------- reporting


def phase_table(found: Sequence[Measurement], tree: str, phase: str) -> str:
    """One table: what each publisher used, and our time divided by its time, round by round."""
    of: dict[str, list[Measurement]] = {}
    for one in found:
        if (one.tree, one.phase) == (tree, phase):
            of.setdefault(one.publisher, []).append(one)
    ours = _in_rounds(of[_OURS])
    rows = []
    for name, runs in sorted(of.items(), key=lambda item: (not item[0].startswith(_OURS), item[0])):
        pairs = list(zip(ours, _in_rounds(runs), strict=True))
        ratio = Spread.of(our.seconds / max(_TICK, their.seconds) for our, their in pairs).text()
        cpu_ratio = Spread.of(our.cpu_seconds / max(_TICK, their.cpu_seconds) for our, their in pairs).text()
        rows.append(
            [
                name,
                Spread.of(one.usage.seconds for one in runs).text(),
                "" if name == _OURS else ratio,
                Spread.of(one.usage.cpu_seconds for one in runs).text(),
                "" if name == _OURS else cpu_ratio,
                megabytes(max(one.usage.memory_peak_bytes for one in runs)),
                megabytes(max(one.usage.largest_process_bytes for one in runs)),
                megabytes(Spread.of(one.stored_bytes for one in runs).median),
                megabytes(Spread.of(one.disk_bytes for one in runs).median),
            ]
        )
    header = [
        "",
        "time, s",
        "cdn : this",
        "CPU, s",
        "cdn : this",
        "memory, MB",
        "one process, MB",
        "stored, MB",
        "on disk, MB",
    ]
    return table(header, rows)


def aims(found: Sequence[Measurement], sizes: dict[str, TreeSize], peers: Sequence[str]) -> list[Aim]:
    """What the project wants of publishing, and what these measurements say of it."""
    listed = []
    for tree in sizes:
        ours = _by_round(found, tree, "first", _OURS)
        for peer in peers:
            theirs = _by_round(found, tree, "first", peer)
            ratio = Spread.of(our / their for our, their in zip(ours, theirs, strict=True))
            text = f"first publish of {TREES[tree]} no slower than `{peer}`"
            listed.append(Aim(text, ratio.median <= 1, f"{ratio.text()} of its time"))
    if "small" in sizes:
        spread = Spread.of(_by_round(found, "small", "unchanged", _OURS))
        text = "republish of 100,000 files of which none changed under 1 s"
        listed.append(Aim(text, spread.median < REPUBLISH_SECONDS_MAX, spread.text("s")))
    most = max(one.usage.memory_peak_bytes for one in found if one.publisher == _OURS)
    listed.append(Aim("peak memory under 300 MB", most < MEMORY_BYTES_MAX, f"{megabytes(most)} MB"))
    return listed


def _by_round(found: Sequence[Measurement], tree: str, phase: str, publisher: str) -> list[float]:
    runs = [one for one in found if (one.tree, one.phase, one.publisher) == (tree, phase, publisher)]
    return [usage.seconds for usage in _in_rounds(runs)]


def _in_rounds(runs: Sequence[Measurement]) -> list[Usage]:
    return [one.usage for one in sorted(runs, key=lambda one: one.round)]


def document_text(document: dict[str, Any], found: Sequence[Measurement], listed: Sequence[Aim]) -> str:
    """The results for people."""
    facts = {**document["machine"], "file system": document["file_system"], "load before": document["load_before"]}
    parts = [
        f"# Publishing, {document['date']}",
        f"Revision {document['revision']}; options: {document['options']}.",
        "\n".join(f"- {key.replace('_', ' ')}: {value}" for key, value in facts.items()),
        "\n".join(f"- {name}: {version}" for name, version in document["versions"].items()),
        *(f"{name} was skipped: {why}." for name, why in document["skipped"].items()),
        "Times are median (least-most) over the rounds; `cdn : this` is ours over that command's, round by round.",
    ]
    for tree, size in document["trees"].items():
        parts.append(f"## {TREES[tree].capitalize()}")
        parts.append(f"{size['files']:,} files in {size['folders']:,} folders, {megabytes(size['bytes'])} MB.")
        for phase, title in PHASES.items():
            parts += [f"### {title[0].upper()}{title[1:]}: {TREES[tree]}", phase_table(found, tree, phase)]
    judged = [f"- {'reached' if aim.reached else 'MISSED'}: {aim.text} ({aim.shown})" for aim in listed]
    parts += ["## Aims", "\n".join(judged) or "Not judged: they are about trees of full size."]
    return "\n\n".join(parts) + "\n"


# ------------------------------------------------------------------------------------------------------------- running


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if not sys.platform.startswith("linux"):
        print("publish: measuring needs /proc, which only Linux has", file=sys.stderr)
        return 2
    peers, skipped = chosen_peers(options.peers)
    for name, why in skipped.items():
        print(f"{name}: {why}; skipped", flush=True)
    with _workdir(options.workdir, keep=options.keep) as folder:
        if (short := _missing_room(folder, options, len(peers))) > 0:
            print(f"publish: {short / 1e9:.1f} GB more free space is needed; --scale makes it less", file=sys.stderr)
            return 2
        document, text = _run(options, folder, peers, skipped)
    print(f"\n{text}")
    if options.results:
        name = f"publish-{document['date'][:10]}-{document['machine']['name']}"
        print("written:", *write(options.results, name, document, text))
    return 0


def _run(
    options: argparse.Namespace, folder: Path, peers: list[type[Publisher]], skipped: dict[str, str]
) -> tuple[dict[str, Any], str]:
    document: dict[str, Any] = {
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "revision": revision(),
        "machine": machine(),
        "file_system": file_system(folder),
        "load_before": round(os.getloadavg()[0], 2),
        "versions": _versions([Cdn, *peers]),
        "skipped": skipped,
        "options": _shown(options),
    }
    found: list[Measurement] = []
    sizes: dict[str, TreeSize] = {}
    for name in [options.only] if options.only else TREES:
        root = folder / name
        kind: Callable[[Path, str, float], Tree] = SmallFiles if name == "small" else LargeFiles
        tree = kind(root, options.seed, options.scale)
        print(f"making the tree of {TREES[name]}", flush=True)
        tree.make()
        sizes[name] = size_of(root)
        publishers = _publishers(folder / "stores", peers, options.levels)
        found += measure_tree(name, tree, publishers, options.rounds, lambda line: print(line, flush=True))
        if not options.keep:
            shutil.rmtree(root)
    listed = aims(found, sizes, [peer.name for peer in peers if peer.compares]) if options.scale >= 1 else []
    document["load_after"] = round(os.getloadavg()[0], 2)
    document["trees"] = {name: asdict(size) for name, size in sizes.items()}
    document["measurements"] = [asdict(one) for one in found]
    document["aims"] = [asdict(aim) for aim in listed]
    return document, document_text(document, found, listed)


def _versions(kinds: Sequence[type[Publisher]]) -> dict[str, str]:
    return {kind.package: kind.version() for kind in kinds}


def _publishers(folder: Path, peers: Sequence[type[Publisher]], levels: Sequence[int]) -> list[Publisher]:
    kinds = [peer(folder / peer.name.replace(" ", "-").replace(",", "")) for peer in peers]
    return [Cdn(folder / "cdn"), *(Cdn(folder / f"cdn-{level}", level) for level in levels), *kinds]


def chosen_peers(names: Sequence[str]) -> tuple[list[type[Publisher]], dict[str, str]]:
    """The peers that are here, and for the others why they are left out."""
    here = [PEERS[name] for name in names if PEERS[name].is_here()]
    absent = {
        PEERS[name].name: f"{PEERS[name].program} is not installed (Debian: apt install {PEERS[name].package})"
        for name in names
        if not PEERS[name].is_here()
    }
    return here, absent


@contextlib.contextmanager
def _workdir(parent: Path | None, *, keep: bool) -> Iterator[Path]:
    """A new folder in the one given, or where large temporary files go."""
    folder = Path(tempfile.mkdtemp(prefix="stratocast-bench-", dir=parent or "/var/tmp"))
    try:
        yield folder
    finally:
        if keep:
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _missing_room(folder: Path, options: argparse.Namespace, peers: int) -> float:
    """How many bytes the file system lacks."""
    small = 0 if options.only == "large" else options.scale * _FILES_OF_AIM * (5_500 + _BYTES_PER_FILE)
    large = 0 if options.only == "small" else options.scale * 3_100_000_000
    needed = 1.1 * max(small, large) * (2 + len(options.levels) + peers) + 200_000_000
    return needed - shutil.disk_usage(folder).free


def _shown(options: argparse.Namespace) -> str:
    """The options that shape the figures, as they would be typed."""
    shown = [f"--rounds {options.rounds}", f"--scale {options.scale:g}", f"--seed {options.seed}"]
    shown.append(f"--peers {','.join(options.peers) or 'none'}")
    shown += [f"--levels {','.join(map(str, options.levels))}"] if options.levels else []
    shown += [f"--only {options.only}"] if options.only else []
    return " ".join(shown)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Measure publishing beside restic, borg, ostree and tar with zstd.",
        epilog="See benchmarks/README.md for what is measured and how to read it.",
    )
    parser.add_argument("--rounds", type=_positive(int), default=3, help="how often to measure everything (default 3)")
    parser.add_argument("--scale", type=_positive(float), default=1.0, help="size of the trees, 1 is full (default 1)")
    parser.add_argument("--only", choices=list(TREES), help="only one of the trees")
    parser.add_argument(
        "--peers",
        type=_peers,
        default=list(PEERS),
        metavar="NAMES",
        help=f"whom to run beside it, of {','.join(PEERS)}, or none (default all)",
    )
    parser.add_argument(
        "--levels", type=_levels, default=[], metavar="N,N", help="also publish at these compression levels (1 to 9)"
    )
    parser.add_argument("--seed", default="1", help="of the trees' content (default 1)")
    parser.add_argument("--workdir", type=Path, help="a folder on the file system to measure (default /var/tmp)")
    parser.add_argument("--keep", action="store_true", help="leave the trees where they are")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER", help="where results are written")
    parser.add_argument("--no-results", dest="results", action="store_const", const=None, help="only print them")
    return parser


def _positive(kind: type[int | float]) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = kind(0)
        if not 0 < value < 1_000:
            raise argparse.ArgumentTypeError(f"{text!r} is no positive number below 1000")
        return value

    return parse


def _peers(text: str) -> list[str]:
    names = [] if text == "none" else text.split(",")
    if unknown := [name for name in names if name not in PEERS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(PEERS)}")
    return names


def _levels(text: str) -> list[int]:
    if not all(level in set("123456789") for level in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers from 1 to 9")
    return [int(level) for level in text.split(",")]


def _ended(number: int, _: object) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _ended)  # so that stores and commands under way do not stay behind
    try:
        sys.exit(main())
    except CommandFailedError as error:
        sys.exit(f"publish: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
