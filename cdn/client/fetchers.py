"""The usual fetcher of clients."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from cdn.transport.base import Fetcher

if TYPE_CHECKING:
    from cdn.transport.http import Resolver


def default_fetcher(urls: Iterable[str], resolver: Resolver | None = None) -> Fetcher:
    """A fetcher for these servers; HTTP is loaded only where one needs it: that takes longer than a short read."""
    from cdn.transport.file import FileFetcher
    from cdn.transport.schemes import SchemeFetcher

    fetchers: dict[str, Fetcher] = {"file": FileFetcher()}
    if any(not url.startswith("file:") for url in urls):
        from cdn.transport.http import HttpFetcher, HttpSettings

        http = HttpFetcher(HttpSettings(connect_timeout_seconds=5.0), resolver=resolver)
        fetchers |= {"http": http, "https": http}
    return SchemeFetcher(fetchers)
