"""Conditions, with literals."""

import pytest

from edge.http.conditional import is_not_modified
from edge.http.headers import Headers

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
