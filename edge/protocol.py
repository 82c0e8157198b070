"""One client connection: requests in, answers out in the same order, every wait bounded.

A plain hit in memory is answered inside `data_received`, with a head made beforehand and without a task. Everything
else becomes one task at a time; while it runs, what the client sends further waits in a bounded buffer. When the client
takes its answers too slowly, nothing more is read from it.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Final, cast

from cdn.telemetry import event
from edge.access_log import Access
from edge.answering import error_answer, render_head
from edge.disk_cache import DamagedFileError, OpenFile
from edge.exchange import JOIN_BYTES_MAX, ClientGone, Exchange
from edge.file_sender import Ended, FileSender
from edge.ranges import ByteRange, Segment
from edge.request import Request, RequestError, RequestReader
from edge.request_body import BodyDecoder
from edge.shared import Shared
from edge.statistics import Result

PIPELINED_BYTES_MAX: Final = 64 << 10
"""How much of further requests waits while one is being answered."""
WRITE_HIGH_WATER: Final = 64 << 10
_LINGER_OFF: Final = struct.pack("ii", 1, 0)
_LINGER_SECONDS: Final = 2.0
"""How long a refused client may go on sending before the connection is torn down."""
_NO_REQUEST: Final = Request("GET", "/", keeps_alive=False)


class Connection(asyncio.Protocol):
    """The protocol of one connection.

    Args:
        shared: see there.
    """

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._reader = RequestReader(shared.request_limits, shared.memo)
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_writable = True
        self._drained: asyncio.Future[None] | None = None
        self._is_reading = True
        self._is_closing = False
        self._is_ending = False
        self._active_at = 0.0
        self._head_since: float | None = None
        self._body_since: float | None = None
        self._arrived: asyncio.Future[None] | None = None
        self._unsent = 0
        self._sender: FileSender | None = None
        self._is_encrypted = False
        self.client = ""

    # ------------------------------------------------------------------------------------------------ from the loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream = cast("asyncio.Transport", transport)  # uvloop's is one in all but its base class
        shared, self._transport = self._shared, stream
        shared.statistics.connections += 1
        if len(shared.connections) >= shared.limits.connections_max:
            shared.statistics.connections_refused += 1
            stream.abort()
            return
        peer = transport.get_extra_info("peername")
        self.client = str(peer[0]) if isinstance(peer, tuple) else "unix"
        self._is_encrypted = transport.get_extra_info("sslcontext") is not None
        stream.set_write_buffer_limits(high=WRITE_HIGH_WATER)
        shared.connections.add(self)
        shared.statistics.connections_open += 1
        self._active_at = shared.clock.monotonic()

    def connection_lost(self, exc: Exception | None) -> None:
        if self in self._shared.connections:
            self._shared.connections.discard(self)
            self._shared.statistics.connections_open -= 1
        self._is_closing = True
        self._stop_sending()
        self._wake_writer()
        self._wake_body_reader()
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        if self._is_closing:
            return
        try:
            if self._task is None and self._is_writable:
                self._answer_from(self._reader.feed(data))
            else:
                self._keep(data)
        except RequestError as error:
            self._refuse(error)

    def eof_received(self) -> bool:
        """A client that will send nothing more still gets its answers."""
        if self._task is None and self._is_writable:
            return False
        self._is_ending = True
        self._wake_body_reader()
        return True

    def pause_writing(self) -> None:
        self._is_writable = False

    def resume_writing(self) -> None:
        self._is_writable = True
        self._wake_writer()
        if self._task is None:
            self._go_on()

    # ------------------------------------------------------------------------------------------------ requests

    def _keep(self, data: bytes) -> None:
        """Keeps what cannot be looked at now."""
        self._reader.keep(data)
        self._wake_body_reader()
        if self._reader.buffered > PIPELINED_BYTES_MAX and self._is_reading and self._transport is not None:
            self._transport.pause_reading()
            self._is_reading = False

    def _answer_from(self, request: Request | None) -> None:
        """Answers what has arrived, as far as that can be done at once."""
        while request is not None:
            if not self._answer_at_once(request):
                self._task = asyncio.get_running_loop().create_task(self._answer(request))
                self._head_since = None
                return
            if not self._is_writable or self._is_closing:
                break
            request = self._reader.next() if self._reader.buffered else None
        self._note_waiting()

    def _answer_at_once(self, request: Request) -> bool:
        if not request.is_plain or self._shared.is_draining:
            return False
        now = self._shared.clock.now()
        ready = self._shared.service.hit(request, now)
        if ready is None:
            return self._send_file_at_once(request, now)
        head, body = ready
        assert self._transport is not None
        if len(body) <= JOIN_BYTES_MAX:
            self._transport.write(head + body)
        else:
            self._transport.writelines((head, body))
        if self._shared.access_log.is_enabled:
            self._shared.access_log.add(Access(self.client, request, 200, len(body), "hit", 0.0, now))
        return True

    def _send_file_at_once(self, request: Request, now: float) -> bool:
        """Begins to send a file that is open, while nothing else is to be sent."""
        assert self._transport is not None
        if self._is_encrypted or self._transport.get_write_buffer_size():
            return False
        ready = self._shared.service.hit_file(request, now)
        if ready is None:
            return False
        head, file = ready
        on_end = partial(self._file_sent, request, len(head), time.perf_counter())
        sender = self._new_sender(file, (head, ByteRange(0, file.facts.size)), on_end)
        file.close()
        try:
            is_sent = sender.start()
        except (OSError, DamagedFileError) as error:
            on_end(error)
            return True
        if is_sent:
            on_end(None)
        else:
            self._is_writable = False
        return True

    def _file_sent(self, request: Request, head_size: int, began_at: float, error: Exception | None) -> None:
        """Goes on after a file was sent, or broke off."""
        shared, sent = self._shared, self._sender.sent - head_size if self._sender is not None else 0
        self._sender = None
        shared.statistics.statuses[200] += 1
        shared.statistics.bytes_sent += max(0, sent)
        if shared.access_log.is_enabled:
            seconds = time.perf_counter() - began_at
            shared.access_log.add(Access(self.client, request, 200, sent, "hit", seconds, shared.clock.now()))
        if error is not None:
            shared.statistics.aborted_answers += isinstance(error, DamagedFileError)
            self.abort()
        elif not self._is_writable:
            self.resume_writing()

    def _new_sender(self, file: OpenFile, segments: Sequence[Segment], on_end: Ended) -> FileSender:
        assert self._transport is not None
        stream = self._transport.get_extra_info("socket")
        self._sender = FileSender(stream, file, segments, self._shared.service.confirm, on_end)
        return self._sender

    def _stop_sending(self) -> None:
        if self._sender is not None:
            self._sender.stop()
            self._sender = None

    def _note_waiting(self) -> None:
        """Notes since when an unfinished head is on its way."""
        now = self._shared.clock.monotonic()
        self._active_at = now
        if self._reader.buffered == 0:
            self._head_since = None
        elif self._head_since is None:
            self._head_since = now

    def _go_on(self) -> None:
        """Looks at what arrived meanwhile."""
        if self._is_closing:
            return
        self._read_again()
        try:
            self._answer_from(self._reader.next())
        except RequestError as error:
            self._refuse(error)
        if self._is_ending and self._task is None and self._is_writable:
            self.close()

    def _read_again(self) -> None:
        if not self._is_reading and self._transport is not None:
            self._transport.resume_reading()
            self._is_reading = True

    def _refuse(self, error: RequestError) -> None:
        """Answers what is no request, and closes."""
        self._shared.statistics.requests[Result.REFUSED, "other"] += 1
        self._shared.statistics.statuses[error.status] += 1
        answer, body = error_answer(error.status, error.reason, self._shared.edge_name, self._shared.clock.now())
        if self._transport is not None:
            self._transport.write(render_head(answer, _NO_REQUEST, keeps_alive=False) + body)
        if self._shared.access_log.is_enabled:
            now = self._shared.clock.now()
            self._shared.access_log.add(Access(self.client, None, error.status, len(body), "refused", 0.0, now))
        self._linger()

    def _linger(self) -> None:
        """Closes, but takes what is still on its way, since a reset would take the answer from the client."""
        self._is_closing = True
        self._active_at = self._shared.clock.monotonic()
        if self._transport is None:
            return
        if not self._transport.can_write_eof():
            self._transport.close()  # TLS says goodbye, and takes what arrives until the client does, too
            return
        self._transport.write_eof()
        if not self._is_reading:
            self._transport.resume_reading()

    # ------------------------------------------------------------------------------------------------ one answer

    async def _answer(self, request: Request) -> None:
        """Answers one request that takes time; the outermost edge of its task."""
        exchange = self._exchange(request)
        try:
            await self._shared.service.serve(request, exchange)
        except ClientGone:
            pass
        except Exception as error:  # noqa: BLE001 -- a mistake of ours costs one connection, not the server
            self._shared.statistics.failures += 1
            event(
                "edge.request.crashed", level="error", target=request.target, error=f"{type(error).__name__}: {error}"
            )
            exchange.abort()
        finally:
            self._task = None
            self._log(exchange)
        is_cut = not exchange.has_whole_body
        if is_cut and not self._is_closing and not self._is_ending:
            self._linger()
            return
        if is_cut or not exchange.keeps_alive or self._is_closing:
            self.close()
            return
        self._active_at = self._shared.clock.monotonic()
        if self._is_writable:
            self._go_on()

    def _exchange(self, request: Request) -> Exchange:
        return Exchange(self, request)

    def _log(self, exchange: Exchange) -> None:
        shared = self._shared
        if exchange.status == 0:
            return
        shared.statistics.statuses[exchange.status] += 1
        shared.statistics.bytes_sent += exchange.sent
        if shared.access_log.is_enabled:
            seconds = time.perf_counter() - exchange.began_at
            access = Access(
                self.client,
                exchange.request,
                exchange.status,
                exchange.sent,
                exchange.result,
                seconds,
                shared.clock.now(),
            )
            shared.access_log.add(access)

    @property
    def is_draining(self) -> bool:
        """Whether the edge stops."""
        return self._shared.is_draining

    def note_aborted(self) -> None:
        """Counts an answer that broke off."""
        self._shared.statistics.aborted_answers += 1

    async def write(self, data: bytes) -> None:
        """Sends bytes, and waits while the client does not take them.

        Raises:
            ClientGone: it went away.
        """
        if self._is_closing or self._transport is None:
            raise ClientGone
        self._transport.write(data)
        while not self._is_writable:
            self._drained = asyncio.get_running_loop().create_future()
            await self._drained
            if self._is_closing:
                raise ClientGone

    @property
    def can_send_files(self) -> bool:
        """Whether files can go to the client past the transport."""
        return not self._is_encrypted

    async def send_file(self, segments: Sequence[Segment], file: OpenFile) -> int:
        """Sends parts of a file, and bytes between them; how many in all.

        Raises:
            ClientGone: it went away.
            DamagedFileError: the file is damaged; the last bytes were not sent.
            OSError: it cannot be read.
        """
        await self._all_sent()
        ended = asyncio.get_running_loop().create_future()
        sender = self._new_sender(file, segments, partial(_tell, ended))
        try:
            if not sender.start():
                await ended
        except (ConnectionError, TimeoutError):
            raise ClientGone from None
        finally:
            self._stop_sending()
        return sender.sent

    async def _all_sent(self) -> None:
        """Waits until the transport has nothing more to send."""
        if self._is_closing or self._transport is None:
            raise ClientGone
        if self._transport.get_write_buffer_size():
            self._transport.set_write_buffer_limits(high=0)
            await self.write(b"")
            self._transport.set_write_buffer_limits(high=WRITE_HIGH_WATER)

    def write_interim(self, data: bytes) -> None:
        """Sends a few bytes before the answer."""
        if not self._is_closing and self._transport is not None:
            self._transport.write(data)

    async def read_body(self, decoder: BodyDecoder) -> bytes:
        """The next piece of a request's body, empty at its end; the client is read no faster than this is called.

        Raises:
            ClientGone: it went away.
            RequestError: the framing is damaged.
        """
        while True:
            piece = decoder.take(self._reader.pending)
            if self._reader.buffered <= PIPELINED_BYTES_MAX:
                self._read_again()
            if piece or decoder.is_complete:
                return piece
            if self._is_closing or self._is_ending:
                raise ClientGone
            self._arrived, self._body_since = asyncio.get_running_loop().create_future(), self._shared.clock.monotonic()
            try:
                await self._arrived
            finally:
                self._arrived = self._body_since = None

    def _wake_body_reader(self) -> None:
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)

    def _wake_writer(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        self._drained = None

    # ------------------------------------------------------------------------------------------------ ending

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way."""
        return self._task is None and self._is_writable and self._reader.buffered == 0

    def close(self) -> None:
        """Ends the connection once what was written is sent."""
        self._is_closing = True
        self._stop_sending()
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Ends the connection so that the client cannot take what it has for the whole."""
        self._is_closing = True
        self._stop_sending()
        if self._transport is None:
            return
        sock = self._transport.get_extra_info("socket")
        with suppress(OSError, AttributeError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_OFF)
        self._transport.abort()

    def check(self, now: float) -> None:
        """Ends the connection if the client is too slow; called about once a second."""
        limits = self._shared.limits
        if self._is_closing:
            if now - self._active_at > _LINGER_SECONDS and not self._has_unsent:
                self.abort()
            self._check_sending(now)
        elif not self._is_writable or self._has_unsent:
            self._check_sending(now)
        elif self._body_since is not None and now - self._body_since > limits.body_timeout:
            self._shared.statistics.timeouts += 1
            self.abort()
        elif self._task is not None:
            self._active_at = now
        elif self._head_since is not None and now - self._head_since > limits.head_timeout:
            self._shared.statistics.timeouts += 1
            self._refuse(RequestError(408, "its head did not arrive in time"))
        elif now - self._active_at > limits.idle_timeout:
            self.close()

    @property
    def _has_unsent(self) -> bool:
        return self._sender is not None or (self._transport is not None and self._transport.get_write_buffer_size() > 0)

    def _check_sending(self, now: float) -> None:
        """Ends the connection if nothing was taken for too long."""
        unsent = self._transport.get_write_buffer_size() if self._transport is not None else 0
        if self._sender is not None:
            unsent = -self._sender.sent
        if unsent != self._unsent:
            self._unsent, self._active_at = unsent, now
        elif now - self._active_at > self._shared.limits.send_timeout:
            self._shared.statistics.timeouts += 1
            self.abort()


def _tell(ended: asyncio.Future[None], error: Exception | None) -> None:
    """Wakes whoever waits for the end of a sending."""
    if ended.done():
        return
    if error is None:
        ended.set_result(None)
    else:
        ended.set_exception(error)
