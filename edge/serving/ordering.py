"""Which fetch a request needs: what is passed on of it, what is validated, and which sibling is asked first."""

from __future__ import annotations

from typing import Final

from edge.connection.exchange import Exchange
from edge.content import ContentKind
from edge.fetch.collapsing import Flights
from edge.fetch.orders import FetchOrder
from edge.fetch.supplies import Supplies
from edge.http.caching import conditional_fields, may_stand_in, selects, wants_validation
from edge.http.headers import NO_FIELDS, Headers
from edge.http.request import Request
from edge.routing import Destination, Source
from edge.serving.finding import Found, Stored
from edge.upstream.siblings import SIBLING_FIELD

_NOT_PASSED_ON: Final = (
    "Authorization",
    "Expect",
    "Host",
    "If-Match",
    "If-Modified-Since",
    "If-None-Match",
    "If-Range",
    "If-Unmodified-Since",
    "Range",
    "Via",
)


class Ordering:
    """Makes the orders of fetches.

    Args:
        supplies: siblings and clock.
        flights: fetches under way.
    """

    def __init__(self, supplies: Supplies, flights: Flights) -> None:
        self._with = supplies
        self._flights = flights

    def order(
        self,
        request: Request,
        exchange: Exchange,
        destination: Destination,
        found: Found,
        *,
        is_validated: bool = False,
    ) -> FetchOrder:
        """What to fetch for a request; credentials make it this client's alone, unless the answer says otherwise.

        Args:
            request: the client's.
            exchange: whose it is.
            destination: what the request is about.
            found: what is stored for it.
            is_validated: whether that may be confirmed rather than replaced.
        """
        if request.is_plain and found.stored is None and destination.content.kind is ContentKind.OBJECT:
            keeper, flight_key = self._siblings_turn(request, destination, found.flight_key)
            return FetchOrder(destination, keeper=keeper, flight_key=flight_key, request_id=exchange.request_id)
        stored = found.fitting(request)
        validated = stored.head if is_validated and stored is not None and conditional_fields(stored.head) else None
        has_credentials = "Authorization" in request.headers
        via = request.headers.joined("Via") or ""
        keeper, flight_key = self._siblings_turn(request, destination, found.flight_key)
        return FetchOrder(
            destination,
            _passed_on(request, exchange.client, destination.content.kind),
            validated,
            is_shared=not has_credentials,
            wants_fresh_copy=wants_validation(request.headers),
            reason=_reason(request, found.stored),
            via=via if via.isascii() else "",
            may_keep=not has_credentials or destination.content.kind is ContentKind.OTHER,
            has_stand_in=stored is not None
            and may_stand_in(request.headers, stored.head, stored.lifetime, self._with.clock.now()),
            keeper=keeper,
            flight_key=flight_key,
            request_id=exchange.request_id,
        )

    def _siblings_turn(self, request: Request, destination: Destination, flight_key: str) -> tuple[Source | None, str]:
        """The sibling to ask first, if one keeps this, and under which key others find that fetch.

        What a sibling asks for never waits for a fetch that may wait for that sibling.
        """
        siblings, flights = self._with.siblings, self._flights
        if not siblings.has_others:
            return None, flight_key
        is_alone = SIBLING_FIELD in request.headers or wants_validation(request.headers)
        if is_alone or flights.find(flight_key) is not None:
            return None, flight_key
        keeper = siblings.keeper(destination, self._with.health, self._with.clock.monotonic())
        asking_key = f"{flight_key} of a sibling"
        is_asked = keeper is not None or flights.find(asking_key) is not None
        return keeper, asking_key if is_asked else flight_key


def _passed_on(request: Request, client: str, kind: ContentKind) -> Headers:
    """The fields of a client's request that upstreams are told: of requests to ordinary sites nearly all."""
    passed = NO_FIELDS
    if kind is ContentKind.OTHER:
        passed = request.headers.end_to_end().without(*_NOT_PASSED_ON)
    elif kind is ContentKind.GEO:
        passed = Headers((("X-Forwarded-For", client),))
    authorization = request.headers.get("Authorization")
    return passed if authorization is None else Headers((*passed.pairs, ("Authorization", authorization)))


def _reason(request: Request, stored: Stored | None) -> str:
    """Why what is stored does not do (RFC 9211 §2.2)."""
    if stored is None:
        return "miss"
    if not selects(stored.head, request.headers):
        return "vary-miss"
    return "request" if wants_validation(request.headers) else "stale"
