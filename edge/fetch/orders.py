"""What a fetch is told to fetch, and how it says that nobody had it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from cdn.errors import AllSourcesFailedError, SlowPeerError
from edge.fetch.collapsing import Complete
from edge.http.caching import StoredHead
from edge.http.headers import NO_FIELDS, Headers, upstream_fields
from edge.routing import Destination, Source


@dataclass(frozen=True, slots=True)
class FetchOrder:
    """What to fetch, and for what.

    Args:
        destination: key, content and sources.
        request: the client's fields that are passed on.
        stored: what is stored, if it is to be validated rather than replaced.
        is_shared: whether the answer may be kept and given to others.
        wants_fresh_copy: whether caches on the way are told to look again.
        reason: why what is stored would not do, in the words of `Cache-Status`.
        via: through whom the request came, so that circles are found.
        may_keep: whether the answer may be stored, if its own fields allow it.
        has_stand_in: whether what is stored would serve if all upstreams fail.
        keeper: the sibling to ask first, if one keeps it.
        flight_key: under which others find this fetch; the destination's key if empty.
        request_id: of the request that it is for, told to whoever is asked; empty if it has none.
    """

    destination: Destination
    request: Headers = NO_FIELDS
    stored: StoredHead | None = None
    is_shared: bool = True
    wants_fresh_copy: bool = False
    reason: str = "miss"
    via: str = ""
    may_keep: bool = True
    has_stand_in: bool = False
    keeper: Source | None = None
    flight_key: str = ""
    request_id: str = ""

    def fields(self, edge_name: str) -> dict[str, str]:
        """The fields of a request to an upstream."""
        if not (self.request.pairs or self.via or self.request_id):
            return _own_fields(edge_name).copy()
        return upstream_fields(self.request, self.via, edge_name, self.request_id)


@lru_cache(maxsize=8)
def _own_fields(edge_name: str) -> dict[str, str]:
    return upstream_fields(NO_FIELDS, "", edge_name)


class UpstreamsFailedError(AllSourcesFailedError):
    """No upstream gave what was asked for.

    Args:
        url: what was asked for.
        causes: what each said.
        answer: the best answer there was, such as a 404 of one while others could not be asked.
    """

    def __init__(self, url: str, causes: tuple[Exception, ...], answer: Complete | None) -> None:
        super().__init__(url, causes)
        self.answer = answer

    @property
    def is_timeout(self) -> bool:
        """Whether every upstream was too slow, rather than broken."""
        return bool(self.causes) and all(isinstance(cause, SlowPeerError) for cause in self.causes)
