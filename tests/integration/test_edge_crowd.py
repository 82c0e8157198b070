"""Many clients at one cold object: asked for once, little memory for each, and nobody cut off who takes what comes."""

import asyncio
import os
from contextlib import AsyncExitStack, suppress

import pytest

from edge.cache.descriptors import DescriptorShares
from edge.fetch.arriving_body import PIECE_BYTES_MAX
from edge.settings.limits import LimitSettings
from tests.fakes.edge import Client, SlowClient, edge_world, object_of, until
from tests.fakes.origin import Reply

CLIENTS = 300
LARGE = os.urandom(6 << 20)
TARGET = object_of(LARGE)
REQUEST = f"GET {TARGET} HTTP/1.1\r\nHost: e\r\n\r\n".encode()


@pytest.fixture
async def world(tmp_path):
    limits = LimitSettings(unsent_bytes_max=(CLIENTS + 10) * PIECE_BYTES_MAX)
    async with edge_world(tmp_path, limits=limits) as world:
        yield world


async def crowd(world, stack: AsyncExitStack, count: int) -> list[Client]:
    clients = [SlowClient(world.edge.address) for _ in range(count)]
    for client in clients:
        await stack.enter_async_context(client)
        await client.send(REQUEST)
    return clients


async def test_clients_that_take_little_are_not_cut_off_and_hold_one_piece_each(world):
    gate = asyncio.Event()
    world.origin.replies[TARGET] = Reply(LARGE, gate=gate, gate_after=3 << 20)
    async with AsyncExitStack() as stack:
        clients = await crowd(world, stack, CLIENTS)
        for client in clients:
            assert (await client.receive_head())[0] == 200
            assert await client.reader.readexactly(PIECE_BYTES_MAX) == LARGE[:PIECE_BYTES_MAX]
        gate.set()
        readers = clients[:: CLIENTS // 5]
        rest = await asyncio.gather(*(each.reader.readexactly(len(LARGE) - PIECE_BYTES_MAX) for each in readers))
        assert all(each == LARGE[PIECE_BYTES_MAX:] for each in rest)
        slow = world.edge.parts.shared.slow_readers
        assert 0 < slow.waiting_bytes <= CLIENTS * PIECE_BYTES_MAX
        assert not any(client.reader.at_eof() for client in clients)
    assert world.edge.statistics.slow_readers_cut == 0
    assert world.origin.count(TARGET) == 1


async def test_who_comes_while_an_object_arrives_does_not_ask_the_disk_for_it(world, monkeypatch):
    gate, disk = asyncio.Event(), world.edge.parts.supplies.disk
    looked, load = [], disk.load
    monkeypatch.setattr(disk, "lacks", lambda key: False)  # as if nothing had been counted yet
    monkeypatch.setattr(disk, "load", lambda *args, **more: looked.append(args) or load(*args, **more))
    world.origin.replies[TARGET] = Reply(LARGE, gate=gate, gate_after=2 << 20)
    async with AsyncExitStack() as stack:
        (first,) = await crowd(world, stack, 1)
        await until(lambda: world.origin.count(TARGET))
        others = await crowd(world, stack, 50)
        for client in (first, *others):
            assert (await client.receive_head())[0] == 200
        assert len(looked) == 1
        gate.set()
        assert await others[-1].reader.readexactly(len(LARGE)) == LARGE
    assert world.origin.count(TARGET) == 1


async def test_large_files_reach_more_clients_than_there_are_descriptors_for(world):
    world.origin.replies[TARGET] = Reply(LARGE)
    await world.get(TARGET)
    await world.settled()
    world.edge.parts.shared.descriptors = DescriptorShares(100, 2)
    async with AsyncExitStack() as stack:
        clients = await crowd(world, stack, 6)
        for client in clients:
            assert (await client.receive_head())[0] == 200
        assert world.edge.parts.shared.second_sockets == 2
        bodies = await asyncio.gather(*(client.reader.readexactly(len(LARGE)) for client in clients))
        assert all(body == LARGE for body in bodies)
    await until(lambda: world.edge.parts.shared.second_sockets == 0)
    assert world.origin.count(TARGET) == 1


async def test_a_crowd_at_a_large_file_shares_one_descriptor_of_it(world):
    world.origin.replies[TARGET] = Reply(LARGE)
    await world.get(TARGET)
    await world.settled()
    (path,) = world.cached_files()
    async with AsyncExitStack() as stack:
        for client in await crowd(world, stack, 30):
            assert (await client.receive_head())[0] == 200
        assert descriptors_of(path) == 1


def descriptors_of(path) -> int:
    count = 0
    for number in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            count += os.path.samefile(f"/proc/self/fd/{number}", path)
    return count
