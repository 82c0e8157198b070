"""Several stored responses under one URL, told apart by the request fields that `Vary` names (RFC 9111 §4.1).

A response that varies is stored under a key of its own, made of the URL's key and the values it was selected by. Under
the URL's key itself lies a list of them, newest first and of bounded length.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

from cdn.errors import DocumentError
from edge.http.caching import Selecting, StoredHead, is_selected_by, selecting_values
from edge.http.headers import Headers

VARIANTS_MAX: Final = 16
"""How many responses are kept for one URL."""
LIST_STATUS: Final = 0
"""The status under which a list is stored, which no response has."""


def variant_key(key: str, selecting: Selecting) -> str:
    """What a response is stored under: the key of its URL if it does not vary."""
    return f"{key} {json.dumps(selecting, separators=(',', ':'))}" if selecting else key


def list_head(now: float) -> StoredHead:
    """The head under which a list is stored."""
    return StoredHead(LIST_STATUS, Headers(), now, now)


@dataclass(frozen=True, slots=True)
class Variants:
    """The responses stored for one URL, by what each was selected by, newest first."""

    known: tuple[Selecting, ...] = ()

    @classmethod
    def parse(cls, data: bytes) -> Variants:
        """Reads a stored list.

        Raises:
            DocumentError: it is none.
        """
        try:
            known = tuple(
                tuple((str(name), None if value is None else str(value)) for name, value in each)
                for each in json.loads(data)
            )
        except (ValueError, TypeError, RecursionError) as error:
            raise DocumentError("list of variants", "it is malformed") from error
        return cls(known[:VARIANTS_MAX])

    def to_bytes(self) -> bytes:
        """The list as it is stored."""
        return json.dumps(self.known, separators=(",", ":")).encode()

    def with_newest(self, selecting: Selecting) -> Variants:
        """The list after a response was stored; the oldest one falls off its end."""
        others = tuple(each for each in self.known if each != selecting)
        return Variants((selecting, *others)[:VARIANTS_MAX])

    def selected(self, request: Headers) -> Selecting:
        """The variant that a request gets: the newest that fits, else the newest of all, which then is a miss."""
        fitting = (each for each in self.known if is_selected_by(each, request))
        return next(fitting, self.known[0] if self.known else ())

    def wanted(self, request: Headers) -> Selecting:
        """What a new response to this request will most likely be selected by: the fields of the newest one."""
        names = [name for name, _ in self.known[0]] if self.known else []
        return selecting_values(names, request)
