"""Requests from the other workers of this edge: what the owner of a response does for those who relay to it.

Workers reach one another over Unix sockets in the cache directory, which nobody else may open. What is believed there,
such as the client's address, is never believed on a listener for clients: those have another kind of connection.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import ClassVar, Final

from cdn.errors import UsageError
from edge.cache.disk_cache import OpenFile
from edge.connection.exchange import Channel, Exchange
from edge.connection.protocol import Connection
from edge.connection.shared import OpenConnection, Service, Shared
from edge.fetch.collapsing import Flights
from edge.fetch.supplies import Supplies
from edge.http.answering import Answer
from edge.http.headers import Headers
from edge.http.request import Request
from edge.relaying.relayed_head import CLIENT_FIELD, FORGET, KEY_FIELD, REPOSITORY_FIELD, RESULT_FIELD

SOCKET_PATH_BYTES_MAX: Final = 100


class InsideListener:
    """Listens for the other workers.

    Args:
        shared: what the connections have in common.
        path: of the socket.
    """

    def __init__(self, shared: Shared, path: str) -> None:
        self._shared = shared
        self._path = path
        self._server: asyncio.Server | None = None

    @property
    def connections(self) -> set[OpenConnection]:
        """Those that are open."""
        return self._shared.connections

    async def start(self) -> None:
        """Begins to listen.

        Raises:
            UsageError: the socket cannot be made.
        """
        if len(os.fsencode(self._path)) > SOCKET_PATH_BYTES_MAX:
            raise UsageError(
                f"{self._path} is too long for the name of a socket: with several workers cache.directory "
                f"has at most {SOCKET_PATH_BYTES_MAX - len('/worker99-ffffff.sock')} bytes"
            )
        sock = socket.socket(socket.AF_UNIX)
        try:
            with suppress(FileNotFoundError):
                os.unlink(self._path)
            sock.bind(self._path)
            os.chmod(self._path, 0o600)
            sock.setblocking(False)
        except OSError as error:
            sock.close()
            raise UsageError(f"cannot listen on {self._path}: {error.strerror}") from error
        self._server = await asyncio.get_running_loop().create_unix_server(
            lambda: InsideConnection(self._shared), sock=sock, backlog=socket.SOMAXCONN
        )

    def close(self) -> None:
        """Stops listening, and ends what is idle or stays."""
        if self._server is not None:
            self._server.close()
            self._server = None
            with suppress(OSError):
                os.unlink(self._path)
        for connection in list(self.connections):
            connection.abort()


class InsideExchange(Exchange):
    """One relayed request."""

    is_relayed: ClassVar = True

    def __init__(self, connection: Channel, request: Request) -> None:
        self._client = request.headers.get(CLIENT_FIELD) or ""
        super().__init__(connection, replace(request, headers=request.headers.without(CLIENT_FIELD)))

    @property
    def client(self) -> str:
        """The address of the client on the other worker's side."""
        return self._client

    def _begin(self, answer: Answer) -> bytes:
        return super()._begin(replace(answer, headers=answer.headers.replaced(RESULT_FIELD, self.result)))


class InsideConnection(Connection):
    """The connection of another worker."""

    def _exchange(self, request: Request) -> Exchange:
        return InsideExchange(self, request)


class InsideService:
    """Answers relayed requests.

    Args:
        service: the rest of this worker.
        supplies: caches and clock.
        flights: fetches under way.
        forget_negatives: forgets what a repository did not have.
    """

    def __init__(
        self, service: Service, supplies: Supplies, flights: Flights, forget_negatives: Callable[[str], None]
    ) -> None:
        self._service = service
        self._with = supplies
        self._forget_negatives = forget_negatives
        self._flights = flights

    def hit(self, request: Request, now: float) -> tuple[bytes, bytes] | None:
        """Head and body for a plain request; their bytes are counted by who sends them to the client."""
        ready = self._service.hit(request, now)
        if ready is not None:
            self._with.statistics.relayed_hit_bytes += len(ready[1])
        return ready

    def hit_file(self, request: Request, now: float) -> None:
        """Files are sent the long way, which says what became of the request."""

    def awaited(self, request: Request) -> None:
        """What is not ready is answered the long way, which says what became of the request."""

    def confirm(self, file: OpenFile) -> bool:
        """Hashes a file again, and says whether it is right; called in a thread."""
        return self._service.confirm(file)

    async def serve(self, request: Request, exchange: Exchange) -> None:
        """Answers any request of another worker."""
        repository, key = request.headers.get(REPOSITORY_FIELD), request.headers.get(KEY_FIELD)
        if request.method != FORGET or (
            repository is None and key is None
        ):  # a client's methods may be called anything
            await self._service.serve(exchange.request, exchange)
            return
        if repository is not None:
            self._forget_negatives(repository)
        if key is not None:
            await self._forget(key)
        await exchange.send(Answer(204, Headers()), b"")

    async def _forget(self, key: str) -> None:
        self._flights.outdate(key)
        async with self._with.storing.hold(key):
            await self._with.variants.forget(key)
