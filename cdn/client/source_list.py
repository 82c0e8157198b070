"""Servers and proxies as people write them, in the words real clients use (spec §8.4, §8.5).

servers   http://a/cvmfs/@fqrn@;http://b/cvmfs/@fqrn@
proxies   http://p1:3128|http://p2:3128;http://backup:3128;DIRECT
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from urllib.parse import quote, urlsplit

from cdn.errors import ConfigError

DIRECT: Final = "DIRECT"
SOURCES_MAX: Final = 64
"""More servers or proxies than this are a mistake."""
_SERVER_SCHEMES: Final = frozenset({"http", "https", "file"})
_PROXY_SCHEMES: Final = frozenset({"http", "https"})

ProxyGroups = tuple[tuple[str | None, ...], ...]
"""Groups in the order in which they are tried; within one all are equal. None is no proxy at all."""

ONLY_DIRECT: Final[ProxyGroups] = ((None,),)


def parse_groups(text: str) -> tuple[tuple[str, ...], ...]:
    """What stands between ``;`` as groups, and between ``|`` as their members, each once; empty ones are left out."""
    groups = (
        tuple(dict.fromkeys(part.strip() for part in group.split("|") if part.strip())) for group in text.split(";")
    )
    return tuple(group for group in groups if group)


def substituted(text: str, fqrn: str) -> str:
    """The text with ``@fqrn@`` and ``@org@`` (the name's first label) replaced."""
    return text.replace("@fqrn@", fqrn).replace("@org@", fqrn.partition(".")[0])


def parse_servers(text: str | Iterable[str], fqrn: str) -> tuple[str, ...]:
    """The base URLs of a repository, in order, each once and without a slash at its end.

    Args:
        text: separated by ``;``, or several such texts. A path stands for a folder of this machine.
        fqrn: the repository's name.

    Raises:
        ConfigError: there is none, or one is no URL.
    """
    servers = _urls(text, fqrn, "server")
    if not servers:
        raise ConfigError(f"there is no server for {fqrn}: give one, such as http://host/cvmfs/{fqrn}")
    return servers


def parse_external_urls(text: str | Iterable[str], fqrn: str) -> tuple[str, ...]:
    """The URLs below which the content of external files lies; written as servers are, and there may be none.

    Raises:
        ConfigError: one is no URL.
    """
    return _urls(text, fqrn, "external URL")


def parse_proxies(text: str, fqrn: str = "") -> ProxyGroups:
    """The groups of proxies; nothing at all means `DIRECT`.

    Raises:
        ConfigError: one is no URL and no host:port.
    """
    groups = parse_groups(substituted(text, fqrn))
    found = tuple(tuple(dict.fromkeys(map(_proxy, group))) for group in groups)
    _counted(tuple(proxy for group in found for proxy in group), "proxies")
    return found or ONLY_DIRECT


def _urls(text: str | Iterable[str], fqrn: str, what: str) -> tuple[str, ...]:
    texts = [text] if isinstance(text, str) else list(text)
    found = [part.strip() for each in texts for part in substituted(each, fqrn).split(";") if part.strip()]
    return _counted(tuple(dict.fromkeys(_url(part, what) for part in found)), f"{what}s")


def _url(text: str, what: str) -> str:
    url = f"file://{quote(text)}" if text.startswith("/") else text
    scheme = _checked(url, _SERVER_SCHEMES, f"{text[:200]!r} is no {what}: write http://host/cvmfs/NAME")
    if scheme != "file" and "?" in url:
        raise ConfigError(f"the {what} {text[:200]!r} has a query (?), to which no path can be added")
    return url.rstrip("/")


def _proxy(text: str) -> str | None:
    if text.upper() == DIRECT:
        return None
    if text.lower() == "auto":
        raise ConfigError("proxies found by themselves (auto) are not supported: name them, or write DIRECT")
    url = text if "://" in text else f"http://{text}"
    _checked(url, _PROXY_SCHEMES, f"{text[:200]!r} is no proxy: write http://host:port, or DIRECT")
    return url.rstrip("/")


def _checked(url: str, schemes: frozenset[str], complaint: str) -> str:
    """The scheme of a URL that can be asked."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  # raises where it is no number
    except ValueError:
        raise ConfigError(complaint) from None
    is_odd = any(character <= " " or character == "\x7f" for character in url)
    if parts.scheme not in schemes or is_odd or (parts.scheme != "file" and not parts.hostname):
        raise ConfigError(complaint)
    return parts.scheme


def _counted(found: tuple[str | None, ...], what: str) -> tuple[str, ...]:
    if len(found) > SOURCES_MAX:
        raise ConfigError(f"{len(found)} {what} are more than the {SOURCES_MAX} that can be used")
    return found  # type: ignore[return-value]  # callers give no None
