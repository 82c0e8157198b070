"""Files whose content lies outside of the repository, read over real sockets from servers good and bad."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from cdn.catalog.entries import Chunk, Entry
from cdn.client.config import ClientSettings
from cdn.client.repository import MountedRepository, open_repository
from cdn.client.sources import SourcePolicy
from cdn.clock import ManualClock
from cdn.compression import Compression, compress
from cdn.errors import AllSourcesFailedError, DocumentError, ExternalContentError
from cdn.hashing import digest_of
from cdn.transport.retry import RetryPolicy
from tests.fakes.catalogs import file_entry
from tests.fakes.hostile_server import HostileServer, endless
from tests.fakes.origin import Asked, Origin, Reply, running_origin
from tests.fakes.repositories import Publication
from tests.fakes.signer import NOW

PLAIN = bytes(range(256)) * 1000
DEFLATED = bytes(compress(PLAIN, Compression.ZLIB))
CHUNK_BYTES = 100_000
ODD = "/d/a b?c#d%41%2F..+é~\udcff;&[1],:@"
ODD_TARGET = "/base/d/a%20b%3Fc%23d%2541%252F..+%C3%A9~%FF%3B%26[1],:@"
BIG_BYTES = 48 << 20


def external(publication: Publication, delivered: bytes, compression: Compression = Compression.NONE) -> Entry:
    digest = digest_of(publication.algorithm, delivered)
    return file_entry(PLAIN, digest=digest, compression=compression, is_external=True)


def in_chunks(publication: Publication, content: bytes, size: int = CHUNK_BYTES, **fields: object) -> Entry:
    chunks = tuple(
        Chunk(start, len(piece), digest_of(publication.algorithm, piece))
        for start in range(0, len(content), size)
        for piece in [content[start : start + size]]
    )
    values = {"digest": None, "chunks": chunks, "is_chunked": True, "is_external": True}
    return file_entry(content, **{**values, "compression": Compression.NONE} | fields)


@pytest.fixture(scope="module")
def publication() -> Publication:
    made = Publication()
    made.publish(
        {
            "/d/raw": external(made, PLAIN),
            "/d/zlib": external(made, DEFLATED, Compression.ZLIB),
            "/d/chunked": in_chunks(made, PLAIN),
            "/d/compressed chunks": in_chunks(made, PLAIN, compression=Compression.ZLIB),
            "/d/same": external(made, PLAIN),
            ODD: external(made, PLAIN),
            "/d/big": in_chunks(made, bytes(BIG_BYTES), BIG_BYTES // 3),
            "/inside": b"inside",
        }
    )
    return made


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    async with running_origin() as running:
        yield running


@pytest.fixture
async def second() -> AsyncIterator[Origin]:
    async with running_origin() as running:
        yield running


@asynccontextmanager
async def opened(publication: Publication, *urls: str, cache: Path | None = None) -> AsyncIterator[MountedRepository]:
    """The repository served by a server of its own, its external content at these URLs."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(running_origin())
        server.replies = {f"/cvmfs/r/{path}": Reply(body) for path, body in publication.served.items()}
        yield await stack.enter_async_context(
            await open_repository(
                publication.fqrn,
                servers=f"{server.url}/cvmfs/r",
                external_urls=urls,
                keys=publication.keys,
                clock=ManualClock(NOW + 100),
                settings=ClientSettings(cache=cache, policy=SourcePolicy(rounds=RetryPolicy(1))),
            )
        )


def ranged(body: bytes) -> Callable[[Asked], Reply]:
    """A server that knows ranges."""

    def reply(asked: Asked) -> Reply:
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", asked.headers.get("range", ""))
        if found is None:
            return Reply(body)
        start, end = int(found[1]), int(found[2]) + 1
        if start >= len(body):
            return Reply(b"no such range\n", 416)
        return Reply(body[start:end], 206, {"Content-Range": f"bytes {start}-{end - 1}/{len(body)}"})

    return reply


@pytest.mark.parametrize(("name", "delivered"), [("raw", PLAIN), ("zlib", DEFLATED)])
async def test_a_whole_file_is_fetched_from_its_path_below_the_external_url(publication, origin, name, delivered):
    origin.replies[f"/base/d/{name}"] = Reply(delivered)
    async with opened(publication, f"{origin.url}/base/") as repository:
        assert await repository.files.read(f"/d/{name}") == PLAIN
        assert await repository.files.read("/inside") == b"inside"
    assert [asked.target for asked in origin.asked] == [f"/base/d/{name}"]
    assert "range" not in origin.asked[0].headers


async def test_of_a_file_in_chunks_only_the_ranges_needed_are_fetched(publication, origin):
    origin.replies["/base/d/chunked"] = ranged(PLAIN)
    async with opened(publication, f"{origin.url}/base") as repository:
        assert await repository.files.read("/d/chunked", 150_000, 10) == PLAIN[150_000:150_010]
        assert [asked.headers["range"] for asked in origin.asked] == ["bytes=100000-199999"]
        assert await repository.files.read("/d/chunked") == PLAIN
    asked_for = sorted(asked.headers["range"] for asked in origin.asked)
    assert asked_for == ["bytes=0-99999", "bytes=100000-199999", "bytes=200000-255999"]


@pytest.mark.parametrize("is_chunked", [False, True], ids=["with its length", "without"])
async def test_a_server_that_knows_no_ranges_is_read_from_too(publication, origin, is_chunked):
    origin.replies["/base/d/chunked"] = Reply(PLAIN, is_chunked=is_chunked)
    async with opened(publication, f"{origin.url}/base") as repository:
        assert await repository.files.read("/d/chunked") == PLAIN


async def test_what_such_a_server_sends_is_not_held_in_memory(publication):
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % BIG_BYTES
    async with (
        HostileServer(endless(head, bytes(1 << 16))) as server,
        opened(publication, server.url) as repository,
        repository.files.open("/d/big") as file,
    ):
        tracemalloc.start()
        try:
            assert await file.read(BIG_BYTES - 10, 10) == bytes(10)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < BIG_BYTES // 3


async def test_the_path_is_encoded_byte_by_byte_and_once(publication, origin):
    origin.replies[ODD_TARGET] = Reply(PLAIN)
    async with opened(publication, f"{origin.url}/base") as repository:
        assert await repository.files.read(ODD) == PLAIN
    assert [asked.target for asked in origin.asked] == [ODD_TARGET]


WRONG = {
    "other bytes": lambda good: lambda asked: Reply(PLAIN[:-1] + b"x"),
    "another range": lambda good: lambda asked: Reply(PLAIN[1:100_001], 206),
    "too much of a range": lambda good: lambda asked: Reply(PLAIN, 206),
    "too little": lambda good: lambda asked: Reply(good(asked).body[:-1], good(asked).status),
    "nothing": lambda good: lambda asked: Reply(b"", good(asked).status),
    "cut off": lambda good: lambda asked: Reply(good(asked).body, good(asked).status, cut_after=50_000),
    "elsewhere": lambda good: lambda asked: Reply(b"", 302, {"Location": asked.target + "?moved"}),
    "no such range": lambda good: lambda asked: Reply(b"", 416),
    "not there": lambda good: lambda asked: Reply(b"", 404),
    "trouble": lambda good: lambda asked: Reply(b"", 503),
    "an error page": lambda good: lambda asked: Reply(b"<html>sorry</html>"),
}


@pytest.mark.parametrize("name", ["raw", "chunked"])
@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
async def test_a_source_that_is_wrong_is_left_for_the_next_and_nothing_of_it_is_given(
    publication, origin, second, name, wrong
):
    target = f"/base/d/{name}"
    origin.replies[target] = wrong(ranged(PLAIN))
    second.replies[target] = ranged(PLAIN)
    urls = f"{origin.url}/base;{second.url}/base"
    async with opened(publication, urls) as repository:
        assert await repository.files.read(f"/d/{name}") == PLAIN
    assert origin.asked
    assert second.asked
    async with opened(publication, f"{origin.url}/base") as repository:
        with pytest.raises(AllSourcesFailedError, match=f"d/{name}"):
            await repository.files.read(f"/d/{name}")


async def test_what_was_read_is_kept_under_its_digest(publication, origin, tmp_path):
    origin.replies = {"/base/d/raw": Reply(PLAIN), "/base/d/chunked": ranged(PLAIN)}
    async with opened(publication, f"{origin.url}/base", cache=tmp_path) as repository:
        for name in ("raw", "chunked"):
            assert await repository.files.read(f"/d/{name}") == PLAIN
    origin.is_dead = True
    asked = len(origin.asked)
    for urls in ((f"{origin.url}/base",), ()):
        async with opened(publication, *urls, cache=tmp_path) as repository:
            for name in ("raw", "chunked", "same"):
                assert await repository.files.read(f"/d/{name}") == PLAIN
    assert len(origin.asked) == asked


async def test_files_of_one_content_are_fetched_each_from_its_own_path(publication, origin):
    origin.replies["/base/d/same"] = Reply(PLAIN)
    async with opened(publication, f"{origin.url}/base") as repository:
        with pytest.raises(AllSourcesFailedError):
            await repository.files.read("/d/raw")
        assert await repository.files.read("/d/same") == PLAIN


async def test_a_folder_of_this_machine_may_hold_the_content(publication, tmp_path):
    (tmp_path / "d").mkdir()
    for path in ("/d/raw", "/d/chunked", ODD):
        (tmp_path / path[1:]).write_bytes(PLAIN)
    async with opened(publication, str(tmp_path)) as repository:
        for path in ("/d/raw", "/d/chunked", ODD):
            assert await repository.files.read(path) == PLAIN
        (tmp_path / "d/chunked").write_bytes(PLAIN[:100_000])
        assert await repository.files.read("/d/chunked", 0, 10) == PLAIN[:10]


async def test_without_an_external_url_it_is_said_which_option_names_one(publication):
    async with opened(publication) as repository:
        for path in ("/d/raw", "/d/chunked"):
            with pytest.raises(ExternalContentError, match="--external-url"):
                await repository.files.read(path)


async def test_chunks_that_are_compressed_cannot_be_found_in_a_file(publication, origin):
    async with opened(publication, origin.url) as repository:
        with pytest.raises(DocumentError, match="chunks that are compressed"):
            await repository.files.read("/d/compressed chunks")
    assert not origin.asked
