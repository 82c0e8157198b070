"""Requests that the edge makes of itself, the way clients' requests go: cached, collapsed and verified alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar, Final

from cdn.telemetry import event
from edge.cache.disk_cache import OpenFile
from edge.connection.exchange import Exchange
from edge.connection.slow_readers import PIECE_BYTES_MAX
from edge.http.answering import Answer
from edge.http.headers import Headers
from edge.http.ranges import Segment
from edge.http.request import Request
from edge.http.request_body import BodyDecoder

KEPT_BYTES_MAX: Final = 1 << 20
"""Larger bodies are only made ready for clients."""
RUNNING_MAX: Final = 64
"""How many run at once; one more is not begun."""
_NO_CACHE: Final = Headers((("Cache-Control", "no-cache"),))

Serve = Callable[[Request, Exchange], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Obtained:
    """What came of a request.

    Args:
        status: of the answer; 0 if it broke off.
        body: of a small answer; empty for others.
    """

    status: int
    body: bytes = b""

    @property
    def is_there(self) -> bool:
        """Whether clients who ask will have it."""
        return self.status == 200


class _NoChannel:
    """The connection of an exchange that has no client."""

    client = ""
    is_draining = False

    def note_aborted(self) -> None:
        pass

    async def write(self, data: bytes) -> None:
        pass

    def streaming(self) -> AbstractContextManager[None]:
        return nullcontext()

    can_send_files = True
    piece_bytes = PIECE_BYTES_MAX

    async def send_file(self, segments: Sequence[Segment], file: OpenFile) -> int:
        return 0

    def write_interim(self, data: bytes) -> None:
        pass

    async def read_body(self, decoder: BodyDecoder) -> bytes:
        return b""

    def abort(self) -> None:
        pass


class OwnExchange(Exchange):
    """Takes an answer in."""

    is_counted: ClassVar = False

    def __init__(self, request: Request) -> None:
        super().__init__(_NoChannel(), request)
        self._pieces: list[bytes] = []
        self._is_broken = False

    async def send(self, answer: Answer, body: bytes) -> None:
        """Takes a whole answer."""
        self.status = answer.status
        self._take(body)

    async def stream(self, answer: Answer, pieces: AsyncIterator[bytes]) -> None:
        """Takes an answer whose body comes piece by piece."""
        self.status = answer.status
        async for piece in pieces:
            self._take(piece)
        self._is_broken = answer.size is not None and self.sent != answer.size

    async def send_file(self, answer: Answer, file: OpenFile) -> None:
        """Notes that the answer lies on disk, where it was verified."""
        self.status, self.sent = answer.status, file.facts.size

    def _take(self, piece: bytes) -> None:
        self.sent += len(piece)
        self._pieces = [*self._pieces, piece] if self.sent <= KEPT_BYTES_MAX else []

    def abort(self) -> None:
        """Notes that the answer broke off."""
        self._is_broken = True

    @property
    def obtained(self) -> Obtained:
        """What came of it."""
        if self._is_broken:
            return Obtained(0)
        return Obtained(self.status, b"".join(self._pieces))


class OwnRequests:
    """Asks the edge itself, a bounded number of times at once.

    Args:
        serve: answers requests.
    """

    def __init__(self, serve: Serve) -> None:
        self._serve = serve
        self._running: set[asyncio.Task[Obtained]] = set()
        self._others: set[asyncio.Task[object]] = set()

    def begin(self, target: str, *, is_fresh: bool = False) -> asyncio.Task[Obtained] | None:
        """Asks for a URL; None if too much is being asked for already.

        Args:
            target: as a client would ask for it.
            is_fresh: whether an upstream must confirm it.
        """
        if len(self._running) >= RUNNING_MAX:
            return None
        task = asyncio.create_task(self._ask(target, is_fresh=is_fresh))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def _ask(self, target: str, *, is_fresh: bool) -> Obtained:
        request = Request("GET", target, headers=_NO_CACHE if is_fresh else Headers())
        exchange = OwnExchange(request)
        try:
            await self._serve(request, exchange)
        except Exception as error:  # noqa: BLE001 -- the outermost edge of a task that nobody may wait for
            event("edge.own_request.failed", level="warning", target=target, error=f"{type(error).__name__}: {error}")
            return Obtained(0)
        return exchange.obtained

    def spawn(self, work: Coroutine[object, object, object]) -> None:
        """Lets something run that waits for requests, if there is room for it."""
        if len(self._others) >= RUNNING_MAX:
            work.close()
            return
        task = asyncio.create_task(work)
        self._others.add(task)
        task.add_done_callback(self._others.discard)

    async def stop(self) -> None:
        """Ends what is running."""
        running = [*self._running, *self._others]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
