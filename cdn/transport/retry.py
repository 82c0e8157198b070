"""Trying again what may work the next time: capped exponential backoff with full jitter.

Why not a retry library (stamina): it repeats a function, and a `Fetcher` hands out a block in which the body still
arrives, so it cannot be repeated from outside; its jitter adds to a fixed wait where full jitter spreads a crowd of
clients over the whole of it; and it keeps its switches for tests in a global. What is needed is one pure function,
`backoff_seconds`, and two short loops.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

from cdn.errors import StatusError, TransportError
from cdn.transport.base import Fetcher, Request, Response
from cdn.transport.download import retry_after_seconds

T = TypeVar("T")

TRANSIENT_STATUSES: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
"""The answers after which the same request may succeed."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how patiently to try.

    Args:
        attempts: how many in all; 1 for no second one.
        backoff_seconds_initial: the wait after the first failure is drawn from 0 to this.
        backoff_seconds_max: the range doubles with each failure up to this.
        retry_after_seconds_max: a peer's ``Retry-After`` is honoured up to this.
    """

    attempts: int = 3
    backoff_seconds_initial: float = 0.5
    backoff_seconds_max: float = 10.0
    retry_after_seconds_max: float = 60.0


def is_transient(error: Exception) -> bool:
    """Whether the same call may succeed later."""
    if isinstance(error, StatusError):
        return error.status in TRANSIENT_STATUSES
    return isinstance(error, TransportError) and not error.permanent


def backoff_seconds(policy: RetryPolicy, failures: int, retry_after: float | None, chance: float) -> float:
    """How long to wait after a failure.

    Args:
        policy: the limits.
        failures: how many there have been, this one included.
        retry_after: what the peer asked for, in seconds.
        chance: from 0 to 1, drawn anew for each wait.
    """
    doublings = min(failures - 1, 32)
    wait = chance * min(policy.backoff_seconds_max, policy.backoff_seconds_initial * 2.0**doublings)
    if retry_after is None:
        return wait
    return max(wait, min(retry_after, policy.retry_after_seconds_max))


async def retrying(
    operation: Callable[[], Awaitable[T]],
    policy: RetryPolicy | None = None,
    *,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    chance: Callable[[], float] = random.random,
) -> T:
    """What the operation returns, once it does; the way to repeat whole transfers, body and verification included.

    Args:
        operation: started anew for each attempt.
        policy: how often and how patiently.
        sleep: waits.
        chance: draws numbers from 0 to 1.

    Raises:
        Exception: what the last attempt raised, or the first failure that is not transient.
    """
    policy = policy or RetryPolicy()
    failures = 0
    while True:
        try:
            return await operation()
        except TransportError as error:
            failures += 1
            if failures >= policy.attempts or not is_transient(error):
                raise
            asked = error.retry_after_seconds if isinstance(error, StatusError) else None
        await sleep(backoff_seconds(policy, failures, asked, chance()))


class RetryingFetcher:
    """Repeats requests until an answer's head has arrived; a `Fetcher`.

    A body that breaks off later is the reader's to repeat (`retrying`). The answer to the last attempt is handed out
    whatever it is.

    Args:
        fetcher: sends the requests.
        policy: how often and how patiently.
        sleep: waits.
        chance: draws numbers from 0 to 1.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        policy: RetryPolicy | None = None,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._fetcher = fetcher
        self._policy = policy or RetryPolicy()
        self._sleep = sleep
        self._chance = chance

    @asynccontextmanager
    async def send(self, request: Request) -> AsyncIterator[Response]:
        """Sends a request, several times if need be; see `Fetcher`."""
        async with AsyncExitStack() as stack:
            yield await self._answer(request, stack)

    async def close(self) -> None:
        """Closes the fetcher underneath; see `Fetcher`."""
        await self._fetcher.close()

    async def _answer(self, request: Request, stack: AsyncExitStack) -> Response:
        failures = 0
        while True:
            asked = None
            try:
                response = await stack.enter_async_context(self._fetcher.send(request))
            except TransportError as error:
                failures += 1
                if failures >= self._policy.attempts or not is_transient(error):
                    raise
            else:
                failures += 1
                if failures >= self._policy.attempts or response.status not in TRANSIENT_STATUSES:
                    return response
                asked = retry_after_seconds(response.headers)
                await stack.aclose()  # gives its connection back before waiting
            await self._sleep(backoff_seconds(self._policy, failures, asked, self._chance()))
