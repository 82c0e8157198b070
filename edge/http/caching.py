"""The rules of HTTP caching, one short function each (RFC 9111, RFC 5861).

Nothing here knows a clock, a socket or a store: a stored response is a value, `now` is an argument, and what comes back
is a decision. What this edge adds for repositories (an object never changes, a missing name is believed for seconds
only) reaches these rules as a `Lifetime`, made by `edge.lifetimes`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final
from urllib.parse import urljoin, urlsplit

from edge.http.cache_directives import (
    SECONDS_MAX,
    Directives,
    cache_control,
    delta_seconds,
    response_directives,
    targeted_directives,
)
from edge.http.headers import Headers, http_date, parse_http_date, tokens

HEURISTIC_FRACTION: Final = 0.1
HEURISTIC_SECONDS_MAX: Final = 86400.0
HEURISTIC_STATUSES: Final = frozenset({200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501})
"""Statuses whose answers may be stored without being told so (RFC 9110 §15.1), 206 excepted: parts are not stored."""
UNDERSTOOD_STATUSES: Final = frozenset({200, 203, 204, 300, 301, 302, 307, 308, 404, 405, 410, 414, 500, 501, 502, 503})
"""Statuses whose meaning this cache knows, as `must-understand` asks (RFC 9111 §5.2.2.3)."""
SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS", "PROPFIND", "QUERY", "REPORT", "SEARCH", "TRACE"})
"""Methods that change nothing (RFC 9110 §9.2.1); of a method nobody knows, the worst is assumed."""
_CASE_INSENSITIVE: Final = frozenset({"accept-charset", "accept-encoding", "accept-language"})
"""Request fields whose values mean the same in capitals (RFC 9110 §8.3.2, §8.4.1, §8.5.1)."""
_NOT_UPDATED: Final = ("Content-Encoding", "Content-Length", "Content-Range", "Content-Type", "ETag")
"""What a 304 does not change in a stored response: it describes the bytes that are kept (RFC 9111 §3.2)."""

Selecting = tuple[tuple[str, str | None], ...]
"""Names of request fields with their values, by which an answer was selected."""


@dataclass(frozen=True, slots=True)
class Lifetime:
    """How long answers of one kind live where the general rules leave room.

    Args:
        default_seconds: if the answer says nothing itself; None for the heuristic.
        seconds_max: never longer than this.
        is_immutable: it cannot become stale, because its name proves its content.
        stale_if_error_seconds: how long after it became stale it may stand in for a failed upstream.
        stale_while_revalidate_seconds: how long it may be used at once while an upstream is asked.
    """

    default_seconds: float | None = None
    seconds_max: float = float(SECONDS_MAX)
    is_immutable: bool = False
    stale_if_error_seconds: float = 0.0
    stale_while_revalidate_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class StoredHead:
    """A stored response without its body.

    Args:
        status: the status code.
        headers: end-to-end fields as they came.
        asked_at: when the request was sent, seconds since the epoch.
        answered_at: when its answer came.
        selecting: the fields of that request that `Vary` names, with their values.
    """

    status: int
    headers: Headers
    asked_at: float
    answered_at: float
    selecting: Selecting = ()


class Decision(Enum):
    """What to do with a request, given what is stored."""

    SERVE = "serve"
    SERVE_AND_VALIDATE = "serve and validate"
    """Serve it although it is stale, and find out meanwhile what is current (`stale-while-revalidate`)."""
    VALIDATE = "validate"
    FETCH = "fetch"
    FAIL = "fail"
    """Nothing usable is stored, and the client wants nothing else (`only-if-cached`)."""


def decide(
    request: Headers,
    stored: StoredHead | None,
    lifetime: Lifetime,
    now: float,
    *,
    reload_immutable: bool = True,
    is_outdated: bool = False,
) -> Decision:
    """Chooses between serving, validating and fetching (RFC 9111 §4).

    Args:
        request: the fields of the request.
        stored: what is stored under its key.
        lifetime: of this kind of content.
        now: seconds since the epoch.
        reload_immutable: whether `no-cache` makes even immutable content be fetched anew; so damage is repaired.
        is_outdated: whether the operator wants it confirmed before it is used again.
    """
    if stored is None or not selects(stored, request):
        return Decision.FAIL if wants_only_cached(request) else Decision.FETCH
    if not is_outdated and (usable := _without_asking(request, stored, lifetime, now)) is not None:
        return usable
    if wants_only_cached(request):
        return Decision.FAIL
    if lifetime.is_immutable and reload_immutable:
        return Decision.FETCH
    return Decision.VALIDATE


def _without_asking(request: Headers, stored: StoredHead, lifetime: Lifetime, now: float) -> Decision | None:
    """Whether and how it is served at once."""
    if serves_without_validation(request, stored, lifetime, now):
        return Decision.SERVE
    if serves_while_validating(request, stored, lifetime, now):
        return Decision.SERVE_AND_VALIDATE
    return None


def serves_without_validation(request: Headers, stored: StoredHead, lifetime: Lifetime, now: float) -> bool:
    """Whether a stored response may be used as it is (RFC 9111 §4)."""
    if wants_validation(request) or must_always_validate(stored):
        return False
    return is_fresh_enough(request, stored, lifetime, now) or allows_staleness(request, stored, lifetime, now)


# ---------------------------------------------------------------------------------------- what clients and origins want


def wants_validation(request: Headers) -> bool:
    """Whether the client wants no answer that the origin has not confirmed (RFC 9111 §5.2.1.4, §5.4)."""
    if "Cache-Control" in request:
        return "no-cache" in cache_control(request)
    return "no-cache" in tokens(request.joined("Pragma") or "")


def wants_only_cached(request: Headers) -> bool:
    """Whether the client wants a stored answer or none (RFC 9111 §5.2.1.7)."""
    return "only-if-cached" in cache_control(request)


def lasts_for_ever(head: StoredHead, lifetime: Lifetime) -> bool:
    """Whether a response may be given to any plain request, at any time."""
    return lifetime.is_immutable and not head.selecting and not must_always_validate(head)


def must_always_validate(stored: StoredHead) -> bool:
    """Whether every use needs the origin's word (RFC 9111 §5.2.2.4); a qualified `no-cache` is taken as unqualified."""
    return "no-cache" in response_directives(stored.headers)


def forbids_staleness(stored: StoredHead) -> bool:
    """Whether it must not be used stale, whatever happens (RFC 9111 §5.2.2.2, §5.2.2.8, §5.2.2.10)."""
    directives = response_directives(stored.headers)
    return not directives.keys().isdisjoint({"must-revalidate", "proxy-revalidate", "s-maxage", "no-cache"})


# -------------------------------------------------------------------------------------------------- age and freshness


def dated(headers: Headers, answered_at: float) -> Headers:
    """The fields of an answer, with the time it came if they have none, or one that is no date (RFC 9110 §6.6.1)."""
    if parse_http_date(headers.get("Date")) is not None:
        return headers
    return headers.replaced("Date", http_date(answered_at))


def current_age(stored: StoredHead, now: float) -> float:
    """Seconds since the origin made or confirmed it (RFC 9111 §4.2.3)."""
    date = parse_http_date(stored.headers.get("Date"))
    apparent = max(0.0, stored.answered_at - date) if date is not None else 0.0
    corrected = age_value(stored.headers) + max(0.0, stored.answered_at - stored.asked_at)
    return max(apparent, corrected) + max(0.0, now - stored.answered_at)


def age_value(headers: Headers) -> float:
    """The field `Age`; the first of a list counts, and what is no number is ignored (RFC 9111 §5.1)."""
    first = (headers.get("Age") or "").split(",")[0].strip()
    return delta_seconds(first) or 0.0


def explicit_lifetime(headers: Headers) -> float | None:
    """The lifetime that the answer itself gives to shared caches (RFC 9111 §4.2.1); 0 if what it gives is damaged."""
    directives = response_directives(headers)
    for name in ("s-maxage", "max-age"):
        if name in directives:
            return delta_seconds(directives[name]) or 0.0
    if "Expires" not in headers or targeted_directives(headers) is not None:
        return None
    expires = parse_http_date(headers.joined("Expires"))
    date = parse_http_date(headers.get("Date"))
    return max(0.0, expires - date) if expires is not None and date is not None else 0.0


def heuristic_lifetime(status: int, headers: Headers) -> float:
    """A tenth of the time it had not changed when it was sent, at most a day (RFC 9111 §4.2.2)."""
    modified = parse_http_date(headers.get("Last-Modified"))
    date = parse_http_date(headers.get("Date"))
    if status not in HEURISTIC_STATUSES or modified is None or date is None:
        return 0.0
    return min(max(0.0, date - modified) * HEURISTIC_FRACTION, HEURISTIC_SECONDS_MAX)


def freshness_lifetime(status: int, headers: Headers, lifetime: Lifetime) -> float:
    """For how long after it was made it is fresh (RFC 9111 §4.2.1)."""
    return completed_lifetime(explicit_lifetime(headers), status, headers, lifetime)


def completed_lifetime(explicit: float | None, status: int, headers: Headers, lifetime: Lifetime) -> float:
    """The same, given what the answer says itself."""
    seconds = explicit
    if seconds is None:
        seconds = lifetime.default_seconds
    if seconds is None:
        seconds = heuristic_lifetime(status, headers)
    return min(seconds, lifetime.seconds_max)


def seconds_left(stored: StoredHead, lifetime: Lifetime, now: float) -> float:
    """How long it stays fresh; negative since it is stale."""
    return freshness_lifetime(stored.status, stored.headers, lifetime) - current_age(stored, now)


def is_fresh(stored: StoredHead, lifetime: Lifetime, now: float) -> bool:
    """Whether it is fresh (RFC 9111 §4.2)."""
    return lifetime.is_immutable or seconds_left(stored, lifetime, now) > 0


def is_fresh_enough(request: Headers, stored: StoredHead, lifetime: Lifetime, now: float) -> bool:
    """Whether it is as fresh as the client wants it: `max-age` and `min-fresh` (RFC 9111 §5.2.1.1, §5.2.1.3)."""
    if lifetime.is_immutable:
        return True
    directives = cache_control(request)
    age_max = delta_seconds(directives.get("max-age"))
    if age_max is not None and current_age(stored, now) >= age_max:
        return False
    return seconds_left(stored, lifetime, now) > (delta_seconds(directives.get("min-fresh")) or 0.0)


def allows_staleness(request: Headers, stored: StoredHead, lifetime: Lifetime, now: float) -> bool:
    """Whether the client takes it although it is stale: `max-stale` (RFC 9111 §5.2.1.2)."""
    directives = cache_control(request)
    if "max-stale" not in directives or forbids_staleness(stored):
        return False
    if (delta_seconds(directives.get("max-age")) or SECONDS_MAX) <= current_age(stored, now):
        return False
    allowed = delta_seconds(directives["max-stale"]) if directives["max-stale"] is not None else float(SECONDS_MAX)
    return -seconds_left(stored, lifetime, now) <= (allowed or 0.0)


def serves_while_validating(request: Headers, stored: StoredHead, lifetime: Lifetime, now: float) -> bool:
    """Whether it is so little stale that the client need not wait: `stale-while-revalidate` (RFC 5861 §3).

    What an answer says itself counts before what is configured for its kind.
    """
    allowed = delta_seconds(response_directives(stored.headers).get("stale-while-revalidate"))
    if allowed is None:
        allowed = lifetime.stale_while_revalidate_seconds or None
    if allowed is None or forbids_staleness(stored) or wants_validation(request):
        return False
    if not cache_control(request).keys().isdisjoint({"max-age", "min-fresh", "max-stale"}):
        return False
    return -seconds_left(stored, lifetime, now) <= allowed


def may_stand_in(request: Headers, stored: StoredHead, lifetime: Lifetime, now: float) -> bool:
    """Whether it may be used in place of an error, though stale: `stale-if-error` (RFC 9111 §4.2.4, RFC 5861 §4).

    What an answer asks for itself counts before what is configured for its kind.
    """
    if lifetime.is_immutable:
        return True
    if forbids_staleness(stored):
        return False
    directives = (cache_control(request), response_directives(stored.headers))
    bounds = [delta_seconds(each.get("stale-if-error")) for each in directives]
    allowed = next((bound for bound in bounds if bound is not None), lifetime.stale_if_error_seconds)
    return -seconds_left(stored, lifetime, now) <= allowed


# ------------------------------------------------------------------------------------------------------------ storing


def is_storable(method: str, request: Headers, status: int, headers: Headers, lifetime: Lifetime) -> bool:
    """Whether an answer may be stored by a shared cache (RFC 9111 §3).

    One that sets a cookie may if the origin says how long it lives (§7.3); nothing of the kind is guessed.
    """
    directives = response_directives(headers)
    return (
        method == "GET"
        and status >= 200
        and status not in {206, 304}
        and "no-store" not in cache_control(request)
        and ("no-store" not in directives or _is_understood(directives, status))
        and "private" not in directives
        and (status in UNDERSTOOD_STATUSES or "must-understand" not in directives)
        and ("Authorization" not in request or allows_shared_use(headers))
        and "*" not in tokens(headers.joined("Vary") or "")
        and _is_said_or_guessed(status, headers, directives, lifetime)
    )


def _is_understood(directives: Directives, status: int) -> bool:
    """Whether `must-understand` lifts `no-store` (RFC 9111 §5.2.2.3)."""
    return "must-understand" in directives and status in UNDERSTOOD_STATUSES


def _is_said_or_guessed(status: int, headers: Headers, directives: Directives, lifetime: Lifetime) -> bool:
    """Whether it is known how long it lives; with a cookie, only if the answer itself says so (§7.3)."""
    if explicit_lifetime(headers) is not None:
        return True
    return "Set-Cookie" not in headers and ("public" in directives or _has_default(status, lifetime))


def _has_default(status: int, lifetime: Lifetime) -> bool:
    return status in HEURISTIC_STATUSES or (lifetime.default_seconds is not None and status == 200)


def allows_shared_use(headers: Headers) -> bool:
    """Whether an answer to a request with credentials may be given to others (RFC 9111 §3.5)."""
    return not response_directives(headers).keys().isdisjoint({"must-revalidate", "public", "s-maxage"})


# -------------------------------------------------------------------------------------------------------------- `Vary`


def selecting_fields(request: Headers, response: Headers) -> Selecting:
    """The fields of a request that its answer depends on (RFC 9111 §4.1)."""
    return selecting_values(sorted(set(tokens(response.joined("Vary") or ""))), request)


def selecting_values(names: Iterable[str], request: Headers) -> Selecting:
    """What a request says in these fields, in a form that is equal for what means the same."""
    return tuple((name, _normalised(name, request)) for name in names)


def selects(stored: StoredHead, request: Headers) -> bool:
    """Whether a stored response is the variant that this request would get (RFC 9111 §4.1)."""
    return is_selected_by(stored.selecting, request)


def is_selected_by(selecting: Selecting, request: Headers) -> bool:
    """Whether a request has these values in these fields."""
    return all(name != "*" and _normalised(name, request) == value for name, value in selecting)


def _normalised(name: str, request: Headers) -> str | None:
    """The value of a field, equal for what is sure to mean the same."""
    value = request.joined(name)
    if value is None:
        return None
    if name in _CASE_INSENSITIVE:
        value = value.lower()
    return ", ".join(part.strip() for part in value.split(","))


# --------------------------------------------------------------------------------------------------------- validation


def conditional_fields(stored: StoredHead) -> tuple[tuple[str, str], ...]:
    """The fields that ask whether a stored response is still current (RFC 9111 §4.3.1)."""
    fields = []
    entity_tag, modified = stored.headers.get("ETag"), stored.headers.get("Last-Modified")
    if entity_tag is not None:
        fields.append(("If-None-Match", entity_tag))
    if modified is not None:
        fields.append(("If-Modified-Since", modified))
    return tuple(fields)


def refreshed(stored: StoredHead, confirmation: Headers, asked_at: float, answered_at: float) -> StoredHead:
    """A stored response after a 304 confirmed it (RFC 9111 §3.2, §4.3.4)."""
    news = confirmation.end_to_end().without(*_NOT_UPDATED)
    kept = stored.headers.without("Age", "Warning", *(name for name, _ in news))
    headers = Headers((*kept.pairs, *news.pairs))
    if "Date" not in news:
        headers = headers.replaced("Date", http_date(answered_at))
    return StoredHead(stored.status, headers, asked_at, answered_at, stored.selecting)


# ------------------------------------------------------------------------------------------------------- invalidation


def invalidates(method: str, status: int) -> bool:
    """Whether an answer shows that stored ones are out of date: no error, to an unsafe method (RFC 9111 §4.4)."""
    return method not in SAFE_METHODS and 200 <= status < 400


def also_invalidated(target_url: str, headers: Headers) -> tuple[str, ...]:
    """Other URLs of the same origin that an answer to an unsafe method names (RFC 9111 §4.4).

    Args:
        target_url: the absolute URL that the request was for.
        headers: of the answer.
    """
    found = []
    for name in ("Location", "Content-Location"):
        try:
            url = urljoin(target_url, headers.get(name) or "")
            is_same = urlsplit(url)[:2] == urlsplit(target_url)[:2]
        except ValueError:
            continue
        if name in headers and is_same:
            found.append(url)
    return tuple(found)
