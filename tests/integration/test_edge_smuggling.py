"""Shapes of requests that two parties could read differently, over real sockets: refused, and nothing behind them read.

Each is followed by another request on the same connection. Whoever finds the end of the first elsewhere than we do
would take that for, or hide it in, the body of the first; so the connection is closed and the second never answered.
"""

import asyncio

import pytest

from edge.config import UpstreamSettings
from tests.fakes.edge import BASE, edge_world, until
from tests.fakes.origin import Reply, running_origin

SMUGGLED = b"GET /site/smuggled HTTP/1.1\r\nHost: e\r\n\r\n"
GET = b"GET /site/x HTTP/1.1\r\nHost: e\r\n"
POST = b"POST /site/x HTTP/1.1\r\nHost: e\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"

HEADS = {
    "two different lengths": POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "the same length twice": POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "a list of lengths": POST + b"Content-Length: 5, 5\r\n\r\nhello",
    "a length with a sign": POST + b"Content-Length: +5\r\n\r\nhello",
    "a negative length": POST + b"Content-Length: -5\r\n\r\nhello",
    "a length in hexadecimal": POST + b"Content-Length: 0x5\r\n\r\nhello",
    "a length with a fraction": POST + b"Content-Length: 5.0\r\n\r\nhello",
    "a length with underscores": POST + b"Content-Length: 0_5\r\n\r\nhello",
    "a length in other digits": POST + b"Content-Length: \xd9\xa5\r\n\r\nhello",
    "a length past 64 bits": POST + b"Content-Length: 18446744073709551621\r\n\r\nhello",
    "an empty length": POST + b"Content-Length: \r\n\r\nhello",
    "a length with a coding": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a coding with a length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "a length on GET": GET + b"Content-Length: 5\r\n\r\nhello",
    "a coding on GET": GET + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a coding on HTTP/1.0": b"POST /site/x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "another coding": POST + b"Transfer-Encoding: gzip\r\n\r\n0\r\n\r\n",
    "two codings": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked twice": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked, then identity": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "a coding that looks like chunked": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a coding with a quote": POST + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n',
    "a coding with a control character": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "a coding behind a line end": POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "a space before the colon": POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "a tab before the colon": POST + b"Content-Length\t: 5\r\n\r\nhello",
    "a space before the name": b"GET /site/x HTTP/1.1\r\n Host: e\r\n\r\n",
    "a folded line": GET + b"X: a\r\n b\r\n\r\n",
    "a line folded with a tab": GET + b"X: a\r\n\tContent-Length: 5\r\n\r\n",
    "bare line feeds": b"GET /site/x HTTP/1.1\nHost: e\n\n",
    "one bare line feed": GET + b"X: a\nContent-Length: 5\r\n\r\n",
    "a bare carriage return": GET + b"X: a\rContent-Length: 5\r\n\r\n",
    "two carriage returns": GET + b"X: a\r\r\n\r\n",
    "a head that ends in line feeds": GET + b"X: a\n\n",
    "a NUL in a value": GET + b"X: a\0b\r\n\r\n",
    "a NUL in a name": GET + b"X\0: a\r\n\r\n",
    "a control character": GET + b"X: a\x08b\r\n\r\n",
    "a name with other letters": GET + b"Content-L\xe9ngth: 5\r\n\r\n",
    "a name that is empty": GET + b": a\r\n\r\n",
    "a line without a colon": GET + b"Content-Length\r\n\r\n",
    "no host": b"GET /site/x HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /site/x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "a host that is none": b"GET /site/x HTTP/1.1\r\nHost: a/b\r\n\r\n",
    "a host with a user": b"GET /site/x HTTP/1.1\r\nHost: a@b\r\n\r\n",
    "HTTP/0.9": b"GET /site/x\r\n\r\n",
    "two spaces": b"GET  /site/x HTTP/1.1\r\nHost: e\r\n\r\n",
    "a space in the target": b"GET /site/x y HTTP/1.1\r\nHost: e\r\n\r\n",
    "a tab in the request line": b"GET\t/site/x HTTP/1.1\r\nHost: e\r\n\r\n",
    "a space behind the version": b"GET /site/x HTTP/1.1 \r\nHost: e\r\n\r\n",
    "a version in lower case": b"GET /site/x http/1.1\r\nHost: e\r\n\r\n",
    "a version of two digits": b"GET /site/x HTTP/1.10\r\nHost: e\r\n\r\n",
    "a request line of nothing": b" \r\nHost: e\r\n\r\n",
    "a greeting of TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
}
OTHERS = {
    "HTTP/2 with prior knowledge": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "a later version": (b"GET /site/x HTTP/3.0\r\nHost: e\r\n\r\n", 505),
    "a tunnel": (b"CONNECT e:443 HTTP/1.1\r\nHost: e:443\r\n\r\n", 405),
    "an echo": (b"TRACE /site/x HTTP/1.1\r\nHost: e\r\n\r\n", 405),
    "a target that is no URL": (b"GET site/x HTTP/1.1\r\nHost: e\r\n\r\n", 400),
    "a target of another scheme": (b"GET gopher://e/x HTTP/1.1\r\nHost: e\r\n\r\n", 400),
    "a target with a fragment": (b"GET /site/x#y HTTP/1.1\r\nHost: e\r\n\r\n", 400),
}
BODIES = {
    "a size that is no number": b"x\r\nhello\r\n0\r\n\r\n",
    "a size with a prefix": b"0x5\r\nhello\r\n0\r\n\r\n",
    "a size with a sign": b"+5\r\nhello\r\n0\r\n\r\n",
    "a negative size": b"-5\r\nhello\r\n0\r\n\r\n",
    "a size with an underscore": b"0_5\r\nhello\r\n0\r\n\r\n",
    "an empty size": b"\r\nhello\r\n0\r\n\r\n",
    "a size behind a space": b" 5\r\nhello\r\n0\r\n\r\n",
    "a size past 64 bits": b"10000000000000005\r\nhello\r\n0\r\n\r\n",
    "a size that ends in a line feed": b"5\nhello\r\n0\r\n\r\n",
    "a size that ends in a carriage return": b"5\rhello\r\n0\r\n\r\n",
    "a chunk longer than it says": b"5\r\nhelloo\r\n0\r\n\r\n",
    "a chunk that ends in a line feed": b"5\r\nhello\n0\r\n\r\n",
    "an extension that is too long": b"5;" + b"x" * 300 + b"\r\nhello\r\n0\r\n\r\n",
    "an extension without an end": b"5;" + b"x" * 3000,
    "an extension with a line feed": b"5;a\nb\r\nhello\r\n0\r\n\r\n",
    "an extension with a NUL": b"5;a\0b\r\nhello\r\n0\r\n\r\n",
    "a trailer that is none": b"5\r\nhello\r\n0\r\nno trailer\r\n\r\n",
    "a trailer with a space before the colon": b"5\r\nhello\r\n0\r\nX : y\r\n\r\n",
    "a folded trailer": b"5\r\nhello\r\n0\r\nX: y\r\n z\r\n\r\n",
    "trailers without an end": b"5\r\nhello\r\n0\r\n" + b"X: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n" * 400,
}


@pytest.fixture
async def world(tmp_path):
    async with running_origin() as site:
        upstreams = (
            UpstreamSettings("all", (f"{site.url}/cvmfs/@fqrn@",)),
            UpstreamSettings("site", (f"{site.url}/",), path="/site/"),
        )
        site.replies["/x"] = Reply(b"answered", headers={"Cache-Control": "no-store"})
        async with edge_world(tmp_path, upstreams=upstreams) as world:
            world.origins[0] = site
            yield world


async def _is_refused(world, name: str, pieces: list[bytes], status: int = 400) -> None:
    async with world.client() as client:
        for piece in (*pieces, SMUGGLED):
            client.writer.write(piece)
            await asyncio.sleep(0)  # the edge, in this loop, reads each piece by itself
        answer = await client.receive()
        assert (answer.status, answer.headers["connection"]) == (status, "close"), name
        assert await client.is_closed(), name
    assert "/smuggled" not in [asked.target for asked in world.origin.asked], name


async def test_a_head_that_can_be_read_in_two_ways_is_refused(world):
    for name, sent in HEADS.items():
        await _is_refused(world, name, [sent])
    assert world.origin.asked == []
    assert world.edge.statistics.failures == 0


async def test_what_is_not_spoken_here_is_refused(world):
    for name, (sent, status) in OTHERS.items():
        await _is_refused(world, name, [sent], status)
    assert world.origin.asked == []


async def test_a_body_whose_end_is_not_certain_is_refused(world):
    for name, body in BODIES.items():
        await _is_refused(world, name, [CHUNKED + body])
    assert world.edge.statistics.failures == 0


async def test_how_the_bytes_arrive_makes_no_difference(world):
    shapes = {**HEADS, **{name: CHUNKED + body for name, body in BODIES.items()}}
    for name, sent in shapes.items():
        await _is_refused(world, name, [sent[place : place + 1] for place in range(min(len(sent), 500))] + [sent[500:]])


async def test_an_upgrade_is_not_made_and_nothing_of_it_is_passed_on(world):
    async with world.client() as client:
        fields = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2_Settings": "AAMAAABk"}
        answer = await client.get("/site/x", **fields)
        assert (answer.status, answer.body) == (200, b"answered")
        assert (await client.get("/site/x")).body == b"answered"
    assert not {"upgrade", "http2-settings"} & set(world.origin.asked[0].headers)


async def test_the_target_counts_and_not_the_host_field_beside_it(world):
    """RFC 9112 §3.2.2: with a target in absolute form `Host` is ignored, and the right one is sent upstream."""
    url = f"{world.origin.url}{BASE}/.cvmfs_master_replica"
    world.origin.replies[f"{BASE}/.cvmfs_master_replica"] = Reply(b"list")
    async with world.client() as client:
        await client.send(f"GET {url} HTTP/1.1\r\nHost: elsewhere.example.org\r\n\r\n".encode())
        assert (await client.receive()).body == b"list"
    assert world.origin.asked[0].headers["host"] == world.origin.url.removeprefix("http://")
    assert (await world.get(f"http://elsewhere.example.org{BASE}/.cvmfs_master_replica")).status == 403


async def test_an_empty_line_before_a_request_is_no_request(world):
    async with world.client() as client:
        await client.send(b"\r\n\r\n" + GET + b"\r\n")
        assert (await client.receive()).body == b"answered"


async def test_proper_chunks_with_extensions_and_trailers_are_taken(world):
    async with world.client() as client:
        await client.send(CHUNKED + b'3;a="b"\r\nhel\r\n2 \r\nlo\r\n0;z\r\nX: y\r\n\r\n' + GET + b"\r\n")
        assert [(await client.receive()).body for _ in range(2)] == [b"answered"] * 2
    assert world.origin.asked[0].body == b"hello"
    await until(lambda: len(world.origin.asked) == 2)
