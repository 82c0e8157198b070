"""Conditional requests, answered from a complete representation (RFC 9110 §13)."""

from __future__ import annotations

from typing import Final

from edge.http.headers import Headers, parse_http_date, quoted_list

_CONDITIONS: Final = frozenset({"if-none-match", "if-modified-since"})


def is_not_modified(request: Headers, response: Headers) -> bool:
    """Whether the client has what it asks for, so that 304 is the answer (RFC 9110 §13.2.2)."""
    if not request.has_any(_CONDITIONS):
        return False
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
