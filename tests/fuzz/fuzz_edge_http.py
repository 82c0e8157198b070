"""Connections of strangers to an edge: whatever they send, each request gets its one answer or the connection ends.

Every input is read twice. First by the parser alone, whole and byte by byte: the same requests must come out. Then by a
real edge over a real socket, whole and in pieces: the answers must be proper HTTP, as many as there are requests, the
same however the bytes arrived, and no exception may reach the event loop.
"""

from __future__ import annotations

import asyncio
import random
import re
import socket
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cdn.clock import ManualClock
from cdn.errors import DocumentError
from cdn.transport.base import Request as Asked
from cdn.transport.memory import Answer, MemoryFetcher
from edge.config import AdminSettings, CacheSettings, EdgeConfig, ForwardSettings, ListenSettings, UpstreamSettings
from edge.connection.protocol import Connection
from edge.content import content_of
from edge.http.request import Request, RequestError, RequestLimits, RequestReader
from edge.http.request_body import BodyDecoder
from edge.http.target import parse_target
from edge.routing import Routes
from edge.server import EdgeServer
from edge.settings.limits import LimitSettings
from tests.fakes.edge import manifest_bytes, object_of
from tests.fuzz.driver import main

LIMITS = RequestLimits(head_bytes_max=4096, fields_max=30, target_bytes_max=1000)
CONFIG = EdgeConfig(
    (
        UpstreamSettings("all", ("http://s1/cvmfs/@fqrn@",)),
        UpstreamSettings("site", ("http://site/base/",), path="/site/"),
    ),
    listen=ListenSettings(("127.0.0.1:0",)),
    admin=AdminSettings(""),
    forward=ForwardSettings(allow=("http://other/pub/",)),
    limits=LimitSettings(
        head_bytes_max=LIMITS.head_bytes_max,
        fields_max=LIMITS.fields_max,
        target_bytes_max=LIMITS.target_bytes_max,
        pipelined_max=3,
    ),
)
ROUTES = Routes(CONFIG)
SMALL, LARGE = bytes(range(256)) * 4, random.Random(1).randbytes(70_000)
BODIES = {object_of(SMALL): SMALL, object_of(LARGE): LARGE}
_ALLOWED = ("http://s1/cvmfs/", "http://other/pub/", "http://site/base/")
_SPLIT_BYTES_MAX = 1500


# ------------------------------------------------------------------------------------------------------------- grammar

_METHODS = ("GET", "GET", "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "CONNECT", "TRACE", "PRI", "get")
_TARGETS = (
    *BODIES,
    *(f"http://s1{target}" for target in BODIES),
    "/cvmfs/sw.example.org/.cvmfspublished",
    "/site/x?y=z",
    "http://other/pub/a%20b?c=d",
    "http://elsewhere/",
    "/healthz",
    "/site/../x",
    "*",
    "s1:443",
)
_VERSIONS = ("HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/0.9")
_FIELDS = (
    "Host: e",
    "Host: s1",
    "Connection: close",
    "Connection: keep-alive",
    "Connection: Upgrade, HTTP2-Settings",
    "Upgrade: h2c",
    "Pragma: no-cache",
    "Cache-Control: no-cache",
    "Cache-Control: only-if-cached",
    "Range: bytes=0-5",
    "Range: bytes=0-5,500-505,-5",
    "Range: bytes=0-,0-,0-",
    'If-Range: "x"',
    "If-None-Match: *",
    "If-Modified-Since: Tue, 14 Nov 2033 00:00:00 GMT",
    "Expect: 100-continue",
    "Expect: 200-ok",
    "TE: trailers",
    "Authorization: Basic eDp5",
    "Max-Forwards: 0",
    "Via: 1.1 edge.test",
    "User-Agent: cvmfs Fuse 2.12.0",
    "X-Empty:",
    "X : y",
    " folded",
    "X: a\rb",
    "X: a\0b",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: xchunked",
    "transfer-encoding:\tchunked",
    "Content-Length: 5",
    "Content-Length: 5",
    "Content-Length: 05",
    "Content-Length: +5",
    "Content-Length: 5, 5",
    "Content-Length: 18446744073709551621",
    "Content-Length: 0",
)
_REST = (
    "",
    "hello",
    "5\r\nhello\r\n0\r\n\r\n",
    "5;a=b\r\nhello\r\n0\r\nA: b\r\n\r\n",
    "5\nhello\r\n0\r\n\r\n",
    "0x5\r\nhello\r\n0\r\n\r\n",
    "-5\r\nhello\r\n",
    "FFFFFFFFFFFFFFFFF\r\n",
    "5;" + "x" * 300 + "\r\nhello\r\n0\r\n\r\n",
)


def grown(choices: random.Random) -> bytes:
    """A connection's worth of requests, most of them nearly right."""
    requests = []
    for _ in range(choices.choice((1, 1, 2, 3, 5, 12))):
        fields = choices.sample(_FIELDS, choices.choice((0, 1, 2, 4)))
        if choices.random() < 0.9:
            fields.insert(0, "Host: e")
        line = f"{choices.choice(_METHODS)} {choices.choice(_TARGETS)} {choices.choice(_VERSIONS)}"
        end = "\r\n" if choices.random() < 0.97 else "\n"
        body = choices.choice(_REST) if choices.random() < 0.4 else ""
        requests.append(end.join((line, *fields, "", "")) + body)
    return "".join(requests).encode("latin-1")


def seeds() -> list[bytes]:
    """Requests as real clients send them, and as smugglers do."""
    choices = random.Random(2)
    small = next(iter(BODIES))
    agent = "Host: e\r\nUser-Agent: cvmfs Fuse 2.12.0\r\nConnection: Keep-Alive\r\n"
    known = [
        *(f"GET {target} HTTP/1.1\r\n{agent}\r\n" * 4 for target in BODIES),
        f"GET {small} HTTP/1.1\r\n{agent}Range: bytes=0-5, 700-\r\n\r\nHEAD {small} HTTP/1.0\r\n\r\n",
        f"PUT /site/x HTTP/1.1\r\n{agent}Content-Length: 5\r\n\r\nhelloGET {small} HTTP/1.1\r\nHost: e\r\n\r\n",
        "POST /site/x HTTP/1.1\r\nHost: e\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nA: b\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ]
    return [each.encode() for each in known] + [grown(choices) for _ in range(150)]


# ---------------------------------------------------------------------------------------------------------- the parser


def check(data: bytes) -> None:
    """The same requests come out whole and byte by byte, each leads to allowed sources, and an edge answers them."""
    whole, whole_end = _requests([data])
    single, single_end = _requests([data[start : start + 1] for start in range(min(len(data), 3000))])
    if len(data) <= 3000:
        assert [each for each, _ in whole] == [each for each, _ in single], "requests depend on how the bytes arrived"
        assert whole_end is not None or whole == single, "bodies depend on how the bytes arrived"
        assert (whole_end is None) == (single_end is None), "a refusal depends on how the bytes arrived"
    for request, _ in whole:
        _check_destination(request)
    _run(_check_answers(data, [request for request, _ in whole], is_refused=whole_end is not None))
    if whole_end is not None:
        raise whole_end


def _requests(pieces: list[bytes]) -> tuple[list[tuple[Request, bytes]], RequestError | None]:
    """Requests with their bodies, as far as those came."""
    reader, found = RequestReader(LIMITS), []
    decoder = BodyDecoder(0)
    try:
        for piece in pieces:
            reader.keep(piece)
            while True:
                if not decoder.is_complete:
                    request, body = found[-1]
                    found[-1] = (request, body + decoder.take(reader.pending))
                    if not decoder.is_complete:
                        break
                following = reader.next()
                if following is None:
                    break
                found.append((following, b""))
                decoder = BodyDecoder(following.body_size)
    except RequestError as error:
        return found, error
    assert reader.buffered <= LIMITS.head_bytes_max, "more is kept than a head may have"
    return found, None


def _check_destination(request: Request) -> None:
    assert request.method not in {"CONNECT", "TRACE"}
    names = [name.lower() for name, _ in request.headers]
    assert not request.is_plain or "transfer-encoding" not in names
    assert not {"transfer-encoding", "content-length"} <= set(names), "a body has two ends"
    try:
        target = parse_target(request.target)
        destination = ROUTES.locate(target)
    except RequestError:
        return
    assert parse_target(target.url) == target, "a canonical target has another canonical form"
    for source in destination.sources:
        assert source.url.startswith(_ALLOWED), f"{source.url} is not allowed"
        assert "/../" not in source.url
        assert destination.is_general or content_of(target.path).digest == destination.content.digest


# ------------------------------------------------------------------------------------------------------------ the edge


@dataclass
class _Bench:
    """One edge for all inputs of a process."""

    runner: asyncio.Runner
    edge: EdgeServer
    fetcher: MemoryFetcher
    directory: tempfile.TemporaryDirectory[str]
    complaints: list[dict[str, Any]] = field(default_factory=list)


_benches: list[_Bench] = []


def _upstream(asked: Asked) -> Answer:
    assert asked.url.startswith(_ALLOWED), f"{asked.url} was asked for"
    path = asked.url[len("http://s1") :]
    if path in BODIES and asked.method == "GET":
        return Answer(BODIES[path])
    if path.endswith(".cvmfspublished"):
        return Answer(manifest_bytes(1))
    if asked.url.startswith("http://site/"):
        return Answer(b"site\n", headers={"Cache-Control": "no-store"})
    return Answer(b"no such thing\n", 404)


def _bench() -> _Bench:
    if not _benches:
        directory = tempfile.TemporaryDirectory(prefix="fuzz-edge-")
        cache = CacheSettings(Path(directory.name) / "cache", memory_object_bytes=20_000, scrub_bytes_per_second=0)
        config = replace(CONFIG, name="edge.test", cache=cache)
        runner, fetcher = asyncio.Runner(loop_factory=_new_loop), MemoryFetcher(_upstream)
        bench = _Bench(runner, EdgeServer(config, clock=ManualClock(), fetcher=fetcher), fetcher, directory)
        runner.get_loop().set_exception_handler(lambda _, context: bench.complaints.append(context))
        _benches.append(bench)
        runner.run(bench.edge.start())
        for target, body in BODIES.items():
            for _ in range(2):
                request = f"GET {target} HTTP/1.1\r\nHost: e\r\n\r\n".encode()
                assert runner.run(_talk(bench, [request])).endswith(body)
    return _benches[0]


def _new_loop() -> asyncio.AbstractEventLoop:
    """The kind of loop that an edge runs in."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def _run(work: Any) -> None:
    bench = _bench()
    bench.runner.run(work)
    assert not bench.complaints, f"the loop was told {bench.complaints}"
    assert bench.edge.statistics.failures == 0, "a request crashed"


async def _talk(bench: _Bench, pieces: list[bytes]) -> bytes:
    """What an edge sends to a client that sends these pieces and nothing more."""
    shared, loop = bench.edge.parts.shared, asyncio.get_running_loop()
    assert shared is not None
    ours, theirs = socket.socketpair()
    with ours:
        ours.setblocking(False)
        await loop.connect_accepted_socket(lambda: Connection(shared), theirs)
        sending = asyncio.create_task(_send(ours, pieces))
        answer = bytearray()
        with suppress(ConnectionError):
            while piece := await loop.sock_recv(ours, 1 << 20):
                answer += piece
        await sending
    while shared.connections:  # noqa: ASYNC110 -- there is no event for it
        await asyncio.sleep(0)  # a turn for the edge
    return bytes(answer)


async def _send(sock: socket.socket, pieces: list[bytes]) -> None:
    loop = asyncio.get_running_loop()
    with suppress(OSError):
        for piece in pieces:
            await loop.sock_sendall(sock, piece)
            await asyncio.sleep(0)  # the edge, in this loop, reads each piece by itself
        sock.shutdown(socket.SHUT_WR)


async def _check_answers(data: bytes, requests: list[Request], *, is_refused: bool) -> None:
    """The answers to an input, whole and in pieces."""
    bench = _bench()
    whole = _answers(await _talk(bench, [data]), requests, is_refused=is_refused)
    choices = random.Random(data)
    cuts = sorted(choices.randrange(len(data) + 1) for _ in range(choices.choice((1, 2, 5, 20))))
    pieces = [data[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(data)], strict=True) if start < stop]
    if len(data) <= _SPLIT_BYTES_MAX and choices.random() < 0.2:
        pieces = [data[place : place + 1] for place in range(len(data))]
    split = _answers(await _talk(bench, pieces), requests, is_refused=is_refused)
    assert _known(whole, requests) == _known(split, requests), "answers depend on how the bytes arrived"
    for (status, body), request in zip(whole, requests, strict=False):
        path = request.target.removeprefix("http://s1")
        if status == 200 and request.method == "GET" and path in BODIES:
            assert body == BODIES[path], "an object with other bytes"


def _known(answers: list[tuple[int, bytes]], requests: list[Request]) -> list[tuple[int, bytes]]:
    """What must be the same however the bytes arrived; of several things that are wrong any may be named."""
    return [
        (status if number < len(requests) else 0, body if status < 400 else b"")
        for number, (status, body) in enumerate(answers)
    ]


_FIELD = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+: ?[\t\x20-\xff]*\r\n"
_HEAD = re.compile(rb"HTTP/1\.1 ([1-5][0-9]{2}) [\x20-\x7e]*\r\n((?:" + _FIELD + rb")*)\r\n")


def _answers(sent: bytes, requests: list[Request], *, is_refused: bool) -> list[tuple[int, bytes]]:
    """Status and body of each answer.

    There is one for each request, and one more if something was refused; fewer only if the last one ends the
    connection.
    """
    answers: list[tuple[int, bytes]] = []
    position, is_last = 0, False
    while position < len(sent):
        assert not is_last, "something follows the answer that ends the connection"
        found = _HEAD.match(sent, position)
        assert found is not None, f"this is no head: {sent[position : position + 200]!r}"
        status, position = int(found[1]), found.end()
        fields = [tuple(line.split(b":", 1)) for line in found[2].lower().split(b"\r\n") if line]
        lengths = [value.strip() for name, value in fields if name == b"content-length"]
        is_chunked = any(name == b"transfer-encoding" for name, _ in fields)
        is_last = any(name == b"connection" and value.strip() == b"close" for name, value in fields)
        assert len(lengths) + is_chunked <= 1, "a body has two ends"
        if status < 200:
            continue
        assert len(answers) < len(requests) + is_refused, "there are more answers than requests"
        request = requests[len(answers)] if len(answers) < len(requests) else None
        body = b""
        if status in {204, 304} or (request is not None and request.method == "HEAD"):
            pass
        elif is_chunked:
            body, position = _dechunked(sent, position)
        elif lengths:
            body = sent[position : position + int(lengths[0])]
            assert len(body) == int(lengths[0]), "a body is shorter than it says"
            position += len(body)
        else:
            assert is_last, "a body has no end"
            body, position = sent[position:], len(sent)
        answers.append((status, body))
    return answers


def _dechunked(sent: bytes, position: int) -> tuple[bytes, int]:
    body = b""
    while True:
        found = re.compile(rb"([0-9a-f]+)\r\n").match(sent, position)
        assert found is not None, "this is no chunk"
        size, position = int(found[1], 16), found.end()
        body += sent[position : position + size]
        assert sent[position + size : position + size + 2] == b"\r\n"
        position += size + 2
        if size == 0:
            return body, position


if __name__ == "__main__":
    main(
        "fuzz_edge_http",
        seeds,
        check,
        allowed=(DocumentError,),
        tokens=[
            b"\r\n",
            b"\r\n\r\n",
            b"%2e%2e",
            b"%2f",
            b"http://",
            b"@",
            b"\\",
            b" HTTP/1.1\r\nHost: e\r\n",
            *(each.encode("latin-1") + b"\r\n" for each in _FIELDS),
            *(each.encode() for each in _REST if each),
            *(f"GET {target} HTTP/1.1\r\nHost: e\r\n\r\n".encode() for target in _TARGETS[:4]),
        ],
    )
