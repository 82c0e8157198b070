"""What a person sees of a long operation: a live bar on a terminal, or now and then a plain line in a file.

Both count under a lock, because library code advances them from worker threads, and both redraw at a bounded rate
however often they are told something.
"""

from __future__ import annotations

import sys
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from cdn.clock import Clock, SystemClock
from cdn.reporting import duration_text, size_text

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

    from cdn.telemetry import LogStream

LINE_INTERVAL_SECONDS: Final = 5.0
"""At least one plain line in this time while there is something to tell."""

LINE_INTERVAL_SECONDS_MIN: Final = 1.0
"""At most one plain line in this time, also when every tenth comes faster."""

REDRAW_INTERVAL_SECONDS: Final = 0.1
"""How often a bar changes."""


class _CountedProgress:
    """Counts phases; what is shown, and when, is the business of the two kinds below."""

    def __init__(self, title: str, clock: Clock) -> None:
        self._title = title
        self._clock = clock
        self._lock = threading.Lock()
        self._total: int | None = None
        self._unit = ""
        self._done = 0
        self._message = ""
        self._began = clock.monotonic()
        self._shown = self._began

    def start(self, total: int | None, unit: str) -> None:
        with self._lock:
            self._finish_phase()
            self._total, self._unit, self._done, self._message = total, unit, 0, ""
            self._began = self._shown = self._clock.monotonic()
            self._begin_phase()

    def expect(self, count: int) -> None:
        with self._lock:
            self._total = (self._total or 0) + count
            self._changed()

    def advance(self, count: int = 1) -> None:
        with self._lock:
            self._done += count
            self._changed()

    def message(self, text: str) -> None:
        with self._lock:
            self._message = text
            self._changed()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            if error is None:
                self._finish_phase()

    def _begin_phase(self) -> None:
        """Called when a phase begins, with the lock held."""

    def _changed(self) -> None:
        """Called at every change, with the lock held."""

    def _finish_phase(self) -> None:
        """Called when a phase ends well, with the lock held."""

    def _amount(self, count: int) -> str:
        return size_text(count) if self._unit == "bytes" else f"{count:,}"

    def _summary(self) -> str:
        unit = "" if self._unit == "bytes" else f" {self._unit}"
        return (
            f"{self._title}: {self._amount(self._done)}{unit} in {duration_text(self._clock.monotonic() - self._began)}"
        )


class LineProgress(_CountedProgress):
    """Plain lines: one every 5 seconds or every tenth of the way, and one at the end of a phase.

    Args:
        title: what is being done.
        stream: where the lines go.
        clock: paces them.
    """

    def __init__(self, title: str, stream: LogStream, clock: Clock) -> None:
        super().__init__(title, clock)
        self._stream = stream
        self._tenth = 0

    def _begin_phase(self) -> None:
        self._tenth = 0

    def _changed(self) -> None:
        elapsed = self._clock.monotonic() - self._shown
        tenth = self._done * 10 // self._total if self._total else 0
        if elapsed >= LINE_INTERVAL_SECONDS or (elapsed >= LINE_INTERVAL_SECONDS_MIN and tenth > self._tenth):
            self._tenth = tenth
            self._shown += elapsed
            self._write(self._line())

    def _finish_phase(self) -> None:
        if self._done:
            self._write(self._summary())

    def _line(self) -> str:
        seconds = max(self._shown - self._began, 0.001)
        rate = self._done / seconds
        parts = [f"{self._title}: {self._amount(self._done)}"]
        if self._total:
            parts[0] += f" of {self._amount(self._total)}"
        if self._unit and self._unit != "bytes":
            parts[0] += f" {self._unit}"
        if self._total:
            parts[0] += f" ({min(100, self._done * 100 // self._total)} %)"
        parts.append(f"{self._amount(round(rate))}/s")
        if self._total and 0 < self._done < self._total:
            parts.append(f"about {duration_text((self._total - self._done) / rate)} left")
        if self._message:
            parts.append(self._message)
        return ", ".join(parts)

    def _write(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()


class TerminalProgress(_CountedProgress):
    """A live bar with count, rate and time left on standard error; at the end of a phase one line stays."""

    def __init__(self, title: str) -> None:
        super().__init__(title, SystemClock())
        self._bar = _rich_progress()
        self._task = self._bar.add_task(title, total=None, amount="", rate="", message="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._bar.stop()

    def _begin_phase(self) -> None:
        self._bar.reset(self._task, total=self._total, amount="", rate="", message="")

    def _changed(self) -> None:
        now = self._clock.monotonic()
        if now - self._shown >= REDRAW_INTERVAL_SECONDS:
            self._shown = now
            self._redraw(now)

    def _redraw(self, now: float) -> None:
        amount = self._amount(self._done)
        if self._total:
            amount += f" of {self._amount(self._total)}"
        if self._unit != "bytes":
            amount += f" {self._unit}"
        rate = f"{self._amount(round(self._done / max(now - self._began, 0.001)))}/s"
        self._bar.update(
            self._task, completed=self._done, total=self._total, amount=amount, rate=rate, message=self._message
        )

    def _finish_phase(self) -> None:
        if self._done:
            self._redraw(self._clock.monotonic())
            self._bar.console.print(self._summary(), markup=False, highlight=False)


def _rich_progress() -> RichProgress:
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    return RichProgress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[amount]}", markup=False),
        TextColumn("{task.fields[rate]}", markup=False),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[message]}", markup=False),
        console=Console(file=sys.stderr),
        transient=True,
        # Results go to standard output as they are; rich would move them to the bar's own stream.
        redirect_stdout=False,
    )
