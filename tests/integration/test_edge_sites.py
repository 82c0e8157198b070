"""Ordinary sites behind an edge: any method, bodies in both directions, invalidation, variants, interim answers."""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import pytest

from edge.connection.protocol import PIPELINED_BYTES_MAX
from edge.fetch.store_queue import OF_ONE_URL_MAX, WAITING_OVERHEAD_BYTES, StoreQueue
from edge.http.variants import VARIANTS_MAX
from edge.settings.limits import LimitSettings
from edge.settings.upstreams import UpstreamSettings
from tests.fakes.edge import BASE, World, edge_world, until
from tests.fakes.origin import Reply

FRESH = {"Cache-Control": "max-age=1000"}
LARGE = bytes(range(256)) * (32 << 10)


@asynccontextmanager
async def site_world(directory, *, origins: int = 1, **changes):
    """An edge with an ordinary site at its root, beside the repositories."""
    async with edge_world(directory, origins=origins, **changes) as world:
        config = world.edge.config
        site = UpstreamSettings("site", tuple(origin.url for origin in world.origins), path="/")
        world.edge.reload(replace(config, upstreams=(*config.upstreams, site)))
        yield world


@pytest.fixture
async def world(tmp_path):
    async with site_world(tmp_path) as world:
        yield world


@pytest.fixture
async def pair(tmp_path):
    async with site_world(tmp_path, origins=2) as world:
        yield world


async def send(world: World, method: str, target: str, body: bytes = b"", **headers: str):
    """A request with a body of known length, on a connection of its own."""
    async with world.client() as client:
        await client.ask(target, method=method, Content_Length=str(len(body)), **headers)
        await client.send(body)
        return await client.receive()


# ------------------------------------------------------------------------------------------------------------- methods


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "M-SEARCH", "UNHEARD-OF"])
async def test_any_method_is_passed_on_with_its_body_and_answered(world, method):
    world.origin.replies["/x?y"] = Reply(b"done", 201, headers={"X-Answer": "1", "Connection": "X-Hop", "X-Hop": "1"})
    answer = await send(
        world, method, "/x?y", b"hello", Content_Type="a/b", X_Kept="1", Connection="x-gone", X_Gone="1"
    )
    assert (answer.status, answer.body, answer.headers["x-answer"]) == (201, b"done", "1")
    assert "x-hop" not in answer.headers
    assert answer.headers["cache-status"] == '"edge.test"; fwd=method; fwd-status=201'
    asked = world.origin.asked[0]
    assert (asked.method, asked.target, asked.body) == (method, "/x?y", b"hello")
    assert (asked.headers["content-length"], asked.headers["content-type"], asked.headers["x-kept"]) == (
        "5",
        "a/b",
        "1",
    )
    assert asked.headers["via"] == "1.1 edge.test"
    assert "x-gone" not in asked.headers


async def test_a_body_in_chunks_is_passed_on_in_chunks_and_the_connection_goes_on(world):
    world.origin.replies["/x"] = Reply(b"done", is_chunked=True)
    async with world.client() as client:
        await client.ask("/x", method="POST", Transfer_Encoding="chunked")
        await client.send(b"5;a=b\r\nhello\r\n6\r\n world\r\n0\r\nX: y\r\n\r\nGET /x HTTP/1.1\r\nHost: e\r\n\r\n")
        assert (await client.receive()).body == b"done"
        assert (await client.receive()).body == b"done"
    assert [(asked.method, asked.body) for asked in world.origin.asked] == [("POST", b"hello world"), ("GET", b"")]
    assert world.origin.asked[0].headers["transfer-encoding"] == "chunked"


async def test_a_client_that_waits_for_permission_to_send_its_body_gets_it(world):
    world.origin.replies["/x"] = Reply(b"done")
    async with world.client() as client:
        await client.ask("/x", method="PUT", Content_Length="5", Expect="100-continue")
        assert (await client.receive_head())[0] == 100
        await client.send(b"hello")
        assert (await client.receive()).status == 200
    assert world.origin.asked[0].body == b"hello"
    assert "expect" not in world.origin.asked[0].headers


async def test_an_upstream_that_takes_nothing_holds_the_client_back_and_memory_stays_bounded(world):
    world.origin.replies["/x"] = Reply(b"done")
    world.origin.body_gate = asyncio.Event()
    body = LARGE * 8  # more than the buffers of four sockets
    async with world.client() as client:
        await client.ask("/x", method="PUT", Content_Length=str(len(body)))
        sending = asyncio.create_task(client.send(body))
        connection = next(iter(world.edge.parts.shared.connections))
        await until(lambda: not connection._is_reading)
        assert connection._reader.buffered < PIPELINED_BYTES_MAX + (512 << 10)
        assert not sending.done()
        world.origin.body_gate.set()
        await sending
        assert (await client.receive()).body == b"done"
    assert world.origin.asked[0].body == body


async def test_a_client_that_stops_sending_its_body_is_given_up(tmp_path):
    async with site_world(tmp_path, limits=LimitSettings(body_timeout=5)) as world:
        async with world.client() as client:
            await client.ask("/x", method="PUT", Content_Length="5")
            await client.send(b"he")
            connection = next(iter(world.edge.parts.shared.connections))
            await until(lambda: connection._body_since is not None and connection._reader.buffered == 0)
            world.advance(6)
            world.edge.check_connections()
            assert await client.is_closed()
        assert world.edge.statistics.timeouts == 1
        assert world.origin.asked == []


async def test_a_client_that_goes_away_in_the_middle_of_its_body_changes_nothing(world):
    async with world.client() as client:
        await client.ask("/x", method="PUT", Content_Length="5")
        await client.send(b"he")
    await until(lambda: world.edge.statistics.connections_open == 0)
    assert world.origin.asked == []
    assert (await world.get("/x")).status == 404


async def test_a_body_in_broken_chunks_is_refused_and_never_whole_upstream(world):
    async with world.client() as client:
        await client.ask("/x", method="POST", Transfer_Encoding="chunked")
        await client.send(b"5\r\nhelloX\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: e\r\n\r\n")
        assert (await client.receive()).status == 400
        assert await client.is_closed()
    assert world.origin.asked == []


@pytest.mark.parametrize(("method", "status"), [("POST", 405), ("PUT", 405), ("UNHEARD-OF", 501), ("TRACE", 405)])
async def test_repositories_are_only_read(world, method, status):
    assert (await send(world, method, f"{BASE}/.cvmfspublished", b"hello")).status == status
    assert world.origin.asked == []


async def test_a_change_is_sent_once_even_if_the_server_breaks_off(pair):
    pair.origins[0].is_dead = True
    assert (await send(pair, "POST", "/x", b"hello")).status == 502
    assert len(pair.origins[0].asked) == 1
    assert pair.origins[1].asked == []


async def test_a_change_goes_to_the_next_server_if_the_first_cannot_be_reached(pair):
    pair.origins[1].replies["/x"] = Reply(b"done")
    await pair.origins[0].stop()
    assert (await send(pair, "POST", "/x", b"hello")).body == b"done"
    assert pair.origins[1].asked[0].body == b"hello"
    await pair.origins[0].start()


async def test_an_answer_that_comes_before_the_whole_body_ends_the_connection(world):
    async with world.client() as client:
        await client.ask("/x", method="OPTIONS", Max_Forwards="0", Content_Length="5")
        assert (await client.receive()).status == 204
        assert await client.is_closed()
    assert world.origin.asked == []


async def test_options_of_the_edge_itself_are_told_by_itself(world):
    async with world.client() as client:
        for _ in range(2):
            answer = await client.get("*", method="OPTIONS")
            assert (answer.status, answer.headers["allow"]) == (204, "GET, HEAD, OPTIONS")
        assert (await client.get("*")).status == 400
    assert world.origin.asked == []


async def test_options_count_their_hops(world):
    world.origin.replies["/x"] = Reply(b"", 204, headers={"Allow": "GET"})
    assert (await world.get("/x", method="OPTIONS", Max_Forwards="3")).headers["allow"] == "GET"
    assert world.origin.asked[0].headers["max-forwards"] == "2"


# -------------------------------------------------------------------------------------------------------- invalidation


@pytest.mark.parametrize("field", [None, "Location", "Content-Location"])
async def test_a_change_makes_what_is_stored_out_of_date(world, field):
    read, changed = ("/a/x", "/a/x") if field is None else ("/a/x", "/b")
    world.origin.replies[read] = Reply(b"old", headers=FRESH)
    assert (await world.get(read)).body == b"old"
    await world.settled()
    world.origin.replies[read] = Reply(b"new", headers={**FRESH, **({} if field is None else {field: "/a/x"})})
    world.origin.replies[changed] = world.origin.replies[read]
    await send(world, "POST", changed)
    assert (await world.get(read)).body == b"new"


async def test_a_change_that_failed_leaves_what_is_stored(world):
    world.origin.replies["/x"] = Reply(b"old", headers=FRESH)
    await world.get("/x")
    world.origin.replies["/x"] = Reply(b"", 500)
    assert (await send(world, "POST", "/x")).status == 500
    assert (await world.get("/x")).body == b"old"


async def test_a_change_of_another_server_is_not_taken_from_its_word(world):
    world.origin.replies["/x"] = Reply(b"old", headers=FRESH)
    await world.get("/x")
    world.origin.replies["/y"] = Reply(b"", headers={"Location": "http://elsewhere/x"})
    await send(world, "POST", "/y")
    assert "; hit" in (await world.get("/x")).headers["cache-status"]


async def test_a_change_overtakes_an_answer_that_is_still_on_its_way(world):
    gate = asyncio.Event()
    world.origin.replies["/x"] = Reply(b"old", headers=FRESH, gate=gate)
    reading = asyncio.create_task(world.get("/x"))
    await until(lambda: world.origin.asked)
    world.origin.replies["/x"] = Reply(b"new", headers=FRESH)
    await send(world, "PUT", "/x", b"new")
    gate.set()
    assert (await reading).body == b"old"
    await world.settled()
    assert (await world.get("/x")).body == b"new"


async def test_a_change_makes_all_variants_out_of_date_on_disk_too(world):
    world.origin.replies["/x"] = lambda asked: Reply(b"old", headers={**FRESH, "Vary": "X"})
    for value in "ab":
        await world.get("/x", X=value)
    await world.settled()
    assert len(world.cached_files()) == 3
    await send(world, "DELETE", "/x")
    assert world.cached_files() == []
    await world.get("/x", X="a")
    assert world.origin.count("/x") == 4


# ------------------------------------------------------------------------------------------------------------ variants


def by_language(asked) -> Reply:
    tag = f'"{asked.headers.get("accept-language")}"'
    if asked.headers.get("if-none-match") == tag:
        return Reply(b"", 304, headers=FRESH)
    body = asked.headers.get("accept-language", "-").encode()
    return Reply(body, headers={**FRESH, "Vary": "Accept-Language", "ETag": tag})


async def test_several_variants_are_kept_and_each_is_confirmed_by_itself(world):
    world.origin.replies["/x"] = by_language
    for _ in range(2):
        for language in ("de", "fr", "en"):
            assert (await world.get("/x", Accept_Language=language)).body == language.encode()
    assert world.origin.count("/x") == 3
    world.advance(2000)
    for language in ("fr", "de"):
        answer = await world.get("/x", Accept_Language=language)
        assert (answer.body, "fwd=stale; fwd-status=304" in answer.headers["cache-status"]) == (language.encode(), True)
        assert "; hit" in (await world.get("/x", Accept_Language=language)).headers["cache-status"]
    assert (
        (await world.get("/x", Accept_Language="it")).headers["cache-status"].startswith('"edge.test"; fwd=vary-miss')
    )


async def test_different_variants_are_fetched_at_the_same_time_and_both_kept(world):
    world.origin.replies["/x"] = by_language
    await world.get("/x", Accept_Language="en")
    asking = [world.get("/x", Accept_Language=language) for language in ("de", "fr") * 5]
    assert {answer.body for answer in await asyncio.gather(*asking)} == {b"de", b"fr"}
    assert world.origin.count("/x") == 3
    for language in ("de", "fr"):
        assert "; hit" in (await world.get("/x", Accept_Language=language)).headers["cache-status"]


async def test_variants_outlive_the_memory(world):
    world.origin.replies["/x"] = by_language
    for language in ("de", "fr"):
        await world.get("/x", Accept_Language=language)
    await world.settled()
    memory = world.edge.parts.supplies.memory
    for key in list(memory._entries):
        memory.remove(key)
    for language in ("de", "fr"):
        assert (await world.get("/x", Accept_Language=language)).body == language.encode()
    assert world.origin.count("/x") == 2


async def test_the_number_of_variants_is_bounded(world):
    world.origin.replies["/x"] = by_language
    for number in range(VARIANTS_MAX + 5):
        await world.get("/x", Accept_Language=str(number))
        await world.settled()
    assert len(world.cached_files()) == VARIANTS_MAX + 1
    assert len(world.edge.parts.supplies.memory) == VARIANTS_MAX + 1


async def test_a_stale_variant_stands_in_for_nobody_elses(world):
    world.origin.replies["/x"] = by_language
    await world.get("/x", Accept_Language="de")
    world.origin.is_dead = True
    assert (await world.get("/x", Accept_Language="fr")).status == 502
    world.advance(1001)
    assert (await world.get("/x", Accept_Language="de")).body == b"de"


# ----------------------------------------------------------------------------------------- what ordinary sites answer


async def test_interim_answers_are_passed_on_at_once_and_not_stored(world):
    gate = asyncio.Event()
    hint = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\r\n"
    world.origin.replies["/x"] = Reply(b"body", headers=FRESH, gate=gate, gate_after=2, interim=(hint, hint))
    async with world.client() as client:
        await client.ask("/x")
        for _ in range(2):
            assert await client.receive_head() == (103, {"link": "</a>"})
        gate.set()
        assert (await client.receive()).body == b"body"
        assert (await client.get("/x")).body == b"body"
        old = await client.get("/x", version="1.0")
        assert (old.status, old.body) == (200, b"body")


async def test_a_client_of_http_1_0_gets_no_interim_answers(world):
    world.origin.replies["/x"] = Reply(b"body", interim=("HTTP/1.1 103 Early Hints\r\n\r\n",))
    assert (await world.get("/x", version="1.0")).status == 200


async def test_an_error_page_is_passed_on_whole_however_large(world):
    world.origin.replies["/x"] = Reply(LARGE, 404)
    answer = await world.get("/x")
    assert (answer.status, answer.body == LARGE) == (404, True)


@pytest.mark.parametrize("status", [404, 500, 503, 599])
async def test_an_error_that_says_how_long_it_lives_is_stored_for_so_long(world, status):
    world.origin.replies["/x"] = Reply(b"sorry", status, headers=FRESH)
    for _ in range(2):
        assert (await world.get("/x")).status == status
        world.advance(999)
    assert world.origin.count("/x") == 1
    world.advance(2)
    await world.get("/x")
    assert world.origin.count("/x") == 2


async def test_an_error_that_says_nothing_is_not_stored_and_another_server_asked_first(pair):
    pair.origins[0].replies["/x"] = Reply(b"sorry", 503)
    pair.origins[1].replies["/x"] = Reply(b"fine")
    assert (await pair.get("/x")).body == b"fine"


async def test_what_is_stored_stands_in_for_an_error(world):
    world.origin.replies["/x"] = Reply(b"fine", headers=FRESH)
    await world.get("/x")
    world.advance(1001)
    world.origin.replies["/x"] = Reply(b"sorry", 503, headers=FRESH)
    answer = await world.get("/x")
    assert (answer.body, "detail=upstreams-failed" in answer.headers["cache-status"]) == (b"fine", True)


async def test_a_little_staleness_costs_no_client_a_wait(world):
    gate = asyncio.Event()
    control = {"Cache-Control": "max-age=10, stale-while-revalidate=20"}
    world.origin.replies["/x"] = Reply(b"old", headers=control)
    await world.get("/x")
    world.advance(15)
    world.origin.replies["/x"] = Reply(b"new", headers=control, gate=gate)
    for _ in range(3):
        answer = await world.get("/x")
        assert (answer.body, "detail=stale-while-revalidate" in answer.headers["cache-status"]) == (b"old", True)
    gate.set()
    await world.settled()
    assert (await world.get("/x")).body == b"new"
    assert world.origin.count("/x") == 2


async def test_a_cookie_is_kept_only_where_the_origin_says_for_how_long(world):
    world.origin.replies["/said"] = Reply(b"x", headers={**FRESH, "Set-Cookie": "a=b"})
    world.origin.replies["/guessed"] = Reply(
        b"x", headers={"Set-Cookie": "a=b", "Last-Modified": "Tue, 14 Nov 2000 00:00:00 GMT"}
    )
    for target in ("/said", "/guessed"):
        for _ in range(2):
            assert (await world.get(target)).headers["set-cookie"] == "a=b"
    assert (world.origin.count("/said"), world.origin.count("/guessed")) == (1, 2)


async def test_an_answer_to_credentials_is_shared_only_if_it_says_so(world):
    for target, control in (("/own", "max-age=60"), ("/all", "max-age=60, public")):
        world.origin.replies[target] = Reply(b"x", headers={"Cache-Control": control})
        await world.get(target, Authorization="Bearer a")
        await world.get(target)
    assert (world.origin.count("/own"), world.origin.count("/all")) == (2, 1)


async def test_a_client_that_insists_has_what_is_stored_confirmed(world):
    world.origin.replies["/x"] = by_language
    await world.get("/x", Accept_Language="de")
    answer = await world.get("/x", Accept_Language="de", Cache_Control="no-cache")
    assert (answer.body, "fwd-status=304" in answer.headers["cache-status"]) == (b"de", True)
    asked = world.origin.asked[1].headers
    assert (asked["cache-control"], asked["if-none-match"]) == ("no-cache", '"de"')


async def test_what_a_client_sends_twice_arrives_as_one_list(world):
    world.origin.replies["/x"] = Reply(b"x")
    async with world.client() as client:
        await client.send(b"GET /x HTTP/1.1\r\nHost: e\r\nX: a\r\nCookie: b=c\r\nx: d\r\nCookie: e=f\r\n\r\n")
        await client.receive()
    asked = world.origin.asked[0].headers
    assert (asked["x"], asked["cookie"]) == ("a, d", "b=c; e=f")


async def test_however_many_variants_are_asked_for_few_wait_for_the_disk(world):
    """A disk that is slower than the upstream must not keep the bodies of all answers in memory."""
    world.origin.replies["/x"] = by_language
    supplies = world.edge.parts.supplies
    async with supplies.storing.hold("site:/x"):  # as long as the disk takes
        for number in range(OF_ONE_URL_MAX + 20):
            assert (await world.get("/x", Accept_Language=str(number))).status == 200
        assert len(supplies.store_queue) == len(world.edge.parts.flights) == OF_ONE_URL_MAX
    assert world.edge.statistics.storage_failures == 20
    await world.settled()
    assert len(world.cached_files()) == VARIANTS_MAX + 1


async def test_what_finds_no_room_in_the_queue_for_the_disk_is_served_and_held_in_memory(world):
    supplies = world.edge.parts.supplies
    supplies.store_queue = StoreQueue(3 * WAITING_OVERHEAD_BYTES)
    async with AsyncExitStack() as stack:
        for number in range(10):
            world.origin.replies[f"/{number}"] = Reply(b"x", headers={"Cache-Control": "max-age=60"})
            await stack.enter_async_context(supplies.storing.hold(f"site:/{number}"))
            for _ in range(2):
                assert (await world.get(f"/{number}")).body == b"x"
            assert world.origin.count(f"/{number}") == 1
        assert len(supplies.store_queue) == 2
    await world.settled()
    assert len(world.cached_files()) == 2
