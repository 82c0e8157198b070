"""Which upstream to ask first: the order that is configured, those that failed lately last."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from edge.routing import Source

RETRY_SECONDS_MAX: Final = 60.0


@dataclass(slots=True)
class ServerHealth:
    """What is known of one server.

    Args:
        failures: how many requests failed in a row.
        avoid_until: until when others are asked first, in seconds of the monotonic clock.
        reason: what happened last.
    """

    failures: int = 0
    avoid_until: float = 0.0
    reason: str = ""


class UpstreamHealth:
    """What is known of all servers. Failing ones are asked last, never not at all: slow is not dead.

    Args:
        servers: those configured; of others nothing is kept.
        retry_seconds: how long a server is avoided after its first failure.
    """

    def __init__(self, servers: tuple[str, ...], retry_seconds: float) -> None:
        self._retry_seconds = retry_seconds
        self.servers = {server: ServerHealth() for server in servers}

    def ordered(self, sources: tuple[Source, ...], now: float) -> list[Source]:
        """The sources in the order to ask them."""
        return sorted(sources, key=lambda source: self._avoided_until(source, now))

    def _avoided_until(self, source: Source, now: float) -> float:
        health = self.servers.get(source.server)
        return health.avoid_until if health is not None and health.avoid_until > now else 0.0

    def note_success(self, server: str) -> None:
        """Takes note that a server answered."""
        health = self.servers.get(server)
        if health is not None:
            health.failures, health.avoid_until, health.reason = 0, 0.0, ""

    def note_failure(self, server: str, reason: str, now: float) -> None:
        """Takes note that a server failed; it is avoided for longer each time."""
        health = self.servers.get(server)
        if health is not None:
            health.failures += 1
            seconds = min(self._retry_seconds * 2 ** min(health.failures - 1, 10), RETRY_SECONDS_MAX)
            health.avoid_until, health.reason = now + seconds, reason

    def replaced(self, servers: tuple[str, ...], retry_seconds: float) -> UpstreamHealth:
        """The same knowledge about another set of servers."""
        other = UpstreamHealth(servers, retry_seconds)
        other.servers.update({server: self.servers[server] for server in servers if server in self.servers})
        return other
