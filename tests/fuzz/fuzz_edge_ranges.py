"""Ranges and conditions of strangers: parts that lie within the body, and are no more than it, or a refusal."""

from __future__ import annotations

from edge.content import content_of
from edge.http.answering import CacheStatus, Representation, answer_from
from edge.http.caching import Lifetime, StoredHead
from edge.http.headers import Headers
from edge.http.ranges import RANGES_MAX, ByteRange
from edge.http.request import Request
from tests.fuzz.driver import main

NOW = 1_700_000_000.0
BODY = bytes(range(256)) * 40
_RESPONSE = Headers((("ETag", '"a,b"'), ("Last-Modified", "Tue, 14 Nov 2023 00:00:00 GMT"), ("Content-Type", "a/b")))
_NAMES = ("Range", "If-Range", "If-None-Match", "If-Modified-Since")


def seeds() -> list[bytes]:
    """Four fields each, a line for each, empty for none."""
    return [
        b"bytes=0-5\n\n\n",
        b'bytes=0-5, 700-\n"a,b"\n\n',
        b'bytes=-5,100-200,8000-\n\n"x", W/"y"\n',
        b"bytes=0-,0-,0-,0-\nTue, 14 Nov 2023 00:00:00 GMT\n\n",
        b"bytes=9000-9100,10-20,15-30\n\n*\nTue, 14 Nov 2023 00:00:00 GMT",
        b"BYTES = 1-2 , ,\nTuesday, 14-Nov-23 00:00:00 GMT\n\nTue Nov 14 00:00:00 2023",
        b"bytes=" + b"0-0," * 70 + b"\n\n\n",
    ]


def check(data: bytes) -> None:
    """Whatever is asked for, the answer is one of five, and never larger than the body."""
    texts = data.decode("latin-1").split("\n")[: len(_NAMES)]
    fields = Headers(tuple((name, text) for name, text in zip(_NAMES, texts, strict=False) if text))
    request = Request("GET", "/x", headers=fields)
    for size in (0, 1, 1000, len(BODY)):
        for is_arriving in (False, True):
            source = Representation(
                StoredHead(200, _RESPONSE, NOW, NOW), content_of("/x"), Lifetime(), size, is_arriving=is_arriving
            )
            answer = answer_from(source, request, NOW, CacheStatus(is_hit=True), "e")
            sent = answer.taken_from(BODY[:size])
            assert answer.status in {200, 206, 304, 416}
            assert answer.size == len(sent) <= size
            parts = [part for part in answer.parts if isinstance(part, ByteRange)]
            assert len(parts) <= RANGES_MAX
            assert all(0 <= part.start < part.stop <= size for part in parts)
            assert not is_arriving or [part.start for part in parts] == sorted(part.start for part in parts)


if __name__ == "__main__":
    main("fuzz_edge_ranges", seeds, check, tokens=[b"bytes=", b"-", b",", b"0-", b"-1", b"1-2,", b'"', b"W/", b" GMT"])
