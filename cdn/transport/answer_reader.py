"""Reads one answer of HTTP/1.1 from the bytes of a connection (RFC 9112). Pure: no socket, no loop, no clock.

Bytes go in, pieces of the body come out. What is no answer raises `MalformedAnswer`; what is one but of odd form (line
feeds alone, two kinds of framing, bytes behind its end) is taken, and its connection not used again.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Final

from cdn.transport.chunks import ChunkReader, MalformedAnswer

HEAD_BYTES_MAX: Final = 64 << 10
INTERIM_MAX: Final = 32
"""How many interim answers are read before the answer."""
_END: Final = re.compile(rb"\n\r?\n")
_PLAIN_END: Final = b"\n\r\n"
_STATUS_LINE: Final = re.compile(r"HTTP/1\.([01]) ([1-9][0-9]{2})(?: .*)?")
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_LENGTH: Final = re.compile(r"[0-9]{1,18}")
_CHANGES_BODY: Final = re.compile(r"chunked|gzip|deflate|compress|^(br|zstd|)$")
"""Transfer codings that leave other bytes on the wire than the body has. Of any other the body ends with the connection
(RFC 9112 §6.3)."""
_START: Final = b"HTTP/1."
_OWN_LINE: Final = re.compile(
    r"\r\n(E[Tt]ag|etag|[Ll]ast-[Mm]odified|[Cc]ontent-[Ll]ength): ?([!-~](?:[ -~]{0,126}[!-~])?)(?=\r\n)"
)
"""A line that is another one for nearly every object, and in which nothing can be wrong but the value."""
_KEPT_HEAD_LENGTH_MAX: Final = 2048

Fields = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class AnswerHead:
    """Status and fields of an answer.

    Args:
        status: the status code.
        fields: in the order they came.
        size: of the body, where it is known.
        keeps_alive: whether the peer keeps the connection open after it.
    """

    status: int
    fields: Fields
    size: int | None
    keeps_alive: bool


class AnswerReader:
    """Reads the answer to one request.

    Args:
        has_body: whether the request was of a method whose answers have bodies.
        line_bytes_max: size of one line of the head.
        fields_max: number of its fields.
        on_interim: told of each interim answer.
    """

    def __init__(
        self,
        *,
        has_body: bool = True,
        line_bytes_max: int = 8190,
        fields_max: int = 128,
        on_interim: Callable[[int, Fields], None] | None = None,
    ) -> None:
        self._has_body = has_body
        self._line_bytes_max = line_bytes_max
        self._fields_max = fields_max
        self._on_interim = on_interim
        self._buffer = b""
        self._interim = 0
        self._left: int | None = None
        """How much of the body is to come, if that is known."""
        self._chunks: ChunkReader | None = None
        self._is_odd = False
        self.head: AnswerHead | None = None
        self.is_complete = False

    def answer(self) -> AnswerHead | None:
        """The head, once it has come."""
        return self.head

    @property
    def is_reusable(self) -> bool:
        """Whether the connection can carry another request."""
        return self.is_complete and not self._is_odd and self.head is not None and self.head.keeps_alive

    @property
    def left(self) -> int | None:
        """How many bytes of the body are to come, where that is known."""
        return 0 if self.is_complete else self._left

    def feed(self, data: bytes) -> bytes:
        """Takes what has arrived; gives what it has of the body.

        Raises:
            MalformedAnswer: this is no answer.
        """
        if self.head is None:
            data = self._read_heads(data)
            if not data:
                return b""
        if self.is_complete:
            self._is_odd = self._is_odd or bool(data)
            return b""
        return self._read_body(data)

    def end(self) -> bool:
        """Takes that the peer sends nothing more; whether the answer is whole."""
        if self.head is not None and self._left is None and self._chunks is None:
            self.is_complete = True
        self._is_odd = True
        return self.is_complete

    # ------------------------------------------------------------------------------------------------ the body

    def _read_body(self, data: bytes) -> bytes:
        if self._chunks is not None:
            piece = self._chunks.feed(data)
            self.is_complete = self._chunks.is_complete
            self._is_odd = self._is_odd or self._chunks.has_surplus
            return piece
        if self._left is None:
            return data
        size = len(data)
        if size > self._left:
            self._is_odd = True
            data, size = data[: self._left], self._left
        self._left -= size
        self.is_complete = self._left == 0
        return data

    # ------------------------------------------------------------------------------------------------ the head

    def _read_heads(self, data: bytes) -> bytes:
        """Reads up to the end of the head, over interim ones; gives what follows it."""
        seen = max(0, len(self._buffer) - 2)
        self._buffer = buffer = self._buffer + data if self._buffer else data
        while (found := _end_of_head(buffer, seen)) is not None:
            start, end = found
            head, rest = buffer[: start + 1], buffer[end:]
            self._take_head(head, ends_plainly=end - start == len(_PLAIN_END))
            if self.head is not None:
                self._buffer = b""
                return rest
            self._buffer = buffer = rest
            seen = 0
        self._check_unfinished(buffer)
        return b""

    def _check_unfinished(self, buffer: bytes) -> None:
        if not buffer.startswith(_START[: len(buffer)]):
            raise MalformedAnswer("it does not begin as HTTP/1.1 does")
        if len(buffer) > HEAD_BYTES_MAX + 1:
            raise MalformedAnswer("its head is too large")
        if len(buffer) - buffer.rfind(b"\n") > self._line_bytes_max + 2:
            raise MalformedAnswer("a line of its head is too long")

    def _check_size(self, head: bytes) -> None:
        if len(head) > HEAD_BYTES_MAX:
            raise MalformedAnswer("its head is too large")
        if len(head) > self._line_bytes_max and max(map(len, head.split(b"\n"))) > self._line_bytes_max + 1:
            raise MalformedAnswer("a line of its head is too long")

    def _take_head(self, head: bytes, *, ends_plainly: bool) -> None:
        self._check_size(head)
        own: Fields = ()
        text = head.decode("utf-8", "surrogateescape")
        if ends_plainly and len(text) <= _KEPT_HEAD_LENGTH_MAX:
            own = tuple([_kept_pair(name, value) for name, value in _OWN_LINE.findall(text)])
            lines = _kept_lines(_OWN_LINE.sub("", text) if own else text)
        else:
            lines = _read_lines(text, ends_plainly=ends_plainly)
        self._is_odd = self._is_odd or lines.is_odd
        fields = lines.fields + own
        if len(fields) > self._fields_max:
            raise MalformedAnswer(f"it has more than {self._fields_max} fields")
        if 100 <= lines.status < 200:
            self._take_interim(lines.status, fields)
        else:
            self._begin(lines, own, fields)

    def _take_interim(self, status: int, fields: Fields) -> None:
        self._interim += 1
        if status == 101:
            raise MalformedAnswer("it changes to another protocol")
        if self._interim > INTERIM_MAX:
            raise MalformedAnswer("its interim answers never end")
        if self._on_interim is not None and status != 100:
            self._on_interim(status, fields)

    def _begin(self, lines: _Lines, own: Fields, fields: Fields) -> None:
        """Finds how the body ends (RFC 9112 §6.3)."""
        lengths = lines.lengths
        for name, value in own:
            if name.lower() == "content-length":
                lengths |= {value} if value.isdigit() else {each.strip() for each in value.split(",")}
        keeps_alive = "close" not in lines.options and (lines.is_current or "keep-alive" in lines.options)
        size = self._frame(lines.status, lengths, lines.codings)
        self._is_odd = self._is_odd or (bool(lines.codings) and (bool(lengths) or not lines.is_current))
        self.head = AnswerHead(lines.status, fields, size, keeps_alive)

    def _frame(self, status: int, lengths: frozenset[str], codings: tuple[str, ...]) -> int | None:
        """Sets what tells the end of the body; gives its size, where that is told."""
        if len(lengths) > 1 or not all(map(_LENGTH.fullmatch, lengths)):
            raise MalformedAnswer("the size that it says is none")
        size = int(min(lengths)) if lengths and not codings else None
        if not self._has_body or status in {204, 304}:
            self.is_complete = True
            return size
        if codings == ("chunked",):
            self._chunks = ChunkReader()
        elif any(map(_CHANGES_BODY.search, codings)):
            raise MalformedAnswer("its transfer coding is not known")
        self._left = size
        self.is_complete = size == 0
        return size


def _end_of_head(buffer: bytes, seen: int) -> tuple[int, int] | None:
    """Where the first empty line of what was not seen yet begins and ends, with the line feed before it."""
    start = buffer.find(_PLAIN_END, seen)
    if start >= 0 and buffer.find(b"\n\n", seen, start + 1) < 0:
        return start, start + len(_PLAIN_END)
    found = _END.search(buffer, seen)
    return None if found is None else found.span()


@dataclass(frozen=True, slots=True)
class _Lines:
    """A head, read line by line; with what its fields say of where the body ends."""

    status: int
    is_current: bool
    """Whether it is of HTTP/1.1, and not of HTTP/1.0."""
    is_odd: bool
    fields: Fields
    lengths: frozenset[str]
    codings: tuple[str, ...]
    options: frozenset[str]


def _read_lines(text: str, *, ends_plainly: bool) -> _Lines:
    """Reads a head up to the end of its last line.

    Raises:
        MalformedAnswer: it is none.
    """
    is_odd = False
    if ends_plainly and text.count("\n") == text.count("\r\n"):
        text = text.replace("\r\n", "\n")
    else:
        is_odd = True  # line feeds alone, which a recipient may accept (RFC 9112 §2.2)
        text = "\n".join([line.removesuffix("\r") for line in text.split("\n")])
    text = text.removesuffix("\n")
    if _CONTROLS.search(text) is not None:
        raise MalformedAnswer("its head has control characters")
    status_line, *lines = text.split("\n")
    found = _STATUS_LINE.fullmatch(status_line)
    if found is None:
        raise MalformedAnswer("its first line is none of an answer")
    fields = tuple([_field(line) for line in lines])
    lengths, codings, options = _framing(fields)
    return _Lines(int(found[2]), found[1] == "1", is_odd, fields, lengths, codings, options)


_kept_lines: Final = lru_cache(maxsize=256)(partial(_read_lines, ends_plainly=True))
"""Servers begin most answers with the same lines, but for the few that tell one object from another."""


@lru_cache(maxsize=1024)
def _kept_pair(name: str, value: str) -> tuple[str, str]:
    """The same field for all answers that have it: caches keep them."""
    return sys.intern(name), value


def _framing(fields: Fields) -> tuple[frozenset[str], tuple[str, ...], frozenset[str]]:
    """The lengths, the codings and the options of the connection that fields name."""
    lengths: list[str] = []
    codings: list[str] = []
    options: list[str] = []
    for name, value in fields:
        lower = name.lower()
        if lower == "content-length":
            lengths += value.split(",")
        elif lower == "transfer-encoding":
            codings += value.lower().split(",")
        elif lower == "connection":
            options += value.lower().split(",")
    return (
        frozenset([each.strip() for each in lengths]),
        tuple([each.strip() for each in codings]),
        frozenset([each.strip() for each in options]),
    )


def _field(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon or _NAME.fullmatch(name) is None:
        raise MalformedAnswer("a line of its head is no field")
    return name, value.strip(" \t")
