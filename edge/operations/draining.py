"""Leaving without a client noticing: first look away, then close the doors, then let answers finish.

    SERVING --leave--> LEAVING --close--> CLOSED --finish--> DRAINED
       ^                  |
       +------undo--------+

While it is LEAVING, `/healthz` and `/readyz` say 503, so that GeoDNS and load balancers turn to others, and everything
is served as before. From CLOSED on, connections are refused, and each answer ends its connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

from cdn.errors import UsageError
from cdn.telemetry import event

_STEP_SECONDS: Final = 0.05
_TURNS: Final = 3
"""Of the loop until a connection that was accepted before the doors closed is known."""


class Phase(Enum):
    """How far it is."""

    SERVING = "serving"
    LEAVING = "leaving"
    CLOSED = "closed"
    DRAINED = "drained"


class Step(Enum):
    """What leads on."""

    LEAVE = "leave"
    UNDO = "undo"
    CLOSE = "close"
    FINISH = "finish"


_TRANSITIONS: Final = {
    (Phase.SERVING, Step.LEAVE): Phase.LEAVING,
    (Phase.LEAVING, Step.UNDO): Phase.SERVING,
    (Phase.LEAVING, Step.CLOSE): Phase.CLOSED,
    (Phase.CLOSED, Step.FINISH): Phase.DRAINED,
}


def next_phase(phase: Phase, step: Step) -> Phase:
    """The phase after a step.

    Raises:
        UsageError: there is no way back from closed doors, nor from one that has not begun to leave.
    """
    after = _TRANSITIONS.get((phase, step))
    if after is None:
        raise UsageError(f"an edge that is {phase.value} cannot {step.value}")
    return after


class Leaving(Protocol):
    """A connection, as a drain sees it."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way."""
        ...

    def close(self) -> None:
        """Ends it."""
        ...

    def abort(self) -> None:
        """Breaks it off."""
        ...


class Drain:
    """Takes an edge out of service.

    Args:
        connections: those open, as they come and go.
        count_handshakes: how many more are on their way.
        close_doors: closes the listening sockets once who waits there is in.
        tell: told each phase as it begins.
    """

    def __init__(
        self,
        connections: Collection[Leaving],
        count_handshakes: Callable[[], int],
        close_doors: Callable[[], Awaitable[None]],
        tell: Callable[[Phase], None],
    ) -> None:
        self.phase = Phase.SERVING
        self._connections = connections
        self._count_handshakes = count_handshakes
        self._close_doors = close_doors
        self._tell = tell
        self._task: asyncio.Task[None] | None = None

    def begin(
        self, *, delay_seconds: float, timeout_seconds: float, waits_for_idle: bool = False
    ) -> asyncio.Task[None]:
        """Begins, or goes on with what has begun; the task ends when nobody is left.

        Args:
            delay_seconds: how long it is LEAVING.
            timeout_seconds: how long answers may take from CLOSED on.
            waits_for_idle: whether unused connections get their last answer within that time, rather than being closed
                at once, when a request may already be on its way.
        """
        if self._task is None:
            self._step(Step.LEAVE)
            self._task = asyncio.create_task(self._run(delay_seconds, timeout_seconds, waits_for_idle=waits_for_idle))
        return self._task

    def undo(self) -> None:
        """Serves again.

        Raises:
            UsageError: its doors are closed.
        """
        if self.phase is Phase.SERVING:
            return
        self._step(Step.UNDO)
        assert self._task is not None
        self._task.cancel()
        self._task = None

    async def break_off(self) -> None:
        """Ends everything at once."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self.phase is Phase.SERVING:
            self._step(Step.LEAVE)
        if self.phase is Phase.LEAVING:
            await self._close()
        await self._end()

    async def _run(self, delay_seconds: float, timeout_seconds: float, *, waits_for_idle: bool) -> None:
        await asyncio.sleep(delay_seconds)
        await self._close()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_seconds
        while (self._connections or self._count_handshakes()) and loop.time() < deadline:
            if not waits_for_idle:
                self._close_idle()
            await asyncio.sleep(_STEP_SECONDS)
        await self._end()

    async def _close(self) -> None:
        await self._close_doors()
        for _ in range(_TURNS):
            await asyncio.sleep(0)  # what was accepted last becomes a connection
        if self.phase is Phase.LEAVING:
            self._step(Step.CLOSE)

    def _close_idle(self) -> None:
        for connection in [each for each in self._connections if each.is_idle]:
            connection.close()

    async def _end(self) -> None:
        self._close_idle()
        await asyncio.sleep(0)  # the loop tells connections that they are closed
        if self.phase is Phase.CLOSED:
            self._step(Step.FINISH)
        for connection in list(self._connections):
            connection.abort()
        await asyncio.sleep(0)  # likewise

    def _step(self, step: Step) -> None:
        self.phase = next_phase(self.phase, step)
        event("edge.drain.moved", phase=self.phase.value, connections=len(self._connections))
        self._tell(self.phase)


@dataclass(frozen=True, slots=True)
class DrainOrder:
    """What an operator says about leaving.

    Args:
        undo: serve again.
        stop: end the process when nobody is left.
    """

    undo: bool = False
    stop: bool = False


def parse_drain_order(document: dict[str, object]) -> DrainOrder:
    """Reads an order.

    Raises:
        UsageError: it is not sound.
    """
    undo, stop = document.get("undo", False), document.get("stop", False)
    if set(document) - {"undo", "stop"} or not isinstance(undo, bool) or not isinstance(stop, bool):
        raise UsageError('a drain is told "undo" and "stop", true or false, and nothing else')
    if undo and stop:
        raise UsageError("a drain is undone or ends with a stop, not both")
    return DrainOrder(undo, stop)
