from __future__ import annotations

import random
from dataclasses import replace

import pytest

from cdn.client.config import ClientSettings
from cdn.client.files import ChunkedFile
from cdn.client.repository import open_repository
from cdn.clock import ManualClock
from cdn.compression import Compression
from cdn.errors import AllSourcesFailedError, DocumentError, ExternalContentError, PathKindError, PathMissingError
from cdn.objects import Kind, ObjectName
from tests.fakes.catalogs import directory_entry, file_entry, symlink_entry
from tests.fakes.repositories import CHUNK, Network, Publication, Server, flipped
from tests.fakes.signer import NOW

BASE = "http://one/r"
BIG = random.Random(7).randbytes(5 * CHUNK + 1234)


@pytest.fixture(scope="module")
def published():
    publication = Publication()
    tree = {
        "/a/file": b"content",
        "/a/raw": publication.file(b"raw content", Compression.NONE),
        "/a/empty": b"",
        "/a/link": symlink_entry("../n/deep/er/file"),
        "/a/secret": publication.file(b"hidden content", is_hidden=True),
        "/a/elsewhere": file_entry(b"external", is_external=True),
        "/big": publication.chunked(BIG),
        "/n/top": b"nested",
        "/n/deep/er/file": b"deeply nested",
        "/many": directory_entry(),
        **{f"/many/{number:04}": b"x" for number in range(600)},
    }
    publication.publish(tree, ["/n", "/n/deep"])
    return publication


@pytest.fixture
def server(published):
    return Server(published.served)


@pytest.fixture
async def files(published, server, tmp_path):
    async with await open_repository(
        published.fqrn,
        servers=BASE,
        keys=published.keys,
        fetcher=Network({BASE: server}),
        clock=ManualClock(NOW + 100),
        settings=ClientSettings(cache=tmp_path, catalogs_open_max=1),
    ) as repository:
        yield repository.files


async def names(listing) -> list[str]:
    return [entry.name async for entry in listing]


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/a/file", b"content"),
        ("a/raw", b"raw content"),
        ("/a/empty", b""),
        ("/a/link", b"deeply nested"),
        ("/n/top", b"nested"),
        ("/n/deep/er/file", b"deeply nested"),
        ("/big", BIG),
        ("/a/secret", b"hidden content"),
    ],
)
async def test_content_is_read(files, path, content):
    assert await files.read(path) == content
    assert b"".join([piece async for piece in files.pieces(path)]) == content


async def test_directories_are_listed_in_byte_order_without_what_is_hidden(files):
    assert await names(files.listdir("/a")) == ["elsewhere", "empty", "file", "link", "raw"]
    assert await names(files.listdir("/n")) == [".cvmfscatalog", "deep", "top"]
    assert await names(files.listdir("/")) == ["a", "big", "many", "n"]
    assert len(await names(files.listdir("/many"))) == 600


async def test_hidden_entries_are_there_for_who_knows_the_name(files):
    assert (await files.stat("/a/secret")).size == len(b"hidden content")


async def test_stat_of_a_mountpoint_needs_only_the_catalog_above(files, server):
    server.asked.clear()
    assert (await files.stat("/n")).is_nested_mountpoint
    assert server.asked == []


async def test_a_walk_meets_everything_once_with_one_open_catalog(files, published):
    found = [path async for path, _ in files.walk()]
    assert len(found) == len(set(found))
    assert {"", "/n/deep/er/file", "/n/deep/.cvmfscatalog", "/many/0599", "/a/link"} <= set(found)
    assert [path async for path, _ in files.walk("/n", depth_max=1)] == ["/n", "/n/.cvmfscatalog", "/n/deep", "/n/top"]


async def test_a_walk_that_is_left_early_holds_nothing(files):
    walk = files.walk()
    await anext(walk)
    await anext(walk)
    await walk.aclose()
    assert await files.read("/n/deep/er/file") == b"deeply nested"


async def test_only_the_chunks_that_are_needed_are_fetched(files, server):
    server.asked.clear()
    assert await files.read("/big", 3 * CHUNK + 10, 100) == BIG[3 * CHUNK + 10 : 3 * CHUNK + 110]
    assert len(server.asked) == 1
    async with files.open("/big") as file:
        assert await file.read(CHUNK - 5, 10) == BIG[CHUNK - 5 : CHUNK + 5]
        assert await file.read(len(BIG) - 3, 100) == BIG[-3:]
        assert await file.read(len(BIG), 100) == b""
        assert await file.read(-1, 100) == b""


async def test_reading_straight_on_fetches_the_next_chunks_ahead_but_not_all(files, server):
    server.asked.clear()
    async with files.open("/big") as file:
        await file.read(0, 100)
        first = len(server.asked)
        await file.read(100, 100)
    assert first <= 3
    assert len(server.asked) <= 3


async def test_random_offsets_give_what_the_file_has(files):
    chance = random.Random(3)
    async with files.open("/big") as file:
        for _ in range(200):
            offset, size = chance.randrange(len(BIG)), chance.randrange(3 * CHUNK)
            assert await file.read(offset, size) == BIG[offset : offset + size]


@pytest.mark.parametrize("path", ["/nowhere", "/a/file/x/y", "/n/deep/nowhere"])
async def test_what_is_not_there_is_missing(files, path):
    with pytest.raises((PathMissingError, PathKindError)):
        await files.read(path)
    assert not await files.exists(path)


async def test_kinds_are_not_mixed_up(files):
    with pytest.raises(PathKindError, match="a directory: /a"):
        await files.read("/a")
    with pytest.raises(PathKindError, match="not a directory"):
        await names(files.listdir("/a/file"))
    with pytest.raises(PathKindError, match="not a symlink"):
        await files.readlink("/a/file")
    assert await files.readlink("/a/link") == "../n/deep/er/file"


async def test_external_content_is_refused_clearly(files):
    with pytest.raises(ExternalContentError, match="external"):
        await files.read("/a/elsewhere")


async def test_a_chunk_that_is_damaged_stops_the_read_there_and_nothing_of_it_is_given(files, server, published):
    chunk = (await files.stat("/big")).chunks[2]
    server.lie(ObjectName(chunk.digest, Kind.CHUNK).path, flipped)
    given = b""
    with pytest.raises(AllSourcesFailedError):
        async for piece in files.pieces("/big", 1000):
            given += piece
    assert given == BIG[: len(given)]
    assert len(given) <= 2 * CHUNK


@pytest.mark.parametrize("change", ["longer", "gap", "empty chunk"])
def test_chunks_that_are_not_the_whole_file_are_refused(published, change):
    whole = published.chunked(BIG)
    first, second, *rest = whole.chunks
    damaged = {
        "longer": replace(whole, size=whole.size + 1),
        "gap": replace(whole, chunks=(first, replace(second, offset=second.offset + 1), *rest)),
        "empty chunk": replace(whole, chunks=(replace(first, size=0), second, *rest)),
    }
    with pytest.raises(DocumentError, match="chunks"):
        ChunkedFile(None, "/big", damaged[change])
