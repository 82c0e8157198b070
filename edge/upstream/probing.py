"""Asking upstreams how they are that nobody else asks: those in no use, and those that have rested after failing."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable
from typing import Final

from cdn.errors import StatusError, TransportError
from cdn.transport.base import Request
from cdn.transport.download import retry_after_seconds
from edge.http.headers import Headers, upstream_fields
from edge.routing import Source
from edge.upstream.asking import Asked
from edge.upstream.health import CircuitState, ServerHealth
from edge.upstream.supplies import UpstreamSupplies

_ROUND_SECONDS: Final = 1.0
_JITTER: Final = 0.2
"""How much of an interval is drawn by lot, so that many edges do not ask at the same time."""


class Prober:
    """Probes upstreams.

    Args:
        supplies: what it works with.
        probes: what to ask which server for, and how often in seconds.
        chance: draws numbers from 0 to 1.
    """

    def __init__(
        self,
        supplies: UpstreamSupplies,
        probes: Iterable[tuple[Source, float]],
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._with = supplies
        self._chance = chance
        self._due_at: dict[str, float] = {}
        self.replace(probes)

    def replace(self, probes: Iterable[tuple[Source, float]]) -> None:
        """Probes these from now on."""
        self._probes = {source.server: (source, seconds) for source, seconds in probes}
        self._due_at = {server: at for server, at in self._due_at.items() if server in self._probes}

    async def run(self) -> None:
        """Probes until cancelled."""
        while True:
            await asyncio.sleep(_ROUND_SECONDS)
            await self.round()

    async def round(self) -> None:
        """Probes those that are due."""
        now = self._with.clock.monotonic()
        await asyncio.gather(*map(self._probe, self._due(now)))

    def _due(self, now: float) -> list[Source]:
        due = []
        for server, (source, seconds) in self._probes.items():
            health = self._with.health.of(server)
            if health is not None and now >= self._due_at.get(server, 0.0) and _is_unknown(health, seconds, now):
                self._due_at[server] = now + seconds * (1.0 - _JITTER * self._chance())
                due.append(source)
        return due

    async def _probe(self, source: Source) -> None:
        upstreams, clock = self._with.health, self._with.clock
        request = Request(source.url, headers=upstream_fields(Headers(), "", self._with.edge_name), proxy=source.proxy)
        try:
            async with Asked(self._with, source, request) as response:
                if response.status >= 500 or response.status == 429:
                    raise StatusError(source.url, response.status, retry_after_seconds(response.headers))
        except TransportError as error:
            self._with.statistics.fetch_failures[source.server] += 1
            upstreams.note_failure(source.server, error, clock.monotonic())
        else:
            upstreams.note_success(source.server, clock.monotonic())


def _is_unknown(health: ServerHealth, seconds: float, now: float) -> bool:
    """Whether only a probe can tell how a server is; one that rests is left to."""
    state = health.state(now)
    if state is CircuitState.CLOSED:
        return health.heard_at is None or now - health.heard_at >= seconds
    return state is CircuitState.HALF_OPEN
