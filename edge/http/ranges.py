"""Parts of a representation: which bytes a client wants, and how several of them travel in one answer (RFC 9110 §14).

A request may ask for many small, overlapping or repeated parts to make a server work (RFC 9110 §17.15). So their number
is limited, parts that overlap or nearly touch become one, and where the parts together are no less than the whole, the
whole is what is sent.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from edge.http.headers import Headers, parse_http_date

RANGES_MAX: Final = 64
"""How many parts a request may ask for; with more its `Range` is ignored."""
_FIELD_BYTES_MAX: Final = 4096
_PART_OVERHEAD_BYTES: Final = 160
"""About what a part takes besides its bytes; a gap that is smaller is sent along (RFC 9110 §15.3.7.2)."""
_RANGES: Final = re.compile(r"bytes\s*=(.*)", re.IGNORECASE | re.ASCII)
_RANGE: Final = re.compile(r"([0-9]{0,18})-([0-9]{0,18})", re.ASCII)


@dataclass(frozen=True, slots=True)
class ByteRange:
    """The bytes from `start` up to but not including `stop`."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        """How many bytes."""
        return self.stop - self.start


Segment = ByteRange | bytes
"""What is sent next: a part of the representation, or bytes that stand between parts."""


class UnsatisfiableRange(Exception):  # noqa: N818 -- no failure: one of the three things a range may turn out to be
    """All ranges lie wholly outside the representation; the answer is 416."""


def requested_ranges(
    request: Headers, response: Headers, size: int, *, ascending: bool = False
) -> tuple[ByteRange, ...] | None:
    """The parts that the client wants, or None if it gets everything (RFC 9110 §14.2).

    Args:
        request: its `Range` and `If-Range`; other units, too many ranges and what is damaged are ignored.
        response: what an `If-Range` is compared with.
        size: of the representation.
        ascending: whether the parts must be given in their order in the representation.

    Raises:
        UnsatisfiableRange: there are no such parts.
    """
    fields = request.every("Range")
    if len(fields) != 1 or not _holds_if_range(request.get("If-Range"), response):
        return None
    wanted = _parsed(fields[0], size)
    if wanted is None:
        return None
    if not wanted:
        raise UnsatisfiableRange
    parts = _coalesced(wanted, ascending=ascending)
    if len(parts) > 1 and sum(part.size + _PART_OVERHEAD_BYTES for part in parts) >= size:
        return None
    return parts


def _parsed(field: str, size: int) -> list[ByteRange] | None:
    """The ranges of a field that lie within the representation; None if the field is none that is understood."""
    found = _RANGES.fullmatch(field.strip()) if len(field) <= _FIELD_BYTES_MAX else None
    texts = [text for each in found[1].split(",") if (text := each.strip(" \t"))] if found is not None else []
    if not 0 < len(texts) <= RANGES_MAX:
        return None
    wanted = []
    for text in texts:
        bounds = _RANGE.fullmatch(text)
        if bounds is None or bounds[1] == bounds[2] == "" or (bounds[1] and bounds[2] and _is_reversed(bounds)):
            return None
        part = _within(bounds[1], bounds[2], size)
        if part.start < part.stop:
            wanted.append(part)
    return wanted


def _is_reversed(bounds: re.Match[str]) -> bool:
    return int(bounds[2]) < int(bounds[1])


def _within(first: str, last: str, size: int) -> ByteRange:
    """What a range covers; nothing if that lies outside."""
    if not first:
        return ByteRange(max(0, size - int(last)), size)
    return ByteRange(int(first), min(int(last) + 1, size) if last else size)


def _coalesced(wanted: Sequence[ByteRange], *, ascending: bool) -> tuple[ByteRange, ...]:
    """The parts in the order asked for; in ascending order if some overlap or nearly touch, and became one."""
    merged: list[ByteRange] = []
    for part in sorted(wanted, key=lambda each: each.start):
        if merged and part.start <= merged[-1].stop + _PART_OVERHEAD_BYTES:
            merged[-1] = ByteRange(merged[-1].start, max(merged[-1].stop, part.stop))
        else:
            merged.append(part)
    return tuple(merged if ascending or len(merged) < len(wanted) else wanted)


def _holds_if_range(condition: str | None, response: Headers) -> bool:
    """Compares strongly: a tag must be the same and not weak, a date the very same (RFC 9110 §13.1.5)."""
    if condition is None:
        return True
    if condition.startswith(('"', "W/")):
        return condition == response.get("ETag") and not condition.startswith("W/")
    date = parse_http_date(condition)
    return date is not None and date == parse_http_date(response.get("Last-Modified"))


def content_range(part: ByteRange, size: int) -> str:
    """The value of `Content-Range` (RFC 9110 §14.4)."""
    return f"bytes {part.start}-{part.stop - 1}/{size}"


def boundary_of(parts: Iterable[ByteRange], *facts: str) -> str:
    """What stands between parts: made from what tells this body from others, so that none contains its own."""
    text = "\0".join((*facts, *(f"{part.start}-{part.stop}" for part in parts)))
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:40]


def multipart(parts: Sequence[ByteRange], size: int, content_type: str | None, boundary: str) -> tuple[Segment, ...]:
    """A body of media type ``multipart/byteranges`` (RFC 9110 §14.6)."""
    segments: list[Segment] = []
    typed = f"Content-Type: {content_type}\r\n" if content_type else ""
    line = f"--{boundary}\r\n"
    for part in parts:
        head = f"{line}{typed}Content-Range: {content_range(part, size)}\r\n\r\n"
        segments += [head.encode("utf-8", "surrogateescape"), part]
        line = f"\r\n--{boundary}\r\n"
    segments.append(f"\r\n--{boundary}--\r\n".encode())
    return tuple(segments)
