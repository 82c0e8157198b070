"""Where an answer ends on its connection, so that nothing after it is looked at (RFC 9112 §6.3).

A server that says one length and sends more is found in the wild; the parser underneath gives up the whole answer then,
if the surplus arrives together with it. What was said counts, and the connection is not used again.
"""

from __future__ import annotations

import re
from typing import Final

HEAD_BYTES_MAX: Final = 1 << 20
_END: Final = b"\r\n\r\n"
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})\b")
_FRAMING: Final = re.compile(
    rb"\r\n(content-length|transfer-encoding)[ \t]*:[ \t]*([^\r\n]*?)[ \t]*(?=\r\n)", re.IGNORECASE
)
_LENGTH: Final = re.compile(rb"[0-9]{1,18}")


class AnswerEnd:
    """Follows the bytes of one answer, interim ones before it included.

    Args:
        has_body: whether the request was of a method whose answers have bodies.
    """

    def __init__(self, *, has_body: bool = True) -> None:
        self._has_body = has_body
        self._head: bytearray | None = bytearray()
        self._left: int | None = None
        """How much of the body is to come; None while that is not known, or where only the parser can find its end."""
        self.has_surplus = False

    def take(self, data: bytes) -> bytes:
        """The part of what has arrived that belongs to the answer."""
        start = 0
        while self._head is not None:
            seen = max(0, len(self._head) - len(_END))
            self._head += data[start:]
            end = self._head.find(_END, seen)
            if end < 0:
                if len(self._head) > HEAD_BYTES_MAX:
                    self._head = None  # the parser will have refused it
                return data
            head = bytes(self._head[: end + 2])
            start = len(data) - (len(self._head) - end - len(_END))
            self._begin_body(head)
        if self._left is None:
            return data
        stop = min(len(data), start + self._left)
        self._left -= stop - start
        self.has_surplus = self.has_surplus or stop < len(data)
        return data[:stop] if stop < len(data) else data

    def _begin_body(self, head: bytes) -> None:
        found = _STATUS.match(head)
        status = int(found[1]) if found is not None else 0
        if 100 <= status < 200 and status != 101:
            self._head = bytearray()
            return
        self._head = None
        if status in {0, 101}:
            return
        if not self._has_body or status in {204, 304}:
            self._left = 0
            return
        framing = [(name.lower(), value) for name, value in _FRAMING.findall(head)]
        lengths = {value for name, value in framing if name == b"content-length"}
        is_plain = all(name == b"content-length" for name, _ in framing)
        if is_plain and len(lengths) == 1 and _LENGTH.fullmatch(value := lengths.pop()):
            self._left = int(value)
