"""Conditions and ranges, with literals."""

import pytest

from edge.conditional import ByteRange, UnsatisfiableRange, is_not_modified, requested_range
from edge.headers import Headers

DATE, EARLIER, LATER = (f"Tue, {day} Nov 2023 00:00:00 GMT" for day in (14, 13, 15))
RESPONSE = Headers((("ETag", '"a,b"'), ("Last-Modified", DATE)))


@pytest.mark.parametrize(
    ("request_fields", "expected"),
    [
        ((("If-None-Match", '"a,b"'),), True),
        ((("If-None-Match", 'W/"a,b"'),), True),
        ((("If-None-Match", '"x", "a,b"'),), True),
        ((("If-None-Match", '"x"'), ("If-None-Match", '"a,b"')), True),
        ((("If-None-Match", "*"),), True),
        ((("If-None-Match", '"a"'),), False),
        ((("If-None-Match", '"a"'), ("If-Modified-Since", LATER)), False),
        ((("If-Modified-Since", DATE),), True),
        ((("If-Modified-Since", LATER),), True),
        ((("If-Modified-Since", EARLIER),), False),
        ((("If-Modified-Since", "yesterday"),), False),
        ((), False),
    ],
)
def test_whether_the_client_has_it(request_fields, expected):
    assert is_not_modified(Headers(request_fields), RESPONSE) is expected


@pytest.mark.parametrize(("since", "expected"), [(EARLIER, False), (DATE, True), (LATER, True)])
def test_what_does_not_say_when_it_changed_did_so_when_it_was_sent_at_the_latest(since, expected):
    assert is_not_modified(Headers((("If-Modified-Since", since),)), Headers((("Date", DATE),))) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bytes=0-0", ByteRange(0, 1)),
        ("bytes=5-", ByteRange(5, 100)),
        ("bytes=5-1000", ByteRange(5, 100)),
        ("bytes=-7", ByteRange(93, 100)),
        ("bytes=-700", ByteRange(0, 100)),
        ("BYTES = 1-2 ", ByteRange(1, 3)),
        ("bytes=2-1", None),
        ("bytes=1-2,4-5", None),
        ("bytes=-", None),
        ("bytes=x-y", None),
        ("rows=1-2", None),
        ("bytes=1", None),
    ],
)
def test_the_part_that_is_wanted(text, expected):
    assert requested_range(Headers((("Range", text),)), RESPONSE, 100) == expected


@pytest.mark.parametrize("text", ["bytes=100-", "bytes=-0", "bytes=200-300", "bytes=99999999999999999-"])
def test_a_part_that_is_not_there(text):
    with pytest.raises(UnsatisfiableRange):
        requested_range(Headers((("Range", text),)), RESPONSE, 100)


@pytest.mark.parametrize(
    ("condition", "holds"),
    [('"a,b"', True), ('W/"a,b"', False), ('"x"', False), (DATE, True), (LATER, False), ("nonsense", False)],
)
def test_a_part_is_given_only_of_what_the_client_knows(condition, holds):
    request = Headers((("Range", "bytes=1-2"), ("If-Range", condition)))
    assert (requested_range(request, RESPONSE, 100) is not None) is holds
