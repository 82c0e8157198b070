"""What the demonstration found: steps, the checks in them, and totals. Pure, but for whoever watches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from cdn.clock import Clock
from cdn.errors import CdnError
from cdn.reporting import Cell, Table


class DemoFailedError(CdnError):
    """Some check of the demonstration did not hold, or a part of it did not start."""


@dataclass(frozen=True, slots=True)
class Check:
    """Something that had to be so.

    Args:
        name: what.
        is_good: whether it was.
        seen: what was seen.
    """

    name: str
    is_good: bool
    seen: str


@dataclass(slots=True)
class Step:
    """One step of the demonstration, filled in while it runs.

    Args:
        number: its place, from 1.
        title: what is done.
        outcome: what came of it, in a few words for the table.
        details: sentences about what happened.
        checks: what had to be so.
        seconds: how long it took.
    """

    number: int
    title: str
    outcome: str = ""
    details: list[str] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def is_good(self) -> bool:
        """Whether every check held."""
        return all(check.is_good for check in self.checks)

    def document(self) -> dict[str, object]:
        """The step for programs."""
        return {
            "step": self.number,
            "title": self.title,
            "outcome": self.outcome,
            "seconds": round(self.seconds, 3),
            "ok": self.is_good,
            "details": self.details,
            "checks": [{"name": check.name, "ok": check.is_good, "seen": check.seen} for check in self.checks],
        }


class DemoView(Protocol):
    """Whoever watches the demonstration."""

    def begin(self, step: Step, steps: int) -> None:
        """A step begins; there are `steps` in all."""
        ...

    def detail(self, text: str) -> None:
        """Something happened in it."""
        ...

    def check(self, check: Check) -> None:
        """Something was checked."""
        ...

    def progress(self, done: int, total: int, unit: str) -> None:
        """How far a long part of it is."""
        ...

    def end(self, step: Step) -> None:
        """The step is over."""
        ...


class NullView:
    """Nobody watches."""

    def begin(self, step: Step, steps: int) -> None:
        pass

    def detail(self, text: str) -> None:
        pass

    def check(self, check: Check) -> None:
        pass

    def progress(self, done: int, total: int, unit: str) -> None:
        pass

    def end(self, step: Step) -> None:
        pass


class Recorder:
    """Keeps the report and tells whoever watches.

    Args:
        steps: how many steps there will be.
        view: who watches.
        clock: times the steps.
    """

    def __init__(self, steps: int, view: DemoView, clock: Clock) -> None:
        self.steps: list[Step] = []
        self.totals: dict[str, object] = {}
        self._expected = steps
        self._view = view
        self._clock = clock
        self._began = clock.monotonic()
        self.seconds = 0.0

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Records a step. A failure of ours in it is a check that did not hold, and ends the demonstration.

        Raises:
            DemoFailedError: the step could not be done.
        """
        step = Step(len(self.steps) + 1, title)
        self.steps.append(step)
        began = self._clock.monotonic()
        self._view.begin(step, self._expected)
        try:
            yield
        except (CdnError, OSError) as error:
            self.check("the step could be done", is_good=False, seen=" ".join(str(error).split()))
            raise DemoFailedError(str(error)) from error
        except BaseException:
            self.check("the step was not interrupted", is_good=False, seen="it was")
            raise
        finally:
            step.seconds = self._clock.monotonic() - began
            self.seconds = self._clock.monotonic() - self._began
            self._view.end(step)

    def say(self, text: str) -> None:
        """Tells of something that happened."""
        self.steps[-1].details.append(text)
        self._view.detail(text)

    def outcome(self, text: str) -> None:
        """Says what came of the present step."""
        self.steps[-1].outcome = text

    def check(self, name: str, *, is_good: bool, seen: str) -> None:
        """Records whether something was as it had to be."""
        check = Check(name, is_good, seen)
        self.steps[-1].checks.append(check)
        self._view.check(check)

    def progress(self, done: int, total: int, unit: str) -> None:
        """Says how far a long part of the present step is."""
        self._view.progress(done, total, unit)

    @property
    def failures(self) -> list[Check]:
        """The checks that did not hold."""
        return [check for step in self.steps for check in step.checks if not check.is_good]

    @property
    def is_good(self) -> bool:
        """Whether every step was done and every check held."""
        return len(self.steps) == self._expected and not self.failures

    def document(self) -> dict[str, object]:
        """The report for programs."""
        checks = [check for step in self.steps for check in step.checks]
        return {
            "ok": self.is_good,
            "seconds": round(self.seconds, 3),
            "checks": len(checks),
            "checks_failed": len(self.failures),
            "steps": [step.document() for step in self.steps],
            "totals": self.totals,
        }

    def summary(self) -> tuple[str | Table, ...]:
        """The report for people: the last lines of the demonstration."""
        totals = [(name.replace("_", " "), _shown(value)) for name, value in self.totals.items()]
        rows: list[Sequence[Cell]] = [
            (step.number, step.title, step.seconds, _verdict(is_good=step.is_good), step.outcome) for step in self.steps
        ]
        rows.append((None, "all of it", self.seconds, _verdict(is_good=self.is_good), self._conclusion()))
        table = Table(("step", "what", "seconds", "result", "seen"), rows)
        return (*((Table(("total", ""), totals),) if totals else ()), table)

    def _conclusion(self) -> str:
        checks = sum(len(step.checks) for step in self.steps)
        left = self._expected - len(self.steps)
        undone = f", {left} step(s) not begun" if left else ""
        return f"{checks - len(self.failures)} of {checks} checks held{undone}"


def _verdict(*, is_good: bool) -> str:
    return "ok" if is_good else "FAILED"


def _shown(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
