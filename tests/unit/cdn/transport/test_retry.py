"""Trying again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdn.errors import (
    HashMismatchError,
    NotFoundError,
    ShortTransferError,
    SlowPeerError,
    StatusError,
    TooLargeError,
    TransportError,
    UnreachableError,
)
from cdn.transport.base import Request
from cdn.transport.download import read_body
from cdn.transport.memory import Answer, MemoryFetcher
from cdn.transport.retry import RetryingFetcher, RetryPolicy, backoff_seconds, is_transient, retrying
from cdn.transport.urls import url_of
from tests.contracts.fetcher import SITE, FetcherContract

URL = "http://peer/x"
POLICY = RetryPolicy(attempts=4, backoff_seconds_initial=1, backoff_seconds_max=3, retry_after_seconds_max=30)


class Naps:
    """Sleeps that take no time and are written down."""

    def __init__(self) -> None:
        self.taken: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.taken.append(seconds)


def in_turn(*answers: Answer | bytes) -> MemoryFetcher:
    """Gives one answer after the other."""
    left = iter(answers)
    return MemoryFetcher(lambda _: next(left))


class TestRetryingFetcher(FetcherContract):
    @pytest.fixture
    def base_url(self) -> str:
        return "http://peer.example/cvmfs"

    @pytest.fixture
    def fetcher(self, base_url) -> RetryingFetcher:
        memory = MemoryFetcher({url_of(base_url, path): body for path, body in SITE.items()})
        return RetryingFetcher(memory, sleep=Naps())


@pytest.mark.parametrize(
    "error",
    [UnreachableError(URL, "x"), SlowPeerError(URL, "x"), ShortTransferError(URL, "x"), StatusError(URL, 503)],
    ids=lambda error: type(error).__name__,
)
async def test_transient_failures_are_tried_again(error) -> None:
    naps = Naps()
    fetcher = RetryingFetcher(in_turn(Answer(error=error), Answer(error=error), b"at last"), POLICY, sleep=naps)
    assert await read_body(fetcher, Request(URL), size_max=10) == b"at last"
    assert len(naps.taken) == 2


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
async def test_transient_answers_are_tried_again(status) -> None:
    naps = Naps()
    fetcher = RetryingFetcher(in_turn(Answer(b"busy", status), b"at last"), POLICY, sleep=naps)
    assert await read_body(fetcher, Request(URL), size_max=10) == b"at last"
    assert len(naps.taken) == 1


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 410, 501])
async def test_lasting_answers_are_handed_out_at_once(status) -> None:
    naps = Naps()
    async with RetryingFetcher(in_turn(Answer(b"", status)), POLICY, sleep=naps).send(Request(URL)) as response:
        assert response.status == status
    assert naps.taken == []


async def test_the_last_answer_is_handed_out_whatever_it_is() -> None:
    memory = MemoryFetcher(lambda _: Answer(b"busy", 503))
    async with RetryingFetcher(memory, POLICY, sleep=Naps()).send(Request(URL)) as response:
        assert response.status == 503
    assert len(memory.requests) == 4


async def test_the_last_failure_is_raised_as_it_is() -> None:
    memory = MemoryFetcher(lambda _: Answer(error=UnreachableError(URL, "gone")))
    with pytest.raises(UnreachableError, match="gone"):
        await read_body(RetryingFetcher(memory, POLICY, sleep=Naps()), Request(URL), size_max=1)
    assert len(memory.requests) == 4


async def test_waits_double_up_to_the_limit_and_are_drawn_by_chance() -> None:
    naps = Naps()
    memory = MemoryFetcher(lambda _: Answer(error=UnreachableError(URL, "gone")))
    fetcher = RetryingFetcher(memory, POLICY, sleep=naps, chance=lambda: 0.5)
    with pytest.raises(UnreachableError):
        await read_body(fetcher, Request(URL), size_max=1)
    assert naps.taken == [0.5, 1.0, 1.5]


@pytest.mark.parametrize(("said", "waited"), [("7", 7.0), ("9999999", 30.0), ("soon", 0.0), ("-5", 0.0)])
async def test_a_peer_may_ask_for_a_wait_within_bounds(said, waited) -> None:
    naps = Naps()
    busy = Answer(b"", 503, headers={"Retry-After": said})
    await read_body(
        RetryingFetcher(in_turn(busy, b""), POLICY, sleep=naps, chance=lambda: 0.0), Request(URL), size_max=1
    )
    assert naps.taken == [waited]


async def test_whole_transfers_can_be_tried_again() -> None:
    naps = Naps()
    memory = in_turn(
        Answer(b"complete", cut_after=3), Answer(b"", 429, headers={"Retry-After": "5"}), Answer(b"complete")
    )
    body = await retrying(lambda: read_body(memory, Request(URL), size_max=10), POLICY, sleep=naps, chance=lambda: 0.1)
    assert body == b"complete"
    assert naps.taken == [0.1, 5.0]


@pytest.mark.parametrize("error", [NotFoundError(URL, 404), TooLargeError(URL, "x"), HashMismatchError("x", "y")])
async def test_what_cannot_succeed_is_not_tried_again(error) -> None:
    calls = 0

    async def fail() -> None:
        nonlocal calls
        calls += 1
        raise error

    with pytest.raises(type(error)):
        await retrying(fail, POLICY, sleep=Naps())
    assert calls == 1
    assert not is_transient(error)


@given(st.integers(1, 10_000), st.none() | st.floats(0, 1e9), st.floats(0, 1))
def test_no_wait_is_longer_than_its_limits(failures, retry_after, chance) -> None:
    wait = backoff_seconds(POLICY, failures, retry_after, chance)
    assert (
        0 <= wait <= max(POLICY.backoff_seconds_max, POLICY.retry_after_seconds_max if retry_after is not None else 0)
    )


def test_a_plain_transport_error_is_transient() -> None:
    assert is_transient(TransportError(URL, "x"))
