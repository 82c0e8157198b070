"""A worker as a process: an edge that listens on sockets it was given and does what the supervisor says.

It is started as ``python -m edge.workers.worker NUMBER``, the number being that of an inherited socket; see
`workers.channel`. It ends when it is told to, when it gets SIGTERM, and at once when the supervisor is gone.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from cdn.errors import CdnError, UsageError
from cdn.telemetry import Level, event, install_sink
from cdn.transport.loop import run
from edge.cache.shards import Share
from edge.connection.listeners import Listeners, ListeningSocket, adopt
from edge.operations.garbage import settle
from edge.server import EdgeServer
from edge.workers.channel import Channel, unpacked
from edge.workers.shared_memory import SharedMemory

_EXIT_GOOD: Final = 0
_EXIT_FAILED: Final = 1


class Worker:
    """The worker.

    Args:
        channel: to the supervisor.
        server: what it is about.
    """

    def __init__(self, channel: Channel, server: EdgeServer) -> None:
        self._channel = channel
        self._server = server
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped = asyncio.Event()
        self._drain_seconds: float | None = None
        self._orders: dict[str, Callable[[dict[str, Any]], Awaitable[object]]] = {
            "status": self._status,
            "metrics": self._metrics,
            "prepare_purge": server.prepare_purge,
            "reload": self._reload,
            "refused": self._refused,
            "reopen": self._reopen,
            "retire": self._retire,
            "resume": self._resume,
            "stand_in": self._stand_in,
            "leave": self._leave,
            "succeeded": self._succeeded,
            "stop": self._stop,
        }

    async def run(self) -> int:
        """Serves until the end; gives the exit status."""
        try:
            await self._server.start()
        except CdnError as error:
            self._channel.send({"failed": str(error)})
            await self._channel.close()
            return _EXIT_FAILED
        server = self._server
        self._channel.send({"ready": {"name": server.status()["name"], "places": list(server.places)}})
        obeying = asyncio.create_task(self._obey())
        await self._stopped.wait()
        await server.stop(drain_seconds=self._drain_seconds)
        obeying.cancel()
        await asyncio.gather(obeying, *self._tasks, return_exceptions=True)
        await self._channel.close()
        return _EXIT_GOOD

    def drain(self) -> None:
        """Lets answers under way finish, and ends."""
        self._stopped.set()

    async def _obey(self) -> None:
        while (message := await self._channel.receive()) is not None:
            task = asyncio.create_task(self._carry_out(message))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._drain_seconds = 0.0  # the supervisor is gone
        self._stopped.set()

    async def _carry_out(self, message: Mapping[str, Any]) -> None:
        name, given = str(message["do"]), message["with"]
        order = self._orders.get(name) or self._server.commands.get(name)
        reply: dict[str, object] = {"id": message["id"]}
        try:
            if order is None:
                raise UsageError(f"{name} is no order of a worker")
            reply["result"] = await order(given)
        except UsageError as error:
            reply |= {"error": str(error), "is_usage": True}
        except CdnError as error:
            reply |= {"error": str(error), "is_usage": False}
        except Exception as error:  # noqa: BLE001 -- the outermost edge of a task that nobody awaits
            reply |= {"error": f"{type(error).__name__}: {error}", "is_usage": False}
        self._channel.send(reply)

    # ------------------------------------------------------------------------------------------------ orders

    async def _status(self, _given: dict[str, Any]) -> object:
        return self._server.status()

    async def _metrics(self, _given: dict[str, Any]) -> object:
        return {"text": self._server.metrics().decode(), "clients": self._server.clients_said()}

    async def _reload(self, given: dict[str, Any]) -> object:
        self._server.reload(unpacked(given["config"]))
        return None

    async def _refused(self, _given: dict[str, Any]) -> object:
        self._server.statistics.reloads_failed += 1
        return None

    async def _reopen(self, _given: dict[str, Any]) -> object:
        self._server.reopen_log()
        return None

    async def _retire(self, _given: dict[str, Any]) -> object:
        await self._server.retire_cache()
        return None

    async def _resume(self, _given: dict[str, Any]) -> object:
        await self._server.resume_cache()
        return None

    async def _stand_in(self, given: dict[str, Any]) -> object:
        await self._server.stand_in(given["for"])
        return None

    async def _leave(self, given: dict[str, Any]) -> object:
        self._server.leave(given["delay_seconds"])
        return None

    async def _succeeded(self, _given: dict[str, Any]) -> object:
        self._server.has_successor = True
        return None

    async def _stop(self, _given: dict[str, Any]) -> object:
        self._stopped.set()
        return None


def _tell_over(channel: Channel, level: Level, index: int) -> None:
    """Lets the supervisor, which has the log, tell what happens here."""
    loop, main = asyncio.get_running_loop(), threading.get_ident()

    def sink(level: Level, name: str, fields: Mapping[str, object]) -> None:
        message = {"event": [level, name, {**fields, "worker": index}]}
        if threading.get_ident() == main:
            channel.send(message, may_drop=True)
        else:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(lambda: channel.send(message, may_drop=True))

    install_sink(sink, level)


def _adopted(numbers: Sequence[tuple[str, int]], known: dict[int, ListeningSocket]) -> Listeners:
    """The sockets with these numbers; several workers may accept from one of them."""
    for address, number in numbers:
        if number not in known:
            known[number] = adopt(address, number)
    return tuple(known[number] for _, number in numbers)


async def _serve(descriptor: int) -> int:
    channel = await Channel.over(socket.socket(fileno=descriptor))
    first = await channel.receive()
    if first is None:
        return _EXIT_FAILED
    start = first["start"]
    share = Share(start["index"], start["count"], start["generation"])
    if start["level"] is not None:
        _tell_over(channel, start["level"], share.index)
    inherited: dict[int, ListeningSocket] = {}
    listeners = _adopted(start["listeners"], inherited)
    spare = {int(index): _adopted(numbers, inherited) for index, numbers in start["spare"].items()}
    memory = SharedMemory.heard(start["memory"])
    server = EdgeServer(
        unpacked(start["config"]), listeners=listeners, share=share, spare=spare, table=memory.table(share.index)
    )
    worker = Worker(channel, server)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, worker.drain)
    for number in (signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, lambda: None)  # meant for the supervisor, sent to all of a terminal
    status = await worker.run()
    event("edge.worker.ended", level="debug")
    return status


def main() -> None:
    """Runs a worker."""
    settle()
    sys.exit(run(_serve(int(sys.argv[1]))))


if __name__ == "__main__":
    main()
