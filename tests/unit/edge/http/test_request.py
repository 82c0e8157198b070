"""Requests as bytes; what real servers see of refusals is in tests/integration/test_edge_serving.py."""

import pytest

from edge.http.request import (
    MEMO_ENTRIES_MAX,
    RequestError,
    RequestLimits,
    RequestReader,
    Version,
    _parse_request,
    parse_request,
)

LIMITS = RequestLimits()
HEAD = b"GET /a?b=c HTTP/1.1\r\nHost: example.org:80\r\nX: \xe9 y \r\n\r\n"


def test_a_request_is_read():
    request = parse_request(HEAD, LIMITS)
    assert (request.method, request.target, request.version) == ("GET", "/a?b=c", Version.HTTP_1_1)
    assert request.headers.get("x") == "é y"
    assert request.keeps_alive
    assert request.is_plain


@pytest.mark.parametrize(
    "field",
    ["Range: bytes=0-1", "Cache-Control: max-age=0", "Pragma: x", "If-None-Match: *", "Authorization: x", "Via: 1.1 a"],
)
def test_what_depends_on_more_than_its_target_is_not_plain(field):
    assert not parse_request(b"GET /a HTTP/1.1\r\nHost: e\r\n" + field.encode() + b"\r\n\r\n", LIMITS).is_plain


@pytest.mark.parametrize(
    ("line", "fields", "keeps_alive"),
    [
        (b"HTTP/1.1", b"", True),
        (b"HTTP/1.1", b"Connection: Close\r\n", False),
        (b"HTTP/1.1", b"Connection: x, close\r\n", False),
        (b"HTTP/1.0", b"", False),
        (b"HTTP/1.0", b"Connection: Keep-Alive\r\n", True),
        (b"HTTP/1.0", b"Proxy-Connection: Keep-Alive\r\n", True),
    ],
)
def test_who_goes_on_using_the_connection(line, fields, keeps_alive):
    assert parse_request(b"GET /a " + line + b"\r\nHost: e\r\n" + fields + b"\r\n", LIMITS).keeps_alive is keeps_alive


def test_an_upgrade_is_ignored():
    fields = b"Host: e\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    assert parse_request(b"GET /a HTTP/1.1\r\n" + fields, LIMITS).target == "/a"


def test_a_body_of_no_length_is_no_body():
    assert parse_request(b"GET /a HTTP/1.1\r\nHost: e\r\nContent-Length: 0\r\n\r\n", LIMITS).target == "/a"


@pytest.mark.parametrize("stream", [HEAD * 3, b"\r\n" + HEAD * 3])
def test_requests_are_cut_out_of_a_stream_however_it_arrives(stream):
    for size in (*range(1, len(HEAD) + 2), len(stream)):
        reader, found = RequestReader(LIMITS), 0
        for start in range(0, len(stream), size):
            request = reader.feed(stream[start : start + size])
            while request is not None:
                found += 1
                request = reader.next()
        assert (found, reader.buffered) == (3, 0)


def test_a_head_seen_before_is_not_read_again_and_the_memory_of_heads_is_bounded():
    memo: dict = {}
    reader = RequestReader(LIMITS, memo)
    assert reader.feed(HEAD) is RequestReader(LIMITS, memo).feed(HEAD)
    for number in range(MEMO_ENTRIES_MAX + 10):
        reader.feed(b"GET /%d HTTP/1.1\r\nHost: e\r\n\r\n" % number)
    assert len(memo) <= MEMO_ENTRIES_MAX


def test_what_cannot_become_a_request_is_refused_before_its_end():
    for start in (b"GET /a HTTP/1.1\nHost: e\r\n", b"\x00", b"GET /a HTTP/1.1\r\nA: b\r\n c"):
        with pytest.raises(RequestError) as refused:
            RequestReader(LIMITS).feed(start)
        assert refused.value.status == 400


def test_a_head_without_end_is_refused_at_the_limit():
    reader = RequestReader(RequestLimits(head_bytes_max=100, target_bytes_max=50))
    assert reader.feed(b"GET /a HTTP/1.1\r\nHost: e\r\nX: " + b"y" * 50) is None
    with pytest.raises(RequestError) as refused:
        reader.feed(b"y" * 50)
    assert refused.value.status == 431


@pytest.mark.parametrize(
    ("head", "size"),
    [
        (b"POST /a HTTP/1.1\r\nContent-Length: 5\r\n", 5),
        (b"PUT /a HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n", None),
        (b"DELETE /a HTTP/1.1\r\n", 0),
        (b"M-SEARCH /a HTTP/1.1\r\nContent-Length: 0\r\n", 0),
        (b"UNHEARD-OF /a HTTP/1.0\r\nContent-Length: 7\r\n", 7),
    ],
)
def test_a_request_says_how_much_follows_it(head, size):
    reader = RequestReader(LIMITS)
    request = reader.feed(head + b"Host: e\r\n\r\nhello")
    assert request is not None
    assert (request.body_size, request.has_body, request.is_plain) == (size, size != 0, False)
    assert reader.pending == b"hello"


@pytest.mark.parametrize(
    "fields",
    [
        b"Content-Length: 5\r\nContent-Length: 5\r\n",
        b"Content-Length: 5, 5\r\n",
        b"Content-Length: +5\r\n",
        b"Content-Length: -5\r\n",
        b"Content-Length: 0x5\r\n",
        b"Content-Length: 5 5\r\n",
        b"Content-Length:\r\n",
        b"Content-Length: 99999999999999999999\r\n",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Transfer-Encoding: chunked, chunked\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"Transfer-Encoding:\x0bchunked\r\n",
    ],
)
def test_a_body_whose_end_others_could_see_elsewhere_is_refused(fields):
    with pytest.raises(RequestError) as refused:
        parse_request(b"POST /a HTTP/1.1\r\nHost: e\r\n" + fields + b"\r\n", LIMITS)
    assert refused.value.status == 400


def test_chunks_are_nothing_that_http_1_0_knows():
    with pytest.raises(RequestError) as refused:
        parse_request(b"POST /a HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", LIMITS)
    assert refused.value.status == 400


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
@pytest.mark.parametrize(
    "fields",
    [
        b"Host: e\r\n",
        b"Host: e\r\nRange: bytes=0-1\r\nX: y\r\n",
        b"Host: e\r\nConnection: close\r\n",
        b"",
        b"Host: e\r\nHost: e\r\n",
        b" folded\r\nHost: e\r\n",
        b"Host: e\r\nContent-Length: 1\r\n",
        b"Host: e\r\nX: a\nb\r\n",
        b"Host: e\r\nX\x00: a\r\n",
        b"Host: e\r\n" + b"A: b\r\n" * 101,
    ],
)
def test_fields_seen_before_mean_the_same_with_another_target(method, version, fields):
    """What is kept of one request must not change what another one is."""
    for target in (b"/", b"/a/b", b"http://e:80/a", b"/a/b"):
        head = method + b" " + target + b" HTTP/" + version + b"\r\n" + fields + b"\r\n"
        assert _read(parse_request, head) == _read(_parse_request, head)


def _read(parse, head):
    try:
        return parse(head, LIMITS)
    except RequestError as error:
        return error.status, str(error)
