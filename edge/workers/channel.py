"""What the supervisor and a worker say to one another, over a pair of sockets that only they have.

One JSON object a line. The supervisor sends orders with a number, the worker answers them by it; besides, the worker
sends what happens to it. When either end is gone the other one notices at once, since nobody else has the sockets.
"""

from __future__ import annotations

import asyncio
import base64
import json
import pickle
import socket
from contextlib import suppress
from typing import Any, Final, cast

from edge.config import EdgeConfig

LINE_BYTES_MAX: Final = 16 << 20
UNSENT_BYTES_MAX: Final = 4 << 20
"""What is not taken beyond this is dropped, if it may be."""


class Channel:
    """One end.

    Args:
        reader: where from.
        writer: where to.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, sock: socket.socket) -> Channel:
        """The end of a pair that this process has."""
        sock.setblocking(False)
        return cls(*await asyncio.open_unix_connection(sock=sock, limit=LINE_BYTES_MAX))

    def send(self, message: dict[str, Any], *, may_drop: bool = False) -> None:
        """Sends a message; if the other end is gone, nothing happens."""
        transport = self._writer.transport
        if transport.is_closing() or (may_drop and transport.get_write_buffer_size() > UNSENT_BYTES_MAX):
            return
        self._writer.write(json.dumps(message, default=str).encode() + b"\n")

    async def receive(self) -> dict[str, Any] | None:
        """The next message; None when the other end is gone."""
        try:
            line = await self._reader.readline()
        except (ConnectionError, ValueError):
            return None
        return cast("dict[str, Any]", json.loads(line)) if line.endswith(b"\n") else None

    async def close(self) -> None:
        """Sends what waits, and ends."""
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()


def packed(config: EdgeConfig) -> str:
    """A configuration as text, for a process that this one has started."""
    return base64.b64encode(pickle.dumps(config)).decode()


def unpacked(text: str) -> EdgeConfig:
    """A configuration out of what the supervisor, whom a worker believes everything, has sent."""
    return cast("EdgeConfig", pickle.loads(base64.b64decode(text)))  # noqa: S301 -- from the process that started us
