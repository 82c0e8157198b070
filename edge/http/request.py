"""Requests as bytes from strangers: cutting them out of a stream and reading them strictly (RFC 9112).

GET and HEAD have no bodies here; of other methods the body follows the head, and `http.request_body` finds its end.
Everything that could make another party see a different end (RFC 9112 §11.2) is refused: two lengths, a length together
with a transfer coding, a coding that is not `chunked`, line ends that are not CR LF, folded lines, control characters.
After a refusal the connection is closed, since where the next request begins is no longer certain.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import Final

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from cdn.errors import DocumentError
from edge.http.headers import Headers, tokens

_END: Final = b"\r\n\r\n"
_RETURN: Final = ord("\r")
_FORBIDDEN: Final = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)|(?<!\r)\n|\n[ \t]")
_REQUEST_LINE: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([\x21-\x7e]+) HTTP/([0-9])\.([0-9])\r\n")
_COMMON_LINE: Final = re.compile(
    rb"(GET|HEAD) ((?:http://[a-z0-9.-]+(?::[0-9]{1,5})?)?/[A-Za-z0-9._~/-]*) HTTP/1\.([01])"
)
"""A request line in which nothing can be wrong that the fields do not show as well."""
_HOST: Final = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?", re.ASCII)
READING: Final = frozenset({"GET", "HEAD"})
"""Methods without a body, whose answers may be cached."""
METHODS_KNOWN: Final = frozenset({"CONNECT", "DELETE", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})
_NEVER_SERVED: Final = frozenset({"CONNECT", "TRACE"})
"""Tunnels are not made, and what a request looks like on its way is nobody's business."""
_METHOD_BYTES_MAX: Final = 32
_LENGTH: Final = re.compile(r"[0-9]{1,18}", re.ASCII)
_SPECIAL: Final = frozenset(
    {
        "authorization",
        "cache-control",
        "expect",
        "if-match",
        "if-modified-since",
        "if-none-match",
        "if-range",
        "if-unmodified-since",
        "pragma",
        "range",
        "via",
    }
)
"""Fields that make an answer depend on more than the target."""
MEMO_HEAD_BYTES_MAX: Final = 1024
MEMO_ENTRIES_MAX: Final = 4096
_ALIKE_MAX: Final = 256


class RequestError(DocumentError):
    """A request that is refused; the connection closes after the answer.

    Args:
        status: the HTTP status of the answer.
        reason: what is wrong, without a final stop.
        retry_seconds: when it is worth asking again.
    """

    def __init__(self, status: int, reason: str, *, retry_seconds: float | None = None) -> None:
        super().__init__("request", reason)
        self.status = status
        self.retry_seconds = retry_seconds


class Version(Enum):
    """The versions of HTTP that are spoken."""

    HTTP_1_0 = (1, 0)
    HTTP_1_1 = (1, 1)


@dataclass(frozen=True, slots=True, eq=False)
class RequestLimits:
    """How large a request may be. Compared by identity, since what was read within the same limits is looked up often.

    Args:
        head_bytes_max: the whole head.
        fields_max: number of header fields.
        target_bytes_max: the request target.
    """

    head_bytes_max: int = 16384
    fields_max: int = 100
    target_bytes_max: int = 8000


@dataclass(frozen=True, slots=True)
class Request:
    """One request.

    Args:
        method: any but ``CONNECT`` and ``TRACE``.
        target: the request target as it came.
        version: of HTTP.
        headers: its fields.
        keeps_alive: whether the client wants to go on using the connection.
        is_plain: it is a GET over HTTP/1.1 whose answer depends on the target alone, but for `Vary`.
        body_size: how many bytes follow the head; None if they come in chunks.
    """

    method: str
    target: str
    version: Version = Version.HTTP_1_1
    headers: Headers = field(default_factory=Headers)
    keeps_alive: bool = True
    is_plain: bool = False
    body_size: int | None = 0

    @property
    def has_body(self) -> bool:
        """Whether something follows the head."""
        return self.body_size != 0


class RequestReader:
    """Cuts requests out of the bytes of one connection.

    Args:
        limits: how large they may be.
        memo: heads read before, shared between connections; clients repeat themselves.
    """

    def __init__(self, limits: RequestLimits, memo: dict[bytes, Request] | None = None) -> None:
        self._limits = limits
        self._memo = memo if memo is not None else {}
        self._buffer = bytearray()
        self._seen = 0
        """How much of the buffer has been looked at; the last few bytes are looked at again."""

    @property
    def buffered(self) -> int:
        """How many bytes wait."""
        return len(self._buffer)

    def feed(self, data: bytes) -> Request | None:
        """Takes bytes, and gives the next request if it is complete.

        Raises:
            RequestError: what came is not to be answered otherwise than by refusing it.
        """
        if not self._buffer:
            known = self._memo.get(data)
            if known is not None:
                return known
            if self._is_one_head(data):
                return self._read(data)
        self._buffer += data
        return self.next()

    def _is_one_head(self, data: bytes) -> bool:
        end = data.find(_END)
        return 0 < end == len(data) - len(_END) and len(data) <= self._limits.head_bytes_max and data[0] != _RETURN

    def keep(self, data: bytes) -> None:
        """Takes bytes that are looked at later, by `next`."""
        self._buffer += data

    @property
    def pending(self) -> bytearray:
        """What has arrived and was not looked at; the body of the request read last is to be taken from its start."""
        return self._buffer

    def next(self) -> Request | None:
        """The next request, if its head is complete and the body before it was taken; raises as `feed`."""
        buffer = self._buffer
        while buffer.startswith(b"\r\n"):  # left behind by sloppy clients after a body (RFC 9112 §2.2)
            del buffer[:2]
            self._seen = 0
        end = buffer.find(_END, self._seen)
        if end < 0:
            self._check_unfinished()
            return None
        if end + len(_END) > self._limits.head_bytes_max:
            raise _too_large(bytes(buffer[: self._limits.head_bytes_max]), self._limits)
        head = bytes(buffer[: end + len(_END)])
        del buffer[: len(head)]
        self._seen = 0
        return self._memo.get(head) or self._read(head)

    def _read(self, head: bytes) -> Request:
        request = parse_request(head, self._limits)
        if len(head) <= MEMO_HEAD_BYTES_MAX:
            if len(self._memo) >= MEMO_ENTRIES_MAX:
                self._memo.clear()
            self._memo[head] = request
        return request

    def _check_unfinished(self) -> None:
        """Refuses what cannot become a request, instead of waiting for its end."""
        if len(self._buffer) > self._limits.head_bytes_max:
            raise _too_large(bytes(self._buffer), self._limits)
        end = len(self._buffer) - self._buffer.endswith(b"\r")  # which the next byte may complete
        if _FORBIDDEN.search(self._buffer, self._seen, end):
            raise RequestError(400, "its head has characters or line ends that HTTP forbids")
        self._seen = max(0, end - len(_END))


def parse_request(head: bytes, limits: RequestLimits) -> Request:
    """Reads the head of a request, up to and with the empty line.

    Raises:
        RequestError: it is malformed, too large, or not of a kind that is served.
    """
    line, _, rest = head.partition(b"\r\n")
    found = _COMMON_LINE.fullmatch(line)
    if found is None or len(rest) > MEMO_HEAD_BYTES_MAX or len(found[2]) > limits.target_bytes_max:
        return _parse_request(head, limits)
    like = _request_for_root(found[1], found[3], rest, limits)
    target = found[2].decode("ascii")
    return Request(like.method, target, like.version, like.headers, like.keeps_alive, like.is_plain, like.body_size)


@lru_cache(maxsize=_ALIKE_MAX)
def _request_for_root(method: bytes, version: bytes, rest: bytes, limits: RequestLimits) -> Request:
    """What a request would be with another target; clients send the same fields with each."""
    return _parse_request(b"%b / HTTP/1.%b\r\n%b" % (method, version, rest), limits)


def _parse_request(head: bytes, limits: RequestLimits) -> Request:
    if _FORBIDDEN.search(head):
        raise RequestError(400, "its head has characters or line ends that HTTP forbids")
    line = _REQUEST_LINE.match(head)
    if line is None:
        raise RequestError(400, "it does not begin with a request line")
    method, target = line[1].decode("ascii"), line[2].decode("ascii")
    if line[3] != b"1":
        raise RequestError(505, "its version of HTTP is not spoken here")
    if len(target) > limits.target_bytes_max:
        raise RequestError(414, f"its target is longer than {limits.target_bytes_max} bytes")
    if method in _NEVER_SERVED or len(method) > _METHOD_BYTES_MAX:
        raise method_refused(method)
    version = Version.HTTP_1_0 if line[4] == b"0" else Version.HTTP_1_1
    # The parser knows few methods by name; all that have bodies are alike to it.
    known = head if method in READING else b"POST" + head[len(method) :]
    return _checked(method, target, version, _fields(known, limits))


def method_refused(method: str) -> RequestError:
    """The refusal of a method that is not served (RFC 9110 §15.5.6, §15.6.2)."""
    return RequestError(405 if method in METHODS_KNOWN else 501, f"the method {method[:20]} is not served")


class _Fields:
    """What the parser calls back."""

    def __init__(self) -> None:
        self.pairs: list[tuple[str, str]] = []
        self.has_ended = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.pairs.append((name.decode("ascii"), value.decode("latin-1").strip(" \t")))

    def on_headers_complete(self) -> None:
        self.has_ended = True


def _fields(head: bytes, limits: RequestLimits) -> Headers:
    collected = _Fields()
    try:
        HttpRequestParser(collected).feed_data(head)
    except HttpParserUpgrade:
        pass  # an upgrade that is not made is ignored (RFC 9110 §7.8)
    except (HttpParserError, UnicodeDecodeError) as error:
        raise RequestError(400, f"it is malformed: {error}") from error
    if len(collected.pairs) > limits.fields_max:
        raise RequestError(431, f"it has more than {limits.fields_max} header fields")
    if not collected.has_ended:
        raise RequestError(400, "its head does not end where it seems to")
    return Headers.of(collected.pairs)


def _body_size(method: str, version: Version, headers: Headers) -> int | None:
    """How many bytes of body follow, None if they come in chunks (RFC 9112 §6).

    Raises:
        RequestError: it is not said, or in a way that others could read differently.
    """
    codings, lengths = headers.every("Transfer-Encoding"), headers.every("Content-Length")
    if method in READING:
        if codings or lengths not in {(), ("0",)}:
            raise RequestError(400, "a body is not taken with it")
        return 0
    if codings:
        if lengths or version is Version.HTTP_1_0 or [coding.lower() for coding in codings] != ["chunked"]:
            raise RequestError(400, "the length of its body is not certain")
        return None
    if not lengths:
        return 0
    if len(lengths) > 1 or not _LENGTH.fullmatch(lengths[0]):
        raise RequestError(400, "the length of its body is not certain")
    return int(lengths[0])


def _checked(method: str, target: str, version: Version, headers: Headers) -> Request:
    hosts = headers.every("Host")
    if len(hosts) > 1 or (not hosts and version is Version.HTTP_1_1):
        raise RequestError(400, "it must have exactly one Host field")
    if hosts and not _HOST.fullmatch(hosts[0]):
        raise RequestError(400, "its Host field names no host")
    expectation = headers.get("Expect")
    if expectation is not None and expectation.lower() != "100-continue":
        raise RequestError(417, "what it expects is not known")
    body_size = _body_size(method, version, headers)
    keeps_alive = _keeps_alive(version, headers)
    special = any(name.lower() in _SPECIAL for name, _ in headers)
    is_plain = method == "GET" and version is Version.HTTP_1_1 and keeps_alive and not special
    return Request(method, target, version, headers, keeps_alive, is_plain, body_size)


def _keeps_alive(version: Version, headers: Headers) -> bool:
    """RFC 9112 §9.3; to HTTP/1.0 proxies `Proxy-Connection` is what some clients say instead."""
    options = tokens(headers.joined("Connection") or headers.joined("Proxy-Connection") or "")
    return "close" not in options and (version is Version.HTTP_1_1 or "keep-alive" in options)


def _too_large(head: bytes, limits: RequestLimits) -> RequestError:
    line = head.partition(b"\r\n")[0]
    if len(line) > limits.target_bytes_max:
        return RequestError(414, f"its target is longer than {limits.target_bytes_max} bytes")
    return RequestError(431, f"its head is longer than {limits.head_bytes_max} bytes")
