"""The Geo API of CernVM-FS as a pure function: in which order a client should use its servers (spec §8.8).

A client sends the names of its servers and gets back their numbers, nearest first. Behind the element ``+PXYSEP+``
come its fallback proxies: then the proxies are ordered as seen from the client, and the servers as seen from the
nearest proxy, since that is who will fetch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from geodns.geo import Position, squared_chord, unit_vector

SEPARATOR: Final = "+PXYSEP+"
LOOKUP_COUNT_LOCATOR: Final = "_namelookups_"
PATH_CHARACTERS_MAX: Final = 8192
_PATH: Final = re.compile(r"(?:/cvmfs)?/(?P<repository>[^/]+)/api/(?P<call>.*)", re.DOTALL)
_CALL: Final = re.compile(r"v(?P<version>\d+(?:\.\d+)*)/(?P<function>[^/]+)/(?P<rest>.+)", re.DOTALL)
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_HOST_NAME: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252})")

AGE_GOOD_SECONDS: Final = 3600
AGE_BAD_SECONDS: Final = 300
"""How long caches on the way may keep either kind of reply."""


@dataclass(frozen=True, slots=True)
class GeoRequest:
    """A request that can be answered once positions are known.

    Args:
        locator: a host name or an address that stands for the client's site, or the client's UUID.
        names: the servers, and after a separator the proxies, as the client wrote them.
    """

    locator: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GeoReply:
    """What to send back.

    Args:
        status: 200, 400 or 404.
        text: the body.
    """

    status: int
    text: str

    @property
    def age_seconds_max(self) -> int:
        """For how long caches may keep it."""
        return AGE_GOOD_SECONDS if self.status == 200 else AGE_BAD_SECONDS


def refusal(reason: str) -> GeoReply:
    """Returns the reply to a request that cannot be answered; the client goes on to its next server."""
    return GeoReply(400, f"Bad Request: {reason}\n")


def parse_geo_path(path: str, names_max: int) -> GeoRequest | GeoReply:
    """Reads the path of a request, escapes and all.

    Args:
        path: as it stands in the request line, without a query.
        names_max: how many names are accepted.

    Returns:
        The request, or the reply that refuses it.
    """
    if len(path) > PATH_CHARACTERS_MAX:
        return refusal("the request is too long")
    matched = _PATH.fullmatch(unquote(path))
    if matched is None:
        return GeoReply(404, "Not Found\n")
    call = _CALL.fullmatch(matched["call"])
    if call is None:
        return refusal("the path is not v<version>/geo/<locator>/<names>")
    if call["function"] != "geo":
        return refusal("the only function is geo")
    locator, slash, names = call["rest"].partition("/")
    if not slash or not locator:
        return refusal("no slash in the geo path")
    if locator == LOOKUP_COUNT_LOCATOR:
        return GeoRequest(locator, ())
    listed = tuple(names.split(","))
    if len(listed) > names_max:
        return refusal(f"more than {names_max} servers")
    if not all(listed):
        return refusal("a server name is empty")
    if listed.count(SEPARATOR) > 1:
        return refusal(f"more than one {SEPARATOR}")
    return GeoRequest(locator, listed)


def client_address(headers: Mapping[str, str], peer: str) -> str:
    """Returns the address to locate where the locator says nothing: the one told by proxies, or else the peer.

    These headers can be forged; all a liar gains is servers near the place it lied about.

    Args:
        headers: of the request, by any-case names.
        peer: the address of the connection.
    """
    from_cloudflare = headers.get("CF-Connecting-IP", "").strip()
    if from_cloudflare:
        return from_cloudflare
    return headers.get("X-Forwarded-For", "").rpartition(",")[2].strip() or peer


def may_be_host(name: str) -> bool:
    """Whether it makes sense to look a name up.

    A client's UUID names nothing, and what is no host name must reach no resolver.
    """
    return _HOST_NAME.fullmatch(name) is not None and _UUID.fullmatch(name) is None


PositionOf = Callable[[str], Position | None]


def order_servers(requester: Position | None, names: Sequence[str], position_of: PositionOf) -> GeoReply:
    """Puts servers in order for one client.

    Args:
        requester: where the client is; None if unknown.
        names: the servers, perhaps a separator and proxies.
        position_of: where a name is; None if unknown.

    Returns:
        The numbers of all elements, counted from 1, nearest first and unknown ones last in the order given: servers,
        then proxies, then the separator. A refusal where the client or all names are unknown.
    """
    if requester is None:
        return refusal("the requester's position is unknown")
    if SEPARATOR not in names:
        return _reply(_nearest_first(requester, names, range(len(names)), position_of), "no server's position is known")
    separator = list(names).index(SEPARATOR)
    proxies = _nearest_first(requester, names, range(separator + 1, len(names)), position_of)
    nearest_proxy = position_of(names[proxies[0]]) if proxies else None
    if nearest_proxy is None:
        return refusal("no proxy's position is known")
    servers = _nearest_first(nearest_proxy, names, range(separator), position_of)
    return _reply([*servers, *proxies, separator] if servers else [], "no server's position is known")


def _nearest_first(
    origin: Position, names: Sequence[str], indexes: Sequence[int], position_of: PositionOf
) -> list[int]:
    """Orders indexes by distance; returns nothing if no position at all is known."""
    here = unit_vector(origin)
    known = {index: position for index in indexes if (position := position_of(names[index])) is not None}
    if not known:
        return []
    chords = {index: squared_chord(here, unit_vector(position)) for index, position in known.items()}
    return sorted(
        indexes, key=lambda index: (index not in chords, chords.get(index, 0.0))
    )  # stable: ties stay as given


def _reply(order: Sequence[int], otherwise: str) -> GeoReply:
    if not order:
        return refusal(otherwise)
    return GeoReply(200, ",".join(str(index + 1) for index in order) + "\n")
