"""What it takes to ask upstreams."""

from __future__ import annotations

from dataclasses import dataclass

from cdn.clock import Clock
from cdn.transport.base import Fetcher
from edge.upstream.servers import UpstreamHealth
from edge.upstream.siblings import Siblings
from edge.upstream.turns import Turns
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
