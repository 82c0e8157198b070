"""Answers from bytes: the same however they arrive, nothing that can be read in two ways, no more than allowed."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdn.transport.answer_reader import HEAD_BYTES_MAX, AnswerReader
from cdn.transport.chunks import LINE_BYTES_MAX, TRAILER_BYTES_MAX, MalformedAnswer

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


def read(data: bytes, cuts: tuple[int, ...] = (), **options) -> tuple[AnswerReader, bytes]:
    reader, body = AnswerReader(**options), b""
    for start, stop in zip((0, *cuts), (*cuts, len(data)), strict=True):
        body += reader.feed(data[start:stop])
    return reader, body


GOOD = [
    (OK + b"Content-Length: 3\r\n\r\nabc", b"abc"),
    (OK + b"Content-Length: 3, 3\r\nContent-Length: 3\r\n\r\nabc", b"abc"),
    (OK + b"Content-Length: 0\r\n\r\n", b""),
    (CHUNKED + b'3\r\nabc\r\n0a ; x="y"\r\n0123456789\r\n0\r\n\r\n', b"abc0123456789"),
    (CHUNKED + b"0\r\nX: y\r\nZ: y\r\n\r\n", b""),
    (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", b""),
    (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + OK + b"Content-Length: 1\r\n\r\na", b"a"),
    (b"HTTP/1.1 200\r\nA:\r\nB: \xe9 \t\r\nContent-Length: 1\r\n\r\na", b"a"),
]


@pytest.mark.parametrize(("data", "body"), GOOD)
def test_an_answer_is_the_same_however_its_bytes_arrive(data, body) -> None:
    whole, got = read(data)
    assert (got, whole.is_complete, whole.is_reusable) == (body, True, True)
    for seed in range(30):
        cuts = tuple(sorted(random.Random(seed).choices(range(len(data) + 1), k=seed)))
        reader, got = read(data, cuts)
        assert (got, reader.head, reader.is_reusable) == (body, whole.head, True)
    reader, got = read(data, tuple(range(1, len(data))))
    assert (got, reader.head, reader.is_reusable) == (body, whole.head, True)


def test_an_answer_to_head_has_no_body_but_tells_its_size() -> None:
    for framing, size in ((b"Content-Length: 7", 7), (b"Transfer-Encoding: chunked", None)):
        reader, _ = read(OK + framing + b"\r\n\r\n", has_body=False)
        assert (reader.is_reusable, reader.head.size) == (True, size)


def test_interim_answers_are_told_but_for_continue() -> None:
    told = []
    data = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\nLink: y\r\n\r\n" + GOOD[0][0]
    _, body = read(data, (30,), on_interim=lambda *each: told.append(each))
    assert body == b"abc"
    assert told == [(103, (("Link", "x"), ("Link", "y")))]


ODD = [
    (GOOD[0][0] + b"\r\n", b"abc"),
    (GOOD[0][0] + GOOD[0][0], b"abc"),
    (CHUNKED + b"1\r\na\r\n0\r\n\r\nHTTP", b"a"),
    (OK.replace(b"\r\n", b"\n") + b"Content-Length: 3\n\nabc", b"abc"),
    (OK + b"Content-Length: 3\n\r\nabc", b"abc"),
    (OK + b"Content-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", b"a"),
    (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", b"a"),
    (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\na", b"a"),
    (OK + b"Connection: x, Close\r\nContent-Length: 1\r\n\r\na", b"a"),
    (b"HTTP/1.1 204 No Content\r\n\r\nabc", b""),
]


@pytest.mark.parametrize(("data", "body"), ODD)
def test_what_is_odd_is_read_and_its_connection_not_used_again(data, body) -> None:
    reader, got = read(data)
    assert (got, reader.is_complete, reader.is_reusable) == (body, True, False)


def test_a_body_without_framing_ends_with_the_connection() -> None:
    reader, got = read(OK + b"\r\nabc")
    assert (got, reader.is_complete, reader.left) == (b"abc", False, None)
    assert reader.end()
    assert not reader.is_reusable
    reader, got = read(OK + b"Content-Length: 1\r\nTransfer-Encoding: identity, X-Own\r\n\r\nabc")
    assert (got, reader.left, reader.end(), reader.is_reusable) == (b"abc", None, True, False)
    for data in (GOOD[0][0][:-1], CHUNKED + b"3\r\nabc\r\n", OK):
        assert not read(data)[0].end()


BAD = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 3, 4\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: +3\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 0x3\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: \xb2\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length : 3\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: x-gzip\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding:\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n A: folded\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nA: b\rContent-Length: 3\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nA: b\0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n: b\r\n\r\n",
    b"HTTP/2 200 OK\r\n\r\n",
    b"HTTP/1.1  200 OK\r\n\r\n",
    b"HTTP/1.1 099 OK\r\n\r\n",
    b"HTTP/1.1 101 Switching\r\n\r\n",
    b"\r\nHTTP/1.1 200 OK\r\n\r\n",
    b"ICY 200 OK\r\n",
    b"HTTP/1.1 100 C\r\n\r\n" * 40,
    CHUNKED + b"3\nabc\r\n",
    CHUNKED + b"3\r\nabcd\r\n",
    CHUNKED + b"3\r\nabc\n",
    CHUNKED + b"-3\r\n",
    CHUNKED + b"0x3\r\n",
    CHUNKED + b"3_0\r\n",
    CHUNKED + b" 3\r\n",
    CHUNKED + b"\r\n",
    CHUNKED + b"0\r\nA: b\n\r\n",
    CHUNKED + b"f" * 16 + b"\r\n",
    CHUNKED + b"1;" + b"x" * LINE_BYTES_MAX,
    CHUNKED + b"0\r\n" + b"A: b\r\n" * (TRAILER_BYTES_MAX // 6 + 1),
    OK + b"A: " + b"x" * 8200,
    OK + b"A: " + b"x" * 8200 + b"\r\n\r\n",
    OK + b"A: b\r\n" * 129 + b"\r\n",
    OK + b"A: b\r\n" * (HEAD_BYTES_MAX // 6 + 1),
]


@pytest.mark.parametrize("data", BAD)
def test_what_is_no_answer_is_refused_however_it_arrives(data) -> None:
    with pytest.raises(MalformedAnswer):
        read(data)
    with pytest.raises(MalformedAnswer):
        read(data, tuple(range(7, len(data), max(7, len(data) // 200))))


NAMES = ("ETag", "Etag", "Last-Modified", "Content-Length", "content-length", "Connection", "Transfer-Encoding", "Date")
VALUES = (
    "5",
    "05",
    " 5 ",
    "5,5",
    "5, 6",
    "-1",
    "9" * 19,
    '"tag"',
    "close",
    "chunked",
    "\xe9",
    "x" * 128,
    "x" * 129,
    "",
)


def outcome(head: str) -> object:
    """What comes of a head and five bytes; names of fields in lower case."""
    reader = AnswerReader()
    try:
        body = reader.feed(head.encode("latin-1") + b"hello")
    except MalformedAnswer:
        return None
    answer = reader.answer()
    if answer is None:
        return "unfinished"
    fields = sorted((name.lower(), value) for name, value in answer.fields)
    return answer.status, fields, answer.size, answer.keeps_alive, body, reader.is_complete, reader.is_reusable


@given(
    st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES)), max_size=4),
    st.sampled_from(["\r\n", "\n", "\r\n "]),
)
def test_what_differs_from_object_to_object_is_read_as_strictly_as_the_rest(fields, odd_end):
    lines = [f"{name}: {value}" for name, value in fields]
    usual = "\r\n".join(["HTTP/1.1 200 OK", *lines]) + "\r\n\r\n"
    other = "\r\n".join(["HTTP/1.1 200 OK", *(f"{name.upper()}: {value}" for name, value in fields)]) + "\r\n\r\n"
    assert outcome(usual) == outcome(other)  # names in capitals are read with all other lines
    assert outcome(usual.replace("\r\n", odd_end, 2)) == outcome(other.replace("\r\n", odd_end, 2))
