"""One fetcher for several schemes."""

from __future__ import annotations

import pytest

from cdn.errors import UnreachableError
from cdn.transport.base import Request
from cdn.transport.download import read_body
from cdn.transport.memory import MemoryFetcher
from cdn.transport.schemes import SchemeFetcher
from cdn.transport.urls import url_of
from tests.contracts.fetcher import SITE, FetcherContract


class TestSchemeFetcher(FetcherContract):
    @pytest.fixture
    def base_url(self) -> str:
        return "http://peer.example/cvmfs"

    @pytest.fixture
    def fetcher(self, base_url) -> SchemeFetcher:
        return SchemeFetcher({"http": MemoryFetcher({url_of(base_url, path): body for path, body in SITE.items()})})


async def test_each_request_goes_to_the_fetcher_of_its_scheme() -> None:
    fetcher = SchemeFetcher({"http": MemoryFetcher(lambda _: b"web"), "file": MemoryFetcher(lambda _: b"disk")})
    assert await read_body(fetcher, Request("HTTP://x/"), size_max=9) == b"web"
    assert await read_body(fetcher, Request("file:///x"), size_max=9) == b"disk"
    with pytest.raises(UnreachableError, match="only file, http"):
        await read_body(fetcher, Request("gopher://x/"), size_max=9)


async def test_closing_closes_every_fetcher() -> None:
    web, disk = MemoryFetcher({}), MemoryFetcher({})
    await SchemeFetcher({"http": web, "https": web, "file": disk}).close()
    for fetcher in (web, disk):
        with pytest.raises(UnreachableError):
            await read_body(fetcher, Request("http://x/"), size_max=9)
