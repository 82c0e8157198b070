"""What a worker does with a request that is for another one: the owner of the response answers, the client is ours.

Each response has one owner among the workers of an edge. Only the owner fetches, judges and stores it, so there is one
fetch for all clients of all workers, and no worker gives out anything older than another one did. Objects, which cannot
change, the others keep in their own memory as well, or read from the disk if they are large. If the owner is down, a
worker serves the request by itself, and keeps nothing of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Final

from cdn.errors import TransportError
from edge.cache.memory_entry import MemoryEntry
from edge.cache.shards import Share
from edge.connection.exchange import Exchange
from edge.content import ContentKind
from edge.fetch.orders import UpstreamsFailedError
from edge.fetch.supplies import Supplies
from edge.http.caching import Decision, decide
from edge.http.request import READING, Request
from edge.http.request_body import BodyDecoder
from edge.relaying.owners import OwnerConnection, Owners
from edge.relaying.relayed_head import (
    KEY_FIELD,
    REPOSITORY_FIELD,
    RelayedHead,
    forget_request,
    read_relayed_head,
    relayed_request,
)
from edge.relaying.sockets import socket_path
from edge.routing import Destination

_BODILESS: Final = frozenset({204, 304})


class Relay:
    """Has other workers answer what is theirs.

    Args:
        share: what this worker has.
        directory: where the workers listen for one another.
        supplies: caches and clock.
        owners: connections to the others.
    """

    def __init__(self, share: Share, directory: Path, supplies: Supplies, owners: Owners) -> None:
        self._share = share
        self._directory = directory
        self._with = supplies
        self._owners = owners
        self._telling: set[asyncio.Task[bool]] = set()

    async def serve(self, request: Request, exchange: Exchange, destination: Destination) -> bool:
        """Answers a request as the owner of its key says; False if that is for this worker to do.

        Raises:
            ClientGone: the client went away.
            RequestError: the request's body is malformed.
            UpstreamsFailedError: the owner broke off, and nobody knows what it has done.
            TransportError: the owner broke off after the client had seen something of the answer.
        """
        if exchange.is_relayed:
            return False
        owner = self._share.owner_of(destination.key)
        if owner == self._share.index or self._is_here(request, destination):
            return False
        path = socket_path(self._directory, self._share, owner)
        is_safe = request.method in READING
        for is_fresh in (False, True) if is_safe else (True,):
            try:
                connection = await self._owners.take(path, is_fresh=is_fresh)
            except OSError:
                break
            try:
                return await self._relay(request, exchange, destination, connection)
            except TransportError as error:
                if exchange.status:
                    raise
                if not is_safe:
                    raise UpstreamsFailedError(destination.target.url, (error,), None) from error
        self._with.statistics.relay_failures += 1
        return False

    def _is_here(self, request: Request, destination: Destination) -> bool:
        """Whether this worker has what is asked for in its own memory, and needs nobody to say that it is current."""
        entry = self._with.memory.get(destination.key)
        if entry is None or not entry.lifetime.is_immutable:
            return False
        return decide(request.headers, entry.head, entry.lifetime, self._with.clock.now()) is Decision.SERVE

    async def _relay(
        self, request: Request, exchange: Exchange, destination: Destination, connection: OwnerConnection
    ) -> bool:
        """Has the owner answer; False if it leaves that to this worker, which can read the file as well."""
        is_over, asked_at = False, self._with.clock.now()
        try:
            await connection.write(relayed_request(request, destination, exchange.client, exchange.request_id))
            async with _uploading(request, exchange, connection):
                head = await _final_head(connection, exchange)
                if head.is_on_disk and destination.content.kind is ContentKind.OBJECT:
                    is_over = True
                    return False
                exchange.result = head.result
                keeps = self._keeps(request, destination, head)
                if request.method == "HEAD" or head.status in _BODILESS:
                    await exchange.send(head.answer, b"")
                elif head.size is not None and (keeps or head.size <= connection.buffered):
                    body = b"".join([piece async for piece in connection.body(BodyDecoder(head.size))])
                    if keeps:
                        self._keep(destination, head, body, asked_at)
                    await exchange.send(head.answer, body)
                else:
                    async with aclosing(connection.body(BodyDecoder(head.size))) as pieces:
                        await exchange.stream(head.answer, pieces)
            is_over = head.keeps_alive and exchange.has_whole_body
            self._with.statistics.relayed += 1
            return True
        finally:
            if is_over:
                self._owners.give_back(connection)
            else:
                connection.abort()

    # ------------------------------------------------------------------------------------------------ forgetting

    async def forget(self, key: str) -> bool:
        """Has the owner of a key forget what is stored under it; whether that could be done."""
        return await self._tell(self._share.owner_of(key), KEY_FIELD, key)

    def forget_negatives(self, repository: str) -> None:
        """Has all others forget what a repository did not have; they are told in a moment."""
        for index in range(self._share.count):
            if index != self._share.index:
                telling = asyncio.create_task(self._tell(index, REPOSITORY_FIELD, repository))
                self._telling.add(telling)
                telling.add_done_callback(self._telling.discard)

    async def _tell(self, index: int, field: str, value: str) -> bool:
        connection = None
        try:
            connection = await self._owners.take(socket_path(self._directory, self._share, index), is_fresh=True)
            await connection.write(forget_request(field, value))
            return read_relayed_head(await connection.head()).status == 204
        except (OSError, TransportError):
            return False
        finally:
            if connection is not None:
                connection.abort()

    # ------------------------------------------------------------------------------------------------ keeping

    def _keeps(self, request: Request, destination: Destination, head: RelayedHead) -> bool:
        """Whether this worker keeps a copy: of what its name proves, if it is small and the owner has it, too."""
        return (
            destination.content.kind is ContentKind.OBJECT
            and request.method == "GET"
            and head.status == 200
            and head.is_kept
            and head.size is not None
            and head.size <= self._with.memory.body_max
            and "Authorization" not in request.headers
        )

    def _keep(self, destination: Destination, head: RelayedHead, body: bytes, asked_at: float) -> None:
        now = self._with.clock.now()
        lifetime = self._with.lifetimes.of(destination.content.kind, head.status)
        stored = head.as_stored(asked_at, now)
        self._with.memory.put(MemoryEntry(destination.key, stored, body, destination.content, lifetime, now))


async def _final_head(connection: OwnerConnection, exchange: Exchange) -> RelayedHead:
    """The head of the answer that counts; those before it are passed on."""
    while True:
        head = read_relayed_head(await connection.head())
        if not head.is_interim:
            return head
        exchange.tell_interim(head.status, head.headers)


@asynccontextmanager
async def _uploading(request: Request, exchange: Exchange, connection: OwnerConnection) -> AsyncIterator[None]:
    """Sends the client's body on meanwhile; what is wrong with it counts more than that the owner then went away."""
    if not request.has_body:
        yield
        return
    upload = asyncio.create_task(_upload(request, exchange, connection))
    try:
        yield
    except TransportError:
        failure = upload.exception() if upload.done() and not upload.cancelled() else None
        if failure is not None and not exchange.status:
            raise failure from None
        raise
    finally:
        upload.cancel()
        await asyncio.gather(upload, return_exceptions=True)


async def _upload(request: Request, exchange: Exchange, connection: OwnerConnection) -> None:
    """Sends the client's body on, as fast as the owner takes it; if it breaks off, so does the connection."""
    is_chunked = request.body_size is None
    try:
        async for piece in exchange.body():
            await connection.write(b"%x\r\n%b\r\n" % (len(piece), piece) if is_chunked else piece)
        if is_chunked:
            await connection.write(b"0\r\n\r\n")
    except Exception:
        connection.abort()
        raise
