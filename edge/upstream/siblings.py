"""Which edge of this place keeps an object: a group of edges is one big cache, in which each has its share. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from edge.content import ContentKind
from edge.routing import Destination, Source
from edge.settings.upstreams import REPOSITORIES_PATH, SiblingSettings
from edge.upstream.rendezvous import Member, owner
from edge.upstream.servers import UpstreamHealth

SIBLING_FIELD: Final = "Stratocast-Sibling"
"""Says that a sibling asks, which must not be sent on to another one. A stranger who sends it gets what others get."""


class Siblings:
    """The edges of this place.

    Args:
        settings: names them.
        holds: says whether an upstream holds a repository; of others nothing can be asked of siblings.
    """

    def __init__(self, settings: SiblingSettings, holds: Callable[[str], bool]) -> None:
        self._holds = holds
        self.timeout_seconds = settings.timeout
        self._own = Member(settings.own, settings.weights.get(settings.own, 1.0))
        self._others = tuple(Member(url, settings.weights.get(url, 1.0)) for url in settings.others)

    @property
    def has_others(self) -> bool:
        """Whether there are any."""
        return bool(self._others)

    def keeper(self, destination: Destination, health: UpstreamHealth, now: float) -> Source | None:
        """The sibling that keeps an object, None if this edge does.

        A sibling that is not well has no share; what was its is shared by all others, and comes back to it with its
        traffic. Nothing but objects is asked of siblings: these prove themselves.
        """
        content = destination.content
        if content.kind is not ContentKind.OBJECT or destination.target.query is not None:
            return None
        if not self._others or not self._holds(content.repository):
            return None
        well = (member for member in self._others if health.admits(member.name, now))
        keeper = owner(destination.key, (self._own, *well))
        if keeper is self._own:
            return None
        url = f"{keeper.name}{REPOSITORIES_PATH}{content.repository}/{content.path}"
        return Source(url, keeper.name, is_sibling=True)
