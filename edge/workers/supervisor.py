"""An edge of several workers as one service: starts them, replaces those that die, and speaks for all of them.

The listening sockets and the lock of the cache are opened here and inherited. They stay open here, so connections that
wait for a worker that died are taken by another one, or by its successor.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from cdn.clock import Clock, SystemClock
from cdn.errors import CdnError, TransportError, UsageError
from cdn.telemetry import event
from edge.cache.cache_lock import PATIENCE_SECONDS, CacheLock
from edge.cache.shards import Share
from edge.config import EdgeConfig
from edge.connection.client_table import TableShape
from edge.connection.listeners import Listeners, close_listeners, open_listeners
from edge.operations.draining import parse_drain_order
from edge.operations.listener import OperatorListener
from edge.operations.readiness import why_not_ready
from edge.operations.reloading import read_again
from edge.operations.succession import NOTHING, Inheritance
from edge.operations.upgrading import Upgrade
from edge.relaying.sockets import clear_sockets
from edge.workers.channel import packed
from edge.workers.config import reloaded, worker_config
from edge.workers.merging import Tally, merged_values
from edge.workers.process import WorkerProcess
from edge.workers.shared_memory import SharedMemory
from edge.workers.standing_in import stand_ins

POLL_SECONDS: Final = 5.0
"""How often workers are asked what they counted, so that little is lost with one."""
PAUSE_SECONDS: Final = 0.2
PAUSE_SECONDS_MAX: Final = 30.0
STEADY_SECONDS: Final = 60.0
"""A worker that lived so long is replaced at once."""
_EARLIER_SECONDS: Final = 0.05
_END_SECONDS: Final = 5.0
"""What a worker gets to end beyond the time it has for answers under way."""


class Supervisor:
    """A `daemon.Service` of several workers.

    Args:
        config_path: what to read again at a reload.
        config: what it is told first.
        inheritance: what was handed over.
        stop_wanted: called when an operator wants the service to end.
        clock: the time.
    """

    def __init__(
        self,
        config_path: Path,
        config: EdgeConfig,
        inheritance: Inheritance = NOTHING,
        *,
        stop_wanted: Callable[[], None] = lambda: None,
        clock: Clock | None = None,
    ) -> None:
        self._config_path = config_path
        self._config = config
        self._inheritance = inheritance
        self._stop_wanted = stop_wanted
        self._closing: asyncio.Task[None] | None = None
        self._closes_at = 0.0
        self._clock = clock or SystemClock()
        self._lock = CacheLock(config.cache.directory)
        self._memory = SharedMemory.new(TableShape.of(config.workers, config.limits.connections_max))
        self._table = self._memory.table(0)
        self._listeners: tuple[Listeners, ...] = ()
        self._workers: dict[int, WorkerProcess] = {}
        self._deaths = 0
        self._keeping: list[asyncio.Task[None]] = []
        self._tally = Tally()
        self._admin = OperatorListener(config.admin.listen, inheritance.admin_socket(config.admin.listen))
        self._is_stopping = False
        self._are_doors_closed = False
        self._workers_changed = asyncio.Event()
        self._replacing = asyncio.Lock()
        self._is_retired = False
        self._upgrade = Upgrade(self, config.admin.listen)
        self.successor = self._upgrade.successor
        self.has_successor = False

    # ------------------------------------------------------------------------------------------------ life

    async def start(self) -> Iterable[str]:
        """Starts everything; gives sentences that say where.

        Raises:
            UsageError: an address, the cache or a worker cannot be had.
        """
        try:
            self._open_listeners()
            await self._take_cache()
            for index in range(self._config.workers):
                await self._spawn(index)
            told = await asyncio.gather(*(worker.ready() for worker in self._workers.values()))
            await self._admin.start(
                status=self.status,
                metrics=self.metrics,
                why_not_ready=self._why_not_ready,
                commands={"purge": self.purge, "drain": self.drain, "upgrade": self._upgrade.command},
            )
        except BaseException:
            await self._abandon()
            raise
        self._keeping = [asyncio.create_task(self._keep(index)) for index in self._workers]
        self._keeping += [asyncio.create_task(self._poll_on()), asyncio.create_task(self._cover_on())]
        self._inheritance.serve()
        event("edge.supervisor.started", workers=[worker.pid for worker in self._workers.values()])
        sentences = ["answering on " + ", ".join(told[0]["places"]), f"{self._config.workers} workers"]
        if self._admin.address is not None:
            sentences.append("status and metrics on {} port {}".format(*self._admin.address))
        return sentences

    def _open_listeners(self) -> None:
        inheritance, config = self._inheritance, self._config
        self._listeners = open_listeners(config.listen, count=config.workers, handed=inheritance.listeners)
        inheritance.close_unused(self.sockets)

    async def _take_cache(self) -> None:
        await self._inheritance.take_cache()
        await asyncio.to_thread(self._lock.take, self._inheritance.patience_seconds)
        await asyncio.to_thread(clear_sockets, self._config.cache.directory)

    @property
    def sockets(self) -> Listeners:
        """All listening sockets that are open, each once."""
        return tuple({each.sock: each for listeners in self._listeners for each in listeners}.values())

    def _share(self, index: int) -> Share:
        return Share(index, self._config.workers, f"{os.getpid():x}")

    async def _spawn(self, index: int) -> WorkerProcess:
        share = self._share(index)
        worker = await WorkerProcess.start(
            worker_config(self._config, share), share, self._listeners, self._lock.descriptor, self._memory
        )
        self._workers[index] = worker
        return worker

    async def _abandon(self) -> None:
        """Ends what was begun."""
        self._is_stopping = True
        for worker in self._workers.values():
            worker.kill()
        await asyncio.gather(*(worker.ended() for worker in self._workers.values()))
        await self._admin.stop()
        if self._closing is not None:
            self._closing.cancel()
        self._let_go()

    def _let_go(self) -> None:
        close_listeners(self.sockets)
        self._listeners = ()
        self._lock.close()
        self._memory.close()

    async def stop(self) -> None:
        """Lets answers under way finish, and ends all workers."""
        event("edge.server.stopping")
        self._is_stopping = True
        self._close_doors_later()
        if self.has_successor:
            await self._broadcast("succeeded")
        await self._broadcast("stop")
        if self.has_successor:
            await self._admin.stop()
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
        """Closes the listening sockets just before the workers do, who let in whoever waits there."""
        if self._closing is None:
            delay_seconds = 0.0 if self.has_successor else self._config.limits.drain_delay
            self._closes_at = self._clock.monotonic() + delay_seconds
            self._closing = asyncio.create_task(self._close_doors(delay_seconds))

    async def _close_doors(self, delay_seconds: float) -> None:
        if delay_seconds > _EARLIER_SECONDS:
            await asyncio.sleep(delay_seconds - _EARLIER_SECONDS)
        self._are_doors_closed = True
        close_listeners(self.sockets)

    async def reload(self) -> None:
        """Has every worker serve by the configuration as it is now, or with a mistake in it, none."""
        await self._broadcast("reopen")
        config = await read_again(self._config_path)
        if config is None:
            await self._broadcast("refused")
            return
        for index, worker in list(self._workers.items()):
            share = self._share(index)
            with suppress(CdnError):  # a worker that is gone is replaced by one that knows
                await worker.call("reload", {"config": packed(worker_config(config, share))})
        self._config = reloaded(self._config, config)

    def is_healthy(self) -> bool:
        """Whether somebody answers requests."""
        return any(worker.is_ready for worker in self._workers.values())

    # ------------------------------------------------------------------------------------------------ being replaced

    async def upgrade(self) -> None:
        """Has a successor take over; raises as `Upgrade.run`."""
        await self._upgrade.run()

    @property
    def admin_socket(self) -> socket.socket | None:
        """Where its operator asks."""
        return self._admin.sock

    @property
    def is_draining(self) -> bool:
        """Whether it is leaving."""
        return self._closing is not None or self._is_stopping

    async def retire_cache(self) -> None:
        """Leaves the cache to a successor; until that has it, or it is taken back, no worker is replaced.

        Raises:
            TransportError: a worker does not answer.
        """
        await self._replacing.acquire()
        self._is_retired = True
        alive = [worker for worker in self._workers.values() if worker.is_ready]
        for answer in await asyncio.gather(*(worker.call("retire") for worker in alive), return_exceptions=True):
            if isinstance(answer, BaseException):
                raise answer
        self._lock.release()

    async def resume_cache(self) -> None:
        """Takes the cache back, if it was left.

        Raises:
            UsageError: it cannot be had.
        """
        if not self._is_retired:
            return
        try:
            await self._take_back()
            resumed = await self._broadcast("resume")
            for worker in [each for index, each in self._workers.items() if index not in resumed]:
                worker.kill()
        finally:
            self._is_retired = False
            self._replacing.release()

    async def _take_back(self) -> None:
        if not self._lock.is_held:
            await asyncio.to_thread(self._lock.take, PATIENCE_SECONDS)

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
            self._table.clear(index)
            self._deaths += 1
            self._workers_changed.set()
            if self._are_doors_closed:  # a successor would have nothing to do
                return
            pause = PAUSE_SECONDS if self._clock.monotonic() - born_at > STEADY_SECONDS else pause
            event(
                "edge.worker.died",
                level="error",
                worker=index,
                pid=worker.pid,
                status=status,
                pause_seconds=pause,
            )
            await asyncio.sleep(pause)  # one that dies at once must not be started in a circle
            pause = min(2 * pause, PAUSE_SECONDS_MAX)
            await self._replace(index)

    async def _replace(self, index: int) -> None:
        async with self._replacing:
            if self._is_stopping or self._are_doors_closed:
                return
            try:
                await self._take_back()
                worker = await self._spawn(index)
                await worker.ready()
                if self._closing is not None:
                    await worker.call("leave", {"delay_seconds": max(0.0, self._closes_at - self._clock.monotonic())})
            except CdnError as error:
                event("edge.worker.failed", level="error", worker=index, reason=str(error))
                self._workers[index].kill()
            else:
                self._workers_changed.set()
                event("edge.worker.replaced", worker=index, pid=worker.pid)

    async def _cover_on(self) -> None:
        """Has the workers that are left accept for those that are gone."""
        told: dict[int, tuple[int, ...]] = {}
        while True:
            await self._workers_changed.wait()
            self._workers_changed.clear()
            ready = [index for index, worker in self._workers.items() if worker.is_ready]
            living = {self._workers[index].pid: index for index in ready}
            told = {pid: others for pid, others in told.items() if pid in living}
            wanted = stand_ins(ready, self._config.workers)
            for pid, index in living.items():
                if wanted[index] != told.get(pid, ()):
                    with suppress(CdnError):  # one that is gone is stood in for next
                        await self._workers[index].call("stand_in", {"for": wanted[index]})
                        told[pid] = wanted[index]
                        event("edge.worker.stands_in", worker=index, others=list(wanted[index]))

    # ------------------------------------------------------------------------------------------------ the operator

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
        """Takes the edge out of service, or back; see `edge.operations.draining.DrainOrder`.

        Raises:
            UsageError: the order is not sound, or it is too late to undo it.
        """
        parsed, limits = parse_drain_order(order), self._config.limits
        if parsed.undo and (self._is_stopping or self._are_doors_closed):
            raise UsageError("it is too late to serve again: the edge accepts no more connections")
        if not parsed.undo:
            self._close_doors_later()
        try:
            result = await self.command("drain", {"undo": parsed.undo})
        except UsageError:
            if parsed.undo:  # too late for one, and so for all
                await self._broadcast("leave", {"delay_seconds": 0.0})
            raise
        if parsed.undo and self._closing is not None:
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
        return self._tally.render(self._clock.now())

    async def _poll(self) -> list[WorkerProcess]:
        """Asks all what they counted; gives those that should have answered and did not."""
        asked = [worker for worker in self._workers.values() if worker.is_ready]
        told = await self._broadcast("metrics")
        for worker in asked:
            if worker.index in told and worker.is_ready:
                said = told[worker.index]
                self._tally.note(worker.index, said["text"].encode(), said["clients"])
        return [worker for worker in asked if worker.index not in told and worker.is_ready]

    async def _poll_on(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            for worker in await self._poll():
                event("edge.worker.hung", level="error", worker=worker.index, pid=worker.pid)
                worker.kill()


def _is_less_telling(error: BaseException) -> bool:
    return not isinstance(error, UsageError)
