"""How an edge gets what it does not have: collapsing, verification, fail-over, and what clients see of it."""

import asyncio
import os
from dataclasses import replace

import pytest

from edge.config import CacheSettings, ForwardSettings
from edge.settings.upstreams import FetchSettings
from tests.fakes.edge import BASE, REPOSITORY, Client, edge_world, manifest_bytes, object_of, until
from tests.fakes.origin import Reply
from tests.fakes.signer import Signer

MANIFEST = f"{BASE}/.cvmfspublished"
LARGE = os.urandom(3_000_000)
LARGE_TARGET = object_of(LARGE)
"""Larger than what is held back until it is complete, so that clients see it arrive."""


@pytest.fixture
async def world(tmp_path):
    async with edge_world(tmp_path) as world:
        yield world


@pytest.fixture
async def pair(tmp_path):
    async with edge_world(tmp_path, origins=2) as world:
        yield world


def flipped(data: bytes, at: int = -1) -> bytes:
    damaged = bytearray(data)
    damaged[at] ^= 1
    return bytes(damaged)


async def clients_of(world, count: int) -> None:
    """Waits until so many clients have joined the one flight."""
    flights = world.edge.parts.flights._by_key
    await until(lambda: sum(flight.clients for flight in flights.values()) >= count)


# ----------------------------------------------------------------------------------------------------------- collapsing


@pytest.mark.parametrize("size", [10, 3_000_000])
async def test_many_clients_cause_one_fetch(world, size):
    stored, gate = LARGE[:size], asyncio.Event()
    target = object_of(stored)
    world.origin.replies[target] = Reply(stored, gate=gate)
    waiting = [asyncio.create_task(world.get(target)) for _ in range(50)]
    await clients_of(world, 50)
    gate.set()
    answers = await asyncio.gather(*waiting)
    assert all(answer.body == stored for answer in answers)
    assert world.origin.count(target) == 1
    assert (world.edge.statistics.misses, world.edge.statistics.collapsed) == (1, 49)
    assert sum("collapsed" in answer.headers["cache-status"] for answer in answers) == 49


async def test_a_body_is_given_to_all_while_it_still_arrives(world):
    gate = asyncio.Event()
    world.origin.replies[LARGE_TARGET] = Reply(LARGE, gate=gate, gate_after=2_000_000)
    async with world.client() as first, world.client() as second:
        await first.ask(LARGE_TARGET)
        await first.receive_head()
        begun = await first.reader.readexactly(1_000_000)
        await second.ask(LARGE_TARGET)
        await second.receive_head()
        assert await second.reader.readexactly(1_000_000) == begun == LARGE[:1_000_000]
        gate.set()
        for client in (first, second):
            assert await client.reader.readexactly(2_000_000) == LARGE[1_000_000:]
    assert world.origin.count(LARGE_TARGET) == 1


async def test_a_client_that_takes_nothing_delays_nobody(tmp_path):
    body = LARGE * 8
    target = object_of(body)
    async with edge_world(tmp_path) as world:
        world.origin.replies[target] = Reply(body)
        async with world.client() as slow:
            await slow.ask(target)
            await slow.receive_head()
            assert (await world.get(target)).body == body
            assert (await slow.reader.readexactly(len(body))) == body
    assert world.origin.count(target) == 1


async def test_the_first_client_to_leave_takes_nothing_from_the_others(world):
    gate = asyncio.Event()
    world.origin.replies[LARGE_TARGET] = Reply(LARGE, gate=gate, gate_after=2_000_000)
    async with world.client() as second:
        async with world.client() as first:
            await first.ask(LARGE_TARGET)
            await first.receive_head()
            await second.ask(LARGE_TARGET)
            await second.receive_head()
        gate.set()
        assert await second.reader.readexactly(len(LARGE)) == LARGE
    assert world.origin.count(LARGE_TARGET) == 1


async def test_what_nobody_waits_for_any_more_is_still_cached(world):
    gate = asyncio.Event()
    world.origin.replies[LARGE_TARGET] = Reply(LARGE, gate=gate, gate_after=2_000_000)
    async with world.client() as client:
        await client.ask(LARGE_TARGET)
        await client.receive_head()
    gate.set()
    await world.settled()
    assert "; hit" in (await world.get(LARGE_TARGET)).headers["cache-status"]


async def test_a_range_of_what_is_still_arriving_is_sent_as_soon_as_it_is_there(world):
    gate = asyncio.Event()
    world.origin.replies[LARGE_TARGET] = Reply(LARGE, gate=gate, gate_after=2_000_000)
    answer = await world.get(LARGE_TARGET, Range="bytes=1000-1999")
    assert (answer.status, answer.body) == (206, LARGE[1000:2000])
    gate.set()
    assert (await world.get(LARGE_TARGET, Range="bytes=-10")).body == LARGE[-10:]
    assert world.origin.count(LARGE_TARGET) == 1


async def test_what_is_one_clients_own_is_not_given_to_those_who_waited_with_it(tmp_path):
    async with edge_world(tmp_path / "a") as other:
        gate, numbers = asyncio.Event(), iter(range(10))
        other.origin.replies["/pub/x"] = lambda _: Reply(
            str(next(numbers)).encode(), headers={"Cache-Control": "private"}, gate=gate
        )
        async with edge_world(tmp_path / "b", forward=ForwardSettings(allow=(other.origin.url + "/pub",))) as world:
            waiting = [asyncio.create_task(world.get(other.origin.url + "/pub/x")) for _ in range(3)]
            await clients_of(world, 3)
            gate.set()
            assert {answer.body for answer in await asyncio.gather(*waiting)} == {b"0", b"1", b"2"}


# --------------------------------------------------------------------------------------------------------- verification


async def test_a_body_with_a_wrong_digest_is_fetched_elsewhere_and_nobody_notices(pair):
    target, stored = pair.publish(b"hello")
    pair.origins[0].replies[target] = Reply(flipped(stored))
    assert (await pair.get(target)).body == stored
    assert pair.edge.statistics.hash_failures == 2  # the second time past all caches
    assert pair.origins[0].asked[1].headers["cache-control"] == "no-cache"
    assert "; hit" in (await pair.get(target)).headers["cache-status"]


async def test_a_damaged_copy_in_a_cache_on_the_way_is_gone_round(world):
    target, stored = world.publish(b"hello")
    world.origin.replies[target] = lambda asked: Reply(
        stored if asked.headers.get("cache-control") == "no-cache" else flipped(stored)
    )
    assert (await world.get(target)).body == stored


async def test_a_wrong_body_is_never_completed_nor_stored(world):
    world.origin.replies[LARGE_TARGET] = Reply(flipped(LARGE))
    answer = await world.get(LARGE_TARGET)
    assert not answer.is_whole
    assert len(answer.body) < len(LARGE)
    await world.settled()
    assert world.cached_files() == []
    world.origin.replies[LARGE_TARGET] = Reply(LARGE)
    assert (await world.get(LARGE_TARGET)).body == LARGE


async def test_a_wrong_body_of_unknown_length_is_never_completed(world):
    world.origin.replies[LARGE_TARGET] = Reply(flipped(LARGE), is_chunked=True)
    assert not (await world.get(LARGE_TARGET)).is_whole


async def test_only_wrong_bodies_are_a_gateway_error(world):
    target, stored = world.publish(b"hello")
    world.origin.replies[target] = Reply(flipped(stored))
    answer = await world.get(target)
    assert answer.status == 502
    assert "wrong content" in answer.body.decode()
    assert "error=" in answer.headers["proxy-status"]


async def test_an_answer_that_someone_compressed_on_the_way_is_not_taken_for_the_object(pair):
    target, stored = pair.publish(b"hello")
    pair.origins[0].replies[target] = Reply(b"\x1f\x8b" + stored, headers={"Content-Encoding": "gzip"})
    assert (await pair.get(target)).body == stored


# ------------------------------------------------------------------------------------------------------------ fail-over


@pytest.mark.parametrize("status", [500, 502, 503, 429, 408, 304, 206])
async def test_an_upstream_that_cannot_serve_is_passed_over(pair, status):
    target, stored = pair.publish(b"hello")
    pair.origins[0].replies[target] = Reply(b"sorry", status)
    assert (await pair.get(target)).body == stored


async def test_a_dead_upstream_is_passed_over_and_asked_last_from_then_on(pair):
    pair.origins[0].is_dead = True
    targets = [pair.publish(b"hello %d" % n) for n in range(3)]
    for target, stored in targets:
        assert (await pair.get(target)).body == stored
    assert len(pair.origins[0].asked) <= 2  # once, and once more by the HTTP client itself
    pair.origins[0].is_dead = False
    pair.advance(3600)
    target, _ = pair.publish(b"later")
    await pair.get(target)
    assert pair.origins[0].count(target) == 1


async def test_an_object_that_a_lagging_upstream_lacks_is_found_at_another(pair):
    target, stored = pair.publish(b"hello")
    del pair.origins[0].replies[target]
    assert (await pair.get(target)).body == stored


async def test_an_upstream_that_sends_no_head_is_given_up_in_time(tmp_path):
    fetch = FetchSettings(answer_timeout=0.2, idle_timeout=0.2)
    async with edge_world(tmp_path, origins=2, fetch=fetch) as world:
        target, stored = world.publish(b"hello")
        world.origins[0].replies[target] = Reply(stored, gate=asyncio.Event())
        assert (await world.get(target)).body == stored
        world.origins[1].replies[target] = world.origins[0].replies[target] = Reply(stored, gate=asyncio.Event())
        other = object_of(b"other")
        for origin in world.origins:
            origin.replies[other] = Reply(b"other", gate=asyncio.Event())
        assert (await world.get(other)).status == 504


async def test_a_small_body_cut_short_is_fetched_elsewhere_and_nobody_notices(pair):
    target, stored = pair.publish(os.urandom(100_000))
    pair.origins[0].replies[target] = Reply(stored, cut_after=50_000)
    assert (await pair.get(target)).body == stored


async def test_a_large_body_cut_short_is_continued_at_the_same_byte_elsewhere(pair):
    pair.origins[0].replies[LARGE_TARGET] = Reply(LARGE, cut_after=2_000_000)
    pair.origins[1].replies[LARGE_TARGET] = lambda asked: part_of(LARGE, asked.headers["range"])
    answer = await pair.get(LARGE_TARGET)
    assert (answer.is_whole, answer.body == LARGE) == (True, True)
    assert pair.origins[1].asked[-1].headers["range"].startswith("bytes=")


async def test_a_large_body_is_continued_by_an_upstream_that_knows_no_ranges(pair):
    pair.origins[0].replies[LARGE_TARGET] = Reply(LARGE, cut_after=2_000_000)
    pair.origins[1].replies[LARGE_TARGET] = Reply(LARGE)
    assert (await pair.get(LARGE_TARGET)).body == LARGE


async def test_a_single_upstream_that_breaks_off_is_asked_for_the_rest(world):
    cuts = iter([2_000_000, None])
    world.origin.replies[LARGE_TARGET] = lambda asked: (
        part_of(LARGE, asked.headers["range"]) if "range" in asked.headers else Reply(LARGE, cut_after=next(cuts))
    )
    assert (await world.get(LARGE_TARGET)).body == LARGE


async def test_a_part_that_is_not_the_one_asked_for_is_not_used(pair):
    pair.origins[0].replies[LARGE_TARGET] = Reply(LARGE, cut_after=2_000_000)
    pair.origins[1].replies[LARGE_TARGET] = Reply(
        LARGE[5:], 206, headers={"Content-Range": f"bytes 5-{len(LARGE) - 1}/{len(LARGE)}"}
    )
    assert not (await pair.get(LARGE_TARGET)).is_whole


def part_of(body: bytes, field: str) -> Reply:
    start = int(field.removeprefix("bytes=").removesuffix("-"))
    return Reply(body[start:], 206, headers={"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"})


async def test_a_large_body_that_proves_nothing_ends_with_the_connection_when_cut_short(world):
    target = f"{BASE}/stats/stats.db"
    world.origin.replies[target] = Reply(LARGE, cut_after=2_000_000, headers={"Cache-Control": "max-age=60"})
    assert not (await world.get(target)).is_whole
    assert world.cached_files() == []


async def test_all_upstreams_failing_is_a_gateway_error_and_never_a_404(pair):
    target, _ = pair.publish(b"hello")
    for origin in pair.origins:
        origin.is_dead = True
    answer = await pair.get(target)
    assert answer.status == 502
    assert answer.headers["cache-control"] == "no-store"


async def test_the_last_word_of_failing_upstreams_is_passed_on(world):
    target, _ = world.publish(b"hello")
    world.origin.replies[target] = Reply(b"come back later", 503, headers={"Retry-After": "7"})
    answer = await world.get(target)
    assert (answer.status, answer.body, answer.headers["retry-after"]) == (503, b"come back later", "7")
    world.publish(b"hello")
    world.advance(7)
    assert (await world.get(target)).status == 200


async def test_a_forward_client_gets_an_object_even_if_the_server_it_named_is_dead(pair):
    target, stored = pair.publish(b"hello")
    pair.origins[0].is_dead = True
    assert (await pair.get(pair.origins[0].url + target)).body == stored
    assert (await pair.get(pair.origins[0].url + MANIFEST)).status == 502


# ----------------------------------------------------------------------------------------------- names without content


async def test_a_missing_name_is_believed_for_seconds_only(world):
    target = object_of(b"not yet")
    for _ in range(3):
        assert (await world.get(target)).status == 404
    assert world.origin.count(target) == 1
    world.origin.replies[target] = Reply(b"not yet", headers={"Cache-Control": "max-age=3600"})
    world.advance(6)
    assert (await world.get(target)).status == 200


async def test_a_newer_manifest_ends_what_is_believed_of_missing_names(world):
    target = object_of(b"not yet")
    world.origin.replies[MANIFEST] = Reply(manifest_bytes(1), headers={"Cache-Control": "max-age=0"})
    await world.get(MANIFEST)
    assert (await world.get(target)).status == 404
    world.origin.replies[target] = Reply(b"not yet")
    world.origin.replies[MANIFEST] = Reply(manifest_bytes(2))
    await world.get(MANIFEST)
    assert (await world.get(target)).status == 200


async def test_a_404_of_one_upstream_is_not_remembered_while_another_is_dead(pair):
    target = object_of(b"hello")
    pair.origins[1].is_dead = True
    assert (await pair.get(target)).status == 404
    pair.origins[1].is_dead = False
    pair.origins[1].replies[target] = Reply(b"hello")
    assert (await pair.get(target)).body == b"hello"


async def test_other_refusals_are_passed_on_as_they_are(world):
    target, _ = world.publish(b"hello")
    world.origin.replies[target] = Reply(b"not for you", 403)
    answer = await world.get(target)
    assert (answer.status, answer.body) == (403, b"not for you")


async def test_redirects_are_passed_on(world):
    target = f"{BASE}/moved"
    world.origin.replies[target] = Reply(b"", 302, headers={"Location": "http://elsewhere.example/x"})
    answer = await world.get(target)
    assert (answer.status, answer.headers["location"]) == (302, "http://elsewhere.example/x")


# ---------------------------------------------------------------------------------------------- time only goes forward


async def test_an_older_manifest_never_replaces_a_newer_one(pair):
    for origin, revision in zip(pair.origins, (7, 6), strict=True):
        origin.replies[MANIFEST] = Reply(manifest_bytes(revision), headers={"Cache-Control": "max-age=61"})
    assert (await pair.get(MANIFEST)).body == manifest_bytes(7)
    pair.origins[0].is_dead = True
    pair.advance(62)
    answer = await pair.get(MANIFEST)
    assert answer.body == manifest_bytes(7)
    assert "detail=upstreams-failed" in answer.headers["cache-status"]
    assert pair.edge.statistics.older_manifests == 1
    pair.origins[1].replies[MANIFEST] = Reply(manifest_bytes(8))
    pair.advance(62)
    assert (await pair.get(MANIFEST)).body == manifest_bytes(8)


async def test_not_even_a_client_that_insists_gets_an_older_manifest(world):
    world.origin.replies[MANIFEST] = Reply(manifest_bytes(7))
    await world.get(MANIFEST)
    world.origin.replies[MANIFEST] = Reply(manifest_bytes(6))
    assert (await world.get(MANIFEST, Cache_Control="no-cache")).body == manifest_bytes(7)


@pytest.mark.parametrize(
    "bad", [b"", b"<html>sign in</html>", manifest_bytes(9, fqrn="other.example.org"), manifest_bytes(9, 2_000_000_000)]
)
async def test_what_is_no_manifest_of_this_repository_is_not_given_out(pair, bad):
    pair.origins[0].replies[MANIFEST] = Reply(bad)
    pair.origins[1].replies[MANIFEST] = Reply(manifest_bytes(1))
    assert (await pair.get(MANIFEST)).body == manifest_bytes(1)


async def test_an_endless_manifest_is_given_up(pair):
    pair.origins[0].replies[MANIFEST] = Reply(b"x" * 1_000_000, is_chunked=True)
    pair.origins[1].replies[MANIFEST] = Reply(manifest_bytes(1))
    assert (await pair.get(MANIFEST)).body == manifest_bytes(1)
    assert pair.edge.statistics.bytes_fetched < 1_000_000


# --------------------------------------------------------------------------------------------------------------- repair


async def test_no_cache_fetches_an_object_anew_and_repairs_the_copy(world):
    target, stored = world.publish(b"hello")
    await world.get(target)
    entry = next(iter(world.edge.parts.supplies.memory._entries.values()))
    entry.body = flipped(stored)  # a fault of our memory
    assert (await world.get(target)).body != stored
    assert (await world.get(target, Cache_Control="no-cache")).body == stored
    assert (await world.get(target)).body == stored
    assert (await world.get(target, Pragma="no-cache")).body == stored
    assert world.origin.count(target) == 3


async def test_no_cache_while_the_upstreams_are_dead_is_answered_from_the_verified_copy(world):
    target, stored = world.publish(b"hello")
    await world.get(target)
    world.origin.is_dead = True
    assert (await world.get(target, Cache_Control="no-cache")).body == stored


# -------------------------------------------------------------------------------------- stale, but better than nothing


async def test_manifest_and_whitelist_outlive_their_upstreams_for_a_bounded_time(world):
    whitelist = f"{BASE}/.cvmfswhitelist"
    world.origin.replies = {MANIFEST: Reply(manifest_bytes(1)), whitelist: Reply(Signer(REPOSITORY).whitelist())}
    for target in (MANIFEST, whitelist):
        await world.get(target)
    world.origin.is_dead = True
    world.advance(100)
    for target in (MANIFEST, whitelist):
        assert (await world.get(target)).status == 200
    world.advance(world.edge.config.lifetimes.stale_if_error)
    for target in (MANIFEST, whitelist):
        assert (await world.get(target)).status == 502


async def test_failed_upstreams_are_not_asked_again_for_every_stale_answer(world):
    world.origin.replies[MANIFEST] = Reply(manifest_bytes(1))
    await world.get(MANIFEST)
    world.origin.is_dead = True
    world.advance(100)
    await world.get(MANIFEST)
    asked = len(world.origin.asked)
    for _ in range(5):
        assert (await world.get(MANIFEST)).status == 200
    assert len(world.origin.asked) == asked


async def test_a_stale_answer_is_confirmed_without_its_body(world):
    target = f"{BASE}/stats/page"
    world.origin.replies[target] = lambda asked: (
        Reply(b"", 304, headers={"Cache-Control": "max-age=60", "X-New": "1"})
        if asked.headers.get("if-none-match") == '"v1"'
        else Reply(b"body", headers={"Cache-Control": "max-age=10", "ETag": '"v1"'})
    )
    await world.get(target)
    world.advance(11)
    confirmed = await world.get(target)
    assert (confirmed.status, confirmed.body, confirmed.headers["x-new"]) == (200, b"body", "1")
    assert "fwd-status=304" in confirmed.headers["cache-status"]
    world.advance(50)
    assert "; hit" in (await world.get(target)).headers["cache-status"]


# ------------------------------------------------------------------------------------------------------ without a disk


async def test_a_body_too_large_to_store_is_passed_on_with_bounded_memory(tmp_path):
    body = LARGE * 4
    target = object_of(body)
    small = CacheSettings(tmp_path / "cache", object_bytes_max=4_000_000, memory_bytes=16 << 20)
    async with edge_world(tmp_path, cache=small) as world:
        world.origin.replies[target] = Reply(body)
        async with Client(world.edge.address) as slow:
            await slow.ask(target)
            await slow.receive_head()
            assert await slow.reader.readexactly(len(body)) == body
        assert world.cached_files() == []


async def test_a_full_cache_serves_without_storing(tmp_path):
    tiny = CacheSettings(tmp_path / "cache", disk_bytes=2_000_000, memory_bytes=1 << 20)
    async with edge_world(tmp_path, cache=tiny) as world:
        world.origin.replies[LARGE_TARGET] = Reply(LARGE)
        answers = await asyncio.gather(*(world.get(LARGE_TARGET) for _ in range(3)))
        assert all(answer.body == LARGE for answer in answers)
        await world.settled()
        assert world.cached_files() == []
        assert world.edge.parts.supplies.disk.used_bytes == 0
        assert list((world.directory / "tmp").iterdir()) == []


async def test_a_reload_changes_whom_is_asked(pair):
    target, stored = pair.publish(b"hello")
    config = pair.edge.config
    upstream = replace(config.upstreams[0], urls=config.upstreams[0].urls[1:])
    pair.edge.reload(replace(config, upstreams=(upstream,)))
    assert (await pair.get(target)).body == stored
    assert pair.origins[0].asked == []
