"""The body of a request out of the bytes of its connection: a number of bytes, or chunks (RFC 9112 §6, §7.1).

Chunks are read as strictly as heads, since two parties that see different ends of a body are how requests are smuggled.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

from edge.http.request import RequestError

CHUNK_LINE_BYTES_MAX: Final = 256
TRAILER_BYTES_MAX: Final = 8192
_CHUNK_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?")
_TRAILER: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*")


class _Part(Enum):
    """What comes next in a chunked body."""

    SIZE = "size"
    DATA = "data"
    DATA_END = "data end"
    TRAILER = "trailer"


class BodyDecoder:
    """Takes one body out of a buffer, as it arrives.

    Args:
        size: how many bytes it has; None if it comes in chunks.
    """

    def __init__(self, size: int | None) -> None:
        self._left = size or 0
        self._part = _Part.SIZE if size is None else _Part.DATA
        self._is_chunked = size is None
        self._trailer_bytes = 0
        self.is_complete = size == 0

    def take(self, buffer: bytearray) -> bytes:
        """Removes from the start of a buffer what belongs to the body.

        Returns:
            content; empty if there is none yet, or no more.

        Raises:
            RequestError: the framing is damaged.
        """
        pieces: list[bytes] = []
        while not self.is_complete and buffer and self._step(buffer, pieces):
            pass
        return b"".join(pieces)

    def _step(self, buffer: bytearray, pieces: list[bytes]) -> bool:
        """Takes one part; False if more must arrive first."""
        if self._part is _Part.DATA:
            self._take_data(buffer, pieces)
            return True
        line = self._line(buffer)
        if line is None:
            return False
        if self._part is _Part.SIZE:
            self._begin_chunk(line)
        elif self._part is _Part.DATA_END:
            if line:
                raise RequestError(400, "a chunk of its body is longer than it says")
            self._part = _Part.SIZE
        else:
            self._take_trailer(line)
        return True

    def _take_data(self, buffer: bytearray, pieces: list[bytes]) -> None:
        piece = bytes(buffer[: self._left])
        del buffer[: len(piece)]
        pieces.append(piece)
        self._left -= len(piece)
        if self._left == 0:
            self._part = _Part.DATA_END
            self.is_complete = not self._is_chunked

    def _line(self, buffer: bytearray) -> bytes | None:
        end = buffer.find(b"\r\n", 0, CHUNK_LINE_BYTES_MAX + 2)
        if end < 0:
            if len(buffer) > CHUNK_LINE_BYTES_MAX + 1 or b"\n" in buffer:
                raise RequestError(400, "its body is not in chunks as HTTP has them")
            return None
        line = bytes(buffer[:end])
        del buffer[: end + 2]
        return line

    def _begin_chunk(self, line: bytes) -> None:
        found = _CHUNK_LINE.fullmatch(line)
        if found is None:
            raise RequestError(400, "its body is not in chunks as HTTP has them")
        self._left = int(found[1], 16)
        self._part = _Part.DATA if self._left else _Part.TRAILER

    def _take_trailer(self, line: bytes) -> None:
        """Trailer fields are dropped, as any recipient may (RFC 9110 §6.5.1)."""
        self._trailer_bytes += len(line)
        if not line:
            self.is_complete = True
        elif self._trailer_bytes > TRAILER_BYTES_MAX or not _TRAILER.fullmatch(line):
            raise RequestError(400, "the end of its body is malformed")
