"""Header fields as a value, and the few forms of field values that a cache must read (RFC 9110 §5, §5.6, §7.6.1)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from email.utils import formatdate, parsedate_to_datetime
from typing import Final

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


@dataclass(frozen=True, slots=True)
class Headers:
    """Header fields in the order they came, names as they were written."""

    pairs: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, pairs: Iterable[tuple[str, str]]) -> Headers:
        """Fields from any iterable of pairs."""
        return cls(tuple(pairs))

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self.pairs)

    def __contains__(self, name: str) -> bool:
        return self.get(name) is not None

    def get(self, name: str) -> str | None:
        """The first value of a field."""
        lower = name.lower()
        for known, value in self.pairs:
            if known.lower() == lower:
                return value
        return None

    def every(self, name: str) -> tuple[str, ...]:
        """All values of a field."""
        lower = name.lower()
        return tuple(value for known, value in self.pairs if known.lower() == lower)

    def joined(self, name: str) -> str | None:
        """All values of a field as one list, which for list fields means the same (RFC 9110 §5.3)."""
        values = self.every(name)
        return ", ".join(values) if values else None

    def without(self, *names: str) -> Headers:
        """The fields but these."""
        dropped = {name.lower() for name in names}
        return Headers(tuple(pair for pair in self.pairs if pair[0].lower() not in dropped))

    def replaced(self, name: str, value: str) -> Headers:
        """The fields with exactly one of this name, at the end."""
        return Headers((*self.without(name).pairs, (name, value)))

    def end_to_end(self) -> Headers:
        """The fields that may be passed on: neither hop-by-hop nor named by `Connection` (RFC 9110 §7.6.1)."""
        named = tokens(self.joined("Connection") or "")
        return self.without(*HOP_BY_HOP, *named)


def tokens(text: str) -> tuple[str, ...]:
    """The members of a list of tokens, in lower case."""
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


def http_date(seconds: float) -> str:
    """A date as HTTP writes it (RFC 9110 §5.6.7)."""
    return formatdate(seconds, usegmt=True)


def parse_http_date(text: str | None) -> float | None:
    """Seconds since the epoch, or None for what is no date."""
    if not text or len(text) > 64:
        return None
    try:
        parsed = parsedate_to_datetime(text)
        return parsed.timestamp() if parsed.tzinfo is not None else None
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
