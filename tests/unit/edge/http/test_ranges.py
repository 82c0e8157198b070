"""Parts of a representation, with literals."""

import pytest

from edge.http.headers import Headers
from edge.http.ranges import RANGES_MAX, ByteRange, UnsatisfiableRange, boundary_of, multipart, requested_ranges

DATE, LATER = (f"Tue, {day} Nov 2023 00:00:00 GMT" for day in (14, 15))
RESPONSE = Headers((("ETag", '"a,b"'), ("Last-Modified", DATE)))
SIZE = 10_000


def wanted(text: str, size: int = SIZE, *, ascending: bool = False) -> tuple[tuple[int, int], ...] | None:
    parts = requested_ranges(Headers((("Range", text),)), RESPONSE, size, ascending=ascending)
    return None if parts is None else tuple((part.start, part.stop) for part in parts)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bytes=0-0", ((0, 1),)),
        ("bytes=5-", ((5, SIZE),)),
        ("bytes=5-100000", ((5, SIZE),)),
        ("bytes=-7", ((SIZE - 7, SIZE),)),
        ("bytes=-70000", ((0, SIZE),)),
        ("BYTES = 1-2 ", ((1, 3),)),
        ("bytes=1-2, ,", ((1, 3),)),
        ("bytes=2-1", None),
        ("bytes=-", None),
        ("bytes=", None),
        ("bytes=x-y", None),
        ("bytes=1-2-3", None),
        ("bytes=1 -2", None),
        ("rows=1-2", None),
        ("bytes=1", None),
    ],
)
def test_the_part_that_is_wanted(text, expected):
    assert wanted(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bytes=0-9,5000-5009", ((0, 10), (5000, 5010))),
        ("bytes=5000-5009,0-9", ((5000, 5010), (0, 10))),
        ("bytes=0-9,5000-5009,-1", ((0, 10), (5000, 5010), (SIZE - 1, SIZE))),
        ("bytes=0-9,20000-20009", ((0, 10),)),
        ("bytes=5000-5009,0-9,5-14", ((0, 15), (5000, 5010))),
        ("bytes=0-9,100-109", ((0, 110),)),
        ("bytes=0-9,0-9,0-9", ((0, 10),)),
        ("bytes=0-,0-,0-", ((0, SIZE),)),
        ("bytes=0-9,x", None),
        ("bytes=0-9,9-0", None),
        ("bytes=0-6000,6200-9999", None),
    ],
)
def test_several_parts_keep_their_order_unless_they_become_one(text, expected):
    assert wanted(text) == expected


def test_parts_of_what_still_arrives_are_in_its_order():
    assert wanted("bytes=5000-5009,0-9", ascending=True) == ((0, 10), (5000, 5010))


def test_more_parts_than_anybody_needs_are_the_whole():
    def texts(count: int) -> str:
        return "bytes=" + ",".join(f"{number * 1000}-{number * 1000}" for number in range(count))

    parts = wanted(texts(RANGES_MAX), 1 << 20)
    assert parts is not None
    assert len(parts) == RANGES_MAX
    assert wanted(texts(RANGES_MAX + 1), 1 << 20) is None
    assert wanted("bytes=" + "0-0," * 1300, 1 << 20) is None
    assert wanted("bytes=1-1" + " " * 5000) is None


@pytest.mark.parametrize(
    "text", ["bytes=10000-", "bytes=-0", "bytes=20000-30000", "bytes=99999999999999999-", "bytes=-0,10000-"]
)
def test_a_part_that_is_not_there(text):
    with pytest.raises(UnsatisfiableRange):
        wanted(text)


@pytest.mark.parametrize(
    ("condition", "holds"),
    [('"a,b"', True), ('W/"a,b"', False), ('"x"', False), (DATE, True), (LATER, False), ("nonsense", False)],
)
def test_a_part_is_given_only_of_what_the_client_knows(condition, holds):
    request = Headers((("Range", "bytes=1-2"), ("If-Range", condition)))
    assert (requested_ranges(request, RESPONSE, 100) is not None) is holds


def test_two_fields_are_none():
    assert requested_ranges(Headers((("Range", "bytes=1-2"), ("Range", "bytes=1-2"))), RESPONSE, 100) is None


def test_a_body_of_several_parts_says_of_each_what_it_is():
    segments = multipart((ByteRange(0, 2), ByteRange(7, 9)), 10, "text/plain", "xyz")
    assert segments == (
        b"--xyz\r\nContent-Type: text/plain\r\nContent-Range: bytes 0-1/10\r\n\r\n",
        ByteRange(0, 2),
        b"\r\n--xyz\r\nContent-Type: text/plain\r\nContent-Range: bytes 7-8/10\r\n\r\n",
        ByteRange(7, 9),
        b"\r\n--xyz--\r\n",
    )


def test_what_stands_between_parts_differs_from_answer_to_answer():
    first = boundary_of((ByteRange(0, 2),), "/a", '"1"')
    assert first != boundary_of((ByteRange(0, 2),), "/a", '"2"')
    assert first != boundary_of((ByteRange(0, 3),), "/a", '"1"')
