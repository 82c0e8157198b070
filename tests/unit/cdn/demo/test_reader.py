"""A client of the demonstration: what it takes for wrong."""

import hashlib

import pytest

from cdn.demo.naming import GeoResolver
from cdn.demo.reader import Reader, WatchedFetcher
from cdn.demo.tree import Expected, Facts
from cdn.errors import CdnError
from cdn.transport.base import Request
from cdn.transport.memory import MemoryFetcher
from stratum0.config import Home
from stratum0.publish import publish_tree
from stratum0.repository import Repository

NAME = "software.stratocast.example"


@pytest.fixture
def published(tmp_path):
    """A small repository, and what its files are."""
    tree = tmp_path / "tree"
    expected = Expected()
    for number in range(5):
        path, content = f"/lib/file{number}", b"content %d\n" % number
        (tree / "lib").mkdir(parents=True, exist_ok=True)
        (tree / path[1:]).write_bytes(content)
        expected.files[path] = Facts(len(content), hashlib.sha256(content).hexdigest())
    (tree / "lib/link").symlink_to("file1")
    expected.links["/lib/link"] = "file1"
    with Repository.create(NAME, Home(tmp_path / "root")) as repository:
        publish_tree(repository, tree)
        return repository.settings.storage, repository.keys.public_key_file, expected


@pytest.fixture
async def reader(published, tmp_path):
    storage, key, _ = published
    reader = Reader(NAME, GeoResolver(("127.0.0.1", 1), "192.0.2.0/24"))
    opened = await reader.obey({"do": "open", "cache": str(tmp_path / "c"), "servers": str(storage), "key": str(key)})
    assert opened["revision"] == 2
    yield reader
    await reader.close()


async def read(reader, expected, tmp_path, **how):
    expected.save(tmp_path / "expected.json")
    return await reader.obey({"do": "read", "expected": str(tmp_path / "expected.json"), **how})


async def test_a_tree_that_is_as_it_must_be_is_read_whole(reader, published, tmp_path):
    result = await read(reader, published[2], tmp_path)
    assert (result["files"], result["failed"], result["wrong"]) == (5, 0, 0)
    assert result["bytes"] == published[2].size_bytes


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda e: e.files.update({"/lib/file1": Facts(10, "0" * 64)}), "/lib/file1: its SHA-256 is"),
        (lambda e: e.files.update({"/lib/file1": Facts(11, "0" * 64)}), "/lib/file1: it has 10 bytes instead of 11"),
        (lambda e: e.files.pop("/lib/file1"), "/lib/file1: it should not be there"),
        (lambda e: e.files.update({"/lib/more": Facts(1, "0" * 64)}), "/lib/more: it is missing"),
        (lambda e: e.links.update({"/lib/link": "file2"}), "/lib/link: it links to 'file1'"),
    ],
)
async def test_every_difference_is_told(reader, published, tmp_path, spoil, complaint):
    spoil(published[2])
    result = await read(reader, published[2], tmp_path)
    assert result["wrong"] == 1
    assert result["examples"][0].startswith(complaint)


async def test_a_file_that_cannot_be_had_is_a_failed_read(reader, published, tmp_path, monkeypatch):
    for shard in (published[0] / "data").iterdir():
        for stored in shard.iterdir():
            if not stored.name.endswith(("C", "H", "X", "M")):
                stored.unlink()
    monkeypatch.setattr("cdn.demo.reader._SAY_EVERY", 1)
    result = await read(reader, published[2], tmp_path)
    assert result["failed"] == 5
    assert result["wrong"] == 0


async def test_only_what_is_wanted_is_read_though_everything_is_compared(reader, published, tmp_path):
    published[2].files["/lib/more"] = Facts(1, "0" * 64)
    result = await read(reader, published[2], tmp_path, only=["/lib/file0"])
    assert (result["files"], result["wrong"]) == (1, 1)


async def test_a_reader_that_is_held_goes_on_when_the_sign_is_there(reader, published, tmp_path):
    sign = tmp_path / "sign"
    sign.touch()
    result = await read(reader, published[2], tmp_path, hold=[2, str(sign)])
    assert result["files"] == 5


async def test_an_unknown_order_is_refused():
    with pytest.raises(CdnError, match="dance"):
        await Reader(NAME, GeoResolver(("127.0.0.1", 1), "192.0.2.0/24")).obey({"do": "dance"})


async def test_which_edge_answered_and_whether_from_its_cache_is_counted():
    watched = WatchedFetcher(MemoryFetcher({}))
    watched._count({"Cache-Status": '"geneva"; hit; ttl=10'})
    watched._count({"Cache-Status": '"tokyo"; fwd=miss; stored'})
    watched._count({})
    assert dict(watched.answers) == {"geneva": 1, "tokyo": 1, "no edge": 1}
    assert watched.hits["geneva"] == 1
    assert watched.hits["tokyo"] == 0


async def test_a_manifest_is_asked_for_no_older_than_a_second():
    seen = []

    class Fetcher:
        def send(self, request):
            seen.append(dict(request.headers))
            raise CdnError("enough")

    watched = WatchedFetcher(Fetcher())
    for url in ("http://x/cvmfs/n/.cvmfspublished", "http://x/cvmfs/n/data/aa/bb"):
        with pytest.raises(CdnError, match="enough"):
            async with watched.send(Request(url)):
                raise AssertionError
    assert seen == [{"Cache-Control": "max-age=1"}, {}]
