"""How a command speaks to whoever started it, without knowing whether that is a person, a file or a program.

A command function takes an `Output` from click (``@click.pass_obj``) and says *what* it found: results, notes,
warnings, how far it is. The command line's composition root (`cdn.cli`) decides *how* that looks: text and progress
bars on a terminal, plain lines otherwise, one JSON object with ``--json``. Commands live in the packages below the
root and must not import it, so the interface they speak through lives here, below the services, and the
implementation arrives as ``ctx.obj``.

    @click.command()
    @click.argument("repository")
    @click.pass_obj
    def publish(out: Output, repository: str) -> None:
        with out.progress("Publishing") as progress:
            revision = publish_tree(repository, progress=progress)
        out.result({"repository": repository, "revision": revision}, f"{repository} is now at revision {revision}")

The options ``--json``, ``--quiet``, ``--verbose`` and ``--log-format`` are added to every command by the root.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from cdn.telemetry import Progress

Cell = str | int | float | None
"""What stands in a table; None is shown as nothing, numbers to the right."""

Document = Mapping[str, object]
"""What ``--json`` prints: keys are part of the command's interface and stay the same from release to release."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under column headings.

    Args:
        columns: the headings.
        rows: as many cells each as there are columns.
        title: what the table shows, where that is not plain from the words around it.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    title: str = ""


class Listing(Protocol):
    """A list of any length, written as it is found."""

    def add(self, document: Document, line: str) -> None:
        """Writes one item: `document` with ``--json``, else `line`."""
        ...

    def end(self, document: Document, *parts: str | Table) -> None:
        """Writes what is known only after the last item: `document` becomes further keys, `parts` further lines."""
        ...


class Output(Protocol):
    """Where a command says what it found."""

    @property
    def json(self) -> bool:
        """Whether one JSON object is wanted instead of text."""
        ...

    def result(self, document: Document, *parts: str | Table) -> None:
        """Says the result, once, on standard output: `document` with ``--json``, else `parts` one after another."""
        ...

    def listing(self, key: str, document: Document | None = None) -> AbstractContextManager[Listing]:
        """Says a result that is a list.

        Args:
            key: under which key of the JSON object the items stand.
            document: the keys before it.
        """
        ...

    def note(self, text: str) -> None:
        """Says something worth knowing, on standard error; not with ``--quiet`` or ``--json``."""
        ...

    def warning(self, text: str) -> None:
        """Says something that needs attention, in one sentence on standard error, always."""
        ...

    def progress(self, title: str) -> AbstractContextManager[Progress]:
        """Shows on standard error how far the block is; not with ``--quiet`` or ``--json``."""
        ...

    def serving(self) -> None:
        """Says that this process is a server from now on, so that it logs at info level without being asked."""
        ...


_SIZE_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB")
_DURATION_UNITS = (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1))


def size_text(size_bytes: int) -> str:
    """A size for people, e.g. ``12.3 MiB``."""
    if abs(size_bytes) < 1024:
        return f"{size_bytes} B"
    value = float(size_bytes)
    for unit in _SIZE_UNITS:
        value /= 1024
        if abs(value) < 999.95 or unit == _SIZE_UNITS[-1]:
            break
    return f"{value:.1f} {unit}"


def duration_text(seconds: float) -> str:
    """A length of time for people, e.g. ``4 ms``, ``0.42 s``, ``3 min 5 s``, ``2 h 10 min``, ``9 d 3 h``."""
    if seconds < 0.0995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.5:
        return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.0f} s"
    whole = round(seconds)
    unit, size, smaller, smaller_size = next(units for units in _DURATION_UNITS if whole >= units[1])
    rest = whole % size // smaller_size
    return f"{whole // size} {unit} {rest} {smaller}" if rest else f"{whole // size} {unit}"
