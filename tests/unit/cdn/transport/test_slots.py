"""How many transfers run at once."""

from __future__ import annotations

import asyncio

import pytest

from cdn.transport.slots import HostSlots


async def most_at_once(slots: HostSlots, hosts: list[str]) -> int:
    """How many of these were inside together."""
    inside = most = 0

    async def hold(host: str) -> None:
        nonlocal inside, most
        async with slots.hold(host):
            inside += 1
            most = max(most, inside)
            for _ in range(20):
                await asyncio.sleep(0)  # a turn in which others could come in
            inside -= 1

    await asyncio.gather(*[hold(host) for host in hosts])
    return most


async def test_one_host_gets_its_share_and_no_more() -> None:
    assert await most_at_once(HostSlots(10, 3), ["a"] * 20) == 3


async def test_all_hosts_together_get_the_total_and_no_more() -> None:
    assert await most_at_once(HostSlots(4, 3), ["a", "b", "c"] * 10) == 4


async def test_a_crowd_for_one_host_does_not_keep_another_waiting() -> None:
    slots = HostSlots(10, 1)
    async with slots.hold("busy"):
        waiting = asyncio.create_task(slots.hold("busy").__aenter__())
        await asyncio.sleep(0)  # it stands in line now
        async with slots.hold("idle"):
            pass
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting


async def test_nothing_is_kept_of_hosts_nobody_talks_to() -> None:
    slots = HostSlots(2, 1)
    await most_at_once(slots, [f"host-{number}" for number in range(100)])
    assert slots._hosts == {}


async def test_who_gives_up_waiting_takes_no_slot_along() -> None:
    slots = HostSlots(1, 1)

    async def use(host: str) -> str:
        async with slots.hold(host):
            return host

    async with slots.hold("a"):
        leaving = [asyncio.create_task(use(host)) for host in ("a", "b", "a", "b")]
        staying = [asyncio.create_task(use(host)) for host in ("a", "b")]
        await asyncio.sleep(0)  # all stand in line now
        for task in leaving:
            task.cancel()
        await asyncio.wait(leaving)
    assert await asyncio.gather(*staying) == ["a", "b"]
    assert await use("c") == "c"


async def test_a_slot_that_comes_to_one_who_just_gave_up_goes_on_to_the_next() -> None:
    slots = HostSlots(2, 1)
    slot = slots.hold("a")
    await slot.__aenter__()

    async def use() -> bool:
        async with slots.hold("a"):
            return True

    leaving, staying = asyncio.create_task(use()), asyncio.create_task(use())
    await asyncio.sleep(0)  # both stand in line now
    await slot.__aexit__(None, None, None)
    leaving.cancel()
    assert await staying
