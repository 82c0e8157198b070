"""Bytes from clients of an edge: requests that are served in one way only, or a refusal, and never another error."""

from __future__ import annotations

from cdn.errors import DocumentError
from edge.config import EdgeConfig, ForwardSettings
from edge.config_upstreams import UpstreamSettings
from edge.content import content_of
from edge.request import Request, RequestError, RequestLimits, RequestReader
from edge.request_body import BodyDecoder
from edge.routing import Routes
from edge.target import parse_target
from tests.fuzz.driver import main

LIMITS = RequestLimits(head_bytes_max=4096, fields_max=30, target_bytes_max=1000)
ROUTES = Routes(
    EdgeConfig(
        (
            UpstreamSettings("all", ("http://s1/cvmfs/@fqrn@",)),
            UpstreamSettings("site", ("http://site/base/",), path="/site/"),
        ),
        forward=ForwardSettings(allow=("http://other/pub/",)),
    )
)
_OBJECT = b"/cvmfs/sw.example.org/data/01/23456789abcdef0123456789abcdef01234567"


def seeds() -> list[bytes]:
    """Requests as real clients send them, and as smugglers do."""
    fields = b"Host: e\r\nUser-Agent: cvmfs Fuse 2.12.0\r\nConnection: Keep-Alive\r\n"
    return [
        b"GET " + _OBJECT + b" HTTP/1.1\r\n" + fields + b"\r\n",
        b"GET http://s1"
        + _OBJECT
        + b"C HTTP/1.1\r\n"
        + fields
        + b"Pragma: no-cache\r\nCache-Control: no-cache\r\n\r\n",
        b"HEAD http://other/pub/a%20b?c=d HTTP/1.0\r\n\r\nGET /x HTTP/1.1\r\nHost: e\r\n\r\n",
        b"GET /cvmfs/sw.example.org/.cvmfspublished HTTP/1.1\r\n"
        + fields
        + b'Range: bytes=0-5, 7-\r\nIf-Range: "x"\r\n\r\n',
        b"GET /x HTTP/1.1\r\nHost: e\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"PUT /site/x HTTP/1.1\r\n" + fields + b"Content-Length: 5\r\n\r\nhelloGET /x HTTP/1.1\r\nHost: e\r\n\r\n",
        b"POST /site/x HTTP/1.1\r\nHost: e\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nA: b\r\n\r\n",
        b"CONNECT s1:443 HTTP/1.1\r\nHost: s1:443\r\n\r\n",
    ]


def check(data: bytes) -> None:
    """The same requests come out whole and byte by byte, and each leads to allowed sources or is refused."""
    whole, whole_end = _requests([data])
    single, single_end = _requests([data[start : start + 1] for start in range(min(len(data), 3000))])
    if len(data) <= 3000:
        assert [each for each, _ in whole] == [each for each, _ in single], "requests depend on how the bytes arrived"
        assert whole_end is not None or whole == single, "bodies depend on how the bytes arrived"
        assert (whole_end is None) == (single_end is None), "a refusal depends on how the bytes arrived"
    for request, _ in whole:
        _check_destination(request)
    if whole_end is not None:
        raise whole_end


def _requests(pieces: list[bytes]) -> tuple[list[tuple[Request, bytes]], RequestError | None]:
    """Requests with their bodies, as far as those came."""
    reader, found = RequestReader(LIMITS), []
    decoder = BodyDecoder(0)
    try:
        for piece in pieces:
            reader.keep(piece)
            while True:
                if not decoder.is_complete:
                    request, body = found[-1]
                    found[-1] = (request, body + decoder.take(reader.pending))
                    if not decoder.is_complete:
                        break
                following = reader.next()
                if following is None:
                    break
                found.append((following, b""))
                decoder = BodyDecoder(following.body_size)
    except RequestError as error:
        return found, error
    assert reader.buffered <= LIMITS.head_bytes_max, "more is kept than a head may have"
    return found, None


def _check_destination(request: Request) -> None:
    assert request.method not in {"CONNECT", "TRACE"}
    names = [name.lower() for name, _ in request.headers]
    assert not request.is_plain or "transfer-encoding" not in names
    assert not {"transfer-encoding", "content-length"} <= set(names), "a body has two ends"
    try:
        target = parse_target(request.target)
        destination = ROUTES.locate(target)
    except RequestError:
        return
    assert parse_target(target.url) == target, "a canonical target has another canonical form"
    for source in destination.sources:
        allowed = ("http://s1/cvmfs/", "http://other/pub/", "http://site/base/")
        assert source.url.startswith(allowed), f"{source.url} is not allowed"
        assert "/../" not in source.url
        assert destination.is_general or content_of(target.path).digest == destination.content.digest


if __name__ == "__main__":
    main(
        "fuzz_edge_http",
        seeds,
        check,
        allowed=(DocumentError,),
        tokens=[
            b"\r\n",
            b"\r\n\r\n",
            b"%2e%2e",
            b"%2f",
            b"http://",
            b"Content-Length: ",
            b"Transfer-Encoding: chunked",
            b" HTTP/1.1",
            b"@",
            b"\\",
        ],
    )
