"""What all connections of an edge have in common."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from cdn.clock import Clock
from edge.access_log import AccessLog
from edge.config import LimitSettings
from edge.disk_cache import OpenFile
from edge.exchange import Exchange
from edge.request import Request, RequestLimits
from edge.statistics import Statistics

if TYPE_CHECKING:
    from edge.protocol import Connection


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

    async def serve(self, request: Request, exchange: Exchange) -> None:
        """Answers any request."""
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
    connections: set[Connection] = field(default_factory=set)
    is_draining: bool = False
