"""Requests and answers between workers, as bytes and as values."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdn.errors import DocumentError
from edge.content import Content, ContentKind
from edge.http.answering import Answer, render_head
from edge.http.headers import Headers
from edge.http.request import Request, RequestLimits, parse_request
from edge.http.target import Target
from edge.relaying.relayed_head import (
    CLIENT_FIELD,
    KEY_FIELD,
    RESULT_FIELD,
    forget_request,
    read_relayed_head,
    relayed_request,
)
from edge.routing import Destination

LIMITS = RequestLimits()
NAMES = st.from_regex(r"X-[A-Za-z0-9]{1,10}", fullmatch=True)
VALUES = st.text(st.characters(min_codepoint=0x21, max_codepoint=0xFF, exclude_characters="\x7f")).filter(
    lambda text: text == text.strip()
)


def to(kind: ContentKind) -> Destination:
    return Destination("key", Content(kind), (), Target("", "/x"))


def sent(text: str, kind: ContentKind = ContentKind.OTHER, client: str = "192.0.2.1") -> Request:
    """A client's request as the owner reads it."""
    return parse_request(relayed_request(parse_request(text.encode("latin-1"), LIMITS), to(kind), client), LIMITS)


def test_a_plain_request_for_an_object_is_the_same_for_all_clients():
    one = parse_request(b"GET /x HTTP/1.1\r\nHost: a\r\nUser-Agent: b\r\n\r\n", LIMITS)
    other = parse_request(b"GET /x HTTP/1.1\r\nHost: c\r\nAccept: d\r\n\r\n", LIMITS)
    destination = to(ContentKind.OBJECT)
    assert relayed_request(one, destination, "1") == relayed_request(other, destination, "2")
    assert parse_request(relayed_request(one, destination, "1"), LIMITS).is_plain


@pytest.mark.parametrize("kind", [ContentKind.OBJECT, ContentKind.OTHER])
@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_the_id_of_a_request_goes_with_it_in_place_of_what_the_client_says(kind, method):
    text = f"{method} /x HTTP/1.1\r\nHost: a\r\nX-Request-ID: evil\r\nx-request-id: evil\r\n\r\n"
    request = parse_request(text.encode("latin-1"), LIMITS)
    relayed = parse_request(relayed_request(request, to(kind), "192.0.2.1", "good"), LIMITS)
    assert relayed.headers.every("X-Request-ID") == ("good",)


@given(st.lists(st.tuples(NAMES, VALUES), max_size=5))
def test_the_fields_of_a_request_arrive_as_they_were(pairs):
    head = "".join(f"{name}: {value}\r\n" for name, value in pairs)
    request = sent(f"PUT /x HTTP/1.1\r\nHost: a\r\n{head}Content-Length: 7\r\n\r\n")
    assert (request.method, request.target, request.body_size) == ("PUT", "/x", 7)
    assert [pair for pair in request.headers if pair[0].startswith("X-")] == pairs


def test_what_a_client_says_in_private_fields_is_replaced_and_what_is_for_this_connection_dropped():
    request = sent(
        f"POST /x HTTP/1.1\r\nHost: a\r\n{CLIENT_FIELD}: evil\r\n{KEY_FIELD.upper()}: evil\r\nConnection: x-gone\r\n"
        "X-Gone: 1\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    assert request.headers.every(CLIENT_FIELD) == ("192.0.2.1",)
    assert request.body_size is None
    for name in (KEY_FIELD, "X-Gone", "Expect", "Connection"):
        assert name not in request.headers


def test_an_old_request_without_a_host_is_readable():
    assert sent("GET /x HTTP/1.0\r\n\r\n").headers.get("Host") == ""


def test_what_shall_be_forgotten_arrives():
    assert parse_request(forget_request(KEY_FIELD, "site:/a?b"), LIMITS).headers.get(KEY_FIELD) == "site:/a?b"


@given(
    st.sampled_from([200, 206, 304, 404, 503]),
    st.lists(st.tuples(NAMES, VALUES), max_size=5),
    st.one_of(st.none(), st.integers(0, 1 << 40)),
    st.booleans(),
)
def test_an_answer_arrives_as_it_was(status, pairs, size, keeps_alive):
    headers = Headers((*pairs, (RESULT_FIELD, "miss")))
    head = read_relayed_head(
        render_head(Answer(status, headers, 0, size), Request("GET", "/"), keeps_alive=keeps_alive)
    )
    assert (head.status, list(head.headers), head.keeps_alive) == (status, pairs, keeps_alive)
    assert head.size == (None if status == 304 else size)
    assert head.result == "miss"


def test_an_answer_without_a_result_or_with_an_unheard_of_one_is_a_hit():
    for headers in (Headers(), Headers(((RESULT_FIELD, "nonsense"),))):
        assert (
            read_relayed_head(render_head(Answer(200, headers), Request("GET", "/"), keeps_alive=True)).result == "hit"
        )


@pytest.mark.parametrize(
    ("status", "is_kept"),
    [('"e"; hit; ttl=5', True), ('"e"; fwd=miss; stored', True), ('"e"; fwd=miss', False), ("hit", True)],
)
def test_a_copy_is_kept_of_what_the_owner_keeps(status, is_kept):
    headers = Headers((("Cache-Status", "other; fwd=miss"), ("Cache-Status", status)))
    assert (
        read_relayed_head(render_head(Answer(200, headers), Request("GET", "/"), keeps_alive=True)).is_kept == is_kept
    )


def test_what_the_owner_said_of_this_edge_is_not_stored():
    headers = Headers((("Via", "1.1 up"), ("Cache-Status", "up; hit"), ("Via", "1.1 e"), ("Cache-Status", "e; hit")))
    stored = read_relayed_head(render_head(Answer(200, headers), Request("GET", "/"), keeps_alive=True)).as_stored(1, 2)
    assert list(stored.headers) == [("Via", "1.1 up"), ("Cache-Status", "up; hit")]


@pytest.mark.parametrize(
    "head", [b"\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"]
)
def test_what_is_no_answer_is_refused(head):
    with pytest.raises(DocumentError):
        read_relayed_head(head)
