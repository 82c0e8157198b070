"""Being replaced while running: what a process does to have a successor take its place, or to go on as before."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Final, Protocol

from cdn.errors import CdnError, TransportError, UsageError
from cdn.telemetry import event
from edge.connection.listeners import Listeners
from edge.operations.succession import PREPARED, SERVING, START_SECONDS, YOURS, Successor

_FIRST_PROCESS: Final = 1


class Predecessor(Protocol):
    """An edge, of one process or of several, whose place a successor can take."""

    has_successor: bool

    @property
    def admin_socket(self) -> socket.socket | None:
        """Where its operator asks, if anywhere."""
        ...

    @property
    def sockets(self) -> Listeners:
        """All listening sockets that are open."""
        ...

    @property
    def is_draining(self) -> bool:
        """Whether it is leaving already."""
        ...

    async def retire_cache(self) -> None:
        """Leaves the cache to a successor; what is cached is still served."""
        ...

    async def resume_cache(self) -> None:
        """Takes the cache back, if it was left; raises `UsageError` if it cannot be had."""
        ...


class Upgrade:
    """Has a successor take the place of an edge.

    Args:
        edge: the edge.
        admin_address: of its operator's listener, as configured.
        pid: of this process.
    """

    def __init__(self, edge: Predecessor, admin_address: str, pid: int | None = None) -> None:
        self._edge = edge
        self._admin_address = admin_address
        self._pid = os.getpid() if pid is None else pid
        self._under_way = asyncio.Lock()
        self.successor: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """The process that has taken its place, once there is one."""

    async def run(self) -> None:
        """Does it.

        Raises:
            UsageError: that did not succeed; this process goes on as before.
        """
        if self._pid == _FIRST_PROCESS:
            raise UsageError(
                "the first process of a container cannot be replaced, since the container ends with it: start the "
                "container with an init (such as docker run --init), or replace the container"
            )
        if self._under_way.locked() or self.successor.done() or self._edge.is_draining:
            raise UsageError("the edge is being upgraded or drained already")
        async with self._under_way:
            event("edge.upgrade.started")
            edge = self._edge
            successor = await asyncio.to_thread(Successor.start, edge.sockets, edge.admin_socket, self._admin_address)
            await self._hand_over(successor)
            edge.has_successor = True
            event("edge.upgrade.succeeded", pid=successor.pid)
            successor.leave()
            self.successor.set_result(successor.pid)

    async def _hand_over(self, successor: Successor) -> None:
        try:
            await successor.talk.hear(PREPARED, START_SECONDS)
            await self._edge.retire_cache()
            successor.talk.say(YOURS)
            await successor.talk.hear(SERVING, START_SECONDS)
        except BaseException as error:
            status = await asyncio.to_thread(successor.end)
            await self._edge.resume_cache()
            if not isinstance(error, CdnError):
                raise
            reason = error if isinstance(error, TransportError) else f"the cache could not be left: {error}"
            raise UsageError(
                f"the successor did not take over (exit status {status}, {reason}); this edge goes on as before"
            ) from error

    async def command(self, _document: dict[str, object]) -> dict[str, object]:
        """The same as an operator's command; raises as `run`."""
        await self.run()
        return {"pid": self.successor.result()}
