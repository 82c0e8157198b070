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
                await asyncio.sleep(0)
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
        await asyncio.sleep(0)
        async with slots.hold("idle"):
            pass
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting


async def test_nothing_is_kept_of_hosts_nobody_talks_to() -> None:
    slots = HostSlots(2, 1)
    await most_at_once(slots, [f"host-{number}" for number in range(100)])
    assert slots._hosts == {}
