"""Fuzz what servers answer: garbage is refused with one error, and an answer is the same whole or in pieces."""

from __future__ import annotations

import random
from collections.abc import Sequence

from cdn.transport.answer_reader import AnswerReader
from cdn.transport.chunks import MalformedAnswer
from tests.fuzz.driver import main

_OK = b"HTTP/1.1 200 OK\r\n"


def seeds() -> Sequence[bytes]:
    """Good answers of every framing."""
    return [
        _OK + b"Content-Length: 3\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\n\r\nabc",
        _OK + b"Transfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\nX: y\r\n\r\n",
        _OK + b"Connection: close\r\n\r\nuntil the end",
        b"HTTP/1.0 200 OK\nContent-Length: 1\n\na",
        b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\n\r\n',
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + _OK + b"Content-Length: 0\r\n\r\n",
    ]


def check(data: bytes) -> None:
    """Reads an answer whole and in pieces, and compares."""
    choices = random.Random(data)
    for has_body in (True, False):
        cuts = sorted(choices.randrange(len(data) + 1) for _ in range(choices.choice((1, 3, 20))))
        whole, split = _read([data], has_body=has_body), _read(_pieces(data, cuts), has_body=has_body)
        assert whole == split, "an answer depends on how its bytes arrived"
    AnswerReader().feed(data)  # says what is wrong, so that the driver can tell inputs apart


def _pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    return [data[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(data)], strict=True) if start < stop]


def _read(pieces: list[bytes], *, has_body: bool) -> tuple[object, ...] | None:
    reader, body = AnswerReader(has_body=has_body), b""
    try:
        for piece in pieces:
            body += reader.feed(piece)
    except MalformedAnswer:
        return None
    if reader.head is None:
        return None  # of a head without end it depends on the pieces how soon it is refused
    is_reusable, is_whole = reader.is_reusable, reader.end()
    assert reader.head.size is None or len(body) <= reader.head.size, "more than was said"
    assert not (has_body is False and body), "a body where there is none"
    assert not is_reusable or is_whole, "a connection is used again in the middle of an answer"
    return (reader.head, body, is_reusable, is_whole)


if __name__ == "__main__":
    main(
        "fuzz_http_answer",
        seeds,
        check,
        allowed=(MalformedAnswer,),
        tokens=[
            b"\r\n",
            b"\n",
            b"\r",
            b"0\r\n\r\n",
            b"Content-Length: ",
            b"Transfer-Encoding: chunked\r\n",
            b"Connection: close\r\n",
            b"HTTP/1.1 ",
            b"100 Continue\r\n\r\n",
            b" 204 ",
        ],
    )
