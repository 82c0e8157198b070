"""A body in the making: many readers, one writer, bounded memory."""

import asyncio

import pytest

from edge.arriving_body import TAIL_BYTES_MAX, ArrivingBody, NobodyWaits
from edge.disk_cache import DiskCache
from edge.statistics import Statistics

PIECE = bytes(range(256)) * 1024


@pytest.fixture
def disk(tmp_path):
    cache = DiskCache(tmp_path, bytes_max=1 << 30, memory_body_max=0, verify_seconds=0, statistics=Statistics())
    cache.open()
    yield cache
    cache.close()


async def read(body: ArrivingBody, start: int = 0, stop: int | None = None) -> bytes:
    with body.open(start, stop) as reader:
        return b"".join([piece async for piece in reader.pieces()])


async def test_the_last_piece_of_what_is_to_be_verified_waits_for_the_verdict():
    body = ArrivingBody(None, is_verified=True, clients=lambda: 1)
    with body.open() as reader:
        pieces = reader.pieces()
        await body.append(b"one")
        await body.append(b"two")
        assert await anext(pieces) == b"one"
        waiting = asyncio.ensure_future(anext(pieces))
        await asyncio.sleep(0)
        assert not waiting.done()
        body.finish()
        assert await waiting == b"two"


async def test_a_wrong_body_ends_with_the_error_and_not_with_its_last_byte():
    body = ArrivingBody(3, is_verified=True, clients=lambda: 1)
    await body.append(b"abc")
    body.fail(ValueError("wrong"))
    with pytest.raises(ValueError, match="wrong"):
        await read(body)


async def test_memory_is_bounded_while_the_file_holds_the_rest(disk):
    body = ArrivingBody(None, is_verified=False, clients=lambda: 0)
    body.spool = disk.spool()
    for _ in range(100):
        await body.append(PIECE)
        assert body._tail_bytes <= TAIL_BYTES_MAX + len(PIECE)
    assert body.joinable
    body.finish()
    assert await read(body) == PIECE * 100
    assert await read(body, 1_000_000, 1_000_010) == (PIECE * 100)[1_000_000:1_000_010]
    body.spool.close()


async def test_without_a_file_the_writer_waits_for_the_slowest_reader():
    body = ArrivingBody(None, is_verified=False, clients=lambda: 1)

    async def write() -> None:
        for _ in range(40):
            await body.append(PIECE)
        body.finish()

    with body.open() as reader:
        writing = asyncio.create_task(write())
        await asyncio.sleep(0.01)
        assert body.arrived <= TAIL_BYTES_MAX + len(PIECE)
        assert b"".join([piece async for piece in reader.pieces()]) == PIECE * 40
        await writing
    assert not body.joinable


async def test_a_client_that_has_not_begun_to_read_loses_nothing():
    clients = 2
    body = ArrivingBody(None, is_verified=False, clients=lambda: clients)

    async def write() -> None:
        for _ in range(20):
            await body.append(PIECE)
        body.finish()

    writing = asyncio.create_task(write())
    first = asyncio.create_task(read(body))
    await asyncio.sleep(0.01)
    second = asyncio.create_task(read(body))
    assert await first == await second == PIECE * 20
    await writing


async def test_without_a_file_and_without_readers_there_is_nothing_to_write_for():
    body = ArrivingBody(None, is_verified=False, clients=lambda: 0)
    with pytest.raises(NobodyWaits):
        for _ in range(40):
            await body.append(PIECE)


async def test_a_disk_that_fills_up_in_the_middle_ends_the_storing_but_not_the_body(tmp_path):
    cache = DiskCache(tmp_path, bytes_max=2_000_000, memory_body_max=0, verify_seconds=0, statistics=Statistics())
    cache.open()
    body = ArrivingBody(None, is_verified=True, clients=lambda: 1)
    body.spool = cache.spool()

    async def write() -> None:
        for _ in range(40):
            await body.append(PIECE)
        body.finish()

    with body.open() as reader:
        writing = asyncio.create_task(write())
        assert b"".join([piece async for piece in reader.pieces()]) == PIECE * 40
        await writing
    assert body.storage_error is not None
    body.spool.close()
    assert cache.used_bytes == 0
    cache.close()
