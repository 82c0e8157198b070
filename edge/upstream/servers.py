"""Whom to ask, and in which order: groups as they are configured, within a group who is likely to answer soonest."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from cdn.client.pace import HedgeBudget
from cdn.errors import UnreachableError
from edge.config import EdgeConfig
from edge.routing import Routes, Source
from edge.upstream.choice import in_turn
from edge.upstream.health import ServerHealth

HEDGE_SECONDS_MIN: Final = 0.05
"""No second server is asked sooner, however fast the first one usually is."""
HEDGE_SECONDS_INITIAL: Final = 1.0
"""How long a server is waited for of which little is known."""
HEDGES_AT_ONCE_MAX: Final = 4.0


@dataclass(frozen=True, slots=True)
class Server:
    """One upstream server, as its health is kept.

    Args:
        name: as `Source.server` has it.
        connections_max: requests under way to it; 0 for any number.
        is_probed: see `ServerHealth`.
    """

    name: str
    connections_max: int = 0
    is_probed: bool = False


class UpstreamHealth:
    """What is known of all servers. Failing ones are asked last, never not at all: only who asked for a pause gets it.

    Args:
        servers: those configured; of others nothing is kept.
        rest_seconds: how long a server rests after it failed.
        hedge_share: how many requests may be sent to a second server.
        chance: draws numbers from 0 up to but not including 1.
    """

    def __init__(
        self,
        servers: Iterable[Server],
        rest_seconds: float,
        *,
        hedge_share: float = 0.05,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._chance = chance
        self._hedges = HedgeBudget(hedge_share, HEDGES_AT_ONCE_MAX if hedge_share else 0.0)
        self._stranger = ServerHealth(rest_seconds)
        self.servers = {
            server.name: ServerHealth(rest_seconds, connections_max=server.connections_max, is_probed=server.is_probed)
            for server in servers
        }
        self.hedged = self.hedges_won = self.hedges_lost = 0

    def of(self, server: str) -> ServerHealth | None:
        """What is known of one server."""
        return self.servers.get(server)

    def ordered(self, sources: Iterable[Source], now: float) -> list[Source]:
        """The sources in the order to ask them, without those that asked for a pause."""
        sources = tuple(sources)
        if len(sources) == 1:
            return [] if self._of(sources[0]).wants_pause(now) else [*sources]
        in_order: list[Source] = []
        later: list[Source] = []
        for _, group in groupby(sources, key=lambda source: source.group):
            asked = [source for source in group if not self._of(source).wants_pause(now)]
            admitted = [source for source in asked if self.admits(source.server, now)]
            later += [source for source in asked if source not in admitted]
            in_order += sorted(in_turn(admitted, self._of, self._chance), key=lambda source: self._of(source).is_full)
        return in_order + sorted(later, key=lambda source: self._of(source).rests_until)

    def pausing(self, sources: Iterable[Source], now: float) -> list[Exception]:
        """What is said of those sources that asked for a pause."""
        return [
            UnreachableError(source.url, f"it asked not to be asked for {self._of(source).rests_until - now:.0f} s")
            for source in sources
            if self._of(source).wants_pause(now)
        ]

    def admits(self, server: str, now: float) -> bool:
        """Whether a request may go to a server in its turn; one that is returning gets only a share."""
        share = self.servers.get(server, self._stranger).share(now)
        return share >= 1.0 or (share > 0.0 and self._chance() < share)

    def _of(self, source: Source) -> ServerHealth:
        return self.servers.get(source.server, self._stranger)

    # ------------------------------------------------------------------------------------------------ second requests

    def hedge_seconds(self, server: str) -> float:
        """How long a server is waited for before a second one is asked: as long as 95 of 100 of its answers take."""
        health = self.servers.get(server)
        most = health.usual.most if health is not None else None
        return HEDGE_SECONDS_INITIAL if most is None else max(most, HEDGE_SECONDS_MIN)

    def may_hedge(self) -> bool:
        """Whether one more second request may be sent, which is then counted."""
        if not self._hedges.spend():
            return False
        self.hedged += 1
        return True

    def earn_hedges(self) -> None:
        """Takes that a first request was sent."""
        self._hedges.earn()

    # ------------------------------------------------------------------------------------------------ what happens

    def note_success(self, server: str, now: float) -> None:
        """Takes note that a server did what it was asked for."""
        health = self.servers.get(server)
        if health is not None:
            health.succeeded(now)

    def note_failure(self, server: str, error: Exception, now: float) -> None:
        """Takes note that a server failed."""
        health = self.servers.get(server)
        if health is not None:
            health.failed(error, now)

    def described(self, now: float) -> dict[str, dict[str, object]]:
        """Every server for people and scripts."""
        asked = sum(health.recent(now) for health in self.servers.values())
        return {
            name: {
                "state": health.state(now).value,
                "share": round(health.recent(now) / asked, 3) if asked else 0.0,
                "latency_seconds": None if health.latency.seconds is None else round(health.latency.seconds, 4),
                "in_flight": health.in_flight,
                "failures": health.failures,
                "openings": health.openings,
                "reason": health.reason,
            }
            for name, health in self.servers.items()
        }

    def replaced(self, servers: Iterable[Server], rest_seconds: float, hedge_share: float) -> UpstreamHealth:
        """The same knowledge about another set of servers."""
        other = UpstreamHealth(servers, rest_seconds, hedge_share=hedge_share, chance=self._chance)
        for name, fresh in other.servers.items():
            known = self.servers.get(name)
            if known is not None:
                known.rest_seconds, known.is_probed = fresh.rest_seconds, fresh.is_probed
                known.connections_max = fresh.connections_max
                other.servers[name] = known
        other.hedged, other.hedges_won, other.hedges_lost = self.hedged, self.hedges_won, self.hedges_lost
        return other


def servers_of(config: EdgeConfig, routes: Routes) -> Iterator[Server]:
    """All servers whose health is kept: the upstreams and the siblings."""
    per_server = config.fetch.connections_per_host
    probed = {source.server for source, _ in routes.probes()}
    for name, connections in routes.connections.items():
        yield Server(name, min(connections or per_server, per_server), name in probed)
    for name in config.siblings.others:
        yield Server(name, per_server)
