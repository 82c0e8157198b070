"""A body in the making: many readers, one writer, bounded memory."""

import asyncio
import threading
from itertools import pairwise

import pytest

from edge.cache.disk_cache import DiskCache
from edge.fetch.arriving_body import PIECE_BYTES_MAX, READS_MAX, TAIL_BYTES_MAX, WOKEN_MAX, ArrivingBody, NobodyWaits
from edge.watching.statistics import Statistics
from tests.fakes.edge import until

PIECE = bytes(range(256)) * 1024
CROWD = 400


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
        await asyncio.sleep(0)  # it waits now
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
        await until(lambda: body.arrived > TAIL_BYTES_MAX)
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
    await until(lambda: body.arrived > TAIL_BYTES_MAX)
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


async def test_a_crowd_is_woken_a_few_at_a_time_so_that_other_work_has_its_turn():
    body = ArrivingBody(None, is_verified=False, clients=lambda: CROWD)
    got: list[bytes] = []

    async def wait() -> None:
        got.append(await body.piece_at(0, None))

    waiting = [asyncio.create_task(wait()) for _ in range(CROWD)]
    await asyncio.sleep(0)  # all wait now
    await body.append(b"one")
    counts = []
    while len(got) < CROWD:
        await asyncio.sleep(0)  # one turn: who was woken takes the piece
        counts.append(len(got))
    assert max(after - before for before, after in pairwise([0, *counts])) <= WOKEN_MAX
    await asyncio.gather(*waiting)


async def test_who_is_woken_late_finds_all_that_came_and_who_left_is_forgotten():
    body = ArrivingBody(None, is_verified=False, clients=lambda: CROWD)
    readers = [asyncio.create_task(read(body)) for _ in range(CROWD)]
    await asyncio.sleep(0)  # all wait now
    for leaving in readers[::2]:
        leaving.cancel()
    await asyncio.sleep(0)  # those are gone now
    assert len(body._hungry) == CROWD // 2
    for piece in (b"one", b"two", b"three"):
        await body.append(piece)
        await asyncio.sleep(0)  # one turn, in which only some are woken
    body.finish()
    assert await asyncio.gather(*readers[1::2]) == [b"onetwothree"] * (CROWD // 2)
    assert not body._hungry


async def test_one_client_takes_no_more_than_a_piece_at_once_and_leaves_others_their_turn(disk):
    body = ArrivingBody(None, is_verified=False, clients=lambda: 1)
    body.spool = disk.spool()
    for _ in range(30):
        await body.append(PIECE)
    body.finish()
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)  # one more turn of the loop

    counting = asyncio.create_task(count())
    with body.open() as reader:
        pieces = [piece async for piece in reader.pieces()]
    counting.cancel()
    assert b"".join(pieces) == PIECE * 30
    assert max(map(len, pieces)) == PIECE_BYTES_MAX
    assert turns >= 10
    body.spool.close()


async def test_only_so_many_clients_wait_for_the_disk_at_once(disk, monkeypatch):
    body = ArrivingBody(None, is_verified=False, clients=lambda: CROWD)
    spool = body.spool = disk.spool()
    for _ in range(12):
        await body.append(PIECE)
    body.finish()
    running, most, lock, read_one = 0, 0, threading.Lock(), spool.read

    def slowly(start: int, size: int) -> bytes:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        data = read_one(start, size)
        with lock:
            running -= 1
        return data

    monkeypatch.setattr(spool, "read_at_once", lambda start, size: b"")
    monkeypatch.setattr(spool, "read", slowly)
    assert set(await asyncio.gather(*(read(body, 0, 40_000) for _ in range(60)))) == {(PIECE * 2)[:40_000]}
    assert 0 < most <= READS_MAX
    spool.close()
