"""When each replica is synchronized next: its state, the table of what may follow, and the waiting time. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Final


class JobState(Enum):
    """How a replica's job is."""

    WAITING = "waiting"
    RUNNING = "running"
    FAILING = "failing"


class JobEvent(Enum):
    """What happens to it."""

    STARTED = "started"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


_NEXT: Final = {
    (JobState.WAITING, JobEvent.STARTED): JobState.RUNNING,
    (JobState.FAILING, JobEvent.STARTED): JobState.RUNNING,
    (JobState.RUNNING, JobEvent.SUCCEEDED): JobState.WAITING,
    (JobState.RUNNING, JobEvent.FAILED): JobState.FAILING,
}
_BACKOFF_DOUBLINGS_MAX: Final = 6
_BACKOFF_SECONDS_MAX: Final = 1800.0
_JITTER: Final = 0.1


@dataclass(frozen=True, slots=True)
class Job:
    """One replica's job.

    Args:
        fqrn: the repository.
        interval_seconds: between two runs that succeed.
        state: how it is.
        failures: in a row.
        due_at: when it is run next, on a monotonic clock.
    """

    fqrn: str
    interval_seconds: float
    state: JobState = JobState.WAITING
    failures: int = 0
    due_at: float = 0.0

    def after(self, what: JobEvent, now: float, chance: float = 0.5) -> Job:
        """The job after an event.

        Args:
            what: the event.
            now: on a monotonic clock.
            chance: from 0 to 1, drawn anew each time: a tenth of the interval is left to it, so that many replicas of
                one source do not ask in step.

        Raises:
            ValueError: this cannot follow.
        """
        state = _NEXT.get((self.state, what))
        if state is None:
            raise ValueError(f"a job that is {self.state.value} cannot have {what.value}")
        if what is JobEvent.STARTED:
            return replace(self, state=state)
        failures = self.failures + 1 if what is JobEvent.FAILED else 0
        wait = self.interval_seconds * (1 + _JITTER * (2 * chance - 1))
        if failures:
            wait = min(wait * 2.0 ** min(failures - 1, _BACKOFF_DOUBLINGS_MAX), max(wait, _BACKOFF_SECONDS_MAX))
        return replace(self, state=state, failures=failures, due_at=now + wait)

    def is_due(self, now: float) -> bool:
        """Whether it should run now."""
        return self.state is not JobState.RUNNING and now >= self.due_at


def seconds_to_next(jobs: list[Job], now: float) -> float | None:
    """How long until one is due; None if none will be before another ends."""
    waiting = [job.due_at for job in jobs if job.state is not JobState.RUNNING]
    return max(0.0, min(waiting) - now) if waiting else None
