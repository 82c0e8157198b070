"""Fetching from the file system."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cdn.errors import ShortTransferError, TransportError
from cdn.transport.base import Request
from cdn.transport.file import FileFetcher, path_of_url
from tests.contracts.fetcher import SITE, FetcherContract, body_of


class TestFileFetcher(FetcherContract):
    @pytest.fixture
    def base_url(self, tmp_path: Path) -> str:
        for path, body in SITE.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_bytes(body)
        return tmp_path.as_uri()

    @pytest.fixture
    def fetcher(self) -> FileFetcher:
        return FileFetcher()


@pytest.mark.parametrize(
    ("url", "path"),
    [("file:///a/b", b"/a/b"), ("file://localhost/a", b"/a"), ("file:///a%20b%FF", b"/a b\xff"), ("file:/a", b"/a")],
)
def test_urls_name_paths(url, path) -> None:
    assert path_of_url(url) == path


@pytest.mark.parametrize("url", ["file://host/a", "file:a", "http://x/a", "file:///a%00b", "file://[", "", "file:"])
async def test_urls_that_name_no_local_file_are_refused(url) -> None:
    with pytest.raises(TransportError):
        async with FileFetcher().send(Request(url)):
            pass


@pytest.mark.parametrize(
    ("asked", "status", "body"),
    [
        ("bytes=0-0", 206, b"0"),
        ("bytes=3-5", 206, b"345"),
        ("bytes=8-99999", 206, b"89"),
        ("bytes=10-10", 416, b""),
        ("bytes=9999999999999999999-9999999999999999999", 416, b""),
        ("bytes=5-3", 200, b"0123456789"),
        ("bytes=5-", 200, b"0123456789"),
        ("bytes=-5", 200, b"0123456789"),
        ("bytes=0-1,3-4", 200, b"0123456789"),
        ("lines=1-2", 200, b"0123456789"),
    ],
)
async def test_one_range_with_both_ends_is_known(tmp_path: Path, asked, status, body) -> None:
    (tmp_path / "x").write_bytes(b"0123456789")
    async with FileFetcher().send(Request((tmp_path / "x").as_uri(), headers={"Range": asked})) as response:
        assert (response.status, response.size, await body_of(response)) == (status, len(body), body)


async def test_folders_and_fifos_are_not_found(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for url in (tmp_path.as_uri(), (tmp_path / "fifo").as_uri(), (tmp_path / "fifo" / "below").as_uri()):
        async with FileFetcher().send(Request(url)) as response:
            assert response.status == 404


async def test_a_file_that_may_not_be_read_is_forbidden(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("permissions do not bind root")
    (tmp_path / "secret").touch(mode=0)
    async with FileFetcher().send(Request((tmp_path / "secret").as_uri())) as response:
        assert response.status == 403


async def test_a_file_that_shrinks_meanwhile_is_a_short_transfer(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x" * (3 << 20))
    with pytest.raises(ShortTransferError):
        async with FileFetcher().send(Request((tmp_path / "x").as_uri())) as response:
            async for _ in response.chunks():
                os.truncate(tmp_path / "x", 10)


async def test_what_is_appended_meanwhile_is_not_part_of_the_answer(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x" * 1000)
    async with FileFetcher().send(Request((tmp_path / "x").as_uri())) as response:
        with (tmp_path / "x").open("ab") as stream:
            stream.write(b"more")
        assert await body_of(response) == b"x" * 1000
