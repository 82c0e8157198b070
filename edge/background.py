"""The work that goes on beside answering: tasks that nobody awaits, watched for crashes, and what some of them do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import Final

from cdn.telemetry import event
from edge.cache.disk_cache import DiskCache
from edge.content import digest_of_key
from edge.parts import Parts
from edge.watching.histogram import Histogram
from edge.watching.statistics import Statistics

CHECK_SECONDS: Final = 1.0
LAG_INTERVAL_SECONDS: Final = 0.25
SCRUB_PAUSE_SECONDS: Final = 60.0
"""Between one pass over the cache and the next."""


class Background:
    """Tasks that go on until they are stopped."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []
        self.has_crashed = False
        """Whether one of them ended by a mistake of this program."""

    def look_after(self, work: Callable[[], Awaitable[None]]) -> None:
        """Begins work."""
        self._tasks.append(asyncio.create_task(self._watched(work)))

    async def _watched(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception as error:  # noqa: BLE001 -- the outermost edge of a task that nobody awaits
            self.has_crashed = True
            event("edge.task.crashed", level="error", error=f"{type(error).__name__}: {error}")

    async def stop(self) -> None:
        """Ends all work."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []


def begin_work(background: Background, parts: Parts, shards: Collection[int], scrub_bytes_per_second: int) -> None:
    """Begins what goes on as long as an edge runs.

    Args:
        background: where it goes on.
        parts: the edge.
        shards: which part of the cache is its.
        scrub_bytes_per_second: how fast that is read again and again; 0 for not at all.
    """
    disk, statistics = parts.supplies.disk, parts.supplies.statistics

    async def check_on() -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            check(parts)

    async def scrub_on() -> None:
        while True:
            await asyncio.sleep(SCRUB_PAUSE_SECONDS)
            await scrub(disk, shards, statistics, scrub_bytes_per_second)

    for work in (check_on, parts.purger.work, parts.documents.remind_on, parts.prober.run):
        background.look_after(work)
    background.look_after(lambda: measure_lag(statistics.lag))
    background.look_after(lambda: asyncio.to_thread(disk.count))
    if scrub_bytes_per_second:
        background.look_after(scrub_on)


def check(parts: Parts) -> None:
    """Ends connections whose clients are too slow, and lets go of files that are no longer cached."""
    parts.shared.check(parts.supplies.clock.monotonic())
    parts.service.tidy()


async def measure_lag(lag: Histogram) -> None:
    """Measures how late the event loop is, over and over."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + LAG_INTERVAL_SECONDS
        await asyncio.sleep(LAG_INTERVAL_SECONDS)
        lag.observe(max(0.0, loop.time() - due))


async def scrub(disk: DiskCache, shards: Iterable[int], statistics: Statistics, bytes_per_second: int = 0) -> int:
    """Reads shards of a disk cache and removes damaged responses, which are fetched anew when next asked for.

    Args:
        disk: the cache.
        shards: which.
        statistics: counts the damage.
        bytes_per_second: how fast; 0 for as fast as the disk.

    Returns:
        how many were damaged.
    """
    before = statistics.disk_failures
    for shard in shards:
        files = disk.scrub_shard(shard, digest_of_key)
        while (size := await asyncio.to_thread(next, files, None)) is not None:
            if bytes_per_second:
                await asyncio.sleep(size / bytes_per_second)  # as slowly as wanted
    return statistics.disk_failures - before
