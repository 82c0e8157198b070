from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import pytest

from cdn.client.cache import ObjectCache
from cdn.client.objects import ObjectReader, Wanted
from cdn.client.sources import SourcePolicy, Sources
from cdn.clock import ManualClock
from cdn.compression import Compression, compress
from cdn.errors import AllSourcesFailedError, DocumentError, HashMismatchError, TooLargeError
from cdn.hashing import Algorithm, digest_of
from cdn.objects import Kind, ObjectName
from cdn.transport.memory import Answer
from cdn.transport.retry import RetryPolicy
from tests.fakes.repositories import Network, Server, cut, endless, flipped

BASE = "http://one/r"
SMALL = b"some plain content"
LARGE = random.Random(5).randbytes(3_000_000)


def wanted(plain: bytes, compression: Compression = Compression.ZLIB, **changes: object) -> tuple[Wanted, bytes]:
    stored = bytes(compress(plain, compression))
    name = ObjectName(digest_of(Algorithm.SHA1, stored), Kind.FILE)
    return replace(Wanted(name, compression, len(plain)), **changes), stored


@pytest.fixture
def server():
    return Server({})


@pytest.fixture
def reader(server, tmp_path):
    sources = Sources((BASE,), policy=SourcePolicy(rounds=RetryPolicy(1)), clock=ManualClock())
    return ObjectReader(Network({BASE: server}), sources, ObjectCache(tmp_path))


@pytest.mark.parametrize("plain", [b"", SMALL, LARGE], ids=["empty", "small", "large"])
@pytest.mark.parametrize("compression", Compression)
async def test_an_object_is_fetched_verified_and_kept(server, reader, plain, compression):
    asked, server.served = wanted(plain, compression)[0], {}
    asked, stored = wanted(plain, compression)
    server.served = {asked.name.path: stored}
    content = await reader.read(asked)
    assert content.read(0, len(plain) + 1) == plain
    del content
    assert (await reader.read(asked)).read(0, 10) == plain[:10]
    assert len(server.asked) == 1


@pytest.mark.parametrize("plain", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize(
    ("change", "complaint"),
    [(flipped, HashMismatchError), (cut, None), (endless, (HashMismatchError, TooLargeError, DocumentError))],
)
async def test_wrong_bytes_are_never_given(server, reader, tmp_path, plain, change, complaint):
    asked, stored = wanted(plain)
    server.served = {asked.name.path: stored}
    server.every = change
    with pytest.raises(AllSourcesFailedError) as caught:
        await reader.read(asked)
    if complaint is not None:
        assert isinstance(
            caught.value.causes[-1], (complaint, DocumentError) if isinstance(complaint, type) else complaint
        )
    assert ObjectCache(tmp_path).open(asked.name) is None


@pytest.mark.parametrize("first", [0, 1])
async def test_two_files_whose_stored_bytes_are_the_same_are_told_apart(server, reader, first):
    compressed, stored = wanted(SMALL)
    raw, same = wanted(stored, Compression.NONE)
    assert (raw.name, same) == (compressed.name, stored), "one file is the other one's stored form"
    server.served = {raw.name.path: stored}
    held = []
    for asked, plain in [(compressed, SMALL), (raw, stored)][:: -1 if first else 1]:
        held.append(await reader.read(asked))
        assert held[-1].read(0, 100) == plain
    contents = await asyncio.gather(reader.read(compressed), reader.read(raw))
    assert [content.read(0, 100) for content in contents] == [SMALL, stored]


async def test_content_that_is_open_is_not_given_for_a_file_of_another_size(server, reader):
    asked, stored = wanted(SMALL)
    server.served = {asked.name.path: stored}
    held = await reader.read(asked)
    with pytest.raises(AllSourcesFailedError, match="its catalog says"):
        await reader.read(replace(asked, size=held.size + 1))


@pytest.mark.parametrize("difference", [-1, 1])
@pytest.mark.parametrize("plain", [SMALL, LARGE], ids=["small", "large"])
async def test_a_size_other_than_the_catalog_says_is_refused(server, reader, plain, difference):
    asked, stored = wanted(plain, size=len(plain) + difference)
    server.served = {asked.name.path: stored}
    with pytest.raises(AllSourcesFailedError) as caught:
        await reader.read(asked)
    assert isinstance(caught.value.causes[-1], DocumentError)


async def test_a_bomb_is_not_inflated(server, reader):
    bomb = bytes(compress(bytes(200_000_000), Compression.ZLIB))
    name = ObjectName(digest_of(Algorithm.SHA1, bomb), Kind.FILE)
    server.served = {name.path: bomb}
    with pytest.raises(AllSourcesFailedError):
        await reader.read(Wanted(name, Compression.ZLIB, 1_000_000))


async def test_many_readers_cause_one_request(server, reader):
    asked, stored = wanted(SMALL)
    gate = asyncio.Event()
    server.served = {asked.name.path: stored}
    server.every = lambda answer, request: replace(answer, head_gate=gate)
    reading = [asyncio.create_task(reader.read(asked)) for _ in range(20)]
    await asyncio.sleep(0)  # all wait for the object now
    gate.set()
    contents = await asyncio.gather(*reading)
    assert {content.read(0, 100) for content in contents} == {SMALL}
    assert len(server.asked) == 1


async def test_a_reader_that_gives_up_does_not_stop_the_others(server, reader):
    asked, stored = wanted(SMALL)
    gate = asyncio.Event()
    server.served = {asked.name.path: stored}
    server.every = lambda answer, request: replace(answer, body_gate=gate)
    first, second = (asyncio.create_task(reader.read(asked)) for _ in range(2))
    while not server.asked:  # noqa: ASYNC110  # the fake has no event
        await asyncio.sleep(0)  # a turn for the readers
    first.cancel()
    gate.set()
    assert (await second).read(0, 100) == SMALL
    assert first.cancelled()


async def test_when_all_give_up_the_fetch_ends_and_the_next_reader_starts_anew(server, reader):
    asked, stored = wanted(SMALL)
    never = asyncio.Event()
    server.served = {asked.name.path: stored}
    server.every = lambda answer, request: replace(answer, head_gate=never)
    only = asyncio.create_task(reader.read(asked))
    while not server.asked:  # noqa: ASYNC110  # the fake has no event
        await asyncio.sleep(0)  # a turn for the reader
    only.cancel()
    await asyncio.wait([only])
    server.every = None
    assert (await reader.read(asked)).read(0, 100) == SMALL


async def test_a_failure_is_told_to_all_and_not_remembered(server, reader):
    asked, stored = wanted(SMALL)
    server.every = lambda answer, request: Answer(b"", 503)
    failed = await asyncio.gather(*(reader.read(asked) for _ in range(3)), return_exceptions=True)
    assert {type(error) for error in failed} == {AllSourcesFailedError}
    server.served, server.every = {asked.name.path: stored}, None
    assert (await reader.read(asked)).read(0, 100) == SMALL


async def test_a_damaged_copy_in_the_cache_is_fetched_again(server, tmp_path):
    asked, stored = wanted(SMALL)
    server.served = {asked.name.path: stored}

    def reader() -> ObjectReader:
        return ObjectReader(Network({BASE: server}), Sources((BASE,), clock=ManualClock()), ObjectCache(tmp_path))

    content = await reader().read(asked)
    damage(content.path)
    del content
    assert (await reader().read(asked)).read(0, 100) == SMALL
    assert len(server.asked) == 2


def damage(path: str) -> None:
    with open(path, "r+b") as file:
        file.write(b"S")
