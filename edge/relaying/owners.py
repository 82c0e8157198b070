"""Connections to the other workers of this edge, kept for the next request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Final, cast

from cdn.errors import TransportError
from edge.http.request_body import BodyDecoder

BUFFER_BYTES_MAX: Final = 256 << 10
"""How much of an answer waits for a slow client before the owner is read no further."""
IDLE_MAX: Final = 64
"""How many unused connections to each owner are kept."""
_WRITE_HIGH_WATER: Final = 64 << 10


class OwnerConnection(asyncio.Protocol):
    """One connection to another worker, for one request at a time."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._seen = 0
        self._arrived: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._is_reading = True
        self._is_writable = True
        self.is_lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=_WRITE_HIGH_WATER)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        _wake(self._arrived)
        _wake(self._drained)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        _wake(self._arrived)
        if len(self._buffer) > BUFFER_BYTES_MAX and self._is_reading and self._transport is not None:
            self._transport.pause_reading()
            self._is_reading = False

    def pause_writing(self) -> None:
        self._is_writable = False

    def resume_writing(self) -> None:
        self._is_writable = True
        _wake(self._drained)

    @property
    def is_clean(self) -> bool:
        """Whether the next request can use it."""
        return not self.is_lost and not self._buffer

    @property
    def buffered(self) -> int:
        """How many bytes have arrived and were not taken."""
        return len(self._buffer)

    async def write(self, data: bytes) -> None:
        """Sends bytes, and waits while the owner does not take them.

        Raises:
            TransportError: it went away.
        """
        self._check()
        assert self._transport is not None
        self._transport.write(data)
        while not self._is_writable:
            self._drained = asyncio.get_running_loop().create_future()
            await self._drained
            self._check()

    async def head(self) -> bytes:
        """The head of an answer, up to and with the empty line; raises as `write`."""
        while (end := self._buffer.find(b"\r\n\r\n", self._seen)) < 0:
            self._seen = max(0, len(self._buffer) - 3)
            await self._more()
        head = bytes(self._buffer[: end + 4])
        del self._buffer[: end + 4]
        self._seen = 0
        return head

    async def body(self, decoder: BodyDecoder) -> AsyncGenerator[bytes, None]:
        """The body of an answer, piece by piece; raises as `write` if it breaks off."""
        while True:
            piece = decoder.take(self._buffer)
            if piece:
                yield piece
            elif decoder.is_complete:
                return
            else:
                await self._more()

    async def _more(self) -> None:
        self._check()
        if not self._is_reading and self._transport is not None:
            self._transport.resume_reading()
            self._is_reading = True
        self._arrived = asyncio.get_running_loop().create_future()
        await self._arrived
        if self.is_lost and not self._buffer:
            self._check()

    def _check(self) -> None:
        if self.is_lost:
            raise TransportError(self.path, "the worker went away")

    def abort(self) -> None:
        """Breaks the connection, so that the owner stops working for it."""
        if self._transport is not None:
            self._transport.abort()


def _wake(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)


class Owners:
    """The connections to all other workers."""

    def __init__(self) -> None:
        self._idle: dict[str, list[OwnerConnection]] = {}

    async def take(self, path: str, *, is_fresh: bool) -> OwnerConnection:
        """A connection to the worker that listens there.

        Raises:
            OSError: nobody listens.
        """
        idle = self._idle.get(path, [])
        while idle and not is_fresh:
            connection = idle.pop()
            if connection.is_clean:
                return connection
        loop = asyncio.get_running_loop()
        _, made = await loop.create_unix_connection(lambda: OwnerConnection(path), path)
        return made

    def give_back(self, connection: OwnerConnection) -> None:
        """Keeps a connection whose answer is over, if there is place for it."""
        idle = self._idle.setdefault(connection.path, [])
        if connection.is_clean and len(idle) < IDLE_MAX:
            idle.append(connection)
        else:
            connection.abort()

    def close(self) -> None:
        """Ends those that are unused."""
        for connection in [each for idle in self._idle.values() for each in idle]:
            connection.abort()
        self._idle.clear()
