"""Keeping all replicas of a machine current: the daemon behind ``cdn replica run``."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from cdn.clock import Clock, SystemClock
from cdn.daemon import show_life
from cdn.errors import CdnError
from cdn.systemd import SystemdNotifier
from cdn.telemetry import event
from replica.config import ReplicaConfig, ReplicaHome
from replica.metrics import Statistics
from replica.mirror import Mirror
from replica.plan import SyncReport
from replica.schedule import Job, JobEvent, seconds_to_next

TOGETHER_DEFAULT: Final = 4
_LOOK_SECONDS: Final = 30.0
"""How often the configuration is looked at again without being told to."""


def open_mirror(home: ReplicaHome, fqrn: str, config: ReplicaConfig | None = None) -> Mirror:
    """A replica of this machine.

    Raises:
        RepositoryMissingError: there is none of this name.
        ConfigError: its configuration has mistakes, or there is no key for it.
    """
    return Mirror.open(
        fqrn,
        storage=home.storage(fqrn),
        folder=home.folder(fqrn),
        keys=[home.keys(fqrn)],
        config=config or home.config(fqrn),
        info=home.served,
    )


class ReplicaDaemon:
    """Synchronizes every replica of a home when it is due, some at the same time.

    Args:
        home: which replicas there are; looked at again at every `reload`.
        names: only these; all if empty.
        together: how many are synchronized at once.
        clock: times the waits.
        chance: draws numbers from 0 to 1.
    """

    def __init__(
        self,
        home: ReplicaHome,
        *,
        names: tuple[str, ...] = (),
        together: int = TOGETHER_DEFAULT,
        clock: Clock | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.statistics = Statistics()
        self._home = home
        self._names = names
        self._slots = asyncio.Semaphore(together)
        self._clock = clock or SystemClock()
        self._chance = chance
        self._jobs: dict[str, Job] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()

    @property
    def jobs(self) -> list[Job]:
        """Every replica's job."""
        return list(self._jobs.values())

    def reload(self) -> None:
        """Takes over which replicas there are and what they are told; one with a mistake keeps its old settings."""
        present = [name for name in self._home.names() if not self._names or name in self._names]
        for name in present:
            try:
                interval = self._home.config(name).interval
            except CdnError as error:
                event("replica.config.refused", level="error", repository=name, reason=str(error))
                continue
            before = self._jobs.get(name)
            if before is None or before.interval_seconds != interval:
                self._jobs[name] = Job(name, interval, due_at=self._clock.monotonic())
        for name in set(self._jobs) - set(present) - set(self._running):
            del self._jobs[name]
        self._changed.set()

    async def run(self) -> None:
        """Runs until cancelled; then the runs under way are given up, which leaves the old revisions served."""
        self.reload()
        try:
            while True:
                self._start_due()
                await self._wait()
        finally:
            for task in self._running.values():
                task.cancel()
            await asyncio.gather(*self._running.values(), return_exceptions=True)

    def _start_due(self) -> None:
        now = self._clock.monotonic()
        for name, job in list(self._jobs.items()):
            if name not in self._running and job.is_due(now):
                self._jobs[name] = job.after(JobEvent.STARTED, now)
                self._running[name] = asyncio.create_task(self._run_one(name))

    async def _wait(self) -> None:
        seconds = seconds_to_next(self.jobs, self._clock.monotonic())
        wait = _LOOK_SECONDS if seconds is None else min(seconds, _LOOK_SECONDS)
        with suppress(TimeoutError):
            async with asyncio.timeout(wait):  # `wait_for` of Python 3.11 swallows a cancellation that comes as it ends
                await self._changed.wait()
        self._changed.clear()

    async def _run_one(self, name: str) -> None:
        what = JobEvent.FAILED
        try:
            async with self._slots:
                report = await self._sync(name)
            what = JobEvent.SUCCEEDED
            self.statistics.succeeded(report, self._clock.now())
        except (CdnError, OSError) as error:
            self.statistics.failed(name)
            event("replica.repository.failed", level="error", repository=name, reason=str(error))
        finally:
            self._running.pop(name, None)
            self._jobs[name] = self._jobs[name].after(what, self._clock.monotonic(), self._chance())
            self._changed.set()

    async def _sync(self, name: str) -> SyncReport:
        async with open_mirror(self._home, name) as mirror:
            return await mirror.sync()


def run_until_stopped(daemon: Callable[[], ReplicaDaemon], listen: str | None, on_ready: Callable[[str], None]) -> None:
    """Runs a daemon until SIGTERM or SIGINT; SIGHUP reloads.

    Args:
        daemon: makes it, inside the event loop.
        listen: host:port of the operator's listener, None for none.
        on_ready: told one sentence once it runs.
    """
    from cdn.transport.loop import run

    run(_run(daemon, listen, on_ready))


async def _run(make: Callable[[], ReplicaDaemon], listen: str | None, on_ready: Callable[[str], None]) -> None:
    from replica.admin import serving

    notifier = SystemdNotifier(os.environ, os.getpid())
    daemon = make()
    loop = asyncio.get_running_loop()
    work = asyncio.create_task(daemon.run())
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, work.cancel)
    loop.add_signal_handler(signal.SIGHUP, daemon.reload)
    async with serving(daemon, listen) as address:
        where = f"; metrics on http://{address}/metrics" if address else ""
        sentence = f"keeping {len(daemon.jobs) or 'no'} replica(s) current{where}"
        on_ready(sentence)
        notifier.ready(sentence)
        life = asyncio.create_task(show_life(notifier, lambda: not work.done()))
        try:
            with suppress(asyncio.CancelledError):
                await work
        finally:
            notifier.stopping()
            life.cancel()
    event("replica.daemon.stopped")
