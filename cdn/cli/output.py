"""How results look: text and tables, or one JSON object (the implementation of `cdn.reporting.Output`).

Three ways of speaking, chosen per stream: rich tables and progress bars where the stream is a terminal, aligned plain
lines where it is a file or a pipe, and with ``--json`` one JSON object on standard output and nothing but warnings on
standard error.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, is_dataclass
from enum import Enum
from io import TextIOWrapper
from typing import Any, Final, TextIO

from cdn.clock import Clock, SystemClock
from cdn.errors import StorageError
from cdn.reporting import Cell, Document, Listing, Table
from cdn.telemetry import Level, LogFormat, NullProgress, Progress, log_to

_CONTROLS: Final = {code: f"\\x{code:02x}" for code in (*range(0x09), *range(0x0B, 0x20), *range(0x7F, 0xA0))}
"""Control characters but tab and newline: strangers choose the names in a repository, and may not steer a terminal."""


class OutputError(StorageError):
    """Standard output does not take what is written to it."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(f"standard output cannot be written: {cause.strerror or cause}")


@dataclass(frozen=True, slots=True)
class Settings:
    """What the reporting options say.

    Args:
        json: whether results are one JSON object.
        quiet: whether notes and progress are left out.
        verbosity: how often ``--verbose`` was given.
        log_format: how log lines look.
        colours: whether a terminal may be given colours.
    """

    json: bool = False
    quiet: bool = False
    verbosity: int = 0
    log_format: LogFormat = "console"
    colours: bool = True

    def log_level(self, *, serving: bool = False) -> Level:
        """Returns the level from which log lines are written; a server says more by itself than a command does."""
        levels: tuple[Level, ...] = ("warning", "info", "debug")
        if self.quiet:
            return "warning" if serving else "error"
        return levels[min(self.verbosity + serving, len(levels) - 1)]


class StandardError:
    """Standard error as it is at the moment of writing, because a progress bar takes its place while it is shown."""

    def write(self, text: str, /) -> None:
        sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


@dataclass(frozen=True, slots=True)
class CommandOutput:
    """Speaks on the process's standard output and standard error.

    Args:
        settings: what the reporting options say.
        clock: paces plain progress lines.
    """

    settings: Settings = Settings()
    clock: Clock = field(default_factory=SystemClock)

    @property
    def json(self) -> bool:
        return self.settings.json

    def result(self, document: Document, *parts: str | Table) -> None:
        if self.json:
            _print(_json_text(document, indent=2 if sys.stdout.isatty() else None))
            return
        for part in parts:
            _write_part(part)

    @contextmanager
    def listing(self, key: str, document: Document | None = None) -> Iterator[Listing]:
        if not self.json:
            yield _PlainListing()
            return
        listing = _JsonListing(key, document or {})
        yield listing
        # Not reached after an exception: what is left then is no JSON, and nobody takes a part for the whole.
        listing.close()

    def note(self, text: str) -> None:
        if not (self.settings.quiet or self.json):
            print(_safe(text, sys.stderr), file=sys.stderr)

    def warning(self, text: str) -> None:
        print(f"cdn: warning: {_safe(text, sys.stderr)}", file=sys.stderr)

    def progress(self, title: str) -> AbstractContextManager[Progress]:
        if self.settings.quiet or self.json:
            return nullcontext(NullProgress())
        from cdn.cli.progress import LineProgress, TerminalProgress

        return TerminalProgress(title) if sys.stderr.isatty() else LineProgress(title, StandardError(), self.clock)

    def serving(self) -> None:
        self.start_logging(serving=True)
        if isinstance(sys.stdout, TextIOWrapper):  # whoever reads from a pipe where it serves must not wait for its end
            sys.stdout.reconfigure(line_buffering=True)

    def start_logging(self, *, serving: bool = False) -> None:
        """Sends the log to standard error, at the level and in the format the settings say."""
        log_to(
            StandardError(),
            level=self.settings.log_level(serving=serving),
            log_format=self.settings.log_format,
            colours=self.settings.colours and sys.stderr.isatty(),
        )


class _PlainListing:
    def add(self, document: Document, line: str) -> None:
        _write_part(line)

    def end(self, document: Document, *parts: str | Table) -> None:
        for part in parts:
            _write_part(part)


class _JsonListing:
    """Writes one JSON object item by item, so that a listing of any length needs the memory of one item."""

    def __init__(self, key: str, head: Document) -> None:
        self._opened = False
        self._count = 0
        self._tail: dict[str, object] = {}
        members = "".join(f"{_json_text(name)}: {_json_text(value)}, " for name, value in head.items())
        _print(f"{{{members}{_json_text(key)}: [", end="")

    def add(self, document: Document, line: str) -> None:
        _print(f"{',' if self._count else ''}\n{_json_text(document)}", end="")
        self._count += 1

    def end(self, document: Document, *parts: str | Table) -> None:
        self._tail.update(document)

    def close(self) -> None:
        members = "".join(f", {_json_text(name)}: {_json_text(value)}" for name, value in self._tail.items())
        newline = "\n" if self._count else ""
        _print(f"{newline}]{members}}}")


def _json_text(value: object, indent: int | None = None) -> str:
    return json.dumps(value, indent=indent, default=_json_value)


def _json_value(value: Any) -> object:
    """Turns our values into what JSON knows; what has no better form becomes its text."""
    if is_dataclass(value) and not isinstance(value, type) and type(value).__str__ is object.__str__:
        return asdict(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).hex()
    return str(value)


def _safe(text: str, stream: TextIO) -> str:
    return text.translate(_CONTROLS) if stream.isatty() else text


def _print(text: str, end: str = "\n") -> None:
    try:
        sys.stdout.write(text + end)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(error) from error


def _write_part(part: str | Table) -> None:
    if isinstance(part, str):
        _print(_safe(part, sys.stdout))
    elif sys.stdout.isatty():
        _write_rich_table(part)
    else:
        _write_plain_table(part)


def _write_rich_table(table: Table) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    title = Text(table.title.translate(_CONTROLS)) if table.title else None
    shown = RichTable(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    numeric = _numeric_columns(table)
    for heading, number in zip(table.columns, numeric, strict=True):
        shown.add_column(heading, justify="right" if number else "left", overflow="fold")
    for row in table.rows:
        # Text, not markup: a tag named "[red]" is shown as that.
        shown.add_row(*(Text(_cell_text(cell).translate(_CONTROLS)) for cell in row))
    console = Console(file=sys.stdout)
    with console.capture() as captured:
        console.print(shown)
    _print(captured.get(), end="")


def _write_plain_table(table: Table) -> None:
    rows = [tuple(table.columns), *(tuple(_cell_text(cell) for cell in row) for row in table.rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    numeric = _numeric_columns(table)
    if table.title:
        _print(table.title)
    for row in rows:
        cells = zip(row, widths, numeric, strict=True)
        _print("  ".join(text.rjust(width) if number else text.ljust(width) for text, width, number in cells).rstrip())


def _numeric_columns(table: Table) -> list[bool]:
    """Says of each column whether it holds only numbers, which then stand to the right."""
    columns = zip(*table.rows, strict=True) if table.rows else ((),) * len(table.columns)
    return [
        any(cell is not None for cell in column)
        and all(cell is None or isinstance(cell, int | float) for cell in column)
        for column in columns
    ]


def _cell_text(cell: Cell) -> str:
    if cell is None:
        return ""
    return f"{cell:.2f}" if isinstance(cell, float) else str(cell)
