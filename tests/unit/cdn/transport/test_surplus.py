"""Where an answer ends, however its bytes arrive."""

import pytest

from cdn.transport.surplus import AnswerEnd

SAID = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
HINT = b"HTTP/1.1 103 Early Hints\r\nContent-Length: 9\r\n\r\n"


@pytest.mark.parametrize(
    ("whole", "has_body"),
    [
        (SAID, True),
        (HINT + HINT + SAID, True),
        (b"HTTP/1.1 200 OK\r\ncontent-length : 5 \r\nContent-Length: 5\r\n\r\nhello", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", False),
        (b"HTTP/1.1 204 No Content\r\n\r\n", True),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", True),
    ],
)
@pytest.mark.parametrize("step", [1, 2, 7, 10_000])
def test_what_comes_after_an_answer_is_cut_off(whole, has_body, step):
    for surplus in (b"", b"HTTP/1.1 200 OK\r\n\r\nmore"):
        end, data = AnswerEnd(has_body=has_body), whole + surplus
        taken = b"".join(end.take(data[start : start + step]) for start in range(0, len(data), step))
        assert (taken, end.has_surplus) == (whole, bool(surplus))


@pytest.mark.parametrize(
    "whole",
    [
        b"HTTP/1.1 200 OK\r\n\r\nuntil the end",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nmore",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nmore",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nmore",
        b"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\nmore",
        b"HTTP/1.1 101 Switching\r\nContent-Length: 0\r\n\r\nmore",
        b"SSH-2.0\r\n\r\nmore",
        b"no head at all" * 100_000,
    ],
)
@pytest.mark.parametrize("step", [1000, 3_000_000])
def test_what_only_the_parser_understands_is_left_to_it(whole, step):
    end = AnswerEnd()
    assert b"".join(end.take(whole[start : start + step]) for start in range(0, len(whole), step)) == whole
    assert not end.has_surplus
