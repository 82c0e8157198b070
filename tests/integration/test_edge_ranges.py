"""Parts of objects over real sockets: from memory, from disk, and from what is still arriving."""

import asyncio
import email
import email.message
import os

import pytest

from tests.fakes.edge import edge_world, object_of
from tests.fakes.origin import Reply

SMALL, LARGE = os.urandom(20_000), os.urandom(3_000_000)
FIELDS = {"Content-Type": "application/x-test", "Last-Modified": "Tue, 14 Nov 2023 00:00:00 GMT"}


@pytest.fixture
async def world(tmp_path):
    async with edge_world(tmp_path) as world:
        yield world


def published(world, stored: bytes, **reply) -> str:
    target = object_of(stored)
    world.origin.replies[target] = Reply(stored, headers=FIELDS, **reply)
    return target


def parts_of(answer) -> list[tuple[str, bytes]]:
    """The parts of an answer, read by a MIME parser that is not ours."""
    assert answer.headers["content-type"].startswith("multipart/byteranges; boundary=")
    assert int(answer.headers["content-length"]) == len(answer.body)
    message = email.message_from_bytes(
        b"Content-Type: " + answer.headers["content-type"].encode() + b"\r\n\r\n" + answer.body
    )
    return [(str(part["Content-Range"]), part.get_payload(decode=True)) for part in message.get_payload()]


@pytest.mark.parametrize("stored", [SMALL, LARGE], ids=["from memory", "from disk"])
@pytest.mark.parametrize("is_cached", [True, False])
async def test_several_parts_come_in_one_answer(world, stored, is_cached):
    target, size = published(world, stored), len(stored)
    if is_cached:
        await world.get(target)
        await world.settled()
    answer = await world.get(target, Range="bytes=0-99, 5000-5099, -100")
    assert answer.status == 206
    assert "content-range" not in answer.headers
    wanted = [(0, 100), (5000, 5100), (size - 100, size)]
    # The line end before the next boundary belongs to the boundary, but a random part may end in one of its own.
    assert [said for said, _ in parts_of(answer)] == [f"bytes {start}-{stop - 1}/{size}" for start, stop in wanted]
    for start, stop in wanted:
        assert b"\r\n\r\n" + stored[start:stop] + b"\r\n--" in answer.body
    assert world.origin.count(target) == 1


@pytest.mark.parametrize("stored", [SMALL, LARGE], ids=["from memory", "from disk"])
async def test_one_part_comes_alone_and_several_that_touch_are_one(world, stored):
    target, size = published(world, stored), len(stored)
    await world.get(target)
    await world.settled()
    for text in ("bytes=7-1999", "bytes=7-20,15-1999", "bytes=1000-1999,7-1001", "bytes=7-1999,99999999-"):
        answer = await world.get(target, Range=text)
        assert (answer.status, answer.body) == (206, stored[7:2000])
        assert answer.headers["content-range"] == f"bytes 7-1999/{size}"
    assert (await world.get(target, Range=f"bytes={size}-,-0")).status == 416
    tag = (await world.get(target)).headers["etag"]
    assert (await world.get(target, Range="bytes=0-1,5000-5001", If_Range=tag)).status == 206
    assert (await world.get(target, Range="bytes=0-1,5000-5001", If_Range=FIELDS["Last-Modified"])).status == 206
    assert (await world.get(target, Range="bytes=0-1,5000-5001", If_Range='"other"')).body == stored
    assert (await world.get(target, Range="bytes=0-1,5000-5001", If_None_Match=tag)).status == 304
    head = await world.get(target, method="HEAD", Range="bytes=0-1,5000-5001")
    assert (head.status, head.headers["content-length"]) == (200, str(size))


@pytest.mark.parametrize("stored", [SMALL, LARGE], ids=["from memory", "from disk"])
async def test_a_request_for_the_same_bytes_a_thousand_times_gets_them_once(world, stored):
    """RFC 9110 §17.15: nothing is sent that is larger than the object itself."""
    target = published(world, stored)
    await world.get(target)
    await world.settled()
    for text in (
        "0-," * 1000,
        "0-," * 60,
        "0-1," * 60 + "0-",
        ",".join(f"{place * 2}-{place * 2}" for place in range(900)),
    ):
        answer = await world.get(target, Range=f"bytes={text.strip(',')}")
        assert answer.status in {200, 206}
        assert len(answer.body) <= len(stored)


async def test_a_part_that_has_arrived_is_given_while_the_rest_still_arrives(world):
    gate = asyncio.Event()
    target = published(world, LARGE, gate=gate, gate_after=2_500_000)
    async with world.client() as first, world.client() as second, world.client() as third:
        await first.ask(target)
        await first.receive_head()
        await first.reader.readexactly(2_000_000)
        answer = await second.get(target, Range="bytes=1900000-1900099")
        assert (answer.status, answer.body) == (206, LARGE[1_900_000:1_900_100])
        answer = await second.get(target, Range="bytes=1900000-1900099,100-199")
        assert answer.status == 206
        assert LARGE[100:200] in answer.body
        assert LARGE[1_900_000:1_900_100] in answer.body
        await third.ask(target, Range="bytes=2900000-2900099")
        status, headers = await third.receive_head()
        assert (status, headers["content-range"]) == (206, f"bytes 2900000-2900099/{len(LARGE)}")
        assert "collapsed" in headers["cache-status"]
        gate.set()
        assert await third.reader.readexactly(100) == LARGE[2_900_000:2_900_100]
    assert world.origin.count(target) == 1


async def test_a_part_of_what_is_not_stored_arrives_too(world, tmp_path):
    """The disk has no room: what has gone by is gone, so parts come in their order in the body."""
    target = published(world, LARGE)
    world.edge.parts.supplies.object_bytes_max = 1000
    answer = await world.get(target, Range="bytes=2500000-2500099,100-199")
    assert [said for said, _ in parts_of(answer)] == [
        f"bytes 100-199/{len(LARGE)}",
        f"bytes 2500000-2500099/{len(LARGE)}",
    ]
    assert LARGE[100:200] in answer.body
    assert LARGE[2_500_000:2_500_100] in answer.body
