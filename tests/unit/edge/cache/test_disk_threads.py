"""Threads for what blocks on the disk: nothing is lost, forgotten or stuck behind one call that hangs."""

import asyncio
import threading
from functools import partial

import pytest

from edge.cache.disk_threads import TOGETHER, DiskThreads


@pytest.fixture
async def threads():
    threads = DiskThreads()
    yield threads
    await threads.close()


def fail():
    raise ValueError("no")


async def test_results_and_errors_come_back(threads):
    results = await asyncio.gather(*[threads.run(partial(pow, number, 2)) for number in range(500)])
    assert results == [number**2 for number in range(500)]
    with pytest.raises(ValueError, match="no"):
        await threads.run(fail)


async def test_quick_calls_take_one_thread():
    threads = DiskThreads(patience_seconds=3600.0)
    names = {await threads.run(lambda: threading.current_thread().name) for _ in range(50)}
    await threads.close()
    assert len(names) == 1


async def test_calls_behind_one_that_hangs_go_to_other_threads(threads):
    going_on = threading.Event()
    hanging = [threads.run(going_on.wait) for _ in range(3)]
    try:
        async with asyncio.timeout(30):
            assert await threads.run(lambda: "done") == "done"
        assert not any(each.done() for each in hanging)
    finally:
        going_on.set()
    assert await asyncio.gather(*hanging) == [True] * 3


async def test_there_are_never_more_threads_than_allowed():
    threads, going_on, seen = DiskThreads(threads_max=2), threading.Event(), set()

    def wait():
        seen.add(threading.current_thread().name)
        going_on.wait()

    hanging = [threads.run(wait) for _ in range(10)]
    while len(seen) < 2:  # noqa: ASYNC110 -- threads cannot tell this loop
        await asyncio.sleep(0.001)
    going_on.set()
    await asyncio.gather(*hanging)
    assert len(seen) == 2
    await threads.close()


async def test_a_result_that_nobody_waits_for_is_dropped(threads):
    begun, going_on, dropped = threading.Event(), threading.Event(), asyncio.Queue()

    def work():
        begun.set()
        going_on.wait()
        return "file"

    call = threads.run(work, dropped.put_nowait)
    await asyncio.to_thread(begun.wait)
    call.cancel()
    going_on.set()
    async with asyncio.timeout(30):
        assert await dropped.get() == "file"


async def test_what_is_cancelled_before_its_turn_is_not_done(threads):
    going_on, done = threading.Event(), []
    first = threads.run(going_on.wait)
    second = threads.run(partial(done.append, 2))
    third = threads.run(partial(done.append, 3))
    second.cancel()
    going_on.set()
    await asyncio.gather(first, third)
    assert done == [3]


async def test_closing_finishes_what_runs_and_gives_up_what_waits():
    threads, begun, going_on = DiskThreads(threads_max=1), threading.Event(), threading.Event()

    def work():
        begun.set()
        going_on.wait()
        return "whole"

    running, waiting = threads.run(work), threads.run(fail)
    await asyncio.to_thread(begun.wait)
    closing = asyncio.create_task(threads.close())
    await asyncio.sleep(0)  # closing waits now
    going_on.set()
    await closing
    assert await running == "whole"
    assert waiting.cancelled()
    assert threads.run(fail).cancelled()


async def test_what_is_not_urgent_is_done_all_the_same(threads):
    async with asyncio.timeout(30):
        assert await threads.run(lambda: "done", is_urgent=False) == "done"


async def test_enough_of_what_is_not_urgent_wakes_a_thread(threads, monkeypatch):
    monkeypatch.setattr("edge.cache.disk_threads.PATIENCE_SECONDS", 3600.0)
    first = [threads.run(partial(int, number), is_urgent=False) for number in range(TOGETHER - 1)]
    assert await threads.run(partial(int, 99), is_urgent=False) == 99
    assert await asyncio.gather(*first) == list(range(TOGETHER - 1)), "in the order they came"


async def test_what_is_urgent_takes_along_what_is_not(threads, monkeypatch):
    monkeypatch.setattr("edge.cache.disk_threads.PATIENCE_SECONDS", 3600.0)
    patient = threads.run(lambda: "stored", is_urgent=False)
    assert await threads.run(lambda: "loaded") == "loaded"
    assert await patient == "stored"
