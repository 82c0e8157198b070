from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from cdn.client.pace import HedgePolicy
from cdn.client.sources import Route, SourcePolicy, Sources
from cdn.clock import ManualClock
from cdn.errors import (
    AllSourcesFailedError,
    HashMismatchError,
    NotFoundError,
    SlowPeerError,
    StatusError,
    StorageFullError,
    UnreachableError,
)
from cdn.transport.retry import RetryPolicy

A, B, C = "http://a/r", "http://b/r", "http://c/r"
ONCE = SourcePolicy(rounds=RetryPolicy(1))
QUICK_HEDGE = SourcePolicy(
    rounds=RetryPolicy(1), hedge=HedgePolicy(delay_seconds_initial=0.01, delay_seconds_min=0.01, delay_seconds_max=0.01)
)


class Peer:
    """Does for each server what it is told, and remembers the routes."""

    def __init__(self, **does: object) -> None:
        self.does = {f"http://{name}/r": what for name, what in does.items()}
        self.routes: list[Route] = []

    async def __call__(self, route: Route) -> str:
        self.routes.append(route)
        what = self.does.get(route.base_url, "fine")
        if callable(what):
            what = what(route)
        if isinstance(what, asyncio.Event):
            await what.wait()
        if isinstance(what, Exception):
            raise what
        return route.base_url

    @property
    def servers(self) -> list[str]:
        return [route.base_url for route in self.routes]


def sources(*servers: str, policy: SourcePolicy = ONCE, **options: object) -> Sources:
    async def no_sleep(seconds: float) -> None:
        pass

    return Sources(
        servers, policy=policy, **{"clock": ManualClock(), "sleep": no_sleep, "chance": lambda: 0.5} | options
    )


async def test_a_dead_server_costs_one_attempt_and_then_nothing():
    asked = sources(A, B)
    peer = Peer(a=UnreachableError(A, "refused"))
    assert [await asked.fetch("x", peer) for _ in range(3)] == [B, B, B]
    assert peer.servers == [A, B, B, B]


async def test_a_dead_server_is_tried_again_after_its_rest():
    clock = ManualClock()
    asked = sources(A, B, clock=clock)
    peer = Peer(a=UnreachableError(A, "refused"))
    await asked.fetch("x", peer)
    peer.does.clear()
    clock.advance(15)
    assert await asked.fetch("x", peer) == A


async def test_wrong_content_is_asked_for_once_more_past_every_cache_then_elsewhere():
    asked = sources(A, B)
    peer = Peer(a=HashMismatchError(A, "00"))
    assert await asked.fetch("x", peer) == B
    assert [(route.base_url, route.no_cache) for route in peer.routes] == [(A, False), (A, True), (B, False)]
    assert peer.routes[1].request("data/x").headers["Cache-Control"] == "no-cache"


async def test_a_poisoned_cache_heals_at_the_same_server():
    asked = sources(A, B)
    peer = Peer(a=lambda route: "fine" if route.no_cache else HashMismatchError(A, "00"))
    assert await asked.fetch("x", peer) == A


async def test_a_missing_object_sends_to_the_next_server_but_does_not_condemn():
    asked = sources(A, B)
    peer = Peer(a=NotFoundError(A, 404))
    assert await asked.fetch("x", peer) == B
    peer.does.clear()
    assert await asked.fetch("y", peer) == A


async def test_it_fails_only_when_every_source_fails_and_tells_what_each_said():
    asked = sources(A, B, C)
    peer = Peer(a=UnreachableError(A, "refused"), b=StatusError(B, 500), c=HashMismatchError(C, "00"))
    with pytest.raises(AllSourcesFailedError) as caught:
        await asked.fetch("the thing", peer)
    assert [type(cause) for cause in caught.value.causes] == [UnreachableError, StatusError, HashMismatchError]
    assert "the thing" in str(caught.value)
    assert "refused" in str(caught.value)


async def test_when_all_failed_and_some_may_recover_they_are_asked_another_round():
    answers = iter([UnreachableError(A, "refused"), "fine"])
    asked = sources(A, policy=replace(ONCE, rounds=RetryPolicy(2)))
    assert await asked.fetch("x", Peer(a=lambda _: next(answers))) == A


async def test_what_nobody_has_is_not_asked_for_again():
    asked = sources(A, B, policy=replace(ONCE, rounds=RetryPolicy(5)))
    peer = Peer(a=NotFoundError(A, 404), b=NotFoundError(B, 404))
    with pytest.raises(AllSourcesFailedError):
        await asked.fetch("x", peer)
    assert peer.servers == [A, B]


async def test_trouble_of_this_machine_is_nobody_elses_fault():
    asked = sources(A, B)
    peer = Peer(a=StorageFullError("no room"))
    with pytest.raises(StorageFullError):
        await asked.fetch("x", peer)
    assert peer.servers == [A]
    assert {source.state for source in asked.status()} == {"good"}


async def test_a_slow_server_gets_company_and_is_used_less():
    never = asyncio.Event()
    asked = sources(A, B, policy=QUICK_HEDGE)
    peer = Peer(a=never)
    assert await asked.fetch("x", peer) == B
    assert await asked.fetch("x", peer) == B
    assert peer.servers == [A, B, B]
    assert [source.state for source in asked.status()][:2] == ["slow", "good"]


async def test_the_company_that_comes_too_late_is_not_called_slow():
    gate, never = asyncio.Event(), asyncio.Event()

    def second(route: Route) -> asyncio.Event:
        gate.set()  # the first answers as soon as the second was asked
        return never

    asked = sources(A, B, policy=QUICK_HEDGE)
    assert await asked.fetch("x", Peer(a=gate, b=second)) == A
    assert {source.state for source in asked.status()} == {"good"}


async def test_a_slow_server_that_has_no_company_is_waited_for():
    gate = asyncio.Event()
    asked = sources(A, policy=QUICK_HEDGE)
    asyncio.get_running_loop().call_later(0.05, gate.set)
    assert await asked.fetch("x", Peer(a=gate)) == A


async def test_two_slow_servers_do_not_keep_the_third_from_being_asked():
    asked = sources(A, B, C, policy=QUICK_HEDGE)
    peer = Peer(a=asyncio.Event(), b=asyncio.Event())
    async with asyncio.timeout(30):
        assert await asked.fetch("x", peer) == C
    assert [source.state for source in asked.status()][:3] == ["slow", "slow", "good"]


async def test_a_slow_proxy_before_every_server_is_left_for_the_next_and_blamed_alone():
    never = asyncio.Event()

    def answer(route: Route) -> object:
        return never if route.proxy == "http://p1" else "fine"

    asked = sources(A, B, proxies=(("http://p1",), ("http://p2",)), policy=QUICK_HEDGE)
    peer = Peer(a=answer, b=answer)
    async with asyncio.timeout(30):
        assert await asked.fetch("x", peer) == A
    assert [source.state for source in asked.status()] == ["good", "good", "slow", "good"]
    assert await asked.fetch("x", peer) == A
    assert peer.routes[-1].proxy == "http://p2"


async def test_a_proxy_that_fails_is_passed_over_for_the_same_server():
    asked = sources(A, B, proxies=(("http://p1", "http://p2"), (None,)), chance=iter([0.1, 0.2, 0.0]).__next__)
    peer = Peer(a=lambda route: UnreachableError(A, "refused") if route.proxy == "http://p1" else "fine")
    assert await asked.fetch("x", peer) == A
    assert [route.proxy for route in peer.routes] == ["http://p1", "http://p2"]
    await asked.fetch("x", peer)
    assert peer.routes[-1].proxy == "http://p2", "the failed one rests"


async def test_the_last_group_is_used_when_all_before_it_failed():
    asked = sources(A, proxies=(("http://p1",), (None,)))
    peer = Peer(a=lambda route: UnreachableError(A, "refused") if route.proxy else "fine")
    assert await asked.fetch("x", peer) == A
    assert [route.proxy for route in peer.routes] == ["http://p1", None]


async def test_files_of_this_machine_are_not_asked_for_through_proxies():
    asked = sources("file:///srv/r", proxies=(("http://p1",),))
    peer = Peer()
    await asked.fetch("x", peer)
    assert peer.routes[0].proxy is None


def test_the_state_of_sources_is_told_without_their_passwords():
    asked = sources("http://u:secret@a/r", proxies=(("http://u:secret@p1",), (None,)))
    assert [source.name for source in asked.status()] == ["http://***@a/r", "http://***@p1", "DIRECT"]
    assert str(Route("http://u:secret@a/r", "http://u:secret@p1")) == "http://***@a/r through http://***@p1"


async def test_silent_servers_are_not_waited_for_longer_than_agreed_where_there_is_a_fallback():
    clock = ManualClock()
    asked = sources(A, B, policy=replace(QUICK_HEDGE, rounds=RetryPolicy(5)), clock=clock)

    def silence(route: Route) -> asyncio.Event:
        clock.advance(asked.policy.fallback_seconds / 2)
        return asyncio.Event()

    peer = Peer(a=silence, b=silence)
    with pytest.raises(AllSourcesFailedError, match="no answer in 6 s") as caught:
        await asked.fetch("x", peer, has_fallback=True)
    assert peer.servers == [A, B]
    assert [type(cause) for cause in caught.value.causes] == [SlowPeerError, SlowPeerError]
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []


async def test_without_a_fallback_a_silent_server_is_waited_for():
    clock, gate = ManualClock(), asyncio.Event()
    asked = sources(A, policy=QUICK_HEDGE, clock=clock)

    def late(route: Route) -> asyncio.Event:
        clock.advance(1000)
        asyncio.get_running_loop().call_later(0.01, gate.set)
        return gate

    assert await asked.fetch("x", Peer(a=late)) == A


@pytest.mark.parametrize("seconds", [0, 5.5])
async def test_no_further_round_begins_that_would_end_too_late(seconds):
    clock, slept = ManualClock(), []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock.advance(seconds)

    def refuse(route: Route) -> UnreachableError:
        clock.advance(seconds)
        return UnreachableError(A, "refused")

    asked = sources(A, policy=replace(ONCE, rounds=RetryPolicy(9, 2.0, 2.0)), clock=clock, sleep=sleep)
    with pytest.raises(AllSourcesFailedError, match="refused"):
        await asked.fetch("x", Peer(a=refuse), has_fallback=True)
    assert len(slept) == (0 if seconds else 5)
    assert clock.monotonic() <= asked.policy.fallback_seconds


async def test_giving_up_leaves_nothing_running():
    started, never = asyncio.Event(), asyncio.Event()
    asked = sources(A, B)

    async def operation(route: Route) -> None:
        started.set()
        await never.wait()

    task = asyncio.create_task(asked.fetch("x", operation))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [other for other in asyncio.all_tasks() if other is not asyncio.current_task()] == []


def test_what_a_source_said_again_and_again_is_told_once():
    refused, slow = UnreachableError("http://one/x", "refused"), UnreachableError("http://two/x", "slow")
    assert str(AllSourcesFailedError("x", (refused, slow, refused, slow))) == (
        "x: every source failed (http://one/x: refused; http://two/x: slow)"
    )
