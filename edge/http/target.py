"""Request targets in one canonical form, so that no two spellings of a name are cached apart or checked apart.

What is safe to unify is unified (RFC 3986 §6.2.2): percent-encodings of unreserved characters are decoded, the others
written in upper case; schemes and hosts become lower case, default ports disappear. What could mean different things to
different servers is refused rather than guessed: dot segments, a backslash, an encoded slash or NUL.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

from edge.http.request import RequestError

_PERCENT: Final = re.compile(r"%([0-9A-Fa-f]{2})?")
_UNRESERVED: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_UNSAFE: Final = re.compile(r"[^!$&'()*+,;=:@/\[\]%A-Za-z0-9._~-]")
_UNSAFE_IN_QUERY: Final = re.compile(r"[^!$&'()*+,;=:@/\[\]%A-Za-z0-9._~?-]")
_AUTHORITY: Final = re.compile(
    r"(?P<host>[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::(?P<port>[0-9]{0,5}))?", re.ASCII
)
_PLAIN_PATH: Final = re.compile(r"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+")
"""A path that is canonical as it stands."""
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_AMBIGUOUS: Final = ("%00", "%2F", "%5C")


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked for.

    Args:
        origin: ``http://host:port`` in lower case, without a default port; empty for a request to this server itself.
        path: begins with a slash; canonical.
        query: what follows the question mark, or None if there is none.
    """

    origin: str
    path: str
    query: str | None = None

    @property
    def path_and_query(self) -> str:
        """The path, and the query where there is one."""
        return self.path if self.query is None else f"{self.path}?{self.query}"

    @property
    def url(self) -> str:
        """The whole, without its host for a request to this server itself."""
        return self.origin + self.path_and_query


def parse_target(text: str) -> Target:
    """Reads an origin-form or absolute-form target (RFC 9112 §3.2).

    Raises:
        RequestError: it is of another form or ambiguous.
    """
    if text.startswith("/"):
        return _target("", text)
    scheme, separator, rest = text.partition("://")
    if not separator or scheme.lower() not in _DEFAULT_PORTS:
        raise RequestError(400, "its target is neither a path nor an http URL")
    slash = min((found for mark in "/?" if (found := rest.find(mark)) >= 0), default=len(rest))
    authority, path = rest[:slash], rest[slash:]
    return _target(canonical_origin(scheme, authority), path if path.startswith("/") else f"/{path}")


def canonical_origin(scheme: str, authority: str) -> str:
    """A scheme and an authority in canonical form.

    Raises:
        RequestError: it names no host, or a user.
    """
    scheme = scheme.lower()
    found = _AUTHORITY.fullmatch(authority)
    if found is None:
        raise RequestError(400, "its target names no host")
    port = int(found["port"] or _DEFAULT_PORTS[scheme])
    if not 0 < port < 65536:
        raise RequestError(400, "its target names no port")
    host = _canonical_host(found["host"])
    return f"{scheme}://{host}" if port == _DEFAULT_PORTS[scheme] else f"{scheme}://{host}:{port}"


def _canonical_host(host: str) -> str:
    if not host.startswith("["):
        return host.lower()
    try:
        return f"[{ipaddress.IPv6Address(host[1:-1]).compressed}]"
    except ValueError:
        raise RequestError(400, "its target names no host") from None


def _target(origin: str, path_and_query: str) -> Target:
    if _PLAIN_PATH.fullmatch(path_and_query) is not None:
        return Target(origin, path_and_query)
    path, mark, query = path_and_query.partition("?")
    if _UNSAFE.search(path) or _UNSAFE_IN_QUERY.search(query):
        raise RequestError(400, "its target has characters that must be percent-encoded")
    path = _normal_percent(path)
    if any(segment in {".", ".."} for segment in path.split("/")):
        raise RequestError(400, "its target has dot segments")
    if any(encoded in path for encoded in _AMBIGUOUS):
        raise RequestError(400, "its target is ambiguous: it encodes a slash, backslash or NUL")
    return Target(origin, path, _normal_percent(query) if mark else None)


def _normal_percent(text: str) -> str:
    return _PERCENT.sub(_normal_triplet, text) if "%" in text else text


def _normal_triplet(found: re.Match[str]) -> str:
    if found[1] is None:
        raise RequestError(400, "its target has a percent sign that encodes nothing")
    character = chr(int(found[1], 16))
    return character if character in _UNRESERVED else found[0].upper()
