"""How the demonstration looks while it runs: live on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from cdn.cli.output import CommandOutput
from cdn.demo.report import Check, DemoView, NullView, Step
from cdn.reporting import Output, duration_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status

_LINE_SECONDS: Final = 5.0


@contextmanager
def view_for(out: Output) -> Iterator[DemoView]:
    """The view that fits where the results go."""
    is_quiet = isinstance(out, CommandOutput) and out.settings.quiet
    if out.json or is_quiet:
        yield NullView()
    elif sys.stdout.isatty():
        view = LiveView()
        try:
            yield view
        finally:
            view.close()
    else:
        yield LineView()


class LineView:
    """Plain lines on standard output, each as soon as it is known."""

    def __init__(self) -> None:
        self._told_at = 0.0

    def begin(self, step: Step, steps: int) -> None:
        self._say(f"[{step.number}/{steps}] {step.title}")
        self._told_at = time.monotonic()

    def detail(self, text: str) -> None:
        self._say(f"      {text}")

    def check(self, check: Check) -> None:
        if not check.is_good:
            self._say(f"      FAILED: {check.name}: {check.seen}")

    def progress(self, done: int, total: int, unit: str) -> None:
        if time.monotonic() - self._told_at >= _LINE_SECONDS:
            self._told_at = time.monotonic()
            self._say(f"      {done:,} of {total:,} {unit}")

    def end(self, step: Step) -> None:
        self._say(f"      {_verdict(step)}")

    def _say(self, text: str) -> None:
        print(text, flush=True)


class LiveView:
    """A line that changes while a step runs, and what happened above it."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console: Console = Console(file=sys.stdout, highlight=False)
        self._status: Status | None = None
        self._title = ""

    def begin(self, step: Step, steps: int) -> None:
        self._title = f"[{step.number}/{steps}] {step.title}"
        self._print(self._title, "bold")
        self._status = self._console.status(self._plain(step.title), spinner="dots")
        self._status.start()

    def detail(self, text: str) -> None:
        self._print(f"      {text}", "")

    def check(self, check: Check) -> None:
        if not check.is_good:
            self._print(f"      FAILED: {check.name}: {check.seen}", "bold red")

    def progress(self, done: int, total: int, unit: str) -> None:
        if self._status is not None:
            self._status.update(self._plain(f"{done:,} of {total:,} {unit} ({done * 100 // max(total, 1)} %)"))

    def end(self, step: Step) -> None:
        self.close()
        self._print(f"      {_verdict(step)}", "green" if step.is_good else "bold red")

    def close(self) -> None:
        """Takes the changing line away."""
        if self._status is not None:
            self._status.stop()
            self._status = None

    def _print(self, text: str, style: str) -> None:
        self._console.print(self._plain(text), style=style)

    @staticmethod
    def _plain(text: str) -> str:
        from rich.markup import escape

        return escape(text)


def _verdict(step: Step) -> str:
    good = sum(check.is_good for check in step.checks)
    checks = f"; {good} of {len(step.checks)} checks held" if step.checks else ""
    return f"{'done' if step.is_good else 'FAILED'} in {duration_text(step.seconds)}{checks}"
