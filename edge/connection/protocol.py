"""One client connection: requests in, answers out in the same order, every wait bounded.

A plain hit in memory is answered inside `data_received`, with a head made beforehand and without a task. Everything
else becomes one task at a time; while it runs, what the client sends further waits in a bounded buffer. When the client
takes its answers too slowly, nothing more is read from it.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Final, cast

from cdn.telemetry import event
from edge.cache.disk_cache import DamagedFileError
from edge.connection.client_limits import Client
from edge.connection.client_stream import ClientStream
from edge.connection.exchange import JOIN_BYTES_MAX, ClientGone, Exchange
from edge.connection.shared import Shared
from edge.connection.waiting import Waiting
from edge.http.answering import error_answer, render_head
from edge.http.ranges import ByteRange
from edge.http.request import Request, RequestError, RequestReader
from edge.http.request_body import BodyDecoder
from edge.http.request_id import named
from edge.watching.access_log import Access
from edge.watching.statistics import Result

PIPELINED_BYTES_MAX: Final = 64 << 10
"""How much of further requests waits while one is being answered."""
_LINGER_SECONDS: Final = 2.0
"""How long a refused client may go on sending before the connection is torn down."""
FIRST_REQUEST_SECONDS: Final = 1.0
"""How long an edge that stops waits for what a client says that it has just let in."""
_NO_REQUEST: Final = Request("GET", "/", keeps_alive=False)


class Connection(ClientStream):
    """The protocol of one connection.

    Args:
        shared: see there.
    """

    def __init__(self, shared: Shared) -> None:
        super().__init__(shared)
        self._reader = RequestReader(shared.request_limits, shared.memo)
        self._memo = shared.memo
        self._pending = self._reader.pending
        self._hit = shared.service.hit
        self._now = shared.clock.now
        self._task: asyncio.Task[None] | Waiting | None = None
        """What is being done for one request."""
        self._was_active: bool | None = None
        """Whether a request was answered at once since the last look, as reading the clock each time costs too much.

        None before anything has arrived."""
        self._is_reading = True
        self._is_ending = False
        self._active_at = 0.0
        self._head_since: float | None = None
        self._body_since: float | None = None
        self._arrived: asyncio.Future[None] | None = None
        self._unsent = 0
        self._client: Client | None = None
        self._bucket: Client | None = None
        self.client = ""
        self._loop = asyncio.get_running_loop()

    # ------------------------------------------------------------------------------------------------ from the loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream = cast("asyncio.Transport", transport)  # uvloop's is one in all but its base class
        shared, self._transport = self._shared, stream
        shared.statistics.connections += 1
        peer = transport.get_extra_info("peername")
        self.client = str(peer[0]) if isinstance(peer, tuple) else "unix"
        if shared.is_full or not self._is_admitted():
            shared.statistics.connections_refused += 1
            stream.abort()
            return
        self._is_encrypted = transport.get_extra_info("sslcontext") is not None
        self._set_up(stream)
        shared.connections.add(self)
        shared.statistics.connections_open += 1
        shared.statistics.clients.note(self.client, shared.clock.now())
        self._active_at = shared.clock.monotonic()

    def _is_admitted(self) -> bool:
        """Whether anybody looks after connections, and the client's address may have one more."""
        if self._shared.is_over:
            return False
        clients = self._shared.clients
        if not clients.is_limited(self.client):
            return True
        self._client = clients.admit(self.client, self._shared.clock.monotonic())
        self._bucket = self._client if clients.is_counting_requests else None
        return self._client is not None

    def connection_lost(self, exc: Exception | None) -> None:
        if self in self._shared.connections:
            self._shared.connections.discard(self)
            self._shared.statistics.connections_open -= 1
        if self._client is not None:
            self._shared.clients.leave(self._client, self._shared.clock.monotonic())
            self._client = None
        self._shared.slow_readers.forget(self)
        self._is_closing = True
        self._let_go()
        self._wake_writer()
        self._wake_body_reader()
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        request = self._memo.get(data)
        if (
            request is not None  # all of one request that was read before, and nothing else
            and self._task is None
            and self._is_writable
            and not self._pending
            and self._bucket is None
            and not self._is_closing
            and self._answer_at_once(request)
        ):
            self._was_active = True
            return
        self._look_at(data)

    def _look_at(self, data: bytes) -> None:
        """Takes any bytes."""
        if self._is_closing:
            return
        self._was_active = self._was_active or False
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

    def _has_room(self) -> None:
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
        """Answers what has arrived, as far as that can be done at once and leaves others their turn."""
        count = 0
        while request is not None:
            if self._bucket is not None:
                self._count_request(self._bucket)
            if not self._answer_at_once(request):
                self._task = self._waiting_for(request) or self._loop.create_task(self._answer(request))
                self._head_since = None
                return
            if not self._is_writable or self._is_closing:
                break
            if not self._reader.buffered:
                break
            count += 1
            if count >= self._shared.limits.pipelined_max:
                self._is_writable = False
                asyncio.get_running_loop().call_soon(self._take_turn)
                break
            request = self._reader.next()
        self._note_waiting()

    def _take_turn(self) -> None:
        """Goes on with what one client asked for all at once, unless it does not take the answers."""
        if self._transport is not None and not self._is_closing and not self._is_paused:
            self.resume_writing()

    def _count_request(self, client: Client) -> None:
        """Counts a request against its address.

        Raises:
            RequestError: there were too many.
        """
        seconds = self._shared.clients.wait_seconds(client, self._shared.clock.monotonic())
        if seconds:
            self._shared.statistics.requests_limited += 1
            raise RequestError(429, "its address makes too many requests", retry_seconds=seconds)

    def _answer_at_once(self, request: Request) -> bool:
        if not request.is_plain or self._shared.is_draining:
            return False
        now = self._now()
        ready = self._hit(request, now)
        if ready is None:
            return self._send_file_at_once(request, now)
        head, body = ready
        self._write_whole(head, body)
        if self._shared.access_log.is_enabled and self._shared.access_log.takes(200):
            self._shared.access_log.add(Access(self.client, request, 200, len(body), "hit", 0.0, now))
        return True

    def _send_file_at_once(self, request: Request, now: float) -> bool:
        """Begins to send a file that is open, while nothing else is to be sent."""
        assert self._transport is not None
        if not self.can_send_files or self._transport.get_write_buffer_size():
            return False
        ready = self._shared.service.hit_file(request, now)
        if ready is None:
            return False
        head, file = ready
        on_end = partial(self._file_sent, request, len(head), time.perf_counter())
        sender = self._new_sender(file, (head, ByteRange(0, file.facts.size)), on_end)
        file.close()
        if sender.start():
            on_end(sender.outcome)
        else:
            self._is_writable = False
        return True

    def _file_sent(self, request: Request, head_size: int, began_at: float, error: Exception | None) -> None:
        """Goes on after a file was sent, or broke off."""
        shared, sent = self._shared, self._sender.sent - head_size if self._sender is not None else 0
        self._sender = None
        shared.statistics.statuses[200] += 1
        shared.statistics.bytes_sent += max(0, sent)
        if shared.access_log.takes(200):
            seconds = time.perf_counter() - began_at
            shared.access_log.add(Access(self.client, request, 200, sent, "hit", seconds, shared.clock.now()))
        if error is not None:
            shared.statistics.aborted_answers += isinstance(error, DamagedFileError)
            self.abort()
        elif not self._is_writable:
            self.resume_writing()

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
        answer, body = error_answer(
            error.status,
            error.reason,
            self._shared.edge_name,
            self._shared.clock.now(),
            retry_seconds=error.retry_seconds,
        )
        if self._transport is not None:
            self._transport.write(render_head(answer, _NO_REQUEST, keeps_alive=False) + body)
        if self._shared.access_log.takes(error.status):
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

    def _waiting_for(self, request: Request) -> Waiting | None:
        """Waits without a task, if it is enough to be told when the answer is there."""
        if not request.is_plain or self._shared.is_draining or self._shared.access_log.request_ids is not None:
            return None
        awaited = self._shared.service.awaited(request)
        if awaited is None:
            return None
        waiting = Waiting(request, awaited)
        awaited.tell(partial(self._has_come, waiting))
        return waiting

    def _has_come(self, waiting: Waiting, _: object) -> None:
        """Answers a request that waited, at once if that can be."""
        if waiting.is_over:
            return
        is_usual = not (self._shared.is_draining or self._is_closing)
        ready = waiting.awaited.answered(waiting.request) if is_usual else None
        if ready is None:
            task = self._task = self._loop.create_task(self._answer(waiting.request, waiting))
            task.add_done_callback(lambda _: waiting.cancel())
            return
        waiting.cancel()
        self._task = None
        head, body, result = ready
        self._write_whole(head, body)
        self._note_answer(waiting.request, 200, len(body), result.value, waiting.began_at)
        self._active_at = self._shared.clock.monotonic()
        if self._is_writable:
            self._go_on()

    def _write_whole(self, head: bytes, body: bytes) -> None:
        assert self._transport is not None
        if len(body) <= JOIN_BYTES_MAX:
            self._transport.write(head + body)
        else:
            self._write_lines((head, body))

    async def _answer(self, request: Request, waiting: Waiting | None = None) -> None:
        """Answers one request that takes time; the outermost edge of its task."""
        exchange = self._exchange(request)
        if (request_ids := self._shared.access_log.request_ids) is not None:
            exchange.request_id = request_ids.of(request.headers)
        try:
            if waiting is None:
                await self._shared.service.serve(request, exchange)
            else:
                exchange.began_at = waiting.began_at
                await waiting.awaited.serve(request, exchange)
        except ClientGone:
            pass
        except Exception as error:  # noqa: BLE001 -- a mistake of ours costs one connection, not the server
            self._shared.statistics.failures += 1
            event(
                "edge.request.crashed",
                level="error",
                target=request.target,
                error=f"{type(error).__name__}: {error}",
                **named(exchange.request_id),
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
        if exchange.status == 0:
            return
        exchange.tally.bytes += exchange.sent
        ids = exchange.request_id, exchange.waited_for
        self._note_answer(exchange.request, exchange.status, exchange.sent, exchange.result, exchange.began_at, ids)

    def _note_answer(
        self, request: Request, status: int, sent: int, result: str, began_at: float, ids: tuple[str, str] = ("", "")
    ) -> None:
        """Counts and logs an answer that took time."""
        shared, seconds = self._shared, time.perf_counter() - began_at
        shared.statistics.statuses[status] += 1
        shared.statistics.bytes_sent += sent
        if (durations := shared.statistics.seconds.get(result)) is not None:
            durations.observe(seconds)
        if shared.access_log.takes(status):
            now = shared.clock.now()
            shared.access_log.add(Access(self.client, request, status, sent, result, seconds, now, *ids))

    @property
    def is_draining(self) -> bool:
        """Whether the edge stops."""
        return self._shared.is_draining

    def note_aborted(self) -> None:
        """Counts an answer that broke off."""
        self._shared.statistics.aborted_answers += 1

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

    # ------------------------------------------------------------------------------------------------ ending

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way, and no first request can be expected any more."""
        if self._task is not None or not self._is_writable or self._reader.buffered:
            return False
        return self._was_active is not None or self._shared.clock.monotonic() - self._active_at > FIRST_REQUEST_SECONDS

    def check(self, now: float) -> None:
        """Ends the connection if the client is too slow; called about once a second."""
        limits = self._shared.limits
        if self._was_active:
            self._was_active, self._active_at = False, now
        self._note_unsent()
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
