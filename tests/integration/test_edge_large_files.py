"""Large objects from disk: sent without being read, in order, at the client's pace, never whole if they are wrong."""

import asyncio
import gc
import os

import pytest

from edge.connection.protocol import Connection
from tests.fakes.edge import SlowClient, edge_world, object_of, until
from tests.fakes.origin import Reply

LARGE = os.urandom(12_000_000)
TARGET = object_of(LARGE)
REQUEST = f"GET {TARGET} HTTP/1.1\r\nHost: e\r\n\r\n".encode()


@pytest.fixture
async def world(tmp_path):
    async with edge_world(tmp_path) as world:
        world.origin.replies[TARGET] = Reply(LARGE)
        await world.get(TARGET)
        await world.settled()
        await world.get(TARGET)
        yield world


def cached_file(world):
    (path,) = world.cached_files()
    return path


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_hits_of_large_objects_come_whole_and_in_order_with_others(world):
    small, small_body = world.publish(b"small")
    await world.get(small)
    async with world.client() as client:
        order = [TARGET, small, TARGET, TARGET, "/nowhere", small, TARGET]
        await client.send(b"".join(f"GET {target} HTTP/1.1\r\nHost: e\r\n\r\n".encode() for target in order))
        bodies = [(await client.receive()).body for _ in order]
    assert [body for target, body in zip(order, bodies, strict=True) if target != "/nowhere"] == [
        LARGE if target == TARGET else small_body for target in order if target != "/nowhere"
    ]
    assert world.origin.count(TARGET) == 1
    assert world.edge.statistics.hits == 1 + 4 + 2


async def test_a_large_object_goes_over_a_unix_socket_too(world, tmp_path):
    path = str(tmp_path / "socket")
    loop = asyncio.get_running_loop()
    server = await loop.create_unix_server(lambda: Connection(world.edge.parts.shared), path)
    try:
        reader, writer = await asyncio.open_unix_connection(path)
        for _ in range(2):
            writer.write(REQUEST)
            await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(len(LARGE)) == LARGE
        writer.transport.abort()
    finally:
        server.close()


@pytest.mark.parametrize("is_open", [True, False])
async def test_a_file_cut_short_while_it_is_sent_is_never_taken_for_the_whole(world, is_open):
    if not is_open:
        world.edge.parts.service.close()
    async with SlowClient(world.edge.address) as client:
        await client.send(REQUEST)
        status, _ = await client.receive_head()
        os.truncate(cached_file(world), 11_000_000)
        body, is_whole = await client._receive_body({"content-length": str(len(LARGE))})
    assert (status, is_whole) == (200, False)
    assert LARGE.startswith(body)
    assert world.edge.statistics.disk_failures == 1
    assert (await world.get(TARGET)).body == LARGE
    assert world.origin.count(TARGET) == 2


async def test_a_file_that_somebody_writes_to_while_it_is_sent_is_never_taken_for_the_whole(world):
    async with SlowClient(world.edge.address) as client:
        await client.send(REQUEST)
        await client.receive_head()
        with cached_file(world).open("r+b") as file:
            file.seek(11_500_000)
            file.write(b"wrong")
        assert (await client._receive_body({"content-length": str(len(LARGE))}))[1] is False
    assert (await world.get(TARGET)).body == LARGE
    assert world.origin.count(TARGET) == 2


async def test_a_file_that_was_only_touched_or_evicted_while_it_is_sent_comes_whole(world):
    for change in (os.utime, os.unlink):
        async with SlowClient(world.edge.address) as client:
            await client.send(REQUEST)
            await client.receive_head()
            change(cached_file(world))
            assert await client._receive_body({"content-length": str(len(LARGE))}) == (LARGE, True)
    assert world.edge.statistics.disk_failures == 0


async def test_a_file_that_left_the_cache_is_let_go(world):
    assert (await world.get(TARGET)).body == LARGE
    assert len(world.edge.parts.service._open_files) == 1
    cached_file(world).unlink()
    world.edge.check_connections()
    assert len(world.edge.parts.service._open_files) == 0
    assert (await world.get(TARGET)).body == LARGE
    assert world.origin.count(TARGET) == 2


async def test_a_file_stays_open_for_a_minute_only(world):
    assert len(world.edge.parts.service._open_files) == 1
    world.advance(61)
    world.edge.check_connections()
    assert len(world.edge.parts.service._open_files) == 0
    assert (await world.get(TARGET)).body == LARGE
    assert world.origin.count(TARGET) == 1


async def test_clients_that_go_away_leave_nothing_open(world):
    before = open_descriptors()
    for _ in range(5):
        async with SlowClient(world.edge.address) as client:
            await client.send(REQUEST)
            await client.receive_head()
    await until(lambda: not world.edge.parts.shared.connections)
    await until(lambda: open_descriptors() <= before)


async def test_a_client_that_takes_nothing_is_cut_off_and_one_that_takes_some_is_not(world):
    limits = world.edge.config.limits
    async with SlowClient(world.edge.address) as idle, SlowClient(world.edge.address) as slow:
        for client in (idle, slow):
            await client.send(REQUEST)
            await client.receive_head()
        world.edge.check_connections()
        for _ in range(4):
            await slow.reader.readexactly(2_000_000)
            world.advance(limits.send_timeout * 0.6)
            world.edge.check_connections()
        assert world.edge.statistics.timeouts == 1
        assert (await idle._receive_body({"content-length": str(len(LARGE))}))[1] is False
        assert await slow.reader.readexactly(len(LARGE) - 8_000_000) == LARGE[8_000_000:]


async def test_several_parts_of_a_large_file_come_in_one_answer(world):
    answer = await world.get(TARGET, Range="bytes=5000000-8999999,100-199")
    assert answer.status == 206
    assert LARGE[5_000_000:9_000_000] in answer.body
    assert LARGE[100:200] in answer.body
    assert len(answer.body) == int(answer.headers["content-length"])


async def test_a_stopping_edge_lets_a_large_answer_finish(world):
    async with SlowClient(world.edge.address) as client:
        await client.send(REQUEST)
        await client.receive_head()
        stopping = asyncio.create_task(world.edge.stop(drain_seconds=60))
        assert await client._receive_body({"content-length": str(len(LARGE))}) == (LARGE, True)
        await stopping


@pytest.mark.parametrize("is_soft", [True, False])
async def test_a_large_object_that_was_purged_is_asked_for_anew(world, is_soft):
    assert len(world.edge.parts.service._open_files) == 1
    await world.edge.purge({"prefix": TARGET.rpartition("/")[0] + "/", "soft": is_soft})
    assert (await world.get(TARGET)).body == LARGE
    assert world.origin.count(TARGET) == 2


async def test_serving_leaves_no_cycles_behind(world):
    """What is in a cycle when the search for garbage does not look at it any more is never freed."""
    small, _ = world.publish(b"small")

    async def serve() -> None:
        for target in (TARGET, small, "/nowhere", f"{TARGET}C", "\0"):
            await world.get(target, Connection="close")
        async with SlowClient(world.edge.address) as client:
            await client.send(REQUEST)
            await client.receive_head()
        await until(lambda: not world.edge.parts.shared.connections)

    await serve()
    gc.collect()
    gc.disable()
    try:
        await serve()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left = {type(each).__qualname__ for each in gc.garbage if type(each).__module__.startswith("edge")}
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert left == set()


def test_uvloop_sends_them_too(tmp_path):
    """The loop that an edge really runs in has transports of its own."""
    uvloop = pytest.importorskip("uvloop")

    async def everything() -> None:
        for number, attack in enumerate(
            (
                test_hits_of_large_objects_come_whole_and_in_order_with_others,
                test_a_file_that_somebody_writes_to_while_it_is_sent_is_never_taken_for_the_whole,
                test_a_file_that_was_only_touched_or_evicted_while_it_is_sent_comes_whole,
                test_clients_that_go_away_leave_nothing_open,
                test_a_client_that_takes_nothing_is_cut_off_and_one_that_takes_some_is_not,
                test_several_parts_of_a_large_file_come_in_one_answer,
                test_serving_leaves_no_cycles_behind,
            )
        ):
            async with edge_world(tmp_path / str(number)) as world:
                world.origin.replies[TARGET] = Reply(LARGE)
                await world.get(TARGET)
                await world.settled()
                await world.get(TARGET)
                await attack(world)

    uvloop.run(everything())
