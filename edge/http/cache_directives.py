"""What `Cache-Control` says, and `CDN-Cache-Control` in its place (RFC 9111 §5.2, RFC 9213)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from edge.http.headers import Headers, quoted_list

SECONDS_MAX: Final = 2**31
"""What a larger number of seconds is read as (RFC 9111 §1.2.2)."""
TARGETED_FIELD: Final = "CDN-Cache-Control"
_WITH_SECONDS: Final = frozenset({"max-age", "s-maxage", "stale-if-error", "stale-while-revalidate"})

Directives = Mapping[str, str | None]
_NONE: Final[Directives] = MappingProxyType({})
_KEPT_LENGTH_MAX: Final = 256


def cache_control(headers: Headers) -> Directives:
    """The directives of `Cache-Control`; of a repeated one the most restrictive counts (RFC 9111 §4.2.1, §5.2)."""
    text = headers.joined("Cache-Control")
    if text is None:
        return _NONE
    return _kept_control(text) if len(text) <= _KEPT_LENGTH_MAX else _parsed_control(text)


def _parsed_control(text: str) -> Directives:
    found: dict[str, str | None] = {}
    for member in quoted_list(text):
        name, equals, value = member.partition("=")
        name, argument = name.strip().lower(), _unquoted(value.strip()) if equals else None
        if name and (name not in found or _is_stricter(argument, found[name])):
            found[name] = argument
    return MappingProxyType(found)


_kept_control: Final = lru_cache(maxsize=512)(_parsed_control)
"""Servers say the same few things again and again."""


def response_directives(headers: Headers) -> Directives:
    """The directives of an answer that count here: those meant for caches like this before those for all (RFC 9213)."""
    known = headers.known_directives
    if known is None:
        targeted = targeted_directives(headers)
        known = cache_control(headers) if targeted is None else targeted
        object.__setattr__(headers, "known_directives", known)
    return known


def delta_seconds(text: str | None) -> float | None:
    """A number of seconds, or None for anything else (RFC 9111 §1.2.2)."""
    if text is None or not (text.isascii() and text.isdigit()):
        return None
    return float(min(int(text[:12]), SECONDS_MAX))


def _unquoted(text: str) -> str:
    return text[1:-1].replace("\\", "") if len(text) > 1 and text[0] == text[-1] == '"' else text


def _is_stricter(new: str | None, known: str | None) -> bool:
    """Compares two arguments of one directive: none is stricter than any, a smaller number than a larger one."""
    if new is None or known is None:
        return known is not None
    return (delta_seconds(new) or 0.0) < (delta_seconds(known) or 0.0)


# ------------------------------------------------------------------------------------------------- meant for CDNs alone

_KEY: Final = r"[a-z*][a-z0-9_.*-]*"
_ITEM: Final = (
    r"(?:-?[0-9]{1,12}\.[0-9]{1,3}"  # decimal
    r"|-?[0-9]{1,15}"  # integer
    r'|"(?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*"'  # string
    r"|[A-Za-z*][!#$%&'*+.^_`|~0-9A-Za-z:/-]*"  # token
    r"|\?[01]"  # boolean
    r"|:[A-Za-z0-9+/=]*:)"  # bytes
)
_PARAMETERS: Final = rf"(?:; *{_KEY}(?:={_ITEM})?)*"
_MEMBER: Final = re.compile(rf"({_KEY})(?:=({_ITEM}))?{_PARAMETERS}", re.ASCII)
_SEPARATOR: Final = re.compile(r"[ \t]*,[ \t]*")


def targeted_directives(headers: Headers) -> Directives | None:
    """The directives of `CDN-Cache-Control`; None if it is absent, empty or no structured dictionary (RFC 9213 §2)."""
    field = headers.joined(TARGETED_FIELD)
    if field is None:
        return None
    text = field.strip(" ")
    found: dict[str, str | None] = {}
    position = 0
    while position < len(text):
        member = _MEMBER.match(text, position)
        if member is None or not _is_of_its_type(member[1], member[2]):
            return None
        found.pop(member[1], None)
        if member[2] != "?0":
            found[member[1]] = None if member[2] in {None, "?1"} else _unquoted(member[2])
        separator = _SEPARATOR.match(text, member.end())
        if member.end() < len(text) and (separator is None or separator.end() == len(text)):
            return None
        position = separator.end() if separator is not None else len(text)
    return found or None


def _is_of_its_type(name: str, value: str | None) -> bool:
    return name not in _WITH_SECONDS or (value is not None and value.isdigit())
