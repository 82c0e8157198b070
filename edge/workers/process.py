"""A worker, seen from the supervisor."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from cdn.errors import CdnError, TransportError, UsageError
from cdn.systemd import successor_environment
from cdn.telemetry import event, heard_level
from edge.cache.shards import Share
from edge.config import EdgeConfig
from edge.connection.listeners import Listeners
from edge.workers.channel import Channel, packed
from edge.workers.shared_memory import SharedMemory

START_SECONDS: Final = 60.0
"""How long a worker may take until it answers requests."""
ANSWER_SECONDS: Final = 20.0
"""How long it may take to answer the supervisor."""
_NOT_INHERITED: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC")
"""What systemd says to the supervisor alone."""


class WorkerProcess:
    """One process, from its start to its end.

    Args:
        process: the process.
        channel: to it.
        index: of the worker.
    """

    def __init__(self, process: asyncio.subprocess.Process, channel: Channel, index: int) -> None:
        self._process = process
        self._channel = channel
        self.index = index
        self._ready: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._last_number = 0
        self._listening = asyncio.create_task(self._listen())

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    @property
    def is_ready(self) -> bool:
        """Whether it answers requests."""
        return self._ready.done() and self._ready.exception() is None and self._process.returncode is None

    @classmethod
    async def start(
        cls, config: EdgeConfig, share: Share, listeners: Sequence[Listeners], lock: int, memory: SharedMemory
    ) -> WorkerProcess:
        """Starts a worker; `ready` says when it answers requests.

        Args:
            config: what it is told.
            share: which worker it is.
            listeners: where each worker accepts connections; it does so for others when it is told to.
            lock: the descriptor that holds the cache; inherited, so that the cache is free when all are gone.
            memory: what all workers share.
        """
        ours, theirs = socket.socketpair()
        own = _numbers(listeners[share.index])
        spare = {
            index: [number for number in _numbers(each) if number not in own]
            for index, each in enumerate(listeners)
            if index != share.index
        }
        inherited = {number for numbers in (own, *spare.values()) for _, number in numbers}
        environment = successor_environment(os.environ)
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
                "-m",
                "edge.workers.worker",
                str(theirs.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), lock, memory.descriptor, *inherited),
                env={name: value for name, value in environment.items() if name not in _NOT_INHERITED},
            )
        except OSError as error:
            ours.close()
            raise UsageError(f"a worker cannot be started: {error.strerror}") from error
        finally:
            theirs.close()
        channel = await Channel.over(ours)
        channel.send(
            {
                "start": {
                    "index": share.index,
                    "count": share.count,
                    "generation": share.generation,
                    "level": heard_level(),
                    "listeners": own,
                    "spare": spare,
                    "memory": memory.said(),
                    "config": packed(config),
                }
            }
        )
        return cls(process, channel, share.index)

    async def ready(self) -> dict[str, Any]:
        """Waits until it answers requests; gives its name and where it listens.

        Raises:
            UsageError: it could not start.
        """
        try:
            return await asyncio.wait_for(asyncio.shield(self._ready), START_SECONDS)
        except TimeoutError:
            raise UsageError(f"worker {self.index} did not start within {START_SECONDS:.0f} seconds") from None

    async def call(self, name: str, given: Mapping[str, object] | None = None) -> Any:
        """Has it carry an order out; gives what it answers.

        Raises:
            UsageError: it refuses.
            TransportError: it is gone, or does not answer.
        """
        self._last_number += 1
        number = self._last_number
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        if self._listening.done():
            answer.set_exception(self._gone())
        self._channel.send({"id": number, "do": name, "with": dict(given or {})})
        try:
            return await asyncio.wait_for(answer, ANSWER_SECONDS)
        except TimeoutError:
            raise TransportError(f"worker {self.index}", "it does not answer") from None
        finally:
            del self._answers[number]

    async def ended(self) -> int:
        """Waits for its end, when everything it said has been heard; gives the exit status."""
        status = await self._process.wait()
        await asyncio.gather(self._listening, return_exceptions=True)
        await self._channel.close()
        return status

    def kill(self) -> None:
        """Ends it at once."""
        with suppress(ProcessLookupError):
            self._process.kill()

    # ------------------------------------------------------------------------------------------------ what it says

    async def _listen(self) -> None:
        while (message := await self._channel.receive()) is not None:
            self._take(message)
        if not self._ready.done():
            self._ready.set_exception(UsageError(f"worker {self.index} ended before it was ready"))
            self._ready.exception()  # which nobody may wait for
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(self._gone())

    def _take(self, message: Mapping[str, Any]) -> None:
        if "event" in message:
            level, name, fields = message["event"]
            event(name, level=level, **fields)
        elif "ready" in message and not self._ready.done():
            self._ready.set_result(message["ready"])
        elif "failed" in message and not self._ready.done():
            self._ready.set_exception(UsageError(message["failed"]))
            self._ready.exception()
        elif (answer := self._answers.get(message.get("id", 0))) is not None and not answer.done():
            if "error" in message:
                answer.set_exception(self._refusal(message))
            else:
                answer.set_result(message["result"])

    def _refusal(self, message: Mapping[str, Any]) -> CdnError:
        if message["is_usage"]:
            return UsageError(message["error"])
        return TransportError(f"worker {self.index}", message["error"])

    def _gone(self) -> CdnError:
        return TransportError(f"worker {self.index}", "it is gone")


def _numbers(listeners: Listeners) -> list[tuple[str, int]]:
    return [(each.address, each.sock.fileno()) for each in listeners]
