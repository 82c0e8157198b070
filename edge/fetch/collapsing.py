"""One fetch for many waiting clients: flights, found by key while they last.

A flight goes on by itself, in a task of its own or, while nothing has to be waited for but one answer, by call backs.
Clients join it and leave it; none of them carries it, so the first one to leave takes nothing from the others, and what
was begun for a client that gave up is there when it comes again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final

from cdn.errors import CdnError
from cdn.telemetry import event
from edge.cache.memory_entry import MemoryEntry
from edge.content import Content
from edge.fetch.arriving_body import ArrivingBody, NobodyWaits
from edge.http.alike import ObjectAnswer
from edge.http.caching import StoredHead
from edge.http.headers import Headers
from edge.http.request_id import named

INTERIM_MAX: Final = 16
"""How many interim answers of one fetch are passed on."""


@dataclass(frozen=True, slots=True)
class Arriving:
    """A response whose body is still on its way, or too large for memory.

    Args:
        head: status and fields.
        content: what its name says.
        body: the body.
        is_stored: whether it is kept.
        is_shareable: whether other clients than the one it was fetched for may have it.
    """

    head: StoredHead
    content: Content
    body: ArrivingBody
    is_stored: bool
    is_shareable: bool


@dataclass(frozen=True, slots=True)
class Complete:
    """A whole response; the fields as in `Arriving`.

    Args:
        answer: what is known of its head, of an object that is as its server's others.
    """

    entry: MemoryEntry
    is_stored: bool
    is_shareable: bool
    answer: ObjectAnswer | None = None


@dataclass(frozen=True, slots=True)
class Kept:
    """An upstream confirmed what was stored; its head is new."""

    head: StoredHead


Outcome = Arriving | Complete | Kept


Told = Callable[[int, Headers], None]


class Flight:
    """One fetch under way.

    Args:
        key: by which it is found.
        resource: the key of the URL that it is for; the same for all variants.
        is_miss: whether nothing was stored when it began.
        loop: in which it goes on; the running one if None.
    """

    __slots__ = (
        "_interim",
        "_listeners",
        "body",
        "clients",
        "is_done",
        "is_miss",
        "is_outdated",
        "is_storing",
        "key",
        "outcome",
        "request_id",
        "resource",
    )

    def __init__(
        self,
        key: str,
        resource: str = "",
        *,
        is_miss: bool = False,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.key = key
        self.is_miss = is_miss
        self.resource = resource or key
        self.is_outdated = False
        """Whether its answer was overtaken by a change, so that nothing of it is kept."""
        self._interim: tuple[tuple[int, Headers], ...] = ()
        self._listeners: frozenset[Told] = frozenset()
        self.outcome: asyncio.Future[Outcome] = (loop or asyncio.get_running_loop()).create_future()
        self.clients = 0
        self.body: ArrivingBody | None = None
        self.is_done = False
        self.request_id = ""
        """Of the request that it was begun for."""
        self.is_storing = False
        """Whether all has come, and only the disk is waited for."""

    @property
    def is_public(self) -> bool:
        """Whether clients have seen something of it, so that it can no longer begin anew."""
        return self.outcome.done()

    @property
    def joinable(self) -> bool:
        """Whether one more client can have the whole of it, and not only what others were given before it came."""
        if not self.outcome.done():
            return True
        return self.body is not None and self.body.joinable and self._is_arriving

    @property
    def _is_arriving(self) -> bool:
        return self.outcome.exception() is None and isinstance(self.outcome.result(), Arriving)

    def tell_interim(self, status: int, fields: Headers) -> None:
        """Passes an interim answer on to whoever waits."""
        if not self.outcome.done() and len(self._interim) < INTERIM_MAX:
            self._interim = (*self._interim, (status, fields))
            for listener in self._listeners:
                listener(status, fields)

    def add_listener(self, listener: Told) -> None:
        """Tells somebody what interim answers came and will come."""
        self._listeners |= {listener}
        for status, fields in self._interim:
            listener(status, fields)

    def remove_listener(self, listener: Told) -> None:
        """Tells somebody nothing more."""
        self._listeners -= {listener}

    def publish(self, outcome: Outcome) -> None:
        """Gives clients what there is to give; only the first call counts."""
        if not self.outcome.done():
            self.outcome.set_result(outcome)

    def fail(self, error: Exception) -> None:
        """Tells clients that it came to nothing."""
        if self.body is not None:
            self.body.fail(error)
        if not self.outcome.done():
            self.outcome.set_exception(error)
            self.outcome.exception()  # so that one nobody waited for is not reported as forgotten

    def join(self) -> None:
        """One more client reads from it, until it calls `leave`."""
        self.clients += 1

    def leave(self) -> None:
        """A client reads no more."""
        self.clients -= 1
        if self.body is not None:
            self.body.make_room()
            self.let_go()

    def let_go(self) -> None:
        """Closes the unfinished file when neither the fetch nor a client needs it."""
        if self.is_done and self.clients == 0 and self.body is not None and self.body.spool is not None:
            self.body.spool.close()


class Joined:
    """A client's part in a flight; a block that lasts while it reads."""

    __slots__ = ("_flight", "_on_interim")

    def __init__(self, flight: Flight, on_interim: Told | None) -> None:
        self._flight = flight
        self._on_interim = on_interim

    def __enter__(self) -> Flight:
        self._flight.join()
        if self._on_interim is not None:
            self._flight.add_listener(self._on_interim)
        return self._flight

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._on_interim is not None:
            self._flight.remove_listener(self._on_interim)
        self._flight.leave()


Run = Callable[[Flight], Awaitable[None]]


class Flights:
    """All fetches under way."""

    def __init__(self) -> None:
        self._by_key: dict[str, Flight] = {}
        self._running: dict[Flight, Callable[[], object]] = {}
        """What ends each of them early."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._all_ended: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        return len(self._running)

    def find(self, key: str) -> Flight | None:
        """The flight for a key that can be joined."""
        flight = self._by_key.get(key)
        return flight if flight is not None and flight.joinable else None

    def outdate(self, resource: str) -> None:
        """Lets nobody join a fetch of this URL any more, and nothing of its answer be kept."""
        self.outdate_where(lambda each: each == resource)

    def outdate_where(self, is_meant: Callable[[str], bool]) -> set[str]:
        """The same for all URLs whose keys are meant; gives those keys."""
        outdated = [flight for flight in self._running if is_meant(flight.resource)]
        for flight in outdated:
            flight.is_outdated = True
            if self._by_key.get(flight.key) is flight:
                del self._by_key[flight.key]
        return {flight.resource for flight in outdated}

    def has_miss(self, key: str) -> bool:
        """Whether a fetch can be joined that began because nothing was stored, so that nothing is yet."""
        flight = self._by_key.get(key)
        return flight is not None and flight.is_miss and flight.joinable

    def start(self, key: str, run: Run, *, is_shared: bool = True, resource: str = "", is_miss: bool = False) -> Flight:
        """Begins a fetch in a task.

        Args:
            key: what for.
            run: does it.
            is_shared: whether others may join.
            resource: see `Flight`.
            is_miss: see `Flight`.
        """
        flight = Flight(key, resource, is_miss=is_miss)
        if is_shared:
            self._by_key[key] = flight
        self.carry(flight, run)
        return flight

    def add(self, flight: Flight, stop: Callable[[], object]) -> None:
        """Takes a fetch that goes on by itself, others may join, and `end` or `carry` is called for."""
        self._by_key[flight.key] = flight
        self._running[flight] = stop

    def carry(self, flight: Flight, run: Run) -> None:
        """Has a task do what is left of a fetch."""
        task = asyncio.create_task(self._run(flight, run))
        self._running[flight] = task.cancel
        self._tasks.add(task)

        def note(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if not flight.is_done:  # it was cancelled before it began
                flight.fail(FlightStopped())
                self.end(flight)

        task.add_done_callback(note)

    def end(self, flight: Flight) -> None:
        """Takes that a fetch is over."""
        flight.is_done = True
        self._running.pop(flight, None)
        if self._by_key.get(flight.key) is flight:
            del self._by_key[flight.key]
        flight.let_go()
        if self._all_ended is not None and not self._running and not self._all_ended.done():
            self._all_ended.set_result(None)

    def joined(self, flight: Flight, on_interim: Told | None = None) -> Joined:
        """Keeps what a client reads from while it reads, and tells it of interim answers."""
        return Joined(flight, on_interim)

    async def stop(self) -> None:
        """Ends all fetches; those that only store what has come do so first."""
        for flight, stop in list(self._running.items()):
            if not flight.is_storing:
                stop()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._running:
            self._all_ended = asyncio.get_running_loop().create_future()
            await self._all_ended

    async def _run(self, flight: Flight, run: Run) -> None:
        try:
            await run(flight)
        except NobodyWaits as error:
            flight.fail(error)
        except CdnError as error:
            flight.fail(error)
        except asyncio.CancelledError:
            flight.fail(FlightStopped())
            raise
        except Exception as error:  # noqa: BLE001 -- the task's outermost edge: clients get an answer in any case
            self.crashed(flight, error)
        finally:
            self.end(flight)

    def crashed(self, flight: Flight, error: Exception) -> None:
        """Tells clients and the operator of a mistake of this program."""
        reason, request = f"{type(error).__name__}: {error}", named(flight.request_id)
        event("edge.fetch.crashed", level="error", key=flight.key, error=reason, **request)
        flight.fail(error)


class FlightStopped(Exception):  # noqa: N818 -- no failure: the edge is stopping
    """The edge stopped before the fetch was done."""
