"""The two ways packets come in: both hand message and sender to a function and send back what it returns.

Datagrams: no state at all. Streams: messages with a length before each, pipelined as the client likes and answered in
order (RFC 7766), with limits on connections, on waiting and on what one connection may make the loop do in one go.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, cast

from geodns.statistics import Statistics
from geodns.wire import QUERY_BYTES_MAX

Respond = Callable[[bytes, str], bytes | None]
"""Takes a message and the sender's address, returns the reply or None."""

QUERIES_AT_ONCE_MAX: Final = 64
"""After so many pipelined queries a connection lets the others have their turn."""
WRITE_BUFFER_BYTES_MAX: Final = 64 * 1024


class DatagramListener(asyncio.DatagramProtocol):
    """Answers datagrams as they come; drops replies while the socket takes none, since nothing may queue up."""

    def __init__(self, respond: Respond) -> None:
        self._respond = respond
        self._sendto: Callable[[bytes, Any], None] = _send_nowhere
        self._is_full = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._sendto = cast("asyncio.DatagramTransport", transport).sendto

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        if self._is_full or not addr[1]:  # nobody honest sends from port 0, and nothing can be sent there
            return
        reply = self._respond(data, addr[0])
        if reply is not None:
            self._sendto(reply, addr)

    def error_received(self, exc: Exception) -> None:
        """Passes over ICMP complaints about clients that went away."""

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full = False


def _send_nowhere(_data: bytes, _address: object) -> None:
    """Stands in until there is a transport."""


@dataclass(slots=True)
class StreamLimits:
    """What the streams of one server share.

    Args:
        connections_max: open at once in all.
        connections_per_client_max: open at once from one address.
        idle_seconds: how long a connection may go without a whole query.
        statistics: where to count.
        open_by_client: the open connections of each address.
    """

    connections_max: int
    connections_per_client_max: int
    idle_seconds: float
    statistics: Statistics
    open_by_client: Counter[str] = field(default_factory=Counter)
    streams: set[StreamListener] = field(default_factory=set)

    def admit(self, stream: StreamListener, host: str) -> bool:
        """Counts a new connection in, or returns False if there are too many."""
        if len(self.streams) >= self.connections_max or self.open_by_client[host] >= self.connections_per_client_max:
            self.statistics.tcp_refused += 1
            if not self.open_by_client[host]:
                del self.open_by_client[host]
            return False
        self.streams.add(stream)
        self.open_by_client[host] += 1
        self.statistics.tcp_connections += 1
        self.statistics.tcp_open += 1
        return True

    def release(self, stream: StreamListener, host: str) -> None:
        """Counts a connection out."""
        self.streams.discard(stream)
        self.statistics.tcp_open -= 1
        self.open_by_client[host] -= 1
        if not self.open_by_client[host]:
            del self.open_by_client[host]


class StreamListener(asyncio.Protocol):
    """One TCP connection.

    Args:
        respond: answers a message.
        limits: shared by all connections.
        loop: the running loop.
    """

    def __init__(self, respond: Respond, limits: StreamLimits, loop: asyncio.AbstractEventLoop) -> None:
        self._respond = respond
        self._limits = limits
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._host = ""
        self._buffer = bytearray()
        self._is_full = False
        self._is_scheduled = False
        self._has_ended = False
        self._last_query = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream = cast("asyncio.Transport", transport)
        peer = stream.get_extra_info("peername")
        self._host = peer[0] if peer else ""
        if not peer or not self._limits.admit(self, self._host):
            stream.abort()
            return
        stream.set_write_buffer_limits(high=WRITE_BUFFER_BYTES_MAX)
        self._transport = stream
        self._last_query = self._loop.time()
        self._timer = self._loop.call_later(self._limits.idle_seconds, self._close_if_idle)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is None:
            return
        self._transport = None
        self._buffer.clear()
        if self._timer is not None:
            self._timer.cancel()
        self._limits.release(self, self._host)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._answer_some()

    def eof_received(self) -> bool:
        """A client that closed its half still gets its answers."""
        self._has_ended = True
        self._answer_some()
        return True

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full = False
        self._answer_some()

    def abort(self) -> None:
        """Drops the connection."""
        if self._transport is not None:
            self._transport.abort()

    def _answer_some(self) -> None:
        """Answers what is complete, within the limits, and reads on only when all of that is done."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        replies: list[bytes] = []
        for _ in range(QUERIES_AT_ONCE_MAX):
            message = None if self._is_full else self._next_message()
            if message is None:
                break
            reply = self._respond(message, self._host)
            if reply is None:  # not a query: over TCP, where it cannot be forged, that ends the conversation
                self._has_ended = True
                self._buffer.clear()
                break
            replies += (len(reply).to_bytes(2, "big"), reply)
        if replies:
            self._last_query = self._loop.time()
            transport.write(b"".join(replies))
        self._arrange_next(transport)

    def _next_message(self) -> bytes | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        end = 2 + int.from_bytes(buffer[:2], "big")
        if end > 2 + QUERY_BYTES_MAX:  # not worth the memory to wait for it
            self.abort()
            return None
        if len(buffer) < end:
            return None
        message = bytes(buffer[2:end])
        del buffer[:end]
        return message

    def _has_message(self) -> bool:
        return len(self._buffer) >= 2 and len(self._buffer) >= 2 + int.from_bytes(self._buffer[:2], "big")

    def _arrange_next(self, transport: asyncio.Transport) -> None:
        if transport.is_closing():
            return
        if self._has_message():
            transport.pause_reading()
            if not self._is_full and not self._is_scheduled:
                self._is_scheduled = True
                self._loop.call_soon(self._continue)
        elif self._has_ended:
            transport.close()
        else:
            transport.resume_reading()

    def _continue(self) -> None:
        self._is_scheduled = False
        self._answer_some()

    def _close_if_idle(self) -> None:
        if self._transport is None:
            return
        remaining = self._last_query + self._limits.idle_seconds - self._loop.time()
        if remaining <= 0:
            # Also the end for a client that takes no replies: what it did not read by now is not kept.
            self._transport.abort()
        else:
            self._timer = self._loop.call_later(remaining, self._close_if_idle)
