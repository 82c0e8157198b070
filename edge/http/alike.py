"""Answers for objects that are alike: what a server says of every object is judged once, and only what differs anew.

The fields of two objects of one server differ in three places: size, tag and date of change. None of them decides
anything about an object, whose name proves it and which never changes. So everything the rules of caching say about
such an answer follows from the other fields, and is remembered with them. What comes of it is what `answering` and
`caching` say, one field at a time; a property test holds the two against each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from edge.content import Content, ContentKind
from edge.http.answering import NEVER_SENT, CacheStatus, cache_token, default_type, kept_fields
from edge.http.cache_directives import response_directives
from edge.http.caching import (
    Lifetime,
    StoredHead,
    age_value,
    completed_lifetime,
    explicit_lifetime,
    is_storable,
)
from edge.http.headers import NO_FIELDS, Headers, parse_http_date, tokens

Fields = tuple[tuple[str, str], ...]

_OWN: Final = frozenset({"content-length", "etag", "last-modified"})
_KEPT_OF_OWN: Final = _OWN - {"etag"}  # an object's tag is its digest
_SENT_OF_OWN: Final = "last-modified"
_KINDS_MAX: Final = 256
_FIELDS_MAX: Final = 32
_CHARACTERS_MAX: Final = 2048
_ANY_OBJECT: Final = Content(ContentKind.OBJECT)


@dataclass(frozen=True, slots=True)
class Common:
    """What follows from the fields that answers have in common.

    Args:
        kept: those that are kept.
        directives: of `Cache-Control`, as they count here.
        is_shareable: whether any client may have such an answer, and it may be stored.
        date: when it was made, in seconds since the epoch.
        age: how old caches on the way say that it is.
        seconds: how long it is fresh.
        lines: those of a head that is sent to a client.
    """

    kept: Fields
    directives: Mapping[str, str | None]
    is_shareable: bool
    date: float
    age: float
    seconds: float
    lines: str


@dataclass(slots=True)
class ObjectAnswer:
    """The head of a server's answer with an object.

    Args:
        common: what it has in common with others.
        own: of the fields that it has not, those that are kept.
    """

    common: Common
    own: Fields

    def stored_head(self, tag: str, asked_at: float, now: float) -> StoredHead:
        """The head as it is kept, with the tag that all copies of the object have."""
        headers = Headers((*self.common.kept, *self.own, ("ETag", tag)))
        object.__setattr__(headers, "known_directives", self.common.directives)
        return StoredHead(200, headers, asked_at, now)

    def sent_head(
        self, head: StoredHead, size: int, now: float, edge_name: str, *, is_stored: bool, is_collapsed: bool
    ) -> bytes | None:
        """The head for a client that waited for the object and wants all of it; None if it is not as simple as that.

        Args:
            head: as it is kept.
            size: of the body in bytes.
            now: seconds since the epoch.
            edge_name: what this edge calls itself.
            is_stored: whether the object is kept.
            is_collapsed: whether another client's request brought it.
        """
        common, answered_at = self.common, head.answered_at
        corrected = common.age + max(0.0, answered_at - head.asked_at)
        age = max(answered_at - common.date, 0.0, corrected) + max(0.0, now - answered_at)
        if age >= common.seconds:
            return None
        own = "".join([f"{name}: {value}\r\n" for name, value in self.own if name.lower() == _SENT_OF_OWN])
        aged = f"Age: {int(age)}\r\n" if age >= 1 else ""
        seconds_left = int(common.seconds - age) if is_stored else -1
        last = _last_lines(edge_name, seconds_left, is_stored=is_stored, is_collapsed=is_collapsed)
        tag = head.headers.pairs[-1][1]
        lines = f"HTTP/1.1 200 OK\r\n{common.lines}{own}ETag: {tag}\r\n{aged}{last}Content-Length: {size}\r\n\r\n"
        return lines.encode("utf-8", "surrogateescape")


def object_answer(fields: Fields, lifetime: Lifetime) -> ObjectAnswer | None:
    """Reads the fields of an answer 200 with an object; None if they are to be judged by themselves.

    Args:
        fields: as they came.
        lifetime: of objects.
    """
    common = _judged(tuple([pair for pair in fields if pair[0].lower() not in _OWN]), lifetime)
    if common is None:
        return None
    return ObjectAnswer(common, tuple([pair for pair in fields if pair[0].lower() in _KEPT_OF_OWN]))


@lru_cache(maxsize=_KINDS_MAX)
def _judged(fields: Fields, lifetime: Lifetime) -> Common | None:
    if len(fields) > _FIELDS_MAX or sum(len(name) + len(value) for name, value in fields) > _CHARACTERS_MAX:
        return None
    headers = kept_fields(_ANY_OBJECT, Headers(fields))
    date = parse_http_date(headers.get("Date"))
    if date is None or not _OWN.isdisjoint(tokens(Headers(fields).joined("Connection") or "")):
        return None
    is_shareable = is_storable("GET", NO_FIELDS, 200, headers, lifetime)
    explicit = explicit_lifetime(headers)
    seconds = completed_lifetime(explicit, 200, headers, lifetime)
    sent = list(headers.but(NEVER_SENT))
    if "Content-Type" not in headers:
        sent.append(("Content-Type", default_type(ContentKind.OBJECT)))
    if explicit is None and lifetime.default_seconds is not None:
        sent.append(("Cache-Control", f"max-age={int(seconds)}"))
    lines = "".join([f"{name}: {value}\r\n" for name, value in sent])
    directives = response_directives(headers)
    return Common(headers.pairs, directives, is_shareable, date, age_value(headers), seconds, lines)


@lru_cache(maxsize=_KINDS_MAX)
def _last_lines(edge_name: str, seconds_left: int, *, is_stored: bool, is_collapsed: bool) -> str:
    status = CacheStatus(forwarded="miss", status=200, is_stored=is_stored, is_collapsed=is_collapsed)
    text = status.text(cache_token(edge_name), seconds_left if is_stored else None)
    return f"Via: 1.1 {edge_name}\r\nCache-Status: {text}\r\nAccept-Ranges: bytes\r\n"
