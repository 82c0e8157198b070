"""What clients get from an edge, over real sockets: hits, misses, conditions, ranges, forwarding and refusals."""

from dataclasses import replace

import pytest

from edge.config import ForwardSettings
from edge.settings.limits import LimitSettings
from tests.fakes.edge import BASE, edge_world, manifest_bytes
from tests.fakes.origin import Reply


@pytest.fixture
async def world(tmp_path):
    async with edge_world(tmp_path) as world:
        yield world


async def test_the_second_request_for_an_object_is_a_hit(world):
    target, stored = world.publish(b"hello")
    first, second = await world.get(target), await world.get(target)
    assert (first.status, first.body) == (second.status, second.body) == (200, stored)
    assert "fwd=miss" in first.headers["cache-status"]
    assert "; hit" in second.headers["cache-status"]
    assert world.origin.count(target) == 1
    assert (world.edge.statistics.hits, world.edge.statistics.misses) == (1, 1)


async def test_an_answer_carries_age_via_and_a_tag_that_is_the_digest(world):
    target, _ = world.publish(b"hello", headers={"ETag": '"made up"', "Connection": "x-secret", "X-Secret": "1"})
    await world.get(target)
    world.advance(7)
    headers = (await world.get(target)).headers
    assert headers["age"] == "7"
    assert headers["via"] == "1.1 edge.test"
    assert headers["etag"].strip('"') == target.partition("/data/")[2].replace("/", "")
    assert headers["cache-control"] == "max-age=259200"
    assert "x-secret" not in headers


async def test_the_same_object_is_one_entry_for_reverse_and_forward_clients(world):
    target, stored = world.publish(b"hello")
    await world.get(target)
    forwarded = await world.get(world.origin.url + target)
    assert forwarded.body == stored
    assert "; hit" in forwarded.headers["cache-status"]


async def test_a_forward_client_reaches_only_what_is_configured(world):
    world.origin.replies["/private"] = Reply(b"secret")
    assert (await world.get("http://127.0.0.1:1/cvmfs/x/.cvmfspublished")).status == 403
    assert (await world.get(world.origin.url + "/private")).status == 403
    assert (await world.get(world.origin.url + "/cvmfs")).status == 403
    assert world.origin.asked == []


async def test_a_base_url_that_is_allowed_is_forwarded_to(tmp_path):
    async with edge_world(tmp_path / "a") as other:
        other.origin.replies["/pub/file?v=1"] = Reply(b"one", headers={"Cache-Control": "max-age=60"})
        other.origin.replies["/pub/file?v=2"] = Reply(b"two", headers={"Cache-Control": "max-age=60"})
        async with edge_world(tmp_path / "b", forward=ForwardSettings(allow=(other.origin.url + "/pub/",))) as world:
            for _ in range(2):
                assert (await world.get(other.origin.url + "/pub/file?v=1")).body == b"one"
                assert (await world.get(other.origin.url + "/pub/file?v=2")).body == b"two"
            assert (await world.get(other.origin.url + "/public")).status == 403
        assert other.origin.count("/pub/file?v=1") == 1


async def test_forwarding_can_be_switched_off(tmp_path):
    async with edge_world(tmp_path, forward=ForwardSettings(enabled=False)) as world:
        target, _ = world.publish(b"hello")
        assert (await world.get(world.origin.url + target)).status == 403


@pytest.mark.parametrize("target", ["/", "/cvmfs/", "/cvmfs/sw.example.org", "/index.html", "/cvmfs/.hidden/x"])
async def test_only_repositories_are_served(world, target):
    assert (await world.get(target)).status == 403


@pytest.mark.parametrize(
    ("target", "status"),
    [
        (f"{BASE}/../../etc/passwd", 400),
        (f"{BASE}/%2e%2e/secret", 400),
        (f"{BASE}/data%2fab/cd", 400),
        (f"{BASE}/a%5cb", 400),
        (f"{BASE}/a%00b", 400),
        (f"{BASE}/a%zz", 400),
        ("ftp://example.org/x", 400),
        ("http://user@example.org/x", 400),
        ("*", 400),
    ],
)
async def test_ambiguous_targets_are_refused(world, target, status):
    assert (await world.get(target)).status == status
    assert world.origin.asked == []


async def test_two_spellings_of_a_name_are_one_entry(world):
    target, stored = world.publish(b"hello")
    assert (await world.get(target.replace("data", "%64ata"))).body == stored
    assert "; hit" in (await world.get(target)).headers["cache-status"]


async def test_head_is_answered_without_a_body_cached_or_not(world):
    target, stored = world.publish(b"hello")
    for _ in range(2):
        answer = await world.get(target, method="HEAD")
        assert (answer.status, answer.headers["content-length"]) == (200, str(len(stored)))
        await world.get(target)
    assert [asked.method for asked in world.origin.asked] == ["HEAD", "GET"]
    assert (await world.get(f"{BASE}/.cvmfs_master_replica", method="HEAD")).status == 404


async def test_a_client_that_has_the_object_is_told_so(world):
    target, _ = world.publish(b"hello", headers={"Last-Modified": "Tue, 14 Nov 2023 00:00:00 GMT"})
    tag = (await world.get(target)).headers["etag"]
    assert (await world.get(target, If_None_Match=f'"other", {tag}')).status == 304
    assert (await world.get(target, If_None_Match='"other"')).status == 200
    assert (await world.get(target, If_Modified_Since="Tue, 14 Nov 2023 00:00:00 GMT")).status == 304
    assert (await world.get(target, If_Modified_Since="Mon, 13 Nov 2023 00:00:00 GMT")).status == 200


@pytest.mark.parametrize("is_cached", [True, False])
async def test_a_range_of_an_object_is_sent_alone(world, is_cached):
    target, stored = world.publish(bytes(range(256)) * 4)
    if is_cached:
        await world.get(target)
    answer = await world.get(target, Range="bytes=5-14")
    assert (answer.status, answer.body) == (206, stored[5:15])
    assert answer.headers["content-range"] == f"bytes 5-14/{len(stored)}"
    assert (await world.get(target, Range="bytes=-3")).body == stored[-3:]
    assert (await world.get(target, Range=f"bytes={len(stored)}-")).status == 416
    assert (await world.get(target, method="HEAD", Range="bytes=1-2")).status == 200
    assert (await world.get(target, Range="bytes=1-2", If_Range='"other"')).status == 200
    assert world.origin.count(target) == 1


async def test_requests_in_one_packet_are_answered_in_order(world):
    small, small_body = world.publish(b"small")
    large, large_body = world.publish(bytes(range(256)) * 3000)
    await world.get(small)
    async with world.client() as client:
        order = [small, large, small, small, large, "/nowhere", small]
        await client.send(b"".join(f"GET {target} HTTP/1.1\r\nHost: e\r\n\r\n".encode() for target in order))
        answers = [await client.receive() for _ in order]
    expected = {small: small_body, large: large_body}
    assert [answer.body for answer in answers if answer.status == 200] == [expected[t] for t in order if t in expected]
    assert answers[5].status == 403


async def test_a_request_may_arrive_byte_by_byte(world):
    target, stored = world.publish(b"hello")
    async with world.client() as client:
        for byte in f"GET {target} HTTP/1.1\r\nHost: e\r\n\r\n".encode():
            await client.send(bytes([byte]))
        assert (await client.receive()).body == stored


async def test_a_client_of_http_1_0_gets_the_end_by_length_and_keeps_the_connection_if_it_asks(world):
    target, stored = world.publish(b"hello")
    async with world.client() as client:
        kept = await client.get(target, version="1.0", Connection="keep-alive")
        assert (kept.headers["connection"], kept.body) == ("keep-alive", stored)
        last = await client.get(target, version="1.0")
        assert (last.headers["connection"], last.body) == ("close", stored)
        assert await client.is_closed()


async def test_connection_close_is_honoured(world):
    target, _ = world.publish(b"hello")
    async with world.client() as client:
        assert (await client.get(target, Connection="close")).headers["connection"] == "close"
        assert await client.is_closed()


async def test_a_client_that_has_said_everything_still_gets_its_answer(world):
    target, stored = world.publish(b"hello")
    async with world.client() as client:
        await client.ask(target)
        client.writer.write_eof()
        assert (await client.receive()).body == stored
        assert await client.is_closed()


async def test_a_chunked_answer_is_passed_on_and_then_served_with_its_length(world):
    target, stored = world.publish(b"hello" * 1000, is_chunked=True)
    assert (await world.get(target)).body == stored
    assert (await world.get(target)).headers["content-length"] == str(len(stored))


async def test_a_request_that_has_been_here_before_is_not_sent_round_again(world):
    target, _ = world.publish(b"hello")
    assert (await world.get(target, Via="1.0 other, 1.1 edge.test (x)")).status == 508
    assert (await world.get(target, Via="1.1 edge.test.example.org")).status == 200


async def test_a_request_tells_the_upstream_who_asks(world):
    target, _ = world.publish(b"hello")
    await world.get(target, Cookie="id=1", Accept_Language="de")
    asked = world.origin.asked[0].headers
    assert asked["via"] == "1.1 edge.test"
    assert "cookie" not in asked
    assert asked["host"] == world.origin.url.removeprefix("http://")


async def test_credentials_make_an_answer_one_clients_own(world):
    target, stored = world.publish(b"hello")
    for token in ("a", "b"):
        answer = await world.get(target, Authorization=f"Bearer {token}")
        assert answer.body == stored
    assert [asked.headers.get("authorization") for asked in world.origin.asked] == ["Bearer a", "Bearer b"]
    assert "fwd=miss" in (await world.get(target)).headers["cache-status"]


async def test_variants_are_not_confused(tmp_path):
    async with edge_world(tmp_path / "a") as other:
        other.origin.replies["/pub/hello"] = lambda asked: Reply(
            asked.headers.get("accept-language", "-").encode(),
            headers={"Vary": "Accept-Language", "Cache-Control": "max-age=60"},
        )
        url = other.origin.url + "/pub/hello"
        async with edge_world(tmp_path / "b", forward=ForwardSettings(allow=(other.origin.url + "/pub",))) as world:
            assert [(await world.get(url, Accept_Language=which)).body for which in ("de", "de", "fr")] == [
                b"de",
                b"de",
                b"fr",
            ]
            assert other.origin.count("/pub/hello") == 2


async def test_what_must_not_be_stored_is_not(world):
    target = f"{BASE}/some.txt"
    for control in ("no-store", "private"):
        world.origin.replies[target] = Reply(b"now", headers={"Cache-Control": control})
        await world.get(target)
    world.origin.replies[target] = Reply(b"now", headers={"Cache-Control": "max-age=60", "Set-Cookie": "a=b"})
    await world.get(target)
    await world.get(target)
    assert world.origin.count(target) == 4
    assert world.cached_files() == []


async def test_only_if_cached_never_asks_upstream(world):
    target, stored = world.publish(b"hello")
    assert (await world.get(target, Cache_Control="only-if-cached")).status == 504
    await world.get(target)
    assert (await world.get(target, Cache_Control="only-if-cached")).body == stored
    assert world.origin.count(target) == 1


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"POST /x HTTP/1.1\r\nHost: e\r\nContent-Length: 3\r\n\r\nabc", 405),
        (b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n", 405),
        (b"BREW /x HTTP/1.1\r\nHost: e\r\n\r\n", 501),
        (b"GET /x HTTP/1.1\r\nHost: e\r\nContent-Length: 3\r\n\r\nabc", 400),
        (b"GET /x HTTP/1.1\r\nHost: e\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\nabcde", 400),
        (b"GET /x HTTP/1.1\r\nHost: e\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"GET /x HTTP/1.1\r\nHost: e\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"GET /x HTTP/1.1\r\nHost: e\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400),
        (b"GET /x HTTP/1.1\r\nHost: e\r\nX: a\r\n b\r\n\r\n", 400),
        (b"GET /x HTTP/1.1\nHost: e\n\n", 400),
        (b"GET /x HTTP/1.1\r\nHost: e\r\nX: a\rb\r\n\r\n", 400),
        (b"GET /x HTTP/1.1\r\nHost: e\r\nX: a\0b\r\n\r\n", 400),
        (b"GET /x HTTP/1.1\r\n\r\n", 400),
        (b"GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET /x HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        (b"GET /x\r\n\r\n", 400),
        (b"GET  /x HTTP/1.1\r\nHost: e\r\n\r\n", 400),
        (b"GET /x HTTP/2.0\r\nHost: e\r\n\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"GET /x HTTP/1.1\r\nHost: e\r\nExpect: the-unexpected\r\n\r\n", 417),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: e\r\n\r\n", 414),
        (b"GET /x HTTP/1.1\r\nHost: e\r\n" + b"X: y\r\n" * 101 + b"\r\n", 431),
        (b"GET /x HTTP/1.1\r\nHost: e\r\nX: " + b"y" * 20000 + b"\r\n\r\n", 431),
        (b"GET /x HTTP/1.1\r\nHost: e\r\nX: " + b"y" * 20000, 431),
        (b"\x16\x03\x01\x02\x00\x01\x00", 400),
    ],
)
async def test_what_is_no_proper_request_is_refused_and_the_connection_closed(world, request_bytes, status):
    async with world.client() as client:
        await client.send(request_bytes + b"GET /smuggled HTTP/1.1\r\nHost: e\r\n\r\n")
        answer = await client.receive()
        assert (answer.status, answer.headers["connection"]) == (status, "close")
        assert await client.is_closed()
    assert world.origin.asked == []


async def test_a_refusal_comes_after_the_answers_before_it(world):
    target, stored = world.publish(b"hello")
    async with world.client() as client:
        await client.send(f"GET {target} HTTP/1.1\r\nHost: e\r\n\r\nGET /x HTTP/1.1\nHost: e\r\n\r\n".encode())
        assert (await client.receive()).body == stored
        assert (await client.receive()).status == 400
        assert await client.is_closed()


async def test_a_head_that_does_not_come_is_timed_out(world):
    async with world.client() as client:
        await client.send(b"GET / HTTP/1.1\r\nHost")
        while not world.edge.statistics.connections_open:
            await world.settled()
        await world.get("/healthz")
        world.advance(world.edge.config.limits.head_timeout + 1)
        world.edge.check_connections()
        assert (await client.receive()).status == 408
        assert await client.is_closed()


async def test_a_connection_without_requests_is_closed(world):
    async with world.client() as client:
        await client.get("/healthz")
        world.advance(world.edge.config.limits.idle_timeout + 1)
        world.edge.check_connections()
        assert await client.is_closed()


async def test_connections_over_the_limit_are_refused(tmp_path):
    async with edge_world(tmp_path, limits=LimitSettings(connections_max=2)) as world:
        async with world.client() as first, world.client() as second, world.client() as third:
            await first.get("/healthz")
            await second.get("/healthz")
            assert await third.is_closed()
        assert world.edge.statistics.connections_refused == 1


async def test_a_flood_of_pipelined_requests_does_not_fill_the_memory(world):
    """The client reads nothing, so the edge must stop reading too: what it has sent stays near the write limit."""
    big = f"{BASE}/big.bin"
    world.origin.replies[big] = Reply(b"x" * 1_000_000, headers={"Cache-Control": "max-age=60"})
    await world.get(big)
    async with world.client() as client:
        client.writer.write(f"GET {big} HTTP/1.1\r\nHost: e\r\n\r\n".encode() * 500)
        await world.get("/healthz")
        connections = world.edge.parts.shared.connections
        assert sum(connection._transport.get_write_buffer_size() for connection in connections) < 3_000_000
        assert [(await client.receive()).is_whole for _ in range(500)] == [True] * 500


async def test_health_is_told_on_the_public_port(world):
    assert (await world.get("/healthz")).status == 200


async def test_the_manifest_is_kept_for_as_long_as_the_upstream_says(world):
    target = f"{BASE}/.cvmfspublished"
    world.origin.replies[target] = Reply(manifest_bytes(1), headers={"Cache-Control": "max-age=30"})
    await world.get(target)
    world.advance(29)
    assert "; hit" in (await world.get(target)).headers["cache-status"]
    world.advance(2)
    assert "fwd=stale" in (await world.get(target)).headers["cache-status"]
    assert world.origin.count(target) == 2


async def test_edges_that_ask_one_another_in_a_circle_find_out(tmp_path):
    """The first asks the second, which asks the first: without `Via` the first would wait for itself."""
    async with edge_world(tmp_path / "a", name="a.test") as first:
        url = "http://{}:{}".format(*first.edge.address)
        async with edge_world(tmp_path / "b", name="b.test") as second:
            second.edge.reload(_asking(second.edge.config, url))
            first.edge.reload(_asking(first.edge.config, "http://{}:{}".format(*second.edge.address)))
            assert (await first.get(f"{BASE}/.cvmfswhitelist")).status == 508


def _asking(config, url):
    return replace(config, upstreams=(replace(config.upstreams[0], urls=(f"{url}/cvmfs/@fqrn@",)),))
