"""An edge of several workers as one service: starts them, replaces those that die, and speaks for all of them.

The listening sockets and the lock of the cache are opened here and inherited. They stay open here, so connections that
wait for a worker that died are taken by its successor.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from cdn.clock import Clock, SystemClock
from cdn.daemon import HttpListener, operator_application
from cdn.errors import CdnError, TransportError, UsageError
from cdn.telemetry import event
from edge.cache_lock import CacheLock
from edge.channel import packed
from edge.config import EdgeConfig, load
from edge.config_checks import listen_address
from edge.draining import parse_drain_order
from edge.listeners import Listeners, ListeningSocket, close_listeners, open_listeners
from edge.merging import Tally, merged_values
from edge.readiness import why_not_ready
from edge.shards import Share
from edge.worker_config import reloaded, worker_config
from edge.worker_process import WorkerProcess

POLL_SECONDS: Final = 5.0
"""How often workers are asked what they counted, so that little is lost with one."""
PAUSE_SECONDS: Final = 0.2
PAUSE_SECONDS_MAX: Final = 30.0
STEADY_SECONDS: Final = 60.0
"""A worker that lived so long is replaced at once."""
_END_SECONDS: Final = 5.0
"""What a worker gets to end beyond the time it has for answers under way."""


class Supervisor:
    """A `daemon.Service` of several workers.

    Args:
        config_path: what to read again at a reload.
        config: what it is told first.
        handed: listening sockets that were handed over.
        stop_wanted: called when an operator wants the service to end.
        clock: the time.
    """

    def __init__(
        self,
        config_path: Path,
        config: EdgeConfig,
        *,
        stop_wanted: Callable[[], None] = lambda: None,
        handed: Sequence[ListeningSocket] = (),
        clock: Clock | None = None,
    ) -> None:
        self._config_path = config_path
        self._config = config
        self._handed = handed
        self._stop_wanted = stop_wanted
        self._closing: asyncio.Task[None] | None = None
        self._clock = clock or SystemClock()
        self._lock = CacheLock(config.cache.directory)
        self._listeners: tuple[Listeners, ...] = ()
        self._workers: dict[int, WorkerProcess] = {}
        self._deaths = 0
        self._keeping: list[asyncio.Task[None]] = []
        self._tally = Tally()
        self._admin: HttpListener | None = None
        self._is_stopping = False
        self._are_doors_closed = False

    # ------------------------------------------------------------------------------------------------ life

    async def start(self) -> Iterable[str]:
        """Starts everything; gives sentences that say where.

        Raises:
            UsageError: an address, the cache or a worker cannot be had.
        """
        try:
            self._listeners = open_listeners(self._config.listen, count=self._config.workers, handed=self._handed)
            await asyncio.to_thread(self._lock.take)
            for index in range(self._config.workers):
                await self._spawn(index)
            told = await asyncio.gather(*(worker.ready() for worker in self._workers.values()))
            await self._start_admin()
        except BaseException:
            await self._abandon()
            raise
        self._keeping = [asyncio.create_task(self._keep(index)) for index in self._workers]
        self._keeping.append(asyncio.create_task(self._poll_on()))
        event("edge.supervisor.started", workers=[worker.pid for worker in self._workers.values()])
        sentences = ["answering on " + ", ".join(told[0]["places"]), f"{self._config.workers} workers"]
        if self._admin is not None:
            sentences.append("status and metrics on {} port {}".format(*self._admin.address))
        return sentences

    async def _spawn(self, index: int) -> WorkerProcess:
        share = Share(index, self._config.workers)
        worker = await WorkerProcess.start(
            worker_config(self._config, share), share, self._listeners[index], self._lock.descriptor
        )
        self._workers[index] = worker
        return worker

    async def _abandon(self) -> None:
        """Ends what was begun."""
        self._is_stopping = True
        for worker in self._workers.values():
            worker.kill()
        await asyncio.gather(*(worker.ended() for worker in self._workers.values()))
        if self._admin is not None:
            await self._admin.stop()
        if self._closing is not None:
            self._closing.cancel()
        self._let_go()

    def _let_go(self) -> None:
        close_listeners(each for listeners in self._listeners for each in listeners)
        self._listeners = ()
        self._lock.close()

    async def stop(self) -> None:
        """Lets answers under way finish, and ends all workers."""
        event("edge.server.stopping")
        self._is_stopping = True
        self._close_doors_later()
        await self._broadcast("stop")
        limits = self._config.limits
        ends = [asyncio.ensure_future(worker.ended()) for worker in self._workers.values()]
        if ends:
            _, late = await asyncio.wait(ends, timeout=limits.drain_delay + limits.drain_timeout + _END_SECONDS)
            if late:
                event("edge.worker.late", level="warning", workers=len(late))
        for task in self._keeping:
            task.cancel()
        await asyncio.gather(*self._keeping, return_exceptions=True)
        await self._abandon()
        event("edge.server.stopped")

    def _close_doors_later(self) -> None:
        """Closes the listening sockets when the workers do; while one process has them, nobody would be refused."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close_doors())

    async def _close_doors(self) -> None:
        await asyncio.sleep(self._config.limits.drain_delay)
        self._are_doors_closed = True
        close_listeners(each for listeners in self._listeners for each in listeners)

    async def reload(self) -> None:
        """Has every worker serve by the configuration as it is now, or with a mistake in it, none."""
        await self._broadcast("reopen")
        try:
            config = await asyncio.to_thread(load, self._config_path)
        except CdnError as error:
            event("edge.reload.refused", level="error", reason=str(error))
            await self._broadcast("refused")
            return
        for index, worker in list(self._workers.items()):
            share = Share(index, self._config.workers)
            with suppress(CdnError):  # a worker that is gone is replaced by one that knows
                await worker.call("reload", {"config": packed(worker_config(config, share))})
        self._config = reloaded(self._config, config)

    def is_healthy(self) -> bool:
        """Whether somebody answers requests."""
        return any(worker.is_ready for worker in self._workers.values())

    # ------------------------------------------------------------------------------------------------ replacing

    async def _keep(self, index: int) -> None:
        """Replaces a worker whenever it is gone, the more slowly the less long it lived."""
        pause = PAUSE_SECONDS
        while True:
            worker, born_at = self._workers[index], self._clock.monotonic()
            status = await worker.ended()
            if self._is_stopping:
                return
            self._tally.depart(index)
            self._deaths += 1
            if self._are_doors_closed:  # a successor would have nothing to do
                return
            pause = PAUSE_SECONDS if self._clock.monotonic() - born_at > STEADY_SECONDS else pause
            event("edge.worker.died", level="error", worker=index, pid=worker.pid, status=status, pause_seconds=pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, PAUSE_SECONDS_MAX)
            await self._replace(index)

    async def _replace(self, index: int) -> None:
        if self._is_stopping or self._are_doors_closed:
            return
        try:
            worker = await self._spawn(index)
            await worker.ready()
        except CdnError as error:
            event("edge.worker.failed", level="error", worker=index, reason=str(error))
            self._workers[index].kill()
        else:
            event("edge.worker.replaced", worker=index, pid=worker.pid)

    # ------------------------------------------------------------------------------------------------ the operator

    async def _start_admin(self) -> None:
        if self._config.admin.listen:
            admin = HttpListener(
                operator_application(
                    status=self.status,
                    metrics=self.metrics,
                    is_ready=lambda: not self._why_not_ready(),
                    why_not_ready=self._why_not_ready,
                    commands={"purge": self.purge, "drain": self.drain},
                )
            )
            await admin.start(*listen_address(self._config.admin.listen))
            self._admin = admin

    @property
    def _is_complete(self) -> bool:
        return self._closing is None and all(worker.is_ready for worker in self._workers.values())

    def _why_not_ready(self) -> str:
        replacing = "" if self._is_complete else "a worker is being replaced"
        return why_not_ready("leaving" if self._closing is not None else replacing, self._config.cache.directory)

    async def purge(self, order: dict[str, object]) -> dict[str, object]:
        """Has all workers forget what an order says; raises as `command`."""
        return await self.command("purge", order)

    async def drain(self, order: dict[str, object]) -> dict[str, object]:
        """Takes the edge out of service, or back; see `edge.draining.DrainOrder`.

        Raises:
            UsageError: the order is not sound, or it is too late to undo it.
        """
        parsed, limits = parse_drain_order(order), self._config.limits
        if parsed.undo and (self._is_stopping or self._are_doors_closed):
            raise UsageError("it is too late to serve again: the edge accepts no more connections")
        result = await self.command("drain", {"undo": parsed.undo})
        if not parsed.undo:
            self._close_doors_later()
        elif self._closing is not None:
            self._closing.cancel()
            self._closing = None
        if parsed.stop:
            self._stop_wanted()
        return {**result, "seconds_max": limits.drain_delay + limits.drain_timeout}

    async def command(self, name: str, order: dict[str, object]) -> dict[str, object]:
        """Has every worker carry out what an operator wants; gives what they say as one.

        Raises:
            UsageError: they refuse.
            TransportError: one could not be asked; the others have done it.
        """
        if order.get("revision") is not None:
            await self._prepare(name, order)
        answers = await asyncio.gather(
            *(worker.call(name, order) for worker in self._workers.values()), return_exceptions=True
        )
        for error in sorted((each for each in answers if isinstance(each, BaseException)), key=_is_less_telling):
            raise error
        result: dict[str, object] = merged_values(answers)
        return result

    async def _prepare(self, name: str, order: dict[str, object]) -> None:
        """Lets every worker find out what is meant before one of them changes that.

        Raises:
            UsageError: none of them knows.
        """
        answers = await asyncio.gather(
            *(worker.call(f"prepare_{name}", order) for worker in self._workers.values()), return_exceptions=True
        )
        for error in (each for each in answers if isinstance(each, BaseException)):
            raise error
        if not any(each["known"] for each in answers if isinstance(each, dict)):
            raise UsageError(f"nothing cached says what revision {order['revision']} of {order.get('repository')} is")

    async def _broadcast(self, name: str, given: Mapping[str, object] | None = None) -> dict[int, Any]:
        """What each worker answers, by its index; those that do not are left out."""
        workers = dict(self._workers)
        answers = await asyncio.gather(
            *(worker.call(name, given) for worker in workers.values()), return_exceptions=True
        )
        return {
            index: answer
            for index, answer in zip(workers, answers, strict=True)
            if not isinstance(answer, BaseException)
        }

    async def status(self) -> dict[str, object]:
        """Describes the whole edge, and the state of each worker."""
        told = await self._broadcast("status")
        if not told:
            raise TransportError("edge", "no worker answers")
        document: dict[str, object] = merged_values(list(told.values()))
        document["draining"] = self._closing is not None
        document["workers"] = [
            {"index": index, "pid": worker.pid, "ready": worker.is_ready} for index, worker in self._workers.items()
        ]
        document["workers_died"] = self._deaths
        return document

    async def metrics(self) -> bytes:
        """The metrics of all workers as one."""
        await self._poll()
        return self._tally.render()

    async def _poll(self) -> list[WorkerProcess]:
        """Asks all what they counted; gives those that should have answered and did not."""
        asked = [worker for worker in self._workers.values() if worker.is_ready]
        told = await self._broadcast("metrics")
        for worker in asked:
            if worker.index in told and worker.is_ready:
                self._tally.note(worker.index, told[worker.index].encode())
        return [worker for worker in asked if worker.index not in told and worker.is_ready]

    async def _poll_on(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            for worker in await self._poll():
                event("edge.worker.hung", level="error", worker=worker.index, pid=worker.pid)
                worker.kill()


def _is_less_telling(error: BaseException) -> bool:
    return not isinstance(error, UsageError)
