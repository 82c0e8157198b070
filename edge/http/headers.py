"""Header fields as a value, and the few forms of field values that a cache must read (RFC 9110 §5, §5.6, §7.6.1)."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import formatdate
from functools import lru_cache
from types import MappingProxyType
from typing import Final

_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH: Final = "(" + "|".join(_MONTHS) + ")"
_CLOCK: Final = "((?:[01][0-9]|2[0-3]):[0-5][0-9]:(?:[0-5][0-9]|60))"
_DATE_LENGTH_MAX: Final = 64
_CENTURY_TURNS_AT: Final = 70
"""Years of two digits from here on are of the last century."""
_DATE: Final = re.compile(
    rf"(?:mon|tue|wed|thu|fri|sat|sun), ([0-9]{{2}}) {_MONTH} ([0-9]{{4}}) {_CLOCK} GMT"
    rf"|(?:mon|tues|wednes|thurs|fri|satur|sun)day, ([0-9]{{2}})-{_MONTH}-([0-9]{{2}}) {_CLOCK} GMT"
    rf"|(?:mon|tue|wed|thu|fri|sat|sun) {_MONTH} ([0-9 ][0-9]) {_CLOCK} ([0-9]{{4}})",
    re.ASCII | re.IGNORECASE,
)
HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Fields that speak of one connection and are never passed on."""


Places = Mapping[str, tuple[int, ...]]
"""Where fields stand, by their names in lower case."""
_SHAPES_MAX: Final = 128
_SHAPE_FIELDS_MAX: Final = 32


@dataclass(frozen=True, slots=True)
class Headers:
    """Header fields in the order they came, names as they were written."""

    pairs: tuple[tuple[str, str], ...] = ()
    _known_places: Places | None = field(default=None, init=False, repr=False, compare=False)
    known_directives: Mapping[str, str | None] | None = field(default=None, init=False, repr=False, compare=False)
    """What `cache_directives` read in them, once it has."""

    @classmethod
    def of(cls, pairs: Iterable[tuple[str, str]]) -> Headers:
        """Fields from any iterable of pairs."""
        return cls(tuple(pairs))

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self.pairs)

    def __contains__(self, name: str) -> bool:
        return name.lower() in (self._known_places or self._places())

    def _places(self) -> Places:
        """Found once, and shared with all that have the same names in the same order, as answers of a server have."""
        names = tuple([name for name, _ in self.pairs])
        places = _kept_places(names) if len(names) <= _SHAPE_FIELDS_MAX else _places_of(names)
        object.__setattr__(self, "_known_places", places)
        return places

    def get(self, name: str) -> str | None:
        """The first value of a field."""
        if not self.pairs:
            return None
        found = (self._known_places or self._places()).get(name.lower())
        return None if found is None else self.pairs[found[0]][1]

    def every(self, name: str) -> tuple[str, ...]:
        """All values of a field."""
        pairs = self.pairs
        places = (self._known_places or self._places()).get(name.lower(), ())
        return tuple([pairs[place][1] for place in places])

    def joined(self, name: str) -> str | None:
        """All values of a field as one list, which for list fields means the same (RFC 9110 §5.3)."""
        if not self.pairs:
            return None
        found = (self._known_places or self._places()).get(name.lower())
        if found is None:
            return None
        return self.pairs[found[0]][1] if len(found) == 1 else ", ".join(self.every(name))

    def has_any(self, names: Collection[str]) -> bool:
        """Whether there is a field of one of these names, which are in lower case."""
        return not (self._known_places or self._places()).keys().isdisjoint(names)

    def without(self, *names: str) -> Headers:
        """The fields but these."""
        return self.but({name.lower() for name in names})

    def but(self, dropped: Collection[str]) -> Headers:
        """The same, names in lower case."""
        if not self.has_any(dropped):
            return self
        return Headers(tuple([pair for pair in self.pairs if pair[0].lower() not in dropped]))

    def replaced(self, name: str, value: str) -> Headers:
        """The fields with exactly one of this name, at the end."""
        return Headers((*self.without(name).pairs, (name, value)))

    def end_to_end(self) -> Headers:
        """The fields that may be passed on: neither hop-by-hop nor named by `Connection` (RFC 9110 §7.6.1)."""
        connection = self.joined("Connection")
        return self.but(HOP_BY_HOP if connection is None else HOP_BY_HOP.union(tokens(connection)))


def _places_of(names: tuple[str, ...]) -> Places:
    places: dict[str, tuple[int, ...]] = {}
    for place, name in enumerate(names):
        lower = name.lower()
        places[lower] = (*places.get(lower, ()), place)
    return MappingProxyType(places)


_kept_places: Final = lru_cache(maxsize=_SHAPES_MAX)(_places_of)


def upstream_fields(request: Headers, via: str, edge_name: str, request_id: str = "") -> dict[str, str]:
    """Fields as they are sent to an upstream, repeated ones as one list (RFC 9110 §5.3; for `Cookie` RFC 6265 §5.4)."""
    fields: dict[str, str] = {}
    for name in dict.fromkeys(name.lower() for name, _ in request):
        values = request.every(name)
        value = ("; " if name == "cookie" else ", ").join(values)
        if value.isascii():
            fields[name] = value
    fields["Via"] = f"{via}, 1.1 {edge_name}" if via else f"1.1 {edge_name}"
    if request_id:
        fields["x-request-id"] = request_id  # in place of the client's, if that was there
    return fields


def tokens(text: str) -> tuple[str, ...]:
    """The members of a list of tokens, in lower case."""
    if not text:
        return ()
    return tuple(token for part in text.split(",") if (token := part.strip().lower()))


def quoted_list(text: str) -> Iterator[str]:
    """The members of a list in which commas may stand inside quoted strings (RFC 9110 §5.6.1, §5.6.4)."""
    start, in_quotes, is_escaped = 0, False, False
    for index, character in enumerate(text):
        if is_escaped:
            is_escaped = False
        elif in_quotes and character == "\\":
            is_escaped = True
        elif character == '"':
            in_quotes = not in_quotes
        elif character == "," and not in_quotes:
            yield text[start:index].strip()
            start = index + 1
    yield text[start:].strip()


NO_FIELDS: Final = Headers()
"""What has none."""


def http_date(seconds: float) -> str:
    """A date as HTTP writes it (RFC 9110 §5.6.7)."""
    return _http_date(int(seconds))


@lru_cache(maxsize=256)
def _http_date(seconds: int) -> str:
    return formatdate(seconds, usegmt=True)


def parse_http_date(text: str | None) -> float | None:
    """Seconds since the epoch, or None for what is no date in one of the three forms of RFC 9110 §5.6.7."""
    return _parsed_date(text) if text and len(text) <= _DATE_LENGTH_MAX else None


@lru_cache(maxsize=1024)
def _parsed_date(text: str) -> float | None:
    found = _DATE.fullmatch(text)
    if found is None:
        return None
    day, month, year, clock = (next(filter(None, each)) for each in _alternatives(found))
    number = int(year) if len(year) == 4 else int(year) + (1900 if int(year) >= _CENTURY_TURNS_AT else 2000)
    hours, minutes, seconds = map(int, clock.split(":"))
    try:
        date = datetime(
            number, _MONTHS.index(month.lower()) + 1, int(day), hours, minutes, min(seconds, 59), tzinfo=UTC
        )
    except ValueError:
        return None
    return date.timestamp() + max(0, seconds - 59)


def _alternatives(found: re.Match[str]) -> tuple[tuple[str | None, ...], ...]:
    """Day, month, year and time, each as the three forms have it."""
    return found.group(1, 5, 10), found.group(2, 6, 9), found.group(3, 7, 12), found.group(4, 8, 11)
