"""What it takes to ask upstreams."""

from __future__ import annotations

from dataclasses import dataclass, field

from cdn.clock import Clock
from cdn.telemetry import event
from cdn.transport.base import Fetcher, PromptFetcher
from edge.upstream.servers import UpstreamHealth
from edge.upstream.siblings import Siblings
from edge.upstream.turns import Turns
from edge.watching.complaints import Complaints
from edge.watching.statistics import Statistics


@dataclass(slots=True)
class UpstreamSupplies:
    """What it takes to ask upstreams; `health` and `siblings` are replaced by a reload."""

    fetcher: Fetcher
    health: UpstreamHealth
    siblings: Siblings
    turns: Turns
    clock: Clock
    statistics: Statistics
    edge_name: str
    complaints: Complaints

    prompt: PromptFetcher | None = field(default=None, kw_only=True)
    """Sends requests at once, with the connections of `fetcher`."""

    def warn(self, name: str, subject: str, **fields: object) -> None:
        """Tells of what clients and servers can bring about any number of times, unless the same was told just now."""
        said = self.complaints.turn(f"{name} {subject}", self.clock.monotonic())
        if said is not None:
            event(name, level="warning", **fields, **said)
