"""What every fetcher must do; the tests of each subclass this and give it a `fetcher` and a `base_url` with `SITE`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from cdn.errors import NotFoundError, StatusError, TooLargeError, TransportError
from cdn.hashing import Algorithm, digest_of
from cdn.objects import ObjectName
from cdn.storage.memory import MemoryStore
from cdn.transport.base import Fetcher, Request, Response
from cdn.transport.download import (
    download_object,
    fetch_object,
    object_request,
    range_header,
    range_pieces,
    read_body,
)
from cdn.transport.urls import url_of

LARGE = bytes(range(256)) * (3 << 12)
SMALL = b"hello, fetcher"
SMALL_NAME = ObjectName(digest_of(Algorithm.SHAKE128, SMALL))
LARGE_NAME = ObjectName(digest_of(Algorithm.SHA1, LARGE))
SITE = {
    "small": SMALL,
    "empty": b"",
    "large": LARGE,
    "odd name [1], é%41+~": b"odd",
    SMALL_NAME.path: SMALL,
    LARGE_NAME.path: LARGE,
}


async def body_of(response: Response) -> bytes:
    return b"".join([piece async for piece in response.chunks()])


class FetcherContract:
    """The tests."""

    @pytest.fixture
    def base_url(self) -> str:
        raise NotImplementedError

    @pytest.fixture
    def fetcher(self) -> Fetcher:
        raise NotImplementedError

    @pytest.mark.parametrize("path", SITE)
    async def test_the_whole_body_arrives(self, fetcher, base_url, path) -> None:
        async with fetcher.send(Request(url_of(base_url, path))) as response:
            assert response.status == 200
            assert response.size == len(SITE[path])
            assert await body_of(response) == SITE[path]

    async def test_header_names_compare_without_regard_to_case(self, fetcher, base_url) -> None:
        async with fetcher.send(Request(url_of(base_url, "small"))) as response:
            assert response.headers["content-LENGTH"] == response.headers["Content-Length"] == str(len(SMALL))
            assert "x-absent" not in response.headers

    async def test_fields_come_with_their_names_as_they_were_written(self, fetcher, base_url) -> None:
        async with fetcher.send(Request(url_of(base_url, "small"))) as response:
            assert ("Content-Length", str(len(SMALL))) in response.fields
            assert [name.lower() for name, _ in response.fields] == [name.lower() for name in response.headers]

    @pytest.mark.parametrize("path", SITE)
    async def test_a_body_that_is_here_is_given_whole_or_piece_by_piece(self, fetcher, base_url, path) -> None:
        async with fetcher.send(Request(url_of(base_url, path))) as response:
            whole = response.whole()
            assert (await body_of(response) if whole is None else whole) == SITE[path]

    async def test_a_head_request_tells_the_size_and_has_no_body(self, fetcher, base_url) -> None:
        async with fetcher.send(Request(url_of(base_url, "large"), method="HEAD")) as response:
            assert response.status == 200
            assert response.size == len(LARGE)
            assert await body_of(response) == b""

    async def test_what_is_absent_is_an_answer_and_no_error(self, fetcher, base_url) -> None:
        async with fetcher.send(Request(url_of(base_url, "absent"))) as response:
            assert response.status == 404

    async def test_no_piece_is_empty(self, fetcher, base_url) -> None:
        async with fetcher.send(Request(url_of(base_url, "large"))) as response:
            assert all([len(piece) > 0 async for piece in response.chunks()])

    async def test_many_requests_can_run_at_once(self, fetcher, base_url) -> None:
        async def fetch(number: int) -> bytes:
            path = ("small", "large", "empty")[number % 3]
            body = await read_body(fetcher, Request(url_of(base_url, path)), size_max=len(LARGE))
            assert body == SITE[path]
            return body

        assert len(await asyncio.gather(*[fetch(number) for number in range(60)])) == 60

    async def test_a_reader_may_leave_in_the_middle_and_ask_again(self, fetcher, base_url) -> None:
        for _ in range(3):
            async with fetcher.send(Request(url_of(base_url, "large"))) as response:
                async for piece in response.chunks():
                    assert LARGE.startswith(piece)
                    break
        assert await read_body(fetcher, Request(url_of(base_url, "small")), size_max=100) == SMALL

    async def test_a_reader_may_be_cancelled_and_others_go_on(self, fetcher, base_url) -> None:
        entered = asyncio.Event()

        async def hold() -> None:
            async with fetcher.send(Request(url_of(base_url, "large"))):
                entered.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(hold())
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await read_body(fetcher, Request(url_of(base_url, "small")), size_max=100) == SMALL

    async def test_the_error_of_a_reader_passes_through(self, fetcher, base_url) -> None:
        with pytest.raises(RuntimeError, match="mine"):
            async with fetcher.send(Request(url_of(base_url, "large"))):
                raise RuntimeError("mine")
        assert await read_body(fetcher, Request(url_of(base_url, "small")), size_max=100) == SMALL

    async def test_a_closed_fetcher_refuses(self, fetcher, base_url) -> None:
        await read_body(fetcher, Request(url_of(base_url, "small")), size_max=100)
        await fetcher.close()
        await fetcher.close()
        with pytest.raises(TransportError):
            await read_body(fetcher, Request(url_of(base_url, "small")), size_max=100)

    async def test_bodies_are_read_up_to_their_limit_and_no_further(self, fetcher, base_url) -> None:
        request = Request(url_of(base_url, "large"))
        assert await read_body(fetcher, request, size_max=len(LARGE)) == LARGE
        with pytest.raises(TooLargeError):
            await read_body(fetcher, request, size_max=len(LARGE) - 1)

    @pytest.mark.parametrize(("offset", "size"), [(0, 1), (5, 1_000_000), (len(LARGE) - 7, 7), (0, len(LARGE))])
    async def test_a_part_can_be_had_whether_or_not_ranges_are_known(self, fetcher, base_url, offset, size) -> None:
        request = Request(url_of(base_url, "large"), headers=range_header(offset, size))
        async with fetcher.send(request) as response:
            pieces = [piece async for piece in range_pieces(request, response, offset=offset, size=size)]
        assert b"".join(pieces) == LARGE[offset : offset + size]

    async def test_a_part_that_is_not_there_is_nothing_or_an_error(self, fetcher, base_url) -> None:
        request = Request(url_of(base_url, "small"), headers=range_header(len(SMALL), 5))
        async with fetcher.send(request) as response:
            assert response.status in {200, 416}
            if response.status == 200:
                assert [piece async for piece in range_pieces(request, response, offset=len(SMALL), size=5)] == []
            else:
                with pytest.raises(StatusError):
                    await anext(range_pieces(request, response, offset=len(SMALL), size=5))

    async def test_absence_is_an_error_where_a_body_is_needed(self, fetcher, base_url) -> None:
        with pytest.raises(NotFoundError) as caught:
            await read_body(fetcher, Request(url_of(base_url, "absent")), size_max=100)
        assert caught.value.status == 404

    async def test_objects_are_fetched_and_stored(self, fetcher, base_url) -> None:
        store = MemoryStore()
        for name, data in ((SMALL_NAME, SMALL), (LARGE_NAME, LARGE)):
            request = object_request(base_url, name)
            assert await fetch_object(fetcher, request, name, size_max=len(LARGE)) == data
            await download_object(fetcher, request, name, store, size_max=len(LARGE))
            assert store.read(name.path, size_max=len(LARGE)) == data


@asynccontextmanager
async def closing(fetcher: Fetcher) -> AsyncIterator[Fetcher]:
    """Closes the fetcher afterwards."""
    try:
        yield fetcher
    finally:
        await fetcher.close()
