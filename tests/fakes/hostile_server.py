"""A server that speaks HTTP badly on purpose, over real sockets.

A behaviour is what it does with one connection, after having read the head of one request (or at once):

    async with HostileServer(answering(b"HTTP/1.1 200 OK\\r\\nContent-Length: 5\\r\\n\\r\\nabc")) as server:
        ...  # server.url
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Self

Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class HostileServer:
    """Runs a behaviour on every connection to a port of its own on 127.0.0.1.

    Args:
        behaviour: what to do with a connection; it is closed when this returns.
    """

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._tasks: set[asyncio.Task[None]] = set()
        self.connections = 0
        """How many there have been."""
        self.requests: list[bytes] = []
        """The heads of the requests that were read."""

    @property
    def port(self) -> int:
        return self._server.sockets[0].getsockname()[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                if not getattr(self._behaviour, "before_request", False):
                    self.requests.append(await reader.readuntil(b"\r\n\r\n"))
                await self._behaviour(reader, writer)
        finally:
            writer.close()
            with suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()
            self._tasks.discard(task)


def answering(raw: bytes, *, then_hang: bool = False) -> Behaviour:
    """Sends these bytes, then closes the connection or leaves it open in silence."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)
        await writer.drain()
        if then_hang:
            await reader.read()

    return behave


def endless(head: bytes, piece: bytes) -> Behaviour:
    """Sends the head, and then the same piece for ever, as fast as it is taken."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            writer.write(piece)
            await writer.drain()

    return behave


def dripping(head: bytes, piece: bytes, interval_seconds: float) -> Behaviour:
    """Sends the head, and then the same piece for ever, with pauses."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(interval_seconds)

    return behave


def in_turn(*behaviours: Behaviour) -> Behaviour:
    """The first connection gets the first behaviour, and so on; the last one stays."""
    left = list(behaviours)

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(reader, writer)

    return behave


async def closing_at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Reads the request and closes the connection without a byte."""


async def resetting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Reads the request and resets the connection."""
    writer.transport.abort()


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Never answers."""
    await reader.read()
