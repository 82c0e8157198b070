"""Threads for what blocks on the disk and is usually over at once, such as loading and storing small responses.

Handing a call to a thread and its result back costs more than the call itself if each of them wakes the other side. So
one thread takes all calls that have come meanwhile, and the event loop all results. Only where the disk is so slow that
calls wait are more threads woken.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, TypeVar

from cdn.errors import StorageError

THREADS_MAX: Final = 16
PATIENCE_SECONDS: Final = 0.02
"""How long a call waits before one more thread is woken."""
TOGETHER: Final = 16
"""How many calls that are not urgent wait for one another at most."""

T = TypeVar("T")


class _Call:
    """One call, from being asked for to the delivery of its result."""

    __slots__ = ("came_at", "error", "result", "work")

    def __init__(self, work: Callable[[], Any], came_at: float) -> None:
        self.work = work
        self.came_at = came_at
        self.result: Any = None
        self.error: Exception | None = None

    @property
    def is_unwanted(self) -> bool:
        """Whether nobody waits for it any more."""
        return False

    def give_up(self) -> None:
        """Says that it will not be made."""

    def deliver(self) -> None:
        """Gives its result to whoever waits for it, in the event loop."""


class _AwaitedCall(_Call):
    __slots__ = ("drop", "future")

    def __init__(
        self,
        work: Callable[[], Any],
        came_at: float,
        future: asyncio.Future[Any],
        drop: Callable[[Any], object] | None,
    ) -> None:
        super().__init__(work, came_at)
        self.future = future
        self.drop = drop

    @property
    def is_unwanted(self) -> bool:
        return self.future.cancelled()

    def give_up(self) -> None:
        self.future.cancel()

    def deliver(self) -> None:
        if self.future.done():
            if self.drop is not None and self.error is None:
                self.drop(self.result)
        elif self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)


class _PostedCall(_Call):
    __slots__ = ("on_end",)

    def __init__(self, work: Callable[[], Any], came_at: float, on_end: Callable[[Exception | None], object]) -> None:
        super().__init__(work, came_at)
        self.on_end = on_end

    def give_up(self) -> None:
        self.on_end(StorageError("nothing is written any more"))

    def deliver(self) -> None:
        self.on_end(self.error)


class DiskThreads:
    """Runs calls in threads of its own, those that were asked for first first; used within one event loop.

    How many calls there may be is limited by those who ask for them.

    Args:
        threads_max: how many threads there are at most.
        patience_seconds: how long a call waits before one more thread is woken.
    """

    def __init__(self, threads_max: int = THREADS_MAX, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._threads_max = threads_max
        self._patience_seconds = patience_seconds
        self._threads: list[threading.Thread] = []
        self._waiting: deque[_Call] = deque()
        self._done: deque[_Call] = deque()
        self._parked: list[threading.Lock] = []
        """A lock for each thread that has nothing to do; it goes on when somebody releases it."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_told = False
        """Whether the loop is going to look at results anyway."""
        self._look_again: asyncio.TimerHandle | None = None
        self._is_closed = False

    def run(
        self, work: Callable[[], T], drop: Callable[[T], object] | None = None, *, is_urgent: bool = True
    ) -> asyncio.Future[T]:
        """Has a thread call a function; gives its result.

        Args:
            work: what to call.
            drop: is given a result that nobody waits for any more.
            is_urgent: whether somebody waits for it; else it waits for others, so that one waking serves many.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._take(_AwaitedCall(work, time.monotonic(), future, drop), is_urgent=is_urgent)
        return future

    def post(self, work: Callable[[], object], on_end: Callable[[Exception | None], object]) -> None:
        """Has a thread call a function that is not urgent.

        Args:
            work: what to call.
            on_end: called in the event loop at the end, with what the function raised, or if it is not called any more.
        """
        self._take(_PostedCall(work, time.monotonic(), on_end), is_urgent=False)

    def _take(self, call: _Call, *, is_urgent: bool) -> None:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        if self._is_closed:
            call.give_up()
            return
        self._waiting.append(call)
        if len(self._parked) == len(self._threads) and (is_urgent or len(self._waiting) >= TOGETHER):
            self._wake()
        elif self._look_again is None:
            self._look_again = self._loop.call_later(self._patience_seconds, self._look)

    async def close(self) -> None:
        """Lets threads finish what they are doing, and ends them; what waits is not done any more."""
        self._is_closed = True
        while self._waiting:
            self._waiting.popleft().give_up()
        if self._look_again is not None:
            self._look_again.cancel()
            self._look_again = None
        await asyncio.to_thread(self._join)
        self._deliver()

    def _join(self) -> None:
        for thread in self._threads:
            while thread.is_alive():
                while self._parked:
                    self._parked.pop().release()
                thread.join(0.05)

    # ------------------------------------------------------------------------------------------------ in the loop

    def _wake(self) -> None:
        with suppress(IndexError):
            self._parked.pop().release()
            return
        if len(self._threads) < self._threads_max:
            thread = threading.Thread(target=self._work, name=f"disk-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _look(self) -> None:
        """Wakes one more thread if those that are awake are not enough."""
        self._look_again = None
        with suppress(IndexError):
            if time.monotonic() - self._waiting[0].came_at >= self._patience_seconds:
                self._wake()
            self._look_again = asyncio.get_running_loop().call_later(self._patience_seconds, self._look)

    def _deliver(self) -> None:
        self._is_told = False
        while self._done:
            self._done.popleft().deliver()

    # ------------------------------------------------------------------------------------------------ in threads

    def _work(self) -> None:
        park = threading.Lock()
        park.acquire()
        while not self._is_closed:
            if not self._do_next():
                self._pause(park)

    def _do_next(self) -> bool:
        """Does what waits longest; False if there is nothing."""
        try:
            call = self._waiting.popleft()
        except IndexError:
            return False
        if not call.is_unwanted:
            self._do(call)
        return True

    def _do(self, call: _Call) -> None:
        try:
            call.result = call.work()
        except Exception as error:  # noqa: BLE001 -- raised where the result is waited for
            trace = error.__traceback__
            call.error = error.with_traceback(trace.tb_next if trace is not None else None)  # without a way to itself
        self._done.append(call)
        if not self._is_told:
            self._is_told = True
            with suppress(RuntimeError):  # the loop has ended
                assert self._loop is not None
                self._loop.call_soon_threadsafe(self._deliver)

    def _pause(self, park: threading.Lock) -> None:
        """Waits until there may be something to do; first says so, then looks once more, so that nothing is missed."""
        self._parked.append(park)
        if self._waiting or self._is_closed:
            try:
                self._parked.remove(park)
            except ValueError:
                park.acquire()  # somebody has released it
            return
        park.acquire()
