"""How upstreams are asked over HTTP, and how their addresses are found."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from cdn.clock import Clock
from cdn.transport.base import Begun, Request, Response
from cdn.transport.http import HttpSettings
from cdn.transport.lean_http import LeanHttpFetcher
from cdn.transport.resolving import CachingResolver
from edge.settings.upstreams import FetchSettings


class UpstreamFetcher:
    """An HTTP fetcher that follows upstreams to other addresses; a `Fetcher` and a `PromptFetcher`.

    Args:
        settings: its limits.
        clock: the time.
    """

    def __init__(self, settings: FetchSettings, clock: Clock) -> None:
        self._resolver = CachingResolver(clock=clock, uses_dns=settings.resolver == "dns")
        self._fetcher = LeanHttpFetcher(http_settings(settings), resolver=self._resolver)

    def send(self, request: Request) -> AbstractAsyncContextManager[Response]:
        """Sends a request; see `Fetcher`."""
        return self._fetcher.send(request)

    def begin(self, request: Request, on_change: Callable[[], None]) -> Begun | None:
        """Sends a request if nothing has to be waited for; see `PromptFetcher`."""
        return self._fetcher.begin(request, on_change)

    async def close(self) -> None:
        """Gives up all connections and questions; see `Fetcher`."""
        await self._fetcher.close()
        await self._resolver.close()


def http_settings(fetch: FetchSettings) -> HttpSettings:
    """What an HTTP fetcher is told."""
    return HttpSettings(
        connect_timeout_seconds=fetch.connect_timeout,
        idle_timeout_seconds=fetch.idle_timeout,
        head_timeout_seconds=fetch.answer_timeout,
        connections_per_host=fetch.connections_per_host,
        connections_max=fetch.connections_max,
    )
