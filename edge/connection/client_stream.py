"""The way out to one client: bytes and files in order, at its pace, and the end of the connection."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Final

from edge.cache.disk_cache import OpenFile
from edge.connection.exchange import ClientGone
from edge.connection.file_sender import Ended, FileSender
from edge.connection.shared import Shared
from edge.http.ranges import Segment

WRITE_HIGH_WATER: Final = 64 << 10
UNSENT_IN_KERNEL_BYTES_MAX: Final = 128 << 10
"""What the kernel holds of a body that comes piece by piece, besides what is on its way to the client."""
_AT_ONCE: Final = 1
"""A high water mark that the first bytes pass which the kernel does not take."""
_NOT_SENT: Final = getattr(socket, "TCP_NOTSENT_LOWAT", 0)
_LINGER_OFF: Final = struct.pack("ii", 1, 0)
_PAUSES_NOBODY: Final = (3, 12) <= sys.version_info < (3, 12, 9) or (3, 13) <= sys.version_info < (3, 13, 2)
"""Whether asyncio's own `writelines` takes any number of bytes without saying that it is enough (CVE-2024-12254)."""


class ClientStream(asyncio.Protocol):
    """What a connection sends with.

    Args:
        shared: what all connections have in common.
    """

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._transport: asyncio.Transport | None = None
        self._write_lines: Callable[[Sequence[bytes]], None]
        self._is_encrypted = False
        self._is_closing = False
        self._is_writable = True
        """Whether more may be answered now: the client takes it, and no file is on its way."""
        self._is_paused = False
        """Whether the transport holds enough that the client has not taken."""
        self._drained: asyncio.Future[None] | None = None
        self._sender: FileSender | None = None
        self._second: socket.socket | None = None
        """The client's socket once more, past the transport; the client sees its end only when this is closed, too."""
        self._has_noted = False

    def _set_up(self, stream: asyncio.Transport) -> None:
        """Makes ready to send."""
        self._write_lines = partial(_write_each, stream) if _PAUSES_NOBODY else stream.writelines
        stream.set_write_buffer_limits(high=WRITE_HIGH_WATER)

    def _has_room(self) -> None:
        """Called when more may be sent."""

    def pause_writing(self) -> None:
        self._is_writable, self._is_paused = False, True
        self._note_unsent()
        self._shared.cut_slow_readers()

    def resume_writing(self) -> None:
        self._is_writable, self._is_paused = True, False
        if self._has_noted:
            self._note_unsent()
        self._wake_writer()
        self._has_room()

    def _wake_writer(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        self._drained = None

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
    def piece_bytes(self) -> int:
        """How much of a large body the client gets at once."""
        return self._shared.piece_bytes

    @contextmanager
    def streaming(self) -> Iterator[None]:
        """While it lasts, `write` waits until the kernel has taken everything, and the kernel keeps little of it."""
        self._hold_back(_AT_ONCE, UNSENT_IN_KERNEL_BYTES_MAX)
        try:
            yield
        finally:
            self._hold_back(WRITE_HIGH_WATER, 0)

    def _hold_back(self, high_water: int, kernel_bytes_max: int) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        self._transport.set_write_buffer_limits(high=high_water)
        sock = self._transport.get_extra_info("socket")
        if _NOT_SENT and sock is not None and sock.family != socket.AF_UNIX:
            with suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, _NOT_SENT, kernel_bytes_max)

    def write_interim(self, data: bytes) -> None:
        """Sends a few bytes before the answer."""
        if not self._is_closing and self._transport is not None:
            self._transport.write(data)

    # ------------------------------------------------------------------------------------------------ files

    @property
    def can_send_files(self) -> bool:
        """Whether files can go to the client past the transport."""
        return not self._is_encrypted and (self._second is not None or self._shared.has_descriptors)

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
            if sender.start():
                _tell(ended, sender.outcome)
            await ended
            return sender.sent
        except (ConnectionError, TimeoutError):
            raise ClientGone from None
        finally:
            self._stop_sending()
            del ended, sender  # what is raised leads here, and must not be reached from here

    async def _all_sent(self) -> None:
        """Waits until the transport has nothing more to send."""
        if self._is_closing or self._transport is None:
            raise ClientGone
        if self._transport.get_write_buffer_size():
            self._transport.set_write_buffer_limits(high=0)
            await self.write(b"")
            self._transport.set_write_buffer_limits(high=WRITE_HIGH_WATER)

    def _new_sender(self, file: OpenFile, segments: Sequence[Segment], on_end: Ended) -> FileSender:
        assert self._transport is not None
        if self._second is None:
            stream = self._transport.get_extra_info("socket")
            self._second = socket.socket(stream.family, stream.type, stream.proto, os.dup(stream.fileno()))
            self._shared.second_sockets += 1
        self._sender = FileSender(self._second, file, segments, self._shared.service.confirm, on_end)
        return self._sender

    def _stop_sending(self) -> None:
        if self._sender is not None:
            self._sender.stop()
            self._sender = None

    def _let_go(self) -> None:
        """Ends sending files for good."""
        self._stop_sending()
        if self._second is not None:
            self._second.close()
            self._second = None
            self._shared.second_sockets -= 1

    # ------------------------------------------------------------------------------------------------ ending

    def close(self) -> None:
        """Ends the connection once what was written is sent."""
        self._is_closing = True
        self._stop_sending()
        if self._transport is not None and not self._transport.is_closing():
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
        self._let_go()

    @property
    def _has_unsent(self) -> bool:
        return self._sender is not None or (self._transport is not None and self._transport.get_write_buffer_size() > 0)

    def _note_unsent(self) -> None:
        """Counts what waits for the client among what waits for all."""
        unsent = self._transport.get_write_buffer_size() if self._transport is not None else 0
        if unsent or self._has_noted:
            self._shared.slow_readers.note(self, unsent)
            self._has_noted = unsent > 0


def _write_each(stream: asyncio.Transport, pieces: Sequence[bytes]) -> None:
    for piece in pieces:
        stream.write(piece)


def _tell(ended: asyncio.Future[None], error: Exception | None) -> None:
    """Wakes whoever waits for the end of a sending."""
    if ended.done():
        return
    if error is None:
        ended.set_result(None)
    else:
        ended.set_exception(error)
