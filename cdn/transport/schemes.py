"""One fetcher for URLs of several schemes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack

from cdn.errors import UnreachableError
from cdn.transport.base import Fetcher, Request, Response


class SchemeFetcher:
    """Hands each request to the fetcher for its URL's scheme; a `Fetcher`.

    Args:
        fetchers: by scheme, such as ``http``; one may stand for several. They are closed with this one.
    """

    def __init__(self, fetchers: Mapping[str, Fetcher]) -> None:
        self._fetchers = dict(fetchers)

    def send(self, request: Request) -> AbstractAsyncContextManager[Response]:
        """Sends a request; see `Fetcher`."""
        scheme = request.url.partition(":")[0].lower()
        fetcher = self._fetchers.get(scheme)
        if fetcher is None:
            known = ", ".join(sorted(self._fetchers))
            raise UnreachableError(request.url, f"URLs of this scheme cannot be fetched, only {known}")
        return fetcher.send(request)

    async def close(self) -> None:
        """Closes all the fetchers; see `Fetcher`."""
        async with AsyncExitStack() as stack:
            for fetcher in set(self._fetchers.values()):
                stack.push_async_callback(fetcher.close)
