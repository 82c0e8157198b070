"""How long answers live, by the kind of their content, where the rules of HTTP leave room (spec §8.2)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from edge.content import OBJECT_SECONDS, ContentKind
from edge.http.caching import Lifetime

DOCUMENT_SECONDS: Final = 61
"""How long caches below may keep a manifest, a whitelist or a JSON file if the upstream does not say."""


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long answers live, by kind.

    Args:
        negative_seconds_max: how long an upstream's word that there is no such name is believed.
        stale_if_error_seconds: how long a stale manifest or whitelist stands in for failing upstreams.
        other_stale_if_error_seconds: the same for all other content that can become stale.
        stale_while_revalidate_seconds: how long a stale manifest or whitelist is given while a new one is asked for.
    """

    negative_seconds_max: float = 5.0
    stale_if_error_seconds: float = 259200.0
    other_stale_if_error_seconds: float = 3600.0
    stale_while_revalidate_seconds: float = 0.0
    _by_kind: dict[ContentKind, Lifetime] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        signed = Lifetime(
            DOCUMENT_SECONDS,
            stale_if_error_seconds=self.stale_if_error_seconds,
            stale_while_revalidate_seconds=self.stale_while_revalidate_seconds,
        )
        document = Lifetime(DOCUMENT_SECONDS, stale_if_error_seconds=self.other_stale_if_error_seconds)
        by_kind = {
            ContentKind.OBJECT: Lifetime(OBJECT_SECONDS, is_immutable=True),
            ContentKind.MANIFEST: signed,
            ContentKind.WHITELIST: signed,
            ContentKind.DOCUMENT: document,
            ContentKind.GEO: document,
            ContentKind.OTHER: Lifetime(stale_if_error_seconds=self.other_stale_if_error_seconds),
        }
        object.__setattr__(self, "_by_kind", by_kind)

    def of(self, kind: ContentKind, status: int) -> Lifetime:
        """The lifetime of an answer with this status."""
        if status in {404, 410}:
            if kind is ContentKind.OTHER:
                return Lifetime(self.negative_seconds_max)
            return Lifetime(self.negative_seconds_max, seconds_max=self.negative_seconds_max)
        lifetime = self._by_kind[kind]
        if status != 200 and lifetime.default_seconds is not None:
            return Lifetime(0.0, seconds_max=self.negative_seconds_max)
        return lifetime
