"""What the measurements of an edge say: tables, ratios to each peer round by round, and aims."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from benchmarks.harness.caches import Edge, Nginx, Squid, Varnish
from benchmarks.harness.edge_phases import Measurement
from benchmarks.harness.report import Spread, figure, table

OURS: Final = Edge.name
MEMORY_PER_CLIENT_BYTES: Final = 64 << 10
"""What a slow client may take of an edge's own memory; with the object itself this bounds what a crowd may take."""
_AIMED_CELL: Final = "8 KB, 32"


@dataclass(frozen=True, slots=True)
class Aim:
    """Something the project wants to reach, and whether it did."""

    text: str
    reached: bool
    shown: str


class Measured:
    """Measurements, to be asked for."""

    def __init__(self, found: Iterable[Measurement]) -> None:
        self._found = list(found)

    def cells(self, phase: str) -> list[str]:
        """The cells of a phase, in the order they were measured in."""
        return list(dict.fromkeys(one.cell for one in self._found if one.phase == phase))

    def servers(self, phase: str) -> list[str]:
        """The servers of a phase, ours first."""
        names = dict.fromkeys(one.server for one in self._found if one.phase == phase)
        return sorted(names, key=lambda name: (not name.startswith(OURS), name.lower()))

    def by_round(self, phase: str, cell: str, server: str, key: str) -> dict[int, float]:
        """A figure in each round."""
        wanted = (phase, cell, server)
        return {one.round: one.figures[key] for one in self._found if (one.phase, one.cell, one.server) == wanted}

    def spread(self, phase: str, cell: str, server: str, key: str) -> Spread | None:
        """A figure over all rounds, if there was any."""
        figures = self.by_round(phase, cell, server, key).values()
        return Spread.of(figures) if figures else None

    def ratio(self, phase: str, cell: str, key: str, other: str, ours: str = OURS) -> Spread | None:
        """Ours by another's, over the rounds in which both were measured."""
        mine, theirs = (self.by_round(phase, cell, server, key) for server in (ours, other))
        ratios = [mine[number] / theirs[number] for number in mine if theirs.get(number)]
        return Spread.of(ratios) if ratios else None

    def doubts(self) -> list[str]:
        """Hits that were none, and requests that failed."""
        odd = [one for one in self._found if one.figures.get("errors") or _reached_origin(one)]
        return [
            f"{one.phase}, {one.cell}, round {one.round}, {one.server}: {one.figures['errors']:g} errors, "
            f"{one.figures['origin_requests']:g} requests at the origin"
            for one in odd
        ]


def _reached_origin(one: Measurement) -> bool:
    return one.phase in {"hits", "workers"} and bool(one.figures["origin_requests"])


# -------------------------------------------------------------------------------------------------------------- tables


@dataclass(frozen=True, slots=True)
class _Column:
    key: str
    title: str
    scale: float = 1.0


_LOAD: Final = (
    _Column("requests_per_second", "requests/s"),
    _Column("megabytes_per_second", "MB/s"),
    _Column("p50_ms", "p50, ms"),
    _Column("p99_ms", "p99, ms"),
    _Column("cpu_us_per_request", "CPU, us/request"),
    _Column("server_busy", "server busy, %", 100),
    _Column("client_busy", "wrk busy, %", 100),
)
_HIT_RATIO: Final = _Column("hit_ratio", "hits, %", 100)
_COLUMNS: Final = {
    "hits": _LOAD,
    "misses": _LOAD,
    "zipf": (*_LOAD, _HIT_RATIO),
    "workers": _LOAD,
    "memory": (
        _Column("bytes_per_object", "bytes/object"),
        _Column("overhead_bytes_per_object", "besides its body"),
        _Column("before_megabytes", "empty, MB"),
        _Column("second_time_origin_requests", "asked for again"),
    ),
    "cold": (
        _Column("upstream_requests", "upstream requests"),
        _Column("asked", "asked"),
        _Column("asked_seconds", "all asked, s"),
        _Column("got_first_bytes", "got 64 KiB"),
        _Column("first_seconds", "the last of them, s"),
        _Column("verified", "read all, verified"),
        _Column("whole_seconds", "the last of them, s"),
        _Column("failed", "failed"),
        _Column("memory_grown_megabytes", "memory grew, MB"),
        _Column("kernel_socket_megabytes", "socket buffers, MB"),
        _Column("cpu_seconds", "CPU, s"),
    ),
}
TITLES: Final = {
    "hits": "Hits",
    "misses": "Misses: new objects, 32 connections",
    "zipf": "Zipf mix, a cache of a tenth, 32 connections",
    "cold": "A crowd that asks for one cold object",
    "memory": "Memory for each cached object",
    "workers": "Two workers against one, nothing pinned, 32 connections",
}


def phase_tables(measured: Measured, phase: str) -> str:
    """All figures of a phase: a table for each cell."""
    columns, parts = _COLUMNS[phase], []
    for cell in measured.cells(phase):
        rows = []
        for server in measured.servers(phase):
            spreads = [measured.spread(phase, cell, server, column.key) for column in columns]
            if any(spreads):
                rows.append([server, *(_shown(one, column) for one, column in zip(spreads, columns, strict=True))])
        parts += [f"### {TITLES[phase].partition(':')[0].partition(',')[0]}: {cell}"]
        parts += [table(["", *(column.title for column in columns)], rows)]
    return "\n\n".join(parts)


def _shown(spread: Spread | None, column: _Column) -> str:
    if spread is None or (column.key.startswith("p") and not spread.most):
        return "-"
    scaled = Spread(spread.median * column.scale, spread.least * column.scale, spread.most * column.scale)
    return scaled.text()


def ratio_table(measured: Measured, phase: str, key: str = "requests_per_second") -> str:
    """Ours divided by each peer's, median (least-most) of the ratios of each round."""
    peers = [server for server in measured.servers(phase) if server != OURS]
    rows = [
        [cell, *(_ratio_text(measured.ratio(phase, cell, key, peer)) for peer in peers)]
        for cell in measured.cells(phase)
    ]
    return table(["", *(f"{OURS} : {peer}" for peer in peers)], rows)


def _ratio_text(spread: Spread | None) -> str:
    return "-" if spread is None else spread.text()


def speed_up_table(measured: Measured) -> str:
    """Two workers by one, of each server that was run with both."""
    names = [name.partition(",")[0] for name in measured.servers("workers") if name.endswith(" 1 worker")]
    keys = {"requests_per_second": "requests/s", "cpu_us_per_request": "CPU per request"}
    rows = [
        [
            f"{name}, {cell}",
            *(
                _ratio_text(measured.ratio("workers", cell, key, f"{name}, 1 worker", f"{name}, 2 workers"))
                for key in keys
            ),
        ]
        for name in names
        for cell in measured.cells("workers")
    ]
    return table(["2 workers : 1 worker", *keys.values()], rows)


# ---------------------------------------------------------------------------------------------------------------- aims


def aims(measured: Measured) -> list[Aim]:
    """What the project wants of its edge, and what these measurements say of it."""
    rate, listed = "requests_per_second", []
    for phase, cell, peer, least in (
        ("hits", _AIMED_CELL, Nginx.name, 1.0),
        ("hits", _AIMED_CELL, Varnish.name, 1.5),
        ("hits", _AIMED_CELL, Squid.name, 3.0),
        ("hits", "1 MiB, 32", Varnish.name, 0.9),
        ("misses", "8 KB", Squid.name, 1.0),
    ):
        spread = measured.ratio(phase, cell, rate, peer)
        what = "misses" if phase == "misses" else "hits"
        listed += _judged(f"{what} of {cell}, requests/s >= {least:g} x {peer}", spread, lambda it, to=least: it >= to)
    slower = measured.ratio("hits", _AIMED_CELL, "p99_ms", Nginx.name)
    listed += _judged(f"hits of {_AIMED_CELL}, p99 no worse than that of {Nginx.name}", slower, lambda it: it <= 1)
    return [*listed, *_slow_cells(measured), *_crowd_aims(measured)]


def _judged(text: str, spread: Spread | None, is_reached: Callable[[float], bool]) -> list[Aim]:
    return [] if spread is None else [Aim(text, is_reached(spread.median), f"ratio {spread.text()}")]


def _slow_cells(measured: Measured) -> list[Aim]:
    """The tail of all cells beside nginx's, where both answered enough to have one."""
    ratios = {cell: measured.ratio("hits", cell, "p99_ms", Nginx.name) for cell in measured.cells("hits")}
    known = {cell: ratio for cell, ratio in ratios.items() if ratio is not None and ratio.median}
    if not known:
        return []
    worse = [f"{cell}: {ratio.text()}" for cell, ratio in known.items() if ratio.median > 1]
    shown = "; ".join(worse) or f"all {len(known)}"
    return [Aim(f"p99 of hits no worse than that of {Nginx.name} in every cell", not worse, shown)]


def _crowd_aims(measured: Measured) -> list[Aim]:
    listed = []
    for cell in measured.cells("cold"):
        seen = {
            key: spread.median
            for key in (
                "upstream_requests",
                "failed",
                "clients",
                "got_first_bytes",
                "readers",
                "verified",
                "memory_grown_megabytes",
            )
            if (spread := measured.spread("cold", cell, OURS, key)) is not None
        }
        if not seen:
            continue
        bound = seen["clients"] * MEMORY_PER_CLIENT_BYTES / 1e6 + 70
        served = (seen["got_first_bytes"], seen["verified"]) == (seen["clients"], seen["readers"])
        asked, grown = seen["upstream_requests"], seen["memory_grown_megabytes"]
        listed += [
            Aim(f"{cell}: one upstream request", asked == 1, f"{asked:g}"),
            Aim(f"{cell}: everybody is served", served and not seen["failed"], f"{seen['failed']:g} failed"),
            Aim(
                f"{cell}: memory grows by less than {figure(bound)} MB, the object and 64 KiB for each",
                grown < bound,
                f"{figure(grown)} MB",
            ),
        ]
    return listed


# ----------------------------------------------------------------------------------------------------------- documents


def document_text(document: dict[str, Any], measured: Measured, listed: Sequence[Aim]) -> str:
    """The results for people."""
    facts = {**document["machine"], "file system": document["file_system"], "load before": document["load_before"]}
    parts = [
        f"# The edge beside other caches, {document['date']}",
        f"Revision {document['revision']}; options: {document['options']}.",
        *([f"**Not finished**: {document['unfinished']}"] if document.get("unfinished") else []),
        "\n".join(f"- {key.replace('_', ' ')}: {value}" for key, value in facts.items()),
        "\n".join(f"- {name}: {version}" for name, version in document["versions"].items()),
        document["cores"],
        *(f"{name} was skipped: {why}." for name, why in document["skipped"].items()),
        "## Aims",
        "\n".join(f"- {'reached' if aim.reached else 'MISSED'}: {aim.text} ({aim.shown})" for aim in listed)
        or "Nothing was measured that they are about.",
        *_problem_parts(document, measured),
        *_ratio_parts(measured),
    ]
    for phase, title in TITLES.items():
        if measured.cells(phase):
            parts += [f"## {title}", phase_tables(measured, phase)]
    if document.get("profile"):
        parts += ["## Profile of the hit path", "8 KB, 32 connections; self time.", f"```\n{document['profile']}\n```"]
    for server, files in document["configurations"].items():
        parts += [
            f"## Configuration: {server}",
            *(f"{name}:\n\n```\n{text.strip()}\n```" for name, text in files.items()),
        ]
    return "\n\n".join(parts) + "\n"


def _problem_parts(document: dict[str, Any], measured: Measured) -> list[str]:
    odd = [*document["problems"], *measured.doubts()]
    return ["## Problems", "\n".join(f"- {text}" for text in odd)] if odd else []


def _ratio_parts(measured: Measured) -> list[str]:
    parts = ["## Ratios", "Ours divided by the other's in the same round: median (least-most) over the rounds."]
    for phase, key, title in (
        ("hits", "requests_per_second", "requests/s of hits; above 1 we are better"),
        ("hits", "p99_ms", "p99 of hits; below 1 we are better"),
        ("hits", "cpu_us_per_request", "CPU per hit; below 1 we are better"),
        ("misses", "requests_per_second", "requests/s of misses; above 1 we are better"),
        ("zipf", "requests_per_second", "requests/s of the zipf mix; above 1 we are better"),
        ("zipf", "hit_ratio", "hit ratio in the zipf mix; above 1 we are better"),
    ):
        if len(measured.servers(phase)) > 1:
            parts += [f"### Ratio of {title}", ratio_table(measured, phase, key)]
    if measured.cells("workers"):
        parts += ["### Speed-up by a second worker", speed_up_table(measured)]
    return parts if len(parts) > 2 else []


def as_document(found: Sequence[Measurement], listed: Sequence[Aim]) -> dict[str, Any]:
    """Measurements and aims for programs."""
    return {"measurements": [asdict(one) for one in found], "aims": [asdict(aim) for aim in listed]}
