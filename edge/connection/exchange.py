"""One request and the sending of its answer over the connection that it came from."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager
from typing import ClassVar, Final, Protocol

from edge.cache.disk_cache import DamagedFileError, OpenFile
from edge.http.answering import Answer, is_chunked, render_head, render_interim
from edge.http.headers import Headers
from edge.http.ranges import ByteRange, Segment
from edge.http.request import Request, Version
from edge.http.request_body import BodyDecoder
from edge.watching.tallies import NOBODYS

JOIN_BYTES_MAX: Final = 32 << 10
"""Up to which size a body is copied behind its head, so that one write sends both."""
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class ClientGone(Exception):  # noqa: N818 -- no failure of ours
    """The client closed the connection before it had its answer."""


class Channel(Protocol):
    """The connection, seen from an exchange."""

    client: str
    """The client's address."""

    @property
    def is_draining(self) -> bool:
        """Whether the edge stops."""
        ...

    def note_aborted(self) -> None:
        """Counts an answer that broke off."""
        ...

    async def write(self, data: bytes) -> None:
        """Sends bytes, and waits while the client does not take them.

        Raises:
            ClientGone: it went away.
        """
        ...

    @property
    def piece_bytes(self) -> int:
        """How much of a large body the client gets at once."""
        ...

    def streaming(self) -> AbstractContextManager[None]:
        """While it lasts, `write` waits until everything was taken."""
        ...

    @property
    def can_send_files(self) -> bool:
        """Whether files can go to the client past the transport."""
        ...

    async def send_file(self, segments: Sequence[Segment], file: OpenFile) -> int:
        """Sends parts of a file, and bytes between them; how many in all.

        Raises:
            ClientGone: it went away.
            DamagedFileError: the file is damaged; the last bytes were not sent.
            OSError: it cannot be read.
        """
        ...

    def write_interim(self, data: bytes) -> None:
        """Sends a few bytes before the answer."""
        ...

    async def read_body(self, decoder: BodyDecoder) -> bytes:
        """The next piece of a request's body, empty at its end.

        Raises:
            ClientGone: it went away.
            RequestError: the framing is damaged.
        """
        ...

    def abort(self) -> None:
        """Ends the connection so that the client cannot take what it has for the whole."""
        ...


class Exchange:
    """One request and the sending of its answer.

    Args:
        connection: where it goes.
        request: what was asked.
    """

    is_counted: ClassVar = True
    """Whether it is a client's, and not one that the edge makes of itself."""
    is_relayed: ClassVar = False
    """Whether another worker of this edge has the client."""

    def __init__(self, connection: Channel, request: Request) -> None:
        self._connection = connection
        self.request = request
        self.began_at = time.perf_counter()
        self.status = 0
        """Of the answer, once it began."""
        self.sent = 0
        """Bytes of body."""
        self.result = "-"
        self.tally = NOBODYS
        """Where it is counted."""
        self.request_id = ""
        self.waited_for = ""
        """The ID of the request whose fetch it shares."""
        self.keeps_alive = request.keeps_alive
        self._decoder = BodyDecoder(request.body_size) if request.has_body else None

    @property
    def client(self) -> str:
        """The client's address."""
        return self._connection.client

    @property
    def has_whole_body(self) -> bool:
        """Whether the request's body, if it has one, was read to its end."""
        return self._decoder is None or self._decoder.is_complete

    async def body(self) -> AsyncIterator[bytes]:
        """The request's body, piece by piece, as it arrives; raises as `Channel.read_body`."""
        if self._decoder is None:
            return
        if "Expect" in self.request.headers and self.request.version is Version.HTTP_1_1:
            self._connection.write_interim(_CONTINUE)
        while piece := await self._connection.read_body(self._decoder):
            yield piece

    def tell_interim(self, status: int, fields: Headers) -> None:
        """Passes an interim answer on (RFC 9110 §15.2) if the client knows such and the final one has not begun."""
        if self.status == 0 and self.request.version is Version.HTTP_1_1:
            self._connection.write_interim(render_interim(status, fields))

    async def send(self, answer: Answer, body: bytes) -> None:
        """Sends a whole answer; of the body only the part the answer speaks of."""
        head = self._begin(answer)
        part = b"" if self._has_no_body(answer) else answer.taken_from(body)
        self.sent = len(part)
        await self._connection.write(head + part if len(part) <= JOIN_BYTES_MAX else head)
        if len(part) > JOIN_BYTES_MAX:
            await self._connection.write(part)

    async def stream(self, answer: Answer, pieces: AsyncIterator[bytes]) -> None:
        """Sends an answer whose body comes piece by piece; if it does not come whole, the connection breaks."""
        head = self._begin(answer)
        if self._has_no_body(answer):
            await self._connection.write(head)
            return
        chunked = is_chunked(answer, self.request)
        self.keeps_alive = self.keeps_alive and (chunked or answer.size is not None)
        try:
            with self._connection.streaming():
                await self._send_pieces(head, pieces, chunked=chunked)
        except (ClientGone, asyncio.CancelledError):
            raise
        except Exception:
            self._connection.note_aborted()
            self.abort()
            raise
        if answer.size is not None and self.sent != answer.size:
            self.abort()

    @property
    def piece_bytes(self) -> int:
        """How much of a large body the client gets at once."""
        return self._connection.piece_bytes

    @property
    def can_send_files(self) -> bool:
        """Whether files can go to the client without being read."""
        return self._connection.can_send_files

    async def send_file(self, answer: Answer, file: OpenFile) -> None:
        """Sends an answer whose body is in a file; if it does not come whole, the connection breaks."""
        head = self._begin(answer)
        if self._has_no_body(answer) or answer.size == 0:
            await self._connection.write(head)
            return
        parts = answer.parts or (ByteRange(answer.start, file.facts.size if answer.stop is None else answer.stop),)
        try:
            self.sent = await self._connection.send_file((head, *parts), file) - len(head)
        except (OSError, DamagedFileError):
            self._connection.note_aborted()
            self.abort()
            raise

    async def _send_pieces(self, head: bytes, pieces: AsyncIterator[bytes], *, chunked: bool) -> None:
        write = self._connection.write
        await write(head)
        async for piece in pieces:
            self.sent += len(piece)
            await write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
        if chunked:
            await write(b"0\r\n\r\n")

    def abort(self) -> None:
        """Breaks the connection."""
        self.keeps_alive = False
        self._connection.abort()

    def _begin(self, answer: Answer) -> bytes:
        assert self.status == 0, "an exchange has one answer"
        self.status = answer.status
        if self._connection.is_draining or not self.has_whole_body:
            self.keeps_alive = False
        is_delimited = answer.size is not None or is_chunked(answer, self.request) or answer.status in {204, 304}
        return render_head(answer, self.request, keeps_alive=self.keeps_alive and is_delimited)

    def _has_no_body(self, answer: Answer) -> bool:
        return self.request.method == "HEAD" or answer.status in {204, 304}
