"""An `Output` that remembers what a command said, and a `Progress` that counts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from cdn.reporting import Document, Table


@dataclass
class RecordingProgress:
    """Counts what a library function reports."""

    title: str = ""
    phases: list[tuple[int | None, str]] = field(default_factory=list)
    expected: int = 0
    done: int = 0
    messages: list[str] = field(default_factory=list)

    def start(self, total: int | None, unit: str) -> None:
        self.phases.append((total, unit))
        self.expected, self.done = total or 0, 0

    def expect(self, count: int) -> None:
        self.expected += count

    def advance(self, count: int = 1) -> None:
        self.done += count

    def message(self, text: str) -> None:
        self.messages.append(text)


@dataclass
class RecordingListing:
    """Keeps the items of a listing."""

    documents: list[Document] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    ending: Document = field(default_factory=dict)

    def add(self, document: Document, line: str) -> None:
        self.documents.append(document)
        self.lines.append(line)

    def end(self, document: Document, *parts: str | Table) -> None:
        self.ending = document


@dataclass
class RecordingOutput:
    """Keeps everything a command says; given to it as click's ``obj``."""

    json: bool = False
    document: Document | None = None
    parts: tuple[str | Table, ...] = ()
    listings: dict[str, RecordingListing] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    progresses: list[RecordingProgress] = field(default_factory=list)
    is_serving: bool = False

    def result(self, document: Document, *parts: str | Table) -> None:
        assert self.document is None, "a command says its result once"
        self.document, self.parts = document, parts

    @contextmanager
    def listing(self, key: str, document: Document | None = None) -> Iterator[RecordingListing]:
        self.document = document or {}
        self.listings[key] = RecordingListing()
        yield self.listings[key]

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warning(self, text: str) -> None:
        self.warnings.append(text)

    @contextmanager
    def progress(self, title: str) -> Iterator[RecordingProgress]:
        progress = RecordingProgress(title)
        self.progresses.append(progress)
        yield progress

    def serving(self) -> None:
        self.is_serving = True
