"""Figures as people and programs read them: medians with their spread, ratios round by round, tables."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Spread:
    """The middle of some figures, and how far they lie apart."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, figures: Iterable[float]) -> Spread:
        """The spread of at least one figure."""
        ordered = sorted(figures)
        return cls(statistics.median(ordered), ordered[0], ordered[-1])

    def text(self, unit: str = "") -> str:
        """As in ``12.3 (11.9-14.0) s``; a single figure stands alone."""
        tail = f" {unit}" if unit else ""
        if self.least == self.most:
            return f"{figure(self.median)}{tail}"
        return f"{figure(self.median)} ({figure(self.least)}-{figure(self.most)}){tail}"


def figure(number: float) -> str:
    """A number with three significant digits, none of them behind the point from 100 on."""
    if number >= 100:
        return f"{number:,.0f}"
    return f"{number:.1f}" if number >= 10 else f"{number:.2f}"


def megabytes(size: float) -> str:
    """Bytes as MB."""
    return figure(size / 1_000_000)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown whose columns also line up as plain text; all but the first are numbers."""
    cells = [list(header), *map(list, rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    rule = [("-" * width) if not column else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    lines = [
        "| " + " | ".join(_aligned(text, widths[column], column) for column, text in enumerate(row)) + " |"
        for row in [cells[0], rule, *cells[1:]]
    ]
    return "\n".join(lines)


def _aligned(text: str, width: int, column: int) -> str:
    return text.rjust(width) if column else text.ljust(width)


def write(folder: Path, name: str, document: dict[str, Any], text: str) -> tuple[Path, Path]:
    """Writes the same results for programs and for people; returns where."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / f"{name}.json", folder / f"{name}.md"
    paths[0].write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    paths[1].write_text(text, encoding="utf-8")
    return paths


def tell(kind: str, document: dict[str, Any], text: str, folder: Path | None) -> None:
    """Prints results, and writes them into a folder, if one is given, named by kind, day and machine."""
    print(text)
    if folder is not None:
        write(folder, f"{kind}-{datetime.now(UTC):%Y-%m-%d}-{document['machine']['name']}", document, text)
