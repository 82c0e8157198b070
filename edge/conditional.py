"""Conditional requests and ranges, answered from a complete representation (RFC 9110 §13, §14)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from edge.headers import Headers, parse_http_date, quoted_list

_RANGE: Final = re.compile(r"bytes\s*=\s*([0-9]{0,18})-([0-9]{0,18})\s*", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True, slots=True)
class ByteRange:
    """The bytes from `start` up to but not including `stop`."""

    start: int
    stop: int


class UnsatisfiableRange(Exception):  # noqa: N818 -- no failure: one of the three things a range may turn out to be
    """The range lies wholly outside the representation; the answer is 416."""


def is_not_modified(request: Headers, response: Headers) -> bool:
    """Whether the client has what it asks for, so that 304 is the answer (RFC 9110 §13.2.2)."""
    wanted = request.joined("If-None-Match")
    if wanted is not None:
        return _lists_tag(wanted, response.get("ETag"))
    since = parse_http_date(request.get("If-Modified-Since"))
    dated_by = "Last-Modified" if "Last-Modified" in response else "Date"  # RFC 9111 §4.3.2
    modified = parse_http_date(response.get(dated_by))
    return since is not None and modified is not None and modified <= since


def _lists_tag(wanted: str, entity_tag: str | None) -> bool:
    """Compares weakly, as `If-None-Match` asks (RFC 9110 §8.8.3.2)."""
    if wanted.strip() == "*":
        return True
    return entity_tag is not None and any(_opaque(tag) == _opaque(entity_tag) for tag in quoted_list(wanted))


def _opaque(tag: str) -> str:
    return tag.removeprefix("W/")


def requested_range(request: Headers, response: Headers, size: int) -> ByteRange | None:
    """The one range that the client wants, or None if it gets everything (RFC 9110 §14.2).

    Several ranges, other units and what is damaged are ignored, as is a range whose `If-Range` does not hold.

    Raises:
        UnsatisfiableRange: there is no such part.
    """
    fields = request.every("Range")
    found = _RANGE.fullmatch(fields[0].strip()) if len(fields) == 1 else None
    if found is None or found[1] == found[2] == "" or not _holds_if_range(request.get("If-Range"), response):
        return None
    if not found[1]:
        return _suffix(int(found[2]), size)
    start = int(found[1])
    if found[2] and int(found[2]) < start:
        return None
    if start >= size:
        raise UnsatisfiableRange
    return ByteRange(start, min(int(found[2]) + 1, size) if found[2] else size)


def _suffix(length: int, size: int) -> ByteRange:
    if length == 0 or size == 0:
        raise UnsatisfiableRange
    return ByteRange(max(0, size - length), size)


def _holds_if_range(condition: str | None, response: Headers) -> bool:
    """Compares strongly: a tag must be the same and not weak, a date the very same (RFC 9110 §13.1.5)."""
    if condition is None:
        return True
    if condition.startswith(('"', "W/")):
        return condition == response.get("ETag") and not condition.startswith("W/")
    date = parse_http_date(condition)
    return date is not None and date == parse_http_date(response.get("Last-Modified"))
