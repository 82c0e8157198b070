"""What all connections of an edge have in common."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Final, Protocol

from cdn.clock import Clock
from edge.cache.descriptors import DescriptorShares, descriptors_max
from edge.cache.disk_cache import OpenFile
from edge.connection.client_limits import ClientLimits, JointLimits
from edge.connection.client_table import ClientTable
from edge.connection.exchange import Exchange
from edge.connection.slow_readers import SlowReaders, fair_piece_bytes
from edge.http.request import Request, RequestLimits
from edge.settings.limits import LimitSettings
from edge.watching.access_log import AccessLog
from edge.watching.statistics import Result, Statistics

UNSENT_BYTES_MAX: Final = 256 << 20
_AMPLE: Final = DescriptorShares(1 << 16, 1 << 16)


class Awaited(Protocol):
    """What a request waits for without a task, until `leave` is called."""

    def tell(self, callback: Callable[[object], object]) -> None:
        """Calls back once something has come, with nothing of use."""
        ...

    def answered(self, request: Request) -> tuple[bytes, bytes, Result] | None:
        """Head and body for the request, and what to call that; None if `serve` must go on."""
        ...

    async def serve(self, request: Request, exchange: Exchange) -> None:
        """Answers the request with whatever has come, or will."""
        ...

    def leave(self) -> None:
        """Waits no more."""
        ...


class Service(Protocol):
    """Answers requests; the rest of the edge, seen from a connection."""

    def hit(self, request: Request, now: float) -> tuple[bytes, bytes] | None:
        """Head and body for a plain request, if they are ready."""
        ...

    def hit_file(self, request: Request, now: float) -> tuple[bytes, OpenFile] | None:
        """Head and body for a plain request, if the body is in a file that is open; the caller closes it."""
        ...

    def confirm(self, file: OpenFile) -> bool:
        """Hashes a file again, and says whether it is right; called in a thread."""
        ...

    def awaited(self, request: Request) -> Awaited | None:
        """What a plain request waits for, if that can be had without a task."""
        ...

    async def serve(self, request: Request, exchange: Exchange) -> None:
        """Answers any request."""
        ...


class Reader(Hashable, Protocol):
    """Somebody who takes answers, fast or slowly."""

    def abort(self) -> None:
        """Ends the connection so that the client cannot take what it has for the whole."""
        ...


class OpenConnection(Reader, Protocol):
    """One connection, seen from what all have in common."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way."""
        ...

    def check(self, now: float) -> None:
        """Ends it if its client is too slow."""
        ...

    def close(self) -> None:
        """Ends it once what was written is sent."""
        ...


@dataclass(slots=True)
class Shared:
    """What all connections of an edge have in common."""

    service: Service
    limits: LimitSettings
    request_limits: RequestLimits
    statistics: Statistics
    access_log: AccessLog
    clock: Clock
    edge_name: str
    memo: dict[bytes, Request] = field(default_factory=dict)
    connections: set[OpenConnection] = field(default_factory=set)
    is_draining: bool = False
    is_over: bool = False
    """Whether nobody looks after connections any more."""
    clients: ClientLimits = field(default_factory=ClientLimits)
    slow_readers: SlowReaders[Reader] = field(default_factory=lambda: SlowReaders(UNSENT_BYTES_MAX))
    second_sockets: int = 0
    """How many connections have a second descriptor, to send files."""
    descriptors: DescriptorShares = _AMPLE

    @classmethod
    def of(
        cls,
        limits: LimitSettings,
        service: Service,
        statistics: Statistics,
        access_log: AccessLog,
        clock: Clock,
        edge_name: str,
        table: ClientTable | None = None,
    ) -> Shared:
        """What connections from outside have in common; with a table of clients if other workers count in it, too."""
        of_address = (
            limits.connections_per_address,
            limits.requests_per_second_per_address,
            limits.requests_burst,
            limits.addresses_exempt,
        )
        return cls(
            service,
            limits,
            RequestLimits(limits.head_bytes_max, limits.fields_max, limits.target_bytes_max),
            statistics,
            access_log,
            clock,
            edge_name,
            clients=ClientLimits(*of_address) if table is None else JointLimits(table, *of_address),
            slow_readers=SlowReaders(limits.unsent_bytes_max),
            descriptors=DescriptorShares.of(descriptors_max(), limits.connections_max),
        )

    @property
    def is_full(self) -> bool:
        """Whether there are as many connections as there may be."""
        return len(self.connections) >= self.descriptors.connections

    @property
    def piece_bytes(self) -> int:
        """How much of a large body a client gets at once."""
        return fair_piece_bytes(self.slow_readers.bytes_max, len(self.connections))

    @property
    def has_descriptors(self) -> bool:
        """Whether one more connection may have a second descriptor."""
        return self.second_sockets < self.descriptors.second_sockets

    def check(self, now: float) -> None:
        """Ends connections whose clients are too slow; called about once a second."""
        for connection in list(self.connections):
            connection.check(now)
        self.cut_slow_readers()

    def cut_slow_readers(self) -> None:
        """Cuts clients off for which too much waits, in a moment."""
        for connection in self.slow_readers.excess():
            self.statistics.slow_readers_cut += 1
            asyncio.get_running_loop().call_soon(connection.abort)
