"""Asks the edges how they are, each on its own rhythm, and tells when that changes anything.

The rules are in `geodns.edge_health`; here are the connections and the waiting.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import aiohttp

from cdn.clock import Clock
from cdn.telemetry import event
from geodns.config import GeoDnsConfig, HealthSettings
from geodns.config_values import check_target
from geodns.edge_health import OUT_OF_USE, CheckResult, EdgeHealth, EdgeState, Outcome, Thresholds, health_view
from geodns.routing import HealthView

JITTER: Final = 0.1
"""By what part of itself an interval varies."""


@dataclass(frozen=True, slots=True)
class EdgeCheck:
    """How one edge is checked.

    Args:
        edge: its name.
        url: ``http://``, ``https://`` or ``tcp://``.
    """

    edge: str
    url: str


def configured_checks(config: GeoDnsConfig) -> tuple[EdgeCheck, ...]:
    """Returns the checks of all edges that have one."""
    return tuple(EdgeCheck(edge.name, edge.check) for site in config.sites for edge in site.edges if edge.check)


class Probe(Protocol):
    """Asks one edge once."""

    async def __call__(self, url: str) -> str:
        """Returns why the answer was bad, or an empty text if it was good.

        Raises:
            OSError: if there was no answer; `TimeoutError`, which is one, may come from outside.
        """
        ...


class NetworkProbe:
    """Asks over the network: HTTP must answer with a status below 400, TCP must accept."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, url: str) -> str:
        """Asks one edge once, over a new connection each time, since accepting is part of being well."""
        scheme, host, port = check_target(url)
        if scheme == "tcp":
            _, writer = await asyncio.open_connection(host, port)
            writer.transport.abort()
            return ""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(force_close=True, limit=0),
                headers={"User-Agent": "stratocast-geodns"},
                auto_decompress=False,
            )
        try:
            async with self._session.get(url, allow_redirects=False) as reply:
                return "" if reply.status < 400 else f"it answered {reply.status}"
        except (aiohttp.ClientError, ValueError) as error:
            raise OSError(str(error) or type(error).__name__) from error

    async def close(self) -> None:
        """Lets go of the session."""
        if self._session is not None:
            await self._session.close()
            self._session = None


class HealthChecker:
    """Checks a set of edges until it is stopped.

    Args:
        checks: which edges, and how.
        settings: the rhythm and the patience.
        clock: measures how long answers take.
        on_change: called when an answer may now be another one.
        probe: asks an edge; the network by default.
        known: what was known before, so that a reload forgets nothing.
    """

    def __init__(
        self,
        checks: Sequence[EdgeCheck],
        settings: HealthSettings,
        clock: Clock,
        on_change: Callable[[HealthView], None],
        *,
        probe: Probe | None = None,
        known: dict[str, EdgeHealth] | None = None,
    ) -> None:
        known = known or {}
        self._checks = tuple(checks)
        self._settings = settings
        self._thresholds = Thresholds(settings.fall, settings.rise)
        self._clock = clock
        self._on_change = on_change
        self._own_probe = NetworkProbe() if probe is None else None
        self._probe: Probe = probe or self._own_probe  # type: ignore[assignment]
        self._marks = {check.edge: known.get(check.edge, EdgeHealth()) for check in checks}
        self._at_once = asyncio.Semaphore(settings.concurrent_max)
        self._tasks: list[asyncio.Task[None]] = []
        self._unchecked = {check.edge for check in checks}
        self._first_round = asyncio.Event()

    @property
    def marks(self) -> dict[str, EdgeHealth]:
        """What is known of each checked edge, by name."""
        return dict(self._marks)

    @property
    def view(self) -> HealthView:
        """What routing needs to know."""
        return health_view(self._marks)

    def start(self) -> None:
        """Begins checking."""
        if not self._checks:
            self._first_round.set()
        self._tasks = [asyncio.create_task(self._watch(check), name=f"check {check.edge}") for check in self._checks]

    async def first_round(self) -> None:
        """Waits until every edge was asked once, which takes a timeout at most, or a few with very many edges."""
        await self._first_round.wait()

    async def stop(self) -> None:
        """Ends all checks."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        if self._own_probe is not None:
            await self._own_probe.close()

    async def _watch(self, check: EdgeCheck) -> None:
        while True:
            async with self._at_once:
                result = await self._ask(check.url)
            self._record(check, result)
            vary = random.uniform(1 - JITTER, 1 + JITTER)
            await asyncio.sleep(self._settings.interval_seconds * vary)

    async def _ask(self, url: str) -> CheckResult:
        began = self._clock.monotonic()
        try:
            async with asyncio.timeout(self._settings.timeout_seconds):
                complaint = await self._probe(url)
        except TimeoutError:
            return CheckResult(Outcome.FAILED, f"no answer within {self._settings.timeout_seconds:g} s")
        except OSError as error:
            return CheckResult(Outcome.FAILED, str(error))
        seconds = self._clock.monotonic() - began
        if complaint:
            return CheckResult(Outcome.FAILED, complaint, seconds)
        if seconds > self._settings.slow_seconds:
            return CheckResult(Outcome.LATE, f"it took {seconds:.1f} s to answer", seconds)
        return CheckResult(Outcome.GOOD, "", seconds)

    def _record(self, check: EdgeCheck, result: CheckResult) -> None:
        before = self._marks[check.edge]
        after = before.after(result, self._thresholds)
        view = self.view
        self._marks[check.edge] = after
        if after.state is not before.state:
            _tell_change(check.edge, before, after)
        if self.view != view:
            self._on_change(self.view)
        self._unchecked.discard(check.edge)
        if not self._unchecked:
            self._first_round.set()


_TROUBLE: Final = OUT_OF_USE | {EdgeState.FAILING, EdgeState.SLOW}


def _tell_change(edge: str, before: EdgeHealth, after: EdgeHealth) -> None:
    event(
        "geodns.edge.changed",
        level="warning" if after.state in _TROUBLE else "info",
        edge=edge,
        before=before.state.value,
        after=after.state.value,
        reason=after.reason,
    )
