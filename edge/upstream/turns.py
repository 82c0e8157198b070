"""Waiting for one's turn at a server to which as many requests are under way as may be, for a bounded time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from cdn.clock import Clock
from cdn.transport.slots import HostSlots
from edge.upstream.health import ServerHealth, UpstreamBusyError

WAITING_MAX: Final = 1024
"""How many requests may wait for one server."""


class Turns:
    """Lets requests to a server through, in the order in which they came.

    Args:
        seconds_max: how long one waits.
        clock: the time.
    """

    def __init__(self, seconds_max: float, clock: Clock) -> None:
        self._seconds_max = seconds_max
        self._clock = clock
        self._waiting: dict[ServerHealth, deque[asyncio.Future[None]]] = {}
        self._uploads: dict[str, tuple[int, HostSlots]] = {}

    def is_at_once(self, server: ServerHealth) -> bool:
        """Counts as under way to a server until `end`, if nobody has to be waited for."""
        if not self.is_free(server):
            return False
        server.begin(self._clock.monotonic())
        return True

    def is_free(self, server: ServerHealth) -> bool:
        """Whether nobody has to be waited for."""
        return not (server.is_full or server in self._waiting)

    async def wait(self, server: ServerHealth, url: str) -> None:
        """Waits until it is so.

        Raises:
            UpstreamBusyError: it was not this request's turn in time.
        """
        waiting = self._waiting.setdefault(server, deque())
        if len(waiting) >= WAITING_MAX:
            raise UpstreamBusyError(url, f"{WAITING_MAX} requests wait for this server already")
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting.append(turn)
        try:
            async with asyncio.timeout(self._seconds_max):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():  # it came, but nobody is there any more
                self.end(server)
            else:
                self._leave(server, turn)
            if isinstance(error, TimeoutError):
                reason = f"{server.connections_max} requests are under way to it, and none ended in time"
                raise UpstreamBusyError(url, reason) from None
            raise

    @asynccontextmanager
    async def uploading(self, server: str, turns_max: int, url: str) -> AsyncIterator[None]:
        """Has one of the turns that requests with bodies may take together: half of a server's.

        Such a request lasts as long as its client likes, and must not keep others from the server.

        Args:
            server: by its name.
            turns_max: how many requests may be under way to it; 0 for any number.
            url: what is asked for.

        Raises:
            UpstreamBusyError: there was none in time.
        """
        if not turns_max:
            yield
            return
        known = self._uploads.get(server)
        if known is None or known[0] != turns_max:  # a reload may have changed it
            known = self._uploads[server] = turns_max, HostSlots(max(1, turns_max // 2), turns_max)
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(self._seconds_max):
                    await stack.enter_async_context(known[1].hold(server))
            except TimeoutError:
                reason = "clients send bodies to it as slowly as they may, and none ended in time"
                raise UpstreamBusyError(url, reason) from None
            yield

    def end(self, server: ServerHealth) -> None:
        """Lets the next one through."""
        server.end()
        waiting = self._waiting.get(server)
        while waiting and not server.is_full:
            turn = waiting.popleft()
            if not turn.done():
                server.begin(self._clock.monotonic())  # here, so that nobody who comes now takes the place
                turn.set_result(None)
        if waiting is not None and not waiting:
            del self._waiting[server]

    def _leave(self, server: ServerHealth, turn: asyncio.Future[None]) -> None:
        waiting = self._waiting.get(server)
        if waiting is not None:
            if turn in waiting:
                waiting.remove(turn)
            if not waiting:
                del self._waiting[server]
