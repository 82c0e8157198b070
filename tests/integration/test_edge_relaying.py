"""Two workers of one edge, in one process: who answers what, who keeps what, and what happens when one is down."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest

from cdn.clock import ManualClock
from edge.cache.shards import Share
from edge.relaying.relayed_head import CLIENT_FIELD, FORGET, KEY_FIELD, RESULT_FIELD
from edge.server import EdgeServer
from edge.settings.upstreams import UpstreamSettings
from tests.fakes.edge import BASE, Client, edge_config, manifest_bytes, object_of, until
from tests.fakes.origin import Origin, Reply, running_origin

LARGE = bytes(range(256)) * (12 << 10)
FRESH = {"Cache-Control": "max-age=1000"}


@dataclass
class Pair:
    """Two workers before one origin."""

    workers: list[EdgeServer]
    origin: Origin
    clock: ManualClock

    def owner_of(self, key: str) -> int:
        return self.workers[0]._share.owner_of(key)

    def publish(self, owner: int, size: int = 100, **reply) -> tuple[str, bytes]:
        """An object of one of the workers."""
        for number in range(1000):
            body = b"%d" % number + bytes(size)
            target = object_of(body)
            if self.owner_of(f"object:{target.removeprefix('/cvmfs/')}") == owner and target not in self.origin.replies:
                self.origin.replies[target] = Reply(body, **reply)
                return target, body
        raise AssertionError

    def site_target(self, owner: int, prefix: str = "/page") -> str:
        return next(f"{prefix}{n}" for n in range(99) if self.owner_of(f"site:{prefix}{n}") == owner)

    def client(self, worker: int) -> Client:
        return Client(self.workers[worker].address)

    async def get(self, worker: int, target: str, **more):
        async with self.client(worker) as client:
            return await client.get(target, **more)

    async def stop(self, worker: int) -> None:
        """As when it is killed: nobody answers any more."""
        await self.workers[worker].stop(drain_seconds=0)


@asynccontextmanager
async def running_pair(directory, **changes):
    async with running_origin() as origin:
        config = edge_config(directory / "cache", origin.url, **changes)
        site = UpstreamSettings("site", (origin.url,), path="/")
        config = replace(config, upstreams=(*config.upstreams, site))
        clock = ManualClock()
        workers = [EdgeServer(config, clock=clock, share=Share(index, 2)) for index in range(2)]
        try:
            for worker in workers:
                await worker.start()
            yield Pair(workers, origin, clock)
        finally:
            for worker in workers:
                await worker.stop(drain_seconds=0)


@pytest.fixture
async def pair(tmp_path):
    async with running_pair(tmp_path) as pair:
        yield pair


# ------------------------------------------------------------------------------------------------ one owner


async def test_an_object_is_fetched_once_whomever_clients_ask_and_then_answered_from_each_ones_memory(pair):
    target, body = pair.publish(owner=1)
    first, second, third = [await pair.get(worker, target) for worker in (0, 0, 1)]
    assert first.body == second.body == third.body == body
    assert "fwd=miss" in first.headers["cache-status"]
    for hit in (second, third):
        assert hit.headers["cache-status"].startswith('"edge.test"; hit')
        assert hit.headers["via"] == "1.1 edge.test"
        assert hit.headers["etag"] == first.headers["etag"]
        assert not any(name.startswith("stratocast") for name in hit.headers)
    assert pair.origin.count(target) == 1
    front, owner = pair.workers
    assert (front.statistics.relayed, front.statistics.memory_hits, owner.statistics.memory_hits) == (1, 1, 1)


async def test_the_age_of_an_object_goes_on_in_the_memory_of_another_worker(pair):
    target, _ = pair.publish(owner=1)
    await pair.get(1, target)
    pair.clock.advance(7)
    assert (await pair.get(0, target)).headers["age"] == "7"
    pair.clock.advance(5)
    assert (await pair.get(0, target)).headers["age"] == "12"


async def test_clients_of_both_workers_wait_for_one_fetch(pair):
    gate = asyncio.Event()
    target, body = pair.publish(owner=0, size=3_000_000, gate=gate, gate_after=1000)
    answers = [asyncio.create_task(pair.get(number % 2, target)) for number in range(40)]
    await until(lambda: pair.origin.asked)
    gate.set()
    assert {answer.body for answer in await asyncio.gather(*answers)} == {body}
    assert pair.origin.count(target) == 1


async def test_what_can_change_is_its_owners_alone(pair):
    manifest = f"{BASE}/.cvmfspublished"
    pair.origin.replies[manifest] = Reply(manifest_bytes(1))
    assert [(await pair.get(worker, manifest)).body for worker in (0, 1, 0)] == [manifest_bytes(1)] * 3
    pair.origin.replies[manifest] = Reply(manifest_bytes(2))
    pair.clock.advance(100)
    assert [(await pair.get(worker, manifest)).body for worker in (0, 1, 0)] == [manifest_bytes(2)] * 3
    assert pair.origin.count(manifest) == 2
    assert len([worker for worker in pair.workers if len(worker.parts.supplies.memory)]) == 1


async def test_a_newer_manifest_makes_every_worker_ask_again_for_what_was_missing(pair):
    manifest = f"{BASE}/.cvmfspublished"
    owner = pair.owner_of(manifest)
    target, body = pair.publish(owner=1 - owner)
    reply = pair.origin.replies.pop(target)
    pair.origin.replies[manifest] = Reply(manifest_bytes(1))
    await pair.get(owner, manifest)
    assert [(await pair.get(worker, target)).status for worker in (0, 1)] == [404, 404]
    pair.origin.replies[target] = reply
    pair.origin.replies[manifest] = Reply(manifest_bytes(2))
    await pair.get(owner, manifest, Cache_Control="no-cache")
    other = pair.workers[1 - owner].parts.supplies.memory
    await until(lambda: not other._negatives)
    assert (await pair.get(owner, target)).body == body


async def test_a_client_that_wants_a_fresh_copy_gets_the_owners(pair):
    target, body = pair.publish(owner=1)
    await pair.get(0, target)
    assert (await pair.get(0, target, Cache_Control="no-cache")).body == body
    assert pair.origin.count(target) == 2


# ------------------------------------------------------------------------------------------------ every kind of answer


async def test_heads_conditions_and_ranges_are_answered_alike_by_both(pair):
    target, body = pair.publish(owner=1, size=2_000_000)
    await pair.get(1, target)
    for worker in (0, 1):
        head = await pair.get(worker, target, method="HEAD")
        assert (head.status, head.headers["content-length"]) == (200, str(len(body)))
        assert (await pair.get(worker, target, If_None_Match=head.headers["etag"])).status == 304
        part = await pair.get(worker, target, Range="bytes=5-9")
        assert (part.status, part.body, part.headers["content-range"]) == (206, body[5:10], f"bytes 5-9/{len(body)}")
        assert (await pair.get(worker, target, Range=f"bytes={len(body)}-")).status == 416
        old = await pair.get(worker, target, version="1.0")
        assert (old.body, old.headers["connection"]) == (body, "close")


async def test_a_large_object_on_disk_is_read_by_whoever_has_the_client(pair):
    target, body = pair.publish(owner=1, size=2_000_000)
    await pair.get(1, target)
    front, owner = pair.workers
    await until(lambda: not len(owner.parts.flights))
    for _ in range(2):
        answer = await pair.get(0, target)
        assert answer.body == body
        assert answer.headers["cache-status"].startswith('"edge.test"; hit')
    assert (front.statistics.relayed, front.statistics.hits, front.statistics.misses) == (0, 2, 0)
    assert (owner.statistics.hits, pair.origin.count(target)) == (0, 1)
    pair.clock.advance(100)
    assert (await pair.get(0, target, Range="bytes=1-2")).body == body[1:3]


async def test_a_large_object_that_is_damaged_on_disk_is_fetched_anew_by_its_owner(pair):
    target, body = pair.publish(owner=1, size=2_000_000)
    await pair.get(1, target)
    front, owner = pair.workers
    await until(lambda: not len(owner.parts.flights))
    file = max((owner.config.cache.directory / "v1").rglob("*"), key=lambda path: path.stat().st_size)
    with file.open("r+b") as opened:
        opened.seek(1_000_000)
        opened.write(b"rotten")
    for worker in (0, 1, 0):
        assert (await pair.get(worker, target)).body == body
    assert front.statistics.disk_failures + owner.statistics.disk_failures == 1


async def test_a_range_of_a_small_object_is_cut_out_of_the_workers_own_copy(pair):
    target, body = pair.publish(owner=1)
    await pair.get(0, target)
    await pair.stop(1)
    assert (await pair.get(0, target, Range="bytes=0-4")).body == body[:5]
    assert pair.workers[0].statistics.relay_failures == 0


@pytest.mark.parametrize("is_chunked", [False, True])
async def test_bodies_of_requests_go_up_and_answers_of_unknown_size_come_down(pair, is_chunked):
    target = pair.site_target(owner=1)
    pair.origin.replies[target] = lambda asked: Reply(asked.body, 201, is_chunked=is_chunked)
    async with pair.client(0) as client:
        await client.ask(target, method="POST", Content_Length=str(len(LARGE)), Expect="100-continue")
        assert (await client.receive_head())[0] == 100
        await client.send(LARGE)
        answer = await client.receive()
        assert (answer.status, answer.body) == (201, LARGE)
        await client.ask(target, method="PUT", Transfer_Encoding="chunked")
        await client.send(b"5\r\nhello\r\n0\r\n\r\n")
        assert (await client.receive()).body == b"hello"
    assert [asked.method for asked in pair.origin.asked] == ["POST", "PUT"]


async def test_answers_of_unknown_size_end_with_the_connection_for_an_old_client(pair):
    target = pair.site_target(owner=1)
    pair.origin.replies[target] = Reply(LARGE, is_chunked=True, headers={"Cache-Control": "no-store"})
    answer = await pair.get(0, target, version="1.0")
    assert "transfer-encoding" not in answer.headers
    assert answer.body == LARGE


async def test_interim_answers_are_passed_on(pair):
    target = pair.site_target(owner=1)
    pair.origin.replies[target] = Reply(b"x", interim=("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",))
    async with pair.client(0) as client:
        await client.ask(target)
        assert await client.receive_head() == (103, {"link": "</a>"})
        assert (await client.receive()).body == b"x"


async def test_a_change_made_through_one_worker_is_forgotten_by_the_owners_of_all_it_names(pair):
    one, other = pair.site_target(owner=0), pair.site_target(owner=1)
    for target in (one, other):
        pair.origin.replies[target] = Reply(b"old", headers=FRESH)
        assert (await pair.get(0, target)).body == b"old"
        pair.origin.replies[target] = Reply(b"new", headers={**FRESH, "Content-Location": other})
    assert (await pair.get(0, one, method="DELETE", Content_Length="0")).status == 200
    assert [(await pair.get(worker, target)).body for worker in (0, 1) for target in (one, other)] == [b"new"] * 4


async def test_variants_are_told_apart_by_their_owner(pair):
    target = pair.site_target(owner=1)
    pair.origin.replies[target] = lambda asked: Reply(
        asked.headers["accept-language"].encode(), headers={**FRESH, "Vary": "Accept-Language"}
    )
    for _ in range(2):
        for worker in (0, 1):
            for language in ("de", "fr"):
                assert (await pair.get(worker, target, Accept_Language=language)).body == language.encode()
    assert pair.origin.count(target) == 2


async def test_the_client_of_another_worker_is_named_to_geo_servers(pair):
    targets = [f"{BASE}/api/v1.0/geo/x/{n}" for n in range(20)]
    target = next(each for each in targets if pair.owner_of(each) == 1)
    pair.origin.replies[target] = Reply(b"1,2\n")
    await pair.get(0, target, **{CLIENT_FIELD: "192.0.2.1"})
    assert pair.origin.asked[0].headers["x-forwarded-for"] == "127.0.0.1"


async def test_what_clients_say_in_private_fields_is_not_believed(pair):
    target = pair.site_target(owner=1)
    pair.origin.replies[target] = Reply(b"kept", headers={**FRESH, RESULT_FIELD: "nonsense"})
    await pair.get(0, target, **{CLIENT_FIELD: "192.0.2.1"})
    assert CLIENT_FIELD.lower() not in pair.origin.asked[0].headers
    for worker in (0, 1):
        forgotten = await pair.get(worker, target, method=FORGET, **{KEY_FIELD: "site:/other"})
        assert (forgotten.status, forgotten.body) == (200, b"kept")  # a method like any other


# ------------------------------------------------------------------------------------------------ when things break


@pytest.mark.parametrize("is_chunked", [False, True])
async def test_a_body_that_the_owner_breaks_off_never_looks_whole(pair, is_chunked):
    target = pair.site_target(owner=1)
    pair.origin.replies[target] = Reply(LARGE, cut_after=2_000_000, is_chunked=is_chunked)
    for version in ("1.1", "1.0"):
        async with pair.client(0) as client:
            await client.ask(target, version=version)
            await client.receive_head()
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                while await client.reader.read(1 << 16):
                    pass
                raise asyncio.IncompleteReadError(b"", None) if version == "1.1" else AssertionError


async def test_an_owner_that_dies_in_the_middle_breaks_the_answers_that_have_begun(pair):
    target, _ = pair.publish(owner=1, size=4_000_000, gate=asyncio.Event(), gate_after=3_000_000)
    async with pair.client(0) as client:
        await client.ask(target)
        await client.receive_head()
        await client.reader.readexactly(2_000_000)
        await pair.stop(1)
        assert not (await client._receive_body({"content-length": str(2_000_003)}))[1]


async def test_without_its_owner_a_request_is_served_and_nothing_of_it_kept(pair):
    target, body = pair.publish(owner=1)
    large, large_body = pair.publish(owner=1, size=3_000_000)
    await pair.stop(1)
    for _ in range(2):
        assert (await pair.get(0, target)).body == body
        assert (await pair.get(0, large)).body == large_body
    assert (pair.origin.count(target), pair.origin.count(large)) == (2, 2)
    assert pair.workers[0].statistics.relay_failures == 4
    worker = pair.workers[0]
    await until(lambda: not len(worker.parts.flights))
    assert (worker.parts.supplies.disk.used_bytes, len(worker.parts.supplies.memory)) == (0, 0)
    assert list((worker.config.cache.directory / "tmp").iterdir()) == []


async def test_without_its_owner_many_clients_still_wait_for_one_fetch(pair):
    gate = asyncio.Event()
    target, body = pair.publish(owner=1, gate=gate)
    await pair.stop(1)
    answers = [asyncio.create_task(pair.get(0, target)) for _ in range(10)]
    await until(lambda: sum(flight.clients for flight in pair.workers[0].parts.flights._running) == 10)
    gate.set()
    assert {answer.body for answer in await asyncio.gather(*answers)} == {body}
    assert pair.origin.count(target) == 1


async def test_without_its_owner_what_is_on_disk_is_served_and_time_goes_forward(pair):
    manifest = f"{BASE}/.cvmfspublished"
    owner = pair.owner_of(manifest)
    pair.origin.replies[manifest] = Reply(manifest_bytes(5))
    await pair.get(owner, manifest)
    await until(lambda: not len(pair.workers[owner].parts.flights))
    await pair.stop(owner)
    other = 1 - owner
    assert (await pair.get(other, manifest)).body == manifest_bytes(5)
    assert pair.origin.count(manifest) == 1
    pair.clock.advance(100)
    for revision, seen in ((4, 5), (6, 6)):
        pair.origin.replies[manifest] = Reply(manifest_bytes(revision))
        assert (await pair.get(other, manifest)).body == manifest_bytes(seen)
    await until(lambda: not len(pair.workers[other].parts.flights))
    pair.origin.replies[manifest] = Reply(manifest_bytes(5))
    again = EdgeServer(pair.workers[owner].config, clock=pair.clock, share=Share(owner, 2))
    await again.start()
    pair.workers[owner] = again
    assert (await pair.get(other, manifest)).body == manifest_bytes(6)


async def test_a_change_is_forgotten_for_an_owner_that_is_down(pair):
    one, other = pair.site_target(owner=0), pair.site_target(owner=1)
    pair.origin.replies[other] = Reply(b"old", headers=FRESH)
    assert (await pair.get(0, other)).body == b"old"
    await until(lambda: not len(pair.workers[1].parts.flights))
    await pair.stop(1)
    assert (await pair.get(0, other)).body == b"old"
    pair.origin.replies[other] = Reply(b"new", headers=FRESH)
    pair.origin.replies[one] = Reply(b"done", headers={"Location": other})
    assert (await pair.get(0, one, method="POST", Content_Length="0")).body == b"done"
    assert (await pair.get(0, other)).body == b"new"


async def test_a_request_that_may_have_changed_something_is_not_repeated_when_its_owner_dies(pair):
    target = pair.site_target(owner=1)
    pair.origin.replies[target] = Reply(b"done", gate=asyncio.Event())
    async with pair.client(0) as client:
        await client.ask(target, method="POST", Content_Length="5")
        await client.send(b"hello")
        await until(lambda: pair.origin.asked)
        await pair.stop(1)
        assert (await client.receive()).status == 502
    assert pair.origin.count(target) == 1


async def test_a_kept_connection_that_the_owner_closed_costs_nothing(pair):
    first, _ = pair.publish(owner=1)
    second, body = pair.publish(owner=1)
    await pair.get(0, first)
    for connection in list(pair.workers[1].parts.neighbours._listener.connections):
        connection.abort()
    assert (await pair.get(0, second)).body == body
    assert pair.workers[0].statistics.relay_failures == 0


async def test_a_client_that_leaves_ends_what_the_owner_does_for_it(pair):
    target = pair.site_target(owner=1)
    pair.origin.replies[target] = Reply(LARGE * 8, headers={"Cache-Control": "no-store"})
    async with pair.client(0) as client:
        await client.ask(target)
        await client.receive_head()
    owner = pair.workers[1]
    await until(lambda: not owner.parts.neighbours._listener.connections and not len(owner.parts.flights))


async def test_a_client_whose_own_body_is_malformed_is_told_so(pair):
    target = pair.site_target(owner=1)
    async with pair.client(0) as client:
        await client.ask(target, method="POST", Transfer_Encoding="chunked")
        await client.send(b"nonsense\r\n")
        assert (await client.receive()).status == 400


async def test_requests_under_way_at_another_worker_are_finished_before_the_owner_stops(pair):
    gate = asyncio.Event()
    target, body = pair.publish(owner=1, gate=gate)
    asking = asyncio.create_task(pair.get(0, target))
    await until(lambda: pair.origin.asked)
    stopping = asyncio.create_task(pair.workers[1].stop())
    await until(lambda: pair.workers[1].is_draining)
    gate.set()
    assert (await asking).body == body
    await stopping
