"""Heads of answers."""

from edge.content import Content, ContentKind, content_of
from edge.http.answering import CacheStatus, Representation, answer_from, error_answer, kept_fields, render_head
from edge.http.caching import StoredHead
from edge.http.headers import Headers, http_date
from edge.http.request import Request, Version
from edge.lifetimes import Lifetimes

NOW = 1_700_000_000.0
LIFETIMES = Lifetimes()
OBJECT = content_of("/cvmfs/sw/data/01/23456789abcdef0123456789abcdef01234567")


def representation(content: Content, headers: Headers, size: int | None = 10, status: int = 200) -> Representation:
    return Representation(StoredHead(status, headers, NOW, NOW), content, LIFETIMES.of(content.kind, status), size)


def test_an_object_whose_lifetime_has_passed_begins_a_new_one():
    source = representation(OBJECT, Headers((("Cache-Control", "max-age=100"),)))
    answer = answer_from(source, Request("GET", "/"), NOW + 250, CacheStatus(is_hit=True), "e")
    assert answer.headers.get("Age") == "50"
    assert answer.headers.get("Cache-Status") == '"e"; hit; ttl=50'
    assert answer.headers.get("Date") == http_date(NOW + 200)


def test_an_object_that_expired_by_date_gets_a_new_one():
    dated = Headers((("Date", http_date(NOW)), ("Expires", http_date(NOW + 100))))
    answer = answer_from(representation(OBJECT, dated), Request("GET", "/"), NOW + 250, CacheStatus(is_hit=True), "e")
    assert answer.headers.every("Date") == (http_date(NOW + 200),)
    assert answer.headers.every("Expires") == (http_date(NOW + 300),)


def test_what_has_no_type_gets_that_of_its_kind():
    for kind, expected in (
        (ContentKind.OBJECT, "application/octet-stream"),
        (ContentKind.MANIFEST, "application/x-cvmfs"),
    ):
        answer = answer_from(representation(Content(kind), Headers()), Request("GET", "/"), NOW, CacheStatus(), "e")
        assert answer.headers.get("Content-Type") == expected


def test_the_fields_of_an_upstream_are_kept_but_for_those_that_do_not_concern_clients():
    headers = Headers((("ETag", '"x"'), ("Set-Cookie", "a=b"), ("Keep-Alive", "5"), ("X-A", "1")))
    assert kept_fields(OBJECT, headers) == Headers((("X-A", "1"), ("ETag", f'"{OBJECT.digest}"')))
    assert "Set-Cookie" in kept_fields(Content(ContentKind.OTHER), headers)


def test_the_length_is_told_or_the_body_is_chunked_or_ends_with_the_connection():
    def head(size: int | None, version: Version, status: int = 200) -> bytes:
        request = Request("GET", "/", version)
        source = representation(Content(ContentKind.OTHER), Headers(), size, status)
        answer = answer_from(source, request, NOW, CacheStatus(), "e")
        return render_head(answer, request, keeps_alive=size is not None or version is Version.HTTP_1_1)

    assert b"\r\nContent-Length: 10\r\n" in head(10, Version.HTTP_1_0)
    assert b"\r\nConnection: keep-alive\r\n" in head(10, Version.HTTP_1_0)
    assert b"\r\nTransfer-Encoding: chunked\r\n" in head(None, Version.HTTP_1_1)
    assert b"\r\nConnection: close\r\n" in head(None, Version.HTTP_1_0)
    assert b"Content-Length" not in head(0, Version.HTTP_1_1, 204)


def test_every_result_of_the_cache_is_told():
    status = CacheStatus(forwarded="miss", status=200, is_stored=True, is_collapsed=True, detail="x")
    assert status.text('"e"', 5.9) == '"e"; fwd=miss; fwd-status=200; ttl=5; stored; collapsed; detail=x'


def test_our_own_errors_are_never_stored_and_name_the_problem():
    answer, body = error_answer(502, "nobody answered", "e", NOW, proxy_error="destination_unavailable")
    assert body == b"502 Bad Gateway: nobody answered\n"
    assert answer.headers.get("Cache-Control") == "no-store"
    assert answer.headers.get("Proxy-Status") == '"e"; error=destination_unavailable'
