"""From a stored or arriving response to the answer one client gets (RFC 9110 §8, §13, §14; RFC 9111 §5.1; RFC 9211)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from typing import Final

from edge.content import OBJECT_SECONDS, Content, ContentKind
from edge.http.caching import Lifetime, StoredHead, completed_lifetime, current_age, explicit_lifetime
from edge.http.conditional import is_not_modified
from edge.http.headers import Headers, http_date
from edge.http.ranges import (
    ByteRange,
    Segment,
    UnsatisfiableRange,
    boundary_of,
    content_range,
    multipart,
    requested_ranges,
)
from edge.http.request import Request, Version

_DEFAULT_TYPES: Final = {
    ContentKind.OBJECT: "application/octet-stream",
    ContentKind.MANIFEST: "application/x-cvmfs",
    ContentKind.WHITELIST: "application/x-cvmfs",
    ContentKind.DOCUMENT: "application/x-cvmfs",
}
_IN_304: Final = frozenset({"cache-control", "content-location", "date", "etag", "expires", "vary", "last-modified"})
NEVER_SENT: Final = frozenset({"content-length", "age", "accept-ranges"})
"""Fields made anew for each answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The head of an answer, and which part of the body goes with it.

    Args:
        status: the status code.
        headers: its fields, but for framing.
        start: the first byte of the body that is sent.
        stop: the byte after the last, or None while nobody knows how many there are.
        parts: several parts of the body and what stands between them, instead of one.
    """

    status: int
    headers: Headers
    start: int = 0
    stop: int | None = 0
    parts: tuple[Segment, ...] = ()

    @property
    def size(self) -> int | None:
        """How many bytes of body are sent, where that is known."""
        if self.parts:
            return sum(len(part) if isinstance(part, bytes) else part.size for part in self.parts)
        return None if self.stop is None else self.stop - self.start

    def taken_from(self, body: bytes) -> bytes:
        """What is sent of a whole body."""
        if self.parts:
            return b"".join(part if isinstance(part, bytes) else body[part.start : part.stop] for part in self.parts)
        return body[self.start : self.stop]


@dataclass(frozen=True, slots=True)
class CacheStatus:
    """What this cache did, as `Cache-Status` tells it (RFC 9211).

    Args:
        is_hit: whether the answer came from the cache without asking upstream.
        forwarded: why the request was passed on, such as ``miss`` or ``stale``.
        status: what the upstream answered.
        is_stored: whether the answer is kept.
        is_collapsed: whether it was waited for together with others.
        detail: a token that says more.
    """

    is_hit: bool = False
    forwarded: str = ""
    status: int | None = None
    is_stored: bool = False
    is_collapsed: bool = False
    detail: str = ""

    def text(self, cache_name: str, seconds_left: float | None) -> str:
        """The member of the list that this cache adds."""
        parts = [cache_name]
        if self.is_hit:
            parts.append("hit")
        if self.forwarded:
            parts.append(f"fwd={self.forwarded}")
        if self.status is not None:
            parts.append(f"fwd-status={self.status}")
        if seconds_left is not None:
            parts.append(f"ttl={int(seconds_left)}")
        parts.extend(name for name, holds in (("stored", self.is_stored), ("collapsed", self.is_collapsed)) if holds)
        if self.detail:
            parts.append(f"detail={self.detail}")
        return "; ".join(parts)


HIT: Final = CacheStatus(is_hit=True)


@dataclass(frozen=True, slots=True)
class Representation:
    """What an answer is made from.

    Args:
        head: status and fields as they came.
        content: what its name says.
        lifetime: of this kind.
        size: of the whole body, where known.
        is_complete: whether a part of it can be given.
        is_arriving: whether it can be read forwards only.
    """

    head: StoredHead
    content: Content
    lifetime: Lifetime
    size: int | None
    is_complete: bool = True
    is_arriving: bool = False


def answer_from(source: Representation, request: Request, now: float, status: CacheStatus, edge_name: str) -> Answer:
    """The answer to a request.

    Args:
        source: what there is.
        request: conditions and ranges are in its fields.
        now: seconds since the epoch.
        status: what the cache did.
        edge_name: what this edge calls itself in `Via` and `Cache-Status`.
    """
    headers = _fields(source, now, status, edge_name)
    if source.head.status == 200:
        if not request.is_plain and is_not_modified(request.headers, headers):
            return Answer(304, Headers.of(pair for pair in headers if pair[0].lower() in _IN_304 | _OWN))
        if source.size is not None and source.is_complete and request.method == "GET":
            return _ranged(headers, request, source.size, is_arriving=source.is_arriving)
    return Answer(source.head.status, headers, 0, source.size)


_NOT_OF_OBJECTS: Final = frozenset({"set-cookie", "etag"})
_OWN: Final = frozenset({"age", "via", "cache-status"})


def passed_answer(head: StoredHead, size: int | None, edge_name: str) -> Answer:
    """The answer to a request that is only passed on, as the upstream gave it.

    Args:
        head: of the upstream's answer.
        size: of its body, where known.
        edge_name: what this edge calls itself.
    """
    pairs = list(head.headers.without("Content-Length").pairs)
    pairs.append(("Via", f"1.1 {edge_name}"))
    status = CacheStatus(forwarded="method", status=head.status)
    pairs.append(("Cache-Status", status.text(cache_token(edge_name), None)))
    return Answer(head.status, Headers(tuple(pairs)), 0, size)


def _ranged(headers: Headers, request: Request, size: int, *, is_arriving: bool) -> Answer:
    headers = Headers((*headers.pairs, ("Accept-Ranges", "bytes")))
    if request.is_plain or "Range" not in request.headers:
        return Answer(200, headers, 0, size)
    try:
        parts = requested_ranges(request.headers, headers, size, ascending=is_arriving)
    except UnsatisfiableRange:
        kept = headers.without("Content-Type", "ETag", "Last-Modified", "Cache-Control")
        return Answer(416, kept.replaced("Content-Range", f"bytes */{size}"))
    if parts is None:
        return Answer(200, headers, 0, size)
    if len(parts) == 1:
        return Answer(
            206, headers.replaced("Content-Range", content_range(parts[0], size)), parts[0].start, parts[0].stop
        )
    return _multipart(headers, request, parts, size)


def _multipart(headers: Headers, request: Request, parts: tuple[ByteRange, ...], size: int) -> Answer:
    facts = (request.target, headers.get("ETag") or "", headers.get("Last-Modified") or "", headers.get("Date") or "")
    boundary = boundary_of(parts, *facts)
    segments = multipart(parts, size, headers.get("Content-Type"), boundary)
    return Answer(
        206, headers.replaced("Content-Type", f"multipart/byteranges; boundary={boundary}"), 0, size, parts=segments
    )


def _fields(source: Representation, now: float, status: CacheStatus, edge_name: str) -> Headers:
    head, content = source.head, source.content
    explicit = explicit_lifetime(head.headers)
    lifetime = completed_lifetime(explicit, head.status, head.headers, source.lifetime)
    age = current_age(head, now)
    kept = head.headers.but(NEVER_SENT)
    if source.lifetime.is_immutable and age >= lifetime:
        age %= lifetime or OBJECT_SECONDS
        kept = _renewed(kept, now - age, lifetime)
    pairs = list(kept.pairs)
    if "Date" not in head.headers:
        pairs.append(("Date", http_date(head.answered_at)))
    if head.status == 200 and content.kind in _DEFAULT_TYPES and "Content-Type" not in head.headers:
        pairs.append(("Content-Type", _DEFAULT_TYPES[content.kind]))
    if explicit is None and source.lifetime.default_seconds is not None:
        pairs.append(("Cache-Control", f"max-age={int(lifetime)}"))
    if not status.forwarded or age >= 1:
        pairs.append(("Age", str(int(age))))
    pairs.append(("Via", f"1.1 {edge_name}"))
    seconds_left = lifetime - age if status.is_hit or status.is_stored else None
    pairs.append(("Cache-Status", status.text(cache_token(edge_name), seconds_left)))
    return Headers(tuple(pairs))


def _renewed(headers: Headers, born_at: float, lifetime: float) -> Headers:
    """The fields of an object whose lifetime has passed and begins anew, since its name proves that it is unchanged."""
    renewed = headers.replaced("Date", http_date(born_at))
    return renewed.replaced("Expires", http_date(born_at + lifetime)) if "Expires" in headers else renewed


def default_type(kind: ContentKind) -> str:
    """What a repository's content is said to be where its upstream does not say it."""
    return _DEFAULT_TYPES[kind]


def cache_token(edge_name: str) -> str:
    """The name of this cache as a quoted string, which any name can be (RFC 9211 §2)."""
    return f'"{edge_name}"'


def kept_fields(content: Content, headers: Headers) -> Headers:
    """The fields of an upstream's answer that are kept and passed on.

    An object's tag is its digest, whatever each upstream makes up, so that all copies of it are known to be the same.
    """
    kept = headers.end_to_end()
    if content.kind is ContentKind.OBJECT and content.digest is not None:
        return Headers((*kept.but(_NOT_OF_OBJECTS).pairs, ("ETag", object_tag(content))))
    if content.kind is not ContentKind.OTHER:
        kept = kept.without("Set-Cookie")
    return kept


def object_tag(content: Content) -> str:
    """The tag of an object: its digest."""
    assert content.digest is not None
    return f'"{content.digest.text}"'


def error_answer(
    status: int,
    reason: str,
    edge_name: str,
    now: float,
    *,
    detail: str = "",
    proxy_error: str = "",
    retry_seconds: float | None = None,
) -> tuple[Answer, bytes]:
    """An answer that this edge gives on its own account, and its body.

    Args:
        status: the status code.
        reason: one sentence.
        edge_name: what this edge calls itself.
        now: seconds since the epoch.
        detail: a token for `Cache-Status`.
        proxy_error: the error of `Proxy-Status` (RFC 9209), for problems with upstreams.
        retry_seconds: when it is worth asking again.
    """
    body = f"{status} {phrase(status)}: {reason}\n".encode("utf-8", "replace")
    pairs = [("Date", http_date(now)), ("Content-Type", "text/plain; charset=utf-8"), ("Cache-Control", "no-store")]
    pairs.append(("Cache-Status", CacheStatus(detail=detail).text(cache_token(edge_name), None)))
    if proxy_error:
        pairs.append(("Proxy-Status", f"{cache_token(edge_name)}; error={proxy_error}"))
    if retry_seconds is not None:
        pairs.append(("Retry-After", str(math.ceil(retry_seconds))))
    if status == 405:
        pairs.append(("Allow", "GET, HEAD"))
    return Answer(status, Headers(tuple(pairs)), 0, len(body)), body


@lru_cache(maxsize=128)
def phrase(status: int) -> str:
    """The words that go with a status code."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


def render_head(answer: Answer, request: Request, *, keeps_alive: bool) -> bytes:
    """The bytes of an answer's head; a body of unknown size is chunked, or for HTTP/1.0 ends with the connection."""
    lines = [f"HTTP/1.1 {answer.status} {phrase(answer.status)}"]
    lines.extend(f"{name}: {value}" for name, value in answer.headers)
    if answer.size is not None and answer.status not in {204, 304}:
        lines.append(f"Content-Length: {answer.size}")
    elif is_chunked(answer, request):
        lines.append("Transfer-Encoding: chunked")
    if not keeps_alive:
        lines.append("Connection: close")
    elif request.version is Version.HTTP_1_0:
        lines.append("Connection: keep-alive")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")


def render_interim(status: int, fields: Headers) -> bytes:
    """The bytes of an interim answer (RFC 9110 §15.2)."""
    lines = [f"HTTP/1.1 {status} {phrase(status)}", *(f"{name}: {value}" for name, value in fields)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")


def is_chunked(answer: Answer, request: Request) -> bool:
    """Whether the body is sent in chunks (RFC 9112 §7.1)."""
    return answer.size is None and answer.status not in {204, 304} and request.version is Version.HTTP_1_1
