"""Where the body of a request ends, however it arrives."""

import pytest

from edge.http.request import RequestError
from edge.http.request_body import CHUNK_LINE_BYTES_MAX, TRAILER_BYTES_MAX, BodyDecoder

NEXT = b"GET / HTTP/1.1\r\n"
CHUNKS = b'5\r\nhello\r\n6;ext="a b"\r\n world\r\n0\r\nX-Trailer: y\r\n\r\n'


@pytest.mark.parametrize(("size", "stream"), [(11, b"hello world"), (None, CHUNKS)])
@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
def test_a_body_is_taken_and_what_follows_is_left(size, stream, step):
    decoder, buffer, body, data = BodyDecoder(size), bytearray(), b"", stream + NEXT
    for start in range(0, len(data), step):
        buffer += data[start : start + step]
        body += decoder.take(buffer)
    assert (body, decoder.is_complete, bytes(buffer)) == (b"hello world", True, NEXT)


def test_no_body_is_complete_at_once():
    buffer = bytearray(NEXT)
    decoder = BodyDecoder(0)
    assert (decoder.is_complete, decoder.take(buffer), buffer) == (True, b"", NEXT)


@pytest.mark.parametrize(
    "stream",
    [
        b"5\nhello\n0\n\n",
        b"0x5\r\nhello\r\n",
        b" 5\r\nhello\r\n",
        b"-1\r\n",
        b"\r\n",
        b"5\r\nhello!\r\n",
        b"5\r\nhelloX\n",
        b"f" * 16 + b"\r\n",
        b"5;\x00\r\nhello\r\n",
        b"5;" + b"x" * CHUNK_LINE_BYTES_MAX + b"\r\n",
        b"5;" + b"x" * (2 * CHUNK_LINE_BYTES_MAX),
        b"0\r\nno field\r\n\r\n",
        b"0\r\n" + b"A: b\r\n" * TRAILER_BYTES_MAX,
    ],
)
@pytest.mark.parametrize("step", [1, 100_000])
def test_chunks_that_could_be_read_in_two_ways_are_refused(stream, step):
    decoder, buffer = BodyDecoder(None), bytearray()
    with pytest.raises(RequestError) as refused:
        for start in range(0, len(stream), step):
            buffer += stream[start : start + step]
            decoder.take(buffer)
    assert refused.value.status == 400
