"""The heads of requests and answers between workers of one edge, as bytes and as values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cdn.errors import DocumentError
from edge.content import ContentKind
from edge.http.answering import Answer
from edge.http.caching import StoredHead
from edge.http.headers import Headers
from edge.http.request import Request
from edge.http.request_id import FIELD
from edge.routing import Destination
from edge.watching.statistics import Result

CLIENT_FIELD: Final = "Stratocast-Client"
"""The address of the client that a worker asks for."""
RESULT_FIELD: Final = "Stratocast-Result"
"""How the owner answered, for the log; absent for a hit in memory."""
FORGET: Final = "FORGET"
"""The method that has a worker forget something."""
KEY_FIELD: Final = "Stratocast-Key"
"""What is stored under this key shall be forgotten."""
REPOSITORY_FIELD: Final = "Stratocast-Repository"
"""What this repository did not have shall be forgotten."""
DISK_FIELD: Final = "Stratocast-Disk"
"""Instead of an object: it is on disk, where every worker can read it."""
_PRIVATE: Final = (CLIENT_FIELD, RESULT_FIELD, KEY_FIELD, REPOSITORY_FIELD, DISK_FIELD)
_FRAMING: Final = ("Content-Length", "Transfer-Encoding", "Connection", *_PRIVATE)
_RESULTS: Final = frozenset(result.value for result in Result)
_PERSONAL: Final = frozenset({ContentKind.OTHER, ContentKind.GEO})
"""Kinds of content whose servers are told who asks."""


def relayed_request(request: Request, destination: Destination, client: str, request_id: str = "") -> bytes:
    """The head of a request as the owner gets it; what a client says in a private field is not passed on."""
    kind, named = destination.content.kind, f"{FIELD}: {request_id}\r\n" if request_id else ""
    if request.is_plain and kind not in _PERSONAL:  # without an ID always the same, which the owner knows by heart
        return f"GET {request.target} HTTP/1.1\r\nHost: \r\n{named}\r\n".encode("latin-1")
    headers = request.headers.end_to_end().without("Expect", *_PRIVATE)
    headers = headers.replaced(FIELD, request_id) if request_id else headers
    lines = [f"{request.method} {request.target} HTTP/1.1"]
    lines.extend(f"{name}: {value}" for name, value in headers)
    if "Host" not in request.headers:
        lines.append("Host: ")
    if request.body_size is None:
        lines.append("Transfer-Encoding: chunked")
    if kind in _PERSONAL:
        lines.append(f"{CLIENT_FIELD}: {client}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def forget_request(field: str, value: str) -> bytes:
    """The head of a request to forget what a field says."""
    return f"{FORGET} / HTTP/1.1\r\nHost: \r\n{field}: {value}\r\n\r\n".encode("latin-1")


def found_on_disk() -> Answer:
    """What an owner says instead of sending a large file through two workers."""
    return Answer(204, Headers(((DISK_FIELD, "yes"),)))


@dataclass(frozen=True, slots=True)
class RelayedHead:
    """The head of an owner's answer.

    Args:
        status: the status code.
        headers: its fields, but for framing and private ones.
        size: of the body, where known.
        keeps_alive: whether the connection can be used again.
        result: what the owner did, in the words of the log.
        is_on_disk: the owner leaves it to us to send a file.
    """

    status: int
    headers: Headers
    size: int | None
    keeps_alive: bool
    result: str
    is_on_disk: bool

    @property
    def answer(self) -> Answer:
        """What the client gets."""
        return Answer(self.status, self.headers, 0, self.size)

    @property
    def is_interim(self) -> bool:
        """Whether another answer follows (RFC 9110 §15.2)."""
        return self.status < 200

    @property
    def is_kept(self) -> bool:
        """Whether the owner has it in its cache, as its `Cache-Status` says."""
        members = self.headers.every("Cache-Status")
        return bool(members) and not {"hit", "stored"}.isdisjoint(members[-1].split("; "))

    def as_stored(self, asked_at: float, now: float) -> StoredHead:
        """The head as it is stored: without what the owner said of this edge, which every answer says anew."""
        headers = _without_last(_without_last(self.headers, "via"), "cache-status")
        return StoredHead(self.status, headers, asked_at, now)


def read_relayed_head(head: bytes) -> RelayedHead:
    """Reads what `render_head` wrote, with the private field of a result.

    Raises:
        DocumentError: it is something else.
    """
    line, *lines = head.decode("utf-8", "surrogateescape")[:-4].split("\r\n")
    pairs = Headers.of((name, value) for name, _, value in (each.partition(": ") for each in lines))
    size = pairs.get("Content-Length")
    try:
        return RelayedHead(
            int(line[9:12]),
            pairs.without(*_FRAMING),
            int(size) if size is not None else None,
            keeps_alive="Connection" not in pairs,
            result=_result_of(pairs),
            is_on_disk=DISK_FIELD in pairs,
        )
    except ValueError as error:
        raise DocumentError("answer of a worker", "its head is malformed") from error


def _result_of(headers: Headers) -> str:
    named = headers.every(RESULT_FIELD)
    return named[-1] if named and named[-1] in _RESULTS else Result.HIT.value


def _without_last(headers: Headers, name: str) -> Headers:
    pairs = headers.pairs
    last = max((index for index, pair in enumerate(pairs) if pair[0].lower() == name), default=len(pairs))
    return Headers(pairs[:last] + pairs[last + 1 :])
