"""Connections of the short way: a request out, its answer in, no faster than it is read; and those kept for later."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final, cast

from cdn.transport.answer_reader import AnswerReader
from cdn.transport.chunks import MalformedAnswer
from cdn.transport.plain_request import Host

READ_BYTES: Final = 256 << 10
"""How much of a body waits to be read before nothing more is taken from the peer."""


class Connection(asyncio.Protocol):
    """A connection to one host.

    Args:
        host: which one.
        pool: told when it is lost.
        address: of the host, to which it goes.
    """

    def __init__(self, host: Host, pool: Pool, address: str = "") -> None:
        self.host = host
        self.address = address
        self._pool = pool
        self.transport: asyncio.Transport | None = None
        self.reader: AnswerReader | None = None
        """Reads the answer that is awaited; None while the connection waits for a request."""
        self.pieces: deque[bytes] = deque()
        self.asked_at = 0.0
        """When the last request was sent."""
        self.heard_at = 0.0
        """When the peer last sent something, or the request was sent."""
        self.has_heard = False
        """Whether anything of the answer came."""
        self.is_lost = False
        self.malformed: MalformedAnswer | None = None
        self.reason = ""
        """Why it was lost, in the system's words."""
        self.kept_until = 0.0
        self._waiting_bytes = 0
        self._is_paused = False
        self._waiter: asyncio.Future[bool] | None = None
        self.on_change: Callable[[], None] | None = None
        """Called at each change, in place of somebody who waits for it."""
        self._loop = asyncio.get_running_loop()

    # ------------------------------------------------------------------------------------------------ from the loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        reader = self.reader
        if reader is None:
            self.close()  # nobody asked: whatever this is, it must not become the next answer
            return
        self.has_heard = True
        self.heard_at = self._loop.time()
        had_head = reader.head is not None
        try:
            piece = reader.feed(data)
        except MalformedAnswer as error:
            self.malformed = error
            self.close()
            return
        if piece:
            self.pieces.append(piece)
            self._waiting_bytes += len(piece)
            if self._waiting_bytes > READ_BYTES and not reader.is_complete and self.transport is not None:
                self.transport.pause_reading()
                self._is_paused = True
        if piece or reader.is_complete or (reader.head is not None and not had_head):
            self._tell()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is None and self.reader is not None and not self.is_lost:  # the peer's end, and not ours
            self.reader.end()
        self.is_lost = True
        self.reason = str(exc or "")
        self._pool.forget(self)
        self._tell()

    # ------------------------------------------------------------------------------------------------ its user

    def ask(self, head: bytes, reader: AnswerReader) -> None:
        """Sends a request."""
        assert self.transport is not None
        self.reader, self.has_heard = reader, False
        self.asked_at = self.heard_at = self._loop.time()
        self.transport.write(head)

    def next_change(self) -> asyncio.Future[bool]:
        """Waits until the head, a piece or the end has come, or the connection is lost; False after `give_up`."""
        waiter = self._waiter = self._loop.create_future()
        return waiter

    def give_up(self) -> None:
        """Ends waiting."""
        self._tell(is_changed=False)

    def take(self) -> bytes:
        """The next piece of the body, while there is one; the peer may send more then."""
        piece = self.pieces.popleft()
        self._waiting_bytes -= len(piece)
        if self._is_paused and self._waiting_bytes <= READ_BYTES // 2 and self.transport is not None:
            self._is_paused = False
            self.transport.resume_reading()
        return piece

    def rest(self) -> None:
        """Makes ready for another request."""
        self.reader = self.on_change = None
        self.pieces.clear()
        self._waiting_bytes = 0

    def close(self) -> None:
        """Ends it."""
        if self.transport is not None:
            self.transport.abort()
        self._pool.forget(self)
        self.is_lost = True
        self._tell()

    def _tell(self, *, is_changed: bool = True) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(is_changed)
        elif self.on_change is not None:
            self.on_change()


class Pool:
    """Connections that wait for a request; the one that was used last is used next.

    Args:
        connections_max: how many are kept.
        seconds: for how long.
    """

    def __init__(self, connections_max: int, seconds: float) -> None:
        self._connections_max = connections_max
        self._seconds = seconds
        self._waiting: dict[Connection, None] = {}
        self._by_host: dict[str, list[Connection]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self, host: Host) -> Connection | None:
        """A connection to a host, if one waits."""
        waiting = self._by_host.get(host.text)
        now = time.monotonic()
        while waiting:
            connection = waiting.pop()
            del self._waiting[connection]
            if not waiting:
                del self._by_host[host.text]
            if now < connection.kept_until and not connection.is_lost:
                return connection
            connection.close()
        return None

    def put(self, connection: Connection) -> None:
        """Keeps a connection for later."""
        connection.rest()
        connection.kept_until = time.monotonic() + self._seconds
        self._waiting[connection] = None
        self._by_host.setdefault(connection.host.text, []).append(connection)
        while len(self._waiting) > self._connections_max:
            next(iter(self._waiting)).close()
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._seconds, self._sweep)

    def forget(self, connection: Connection) -> None:
        """Keeps it no longer."""
        if connection not in self._waiting:
            return
        del self._waiting[connection]
        waiting = self._by_host[connection.host.text]
        waiting.remove(connection)
        if not waiting:
            del self._by_host[connection.host.text]

    def close(self) -> None:
        """Ends all that wait."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for connection in list(self._waiting):
            connection.close()

    def _sweep(self) -> None:
        self._timer, now = None, time.monotonic()
        for connection in list(self._waiting):
            if connection.kept_until > now:
                self._timer = asyncio.get_running_loop().call_later(connection.kept_until - now, self._sweep)
                break
            connection.close()
