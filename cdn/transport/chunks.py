"""The chunked transfer coding, read strictly (RFC 9112 §7.1). Pure."""

from __future__ import annotations

import re
from typing import Final

LINE_BYTES_MAX: Final = 4096
"""Size of a line that begins a chunk, its extensions included, and of one of the trailer."""
TRAILER_BYTES_MAX: Final = 16 << 10
_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\x00-\x08\x0a-\x1f\x7f]*)?\r\n")
_CRLF: Final = b"\r\n"


class MalformedAnswer(ValueError):  # noqa: N818 -- becomes `MalformedAnswerError`, which knows the URL
    """What came is no answer of HTTP/1.1."""


class ChunkReader:
    """Reads one body in chunks."""

    def __init__(self) -> None:
        self._line = b""
        self._left = 0
        """How much of the chunk is to come."""
        self._is_after_chunk = False
        self._trailer_bytes: int | None = None
        """How much of the trailer came; None before it."""
        self.is_complete = False
        self.has_surplus = False

    def feed(self, data: bytes) -> bytes:
        """Takes what has arrived; gives what it has of the body.

        Raises:
            MalformedAnswer: these are no chunks.
        """
        pieces, position = [], 0
        while position < len(data) and not self.is_complete:
            if self._left:
                piece = data[position : position + self._left]
                pieces.append(piece)
                position += len(piece)
                self._left -= len(piece)
                self._is_after_chunk = True
            else:
                position = self._read_line(data, position)
        self.has_surplus = position < len(data)
        return b"".join(pieces)

    def _read_line(self, data: bytes, position: int) -> int:
        """Reads a line, or what has arrived of it; where it ends."""
        end = data.find(b"\n", position) + 1 or len(data)
        self._line += data[position:end]
        if len(self._line) > LINE_BYTES_MAX:
            raise MalformedAnswer("a line between its chunks is too long")
        if self._line.endswith(b"\n"):
            line, self._line = self._line, b""
            self._take_line(line)
        return end

    def _take_line(self, line: bytes) -> None:
        if self._trailer_bytes is not None:
            self._take_trailer(line)
        elif self._is_after_chunk:
            if line != _CRLF:
                raise MalformedAnswer("a chunk is longer than it says")
            self._is_after_chunk = False
        else:
            found = _SIZE.fullmatch(line)
            if found is None:
                raise MalformedAnswer("the size of a chunk is none")
            self._left = int(found[1], 16)
            self._trailer_bytes = None if self._left else 0

    def _take_trailer(self, line: bytes) -> None:
        """Drops fields behind the body, which nobody here needs (RFC 9112 §7.1.2)."""
        assert self._trailer_bytes is not None
        if not line.endswith(_CRLF):
            raise MalformedAnswer("a line of its trailer has no proper end")
        self._trailer_bytes += len(line)
        if self._trailer_bytes > TRAILER_BYTES_MAX:
            raise MalformedAnswer("its trailer is too large")
        self.is_complete = line == _CRLF
