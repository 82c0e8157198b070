"""Upgrading an edge while clients ask on and on."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from click.testing import CliRunner

from edge.cli import edge as edge_command
from tests.fakes.edge import Client, object_of, until
from tests.fakes.reporting import RecordingOutput

PAUSE_SECONDS = 0.05
"""Between two requests of a client, so that the edge's processes get something of the processor, too."""


async def upgrade(admin: str) -> int:
    out = RecordingOutput()
    result = await asyncio.to_thread(CliRunner().invoke, edge_command, ("upgrade", "--admin", admin), obj=out)
    if result.exception is not None:
        raise result.exception
    return out.document["pid"]


class Load:
    """Clients that ask on and on, each on a connection that it keeps as long as it may."""

    def __init__(self, address: tuple[str, int], count: int, bodies: Sequence[bytes]) -> None:
        self._address = address
        self._bodies = bodies
        self._is_over = False
        self.answers = self.connections = 0
        self._tasks = [asyncio.create_task(self._ask_on(number)) for number in range(count)]

    async def _ask_on(self, number: int) -> None:
        turn = number
        while not self._is_over:
            self.connections += 1
            async with Client(self._address) as client:
                is_kept = True
                while is_kept and not self._is_over:
                    body = self._bodies[turn % len(self._bodies)]
                    turn += 1
                    answer = await client.get(object_of(body))
                    assert (answer.status, answer.is_whole) == (200, True)
                    assert answer.body == body
                    self.answers += 1
                    await asyncio.sleep(PAUSE_SECONDS)
                    is_kept = answer.headers.get("connection") != "close"

    async def grows(self, by: int) -> None:
        """Waits for answers; a client that failed ends the wait."""
        goal = self.answers + by
        await until(lambda: self.answers >= goal or any(task.done() for task in self._tasks))

    async def end(self) -> None:
        self._is_over = True
        await asyncio.gather(*self._tasks)


@asynccontextmanager
async def kept_track_of(pids: list[int]) -> AsyncIterator[None]:
    """Ends processes that are no children of this one."""
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def is_running(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
