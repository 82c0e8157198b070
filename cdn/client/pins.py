"""Which revision is read: the newest, or the one that a pin means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cdn.errors import RepositoryError, UsageError
from cdn.hashing import Digest
from cdn.history import History, Tag


@dataclass(frozen=True, slots=True)
class Pin:
    """Which revision to read instead of the newest; at most one of these.

    Args:
        tag: the one with this name.
        revision: the one with this number, if it is the newest or has a tag.
        root_catalog: the one with this root catalog; nothing is asked and no signature looked at, since the digest says
            it all.
        at: what was published at this time, in seconds since the epoch.
    """

    tag: str | None = None
    revision: int | None = None
    root_catalog: Digest | None = None
    at: float | None = None

    def __post_init__(self) -> None:
        if sum(each is not None for each in (self.tag, self.revision, self.root_catalog, self.at)) > 1:
            raise UsageError("a revision is chosen by tag, number, root catalog or date: give only one of them")

    @property
    def is_newest(self) -> bool:
        """Whether the newest is meant."""
        return self == Pin()


NEWEST: Final = Pin()


def chosen(pin: Pin, history: History | None, fqrn: str) -> Tag:
    """The tag that a pin means."""
    if history is None:
        raise RepositoryError(f"{fqrn} has no tags: only its newest revision can be read")
    if pin.tag is not None:
        return history.tag(pin.tag)
    if pin.at is not None:
        tag = history.at(pin.at)
        if tag is None:
            raise RepositoryError(f"{fqrn} has no tag from before that time")
        return tag
    tag = next((tag for tag in history.tags if tag.revision == pin.revision), None)
    if tag is None:
        raise RepositoryError(f"revision {pin.revision} of {fqrn} has no tag, and only tagged revisions can be found")
    return tag
