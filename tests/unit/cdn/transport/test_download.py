"""Bodies, statuses and verified objects."""

from __future__ import annotations

import asyncio
import threading

import pytest

from cdn.errors import (
    HashMismatchError,
    NotFoundError,
    ShortTransferError,
    StatusError,
    StorageFullError,
    TooLargeError,
)
from cdn.hashing import Algorithm, digest_of
from cdn.objects import Kind, ObjectName
from cdn.storage.local import LocalStore
from cdn.storage.memory import MemoryStore
from cdn.transport.base import Request
from cdn.transport.download import (
    SPOOL_BYTES,
    download_object,
    fetch_object,
    object_request,
    read_body,
    retry_after_seconds,
)
from cdn.transport.memory import Answer, MemoryFetcher

URL = "http://peer/x"
BASE = "http://peer/cvmfs/sw.example.org"


def named(data: bytes, kind: Kind = Kind.FILE) -> ObjectName:
    return ObjectName(digest_of(Algorithm.SHAKE128, data), kind)


def serving(name: ObjectName, answer: Answer | bytes) -> MemoryFetcher:
    return MemoryFetcher({f"{BASE}/{name.path}": answer})


SIZES = [0, 1, 1000, SPOOL_BYTES - 1, SPOOL_BYTES, SPOOL_BYTES + 1, 3 * SPOOL_BYTES + 17]


@pytest.mark.parametrize(("status", "error"), [(404, NotFoundError), (410, NotFoundError), (500, StatusError)])
async def test_other_answers_than_200_are_errors(status, error) -> None:
    with pytest.raises(error) as caught:
        await read_body(MemoryFetcher({URL: Answer(b"x", status)}), Request(URL), size_max=10)
    assert caught.value.status == status
    assert caught.value.permanent is (error is NotFoundError)


@pytest.mark.parametrize("status", [201, 204, 206, 301, 304])
async def test_half_answers_are_errors_too(status) -> None:
    with pytest.raises(StatusError):
        await read_body(MemoryFetcher({URL: Answer(b"x", status)}), Request(URL), size_max=10)


async def test_the_wish_of_a_busy_peer_is_passed_on() -> None:
    busy = Answer(b"", 503, headers={"retry-after": "12"})
    with pytest.raises(StatusError) as caught:
        await read_body(MemoryFetcher({URL: busy}), Request(URL), size_max=10)
    assert caught.value.retry_after_seconds == 12.0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "0"}, 0.0),
        ({"Retry-After": " 120 "}, 120.0),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:30 GMT", "Date": "Wed, 21 Oct 2015 07:28:00 GMT"}, 30.0),
        ({"Retry-After": "Wed, 21 Oct 2015 07:27:00 GMT", "Date": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:30 GMT"}, None),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:30", "Date": "Wed, 21 Oct 2015 07:28:00 GMT"}, None),
        ({"Retry-After": "Wed, 99 Foo 99999 07:28:30 GMT", "Date": "x"}, None),
        ({"Retry-After": "²"}, None),
        ({"Retry-After": "1e400"}, None),
        ({"Retry-After": "9" * 5000}, 999_999_999_999.0),
        ({"Retry-After": "nan"}, None),
    ],
)
def test_waits_are_read_as_seconds_or_dates(headers, seconds) -> None:
    assert retry_after_seconds(headers) == seconds


async def test_a_size_told_beforehand_is_held_against_the_limit() -> None:
    answer = Answer(b"x" * 11, body_gate=asyncio.Event())  # the body would never come
    with pytest.raises(TooLargeError, match="11 bytes exceed the limit of 10"):
        await read_body(MemoryFetcher({URL: answer}), Request(URL), size_max=10)


async def test_a_size_not_told_is_counted() -> None:
    answer = Answer(b"x" * 11, tells_size=False)
    with pytest.raises(TooLargeError, match="exceeds the limit of 10 bytes"):
        await read_body(MemoryFetcher({URL: answer}), Request(URL), size_max=10)
    assert await read_body(MemoryFetcher({URL: answer}), Request(URL), size_max=11) == b"x" * 11


# -------------------------------------------------------------------------------------------------------------- objects


def test_an_object_is_asked_for_by_its_path() -> None:
    name = named(b"x", Kind.CATALOG)
    request = object_request(BASE + "/", name, proxy="http://proxy:3128", headers={"X-One": "1"})
    assert request.url == f"{BASE}/{name.path}"
    assert request.proxy == "http://proxy:3128"
    assert dict(request.headers) == {"X-One": "1"}


def test_caches_can_be_asked_to_look_again() -> None:
    request = object_request(BASE, named(b"x"), no_cache=True)
    assert dict(request.headers) == {"Pragma": "no-cache", "Cache-Control": "no-cache"}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("tells_size", [True, False])
async def test_objects_of_all_sizes_are_stored(tmp_path, size, tells_size) -> None:
    data = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    name = named(data)
    fetcher = serving(name, Answer(data, tells_size=tells_size))
    for store in (MemoryStore(), LocalStore(tmp_path)):
        first = await download_object(fetcher, object_request(BASE, name), name, store, size_max=size)
        assert (first.size, first.is_new) == (size, True)
        assert store.read(name.path, size_max=size) == data
        again = await download_object(fetcher, object_request(BASE, name), name, store, size_max=size)
        assert not again.is_new


@pytest.mark.parametrize("size", SIZES[1:])
@pytest.mark.parametrize("place", [0, -1])
async def test_a_flipped_bit_is_noticed_and_nothing_is_stored(tmp_path, size, place) -> None:
    data = b"x" * size
    name = named(data)
    fetcher = serving(name, Answer(data).flipped(place))
    store = LocalStore(tmp_path)
    with pytest.raises(HashMismatchError, match=name.path):
        await download_object(fetcher, object_request(BASE, name), name, store, size_max=size)
    with pytest.raises(HashMismatchError):
        await fetch_object(fetcher, object_request(BASE, name), name, size_max=size)
    assert list(store.list("")) == []
    assert store.sweep_staging(older_than=float("inf")) == 0


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"cut_after": 2 * SPOOL_BYTES}, ShortTransferError),
        ({"cut_after": 10}, ShortTransferError),
        ({"status": 404}, NotFoundError),
        ({"body": b"x" * 4 * SPOOL_BYTES, "tells_size": False}, TooLargeError),
        ({"body": b"x" * 4 * SPOOL_BYTES}, TooLargeError),
        ({"body": b""}, HashMismatchError),
    ],
    ids=str,
)
async def test_whatever_goes_wrong_nothing_is_stored(tmp_path, change, error) -> None:
    data = b"x" * 3 * SPOOL_BYTES
    name = named(data)
    store = LocalStore(tmp_path)
    fetcher = serving(name, Answer(**{"body": data, **change}))
    with pytest.raises(error):
        await download_object(fetcher, object_request(BASE, name), name, store, size_max=len(data))
    assert list(store.list("")) == []
    assert store.sweep_staging(older_than=float("inf")) == 0


@pytest.mark.parametrize("size", [1000, 3 * SPOOL_BYTES])
async def test_a_full_store_is_reported(size) -> None:
    data = b"x" * size
    name = named(data)
    store = MemoryStore(bytes_max=size - 1)
    with pytest.raises(StorageFullError):
        await download_object(serving(name, data), object_request(BASE, name), name, store, size_max=size)
    assert list(store.list("")) == []


async def test_a_download_cancelled_while_a_thread_writes_leaves_nothing(tmp_path) -> None:
    """The file must not be closed under the thread's hands: its descriptor could be another file's by then."""
    data = b"x" * 3 * SPOOL_BYTES
    name = named(data)
    store = LocalStore(tmp_path)
    writing, may_write, written = asyncio.Event(), threading.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    class Slow:
        put = store.put

        def stage(self):
            staged = store.stage()
            write = staged.write

            def slow_write(data: bytes) -> None:
                loop.call_soon_threadsafe(writing.set)
                may_write.wait(60)
                try:
                    write(data)
                finally:
                    written.set()

            staged.write = slow_write  # type: ignore[method-assign]
            return staged

    task = asyncio.create_task(
        download_object(serving(name, data), object_request(BASE, name), name, Slow(), size_max=len(data))
    )
    await writing.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    may_write.set()
    await asyncio.to_thread(written.wait, 60)
    assert list(store.list("")) == []
    assert store.sweep_staging(older_than=float("inf")) == 0
