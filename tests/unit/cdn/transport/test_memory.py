"""Fetching from memory."""

from __future__ import annotations

import asyncio

import pytest

from cdn.errors import ShortTransferError, SlowPeerError
from cdn.transport.base import Request
from cdn.transport.download import read_body
from cdn.transport.memory import Answer, MemoryFetcher
from cdn.transport.urls import url_of
from tests.contracts.fetcher import SITE, FetcherContract

URL = "http://peer/x"


class TestMemoryFetcher(FetcherContract):
    @pytest.fixture
    def base_url(self) -> str:
        return "http://peer.example/cvmfs"

    @pytest.fixture
    def fetcher(self, base_url) -> MemoryFetcher:
        return MemoryFetcher({url_of(base_url, path): body for path, body in SITE.items()})


async def test_it_remembers_what_was_asked_for() -> None:
    fetcher = MemoryFetcher({URL: b"x"})
    request = Request(URL, headers={"Pragma": "no-cache"}, proxy="http://proxy:3128")
    await read_body(fetcher, request, size_max=1)
    assert list(fetcher.requests) == [request]


async def test_it_can_fail_on_demand() -> None:
    fetcher = MemoryFetcher({URL: Answer(error=SlowPeerError(URL, "asleep"))})
    with pytest.raises(SlowPeerError, match="asleep"):
        await read_body(fetcher, Request(URL), size_max=1)


async def test_it_can_answer_by_a_function() -> None:
    fetcher = MemoryFetcher(lambda request: request.url.encode())
    assert await read_body(fetcher, Request(URL), size_max=100) == URL.encode()


async def test_it_can_cut_a_body_short() -> None:
    fetcher = MemoryFetcher({URL: Answer(b"0123456789", cut_after=4)})
    seen = b""
    with pytest.raises(ShortTransferError):
        async with fetcher.send(Request(URL)) as response:
            assert response.size == 10
            async for piece in response.chunks():
                seen += piece
    assert seen == b"0123"


async def test_it_can_keep_the_size_to_itself() -> None:
    fetcher = MemoryFetcher({URL: Answer(b"x", tells_size=False)})
    async with fetcher.send(Request(URL)) as response:
        assert response.size is None
        assert "Content-Length" not in response.headers


async def test_a_flipped_answer_differs_in_one_byte() -> None:
    assert Answer(b"abc").flipped(1).body == b"acc"


async def test_head_and_body_wait_for_their_gates() -> None:
    head, body = asyncio.Event(), asyncio.Event()
    fetcher = MemoryFetcher({URL: Answer(b"0123456789", head_gate=head, body_gate=body)})
    pieces: list[bytes] = []
    entered = asyncio.Event()
    half = asyncio.Event()

    async def read() -> None:
        async with fetcher.send(Request(URL)) as response:
            entered.set()
            async for piece in response.chunks():
                pieces.append(piece)
                half.set()

    task = asyncio.create_task(read())
    await asyncio.sleep(0)  # it has asked and waits for the head now
    assert len(fetcher.requests) == 1
    assert not entered.is_set()
    head.set()
    await half.wait()
    assert pieces == [b"01234"]
    body.set()
    await task
    assert b"".join(pieces) == b"0123456789"
