"""Time only goes forward: which manifest is older than one that this edge has already given out."""

from __future__ import annotations

from collections import OrderedDict
from enum import Enum
from typing import Final

from cdn.errors import DocumentError
from cdn.manifest import Manifest

FUTURE_SECONDS_MAX: Final = 86400.0
"""How far ahead of our clock a manifest may be; a number from a far future would lock out all that follow."""
_WATCHED_MAX: Final = 10_000


class Order(Enum):
    """How a manifest stands to the newest one known."""

    NEWER = "newer"
    SAME = "same"
    OLDER = "older"


class RevisionWatch:
    """Remembers the newest revision under each name."""

    def __init__(self) -> None:
        self._newest: OrderedDict[str, tuple[int, int]] = OrderedDict()

    def newest(self, key: str) -> int | None:
        """The newest revision known."""
        known = self._newest.get(key)
        return known[0] if known is not None else None

    def compare(self, key: str, manifest: Manifest) -> Order:
        """Says how a manifest stands to what is known; of one revision, signed twice, the later signing is newer."""
        known = self._newest.get(key)
        position = (manifest.revision, manifest.timestamp)
        if known is None or position > known:
            return Order.NEWER
        return Order.SAME if position == known else Order.OLDER

    def note(self, key: str, manifest: Manifest) -> bool:
        """Takes a manifest that is given out from now on; True if it is newer than all before."""
        is_newer = self.compare(key, manifest) is Order.NEWER
        if is_newer:
            self._newest[key] = (manifest.revision, manifest.timestamp)
            self._newest.move_to_end(key)
            if len(self._newest) > _WATCHED_MAX:
                self._newest.popitem(last=False)
        return is_newer


def read_manifest(data: bytes, repository: str, now: float) -> Manifest:
    """Reads what an upstream gave as the manifest of a repository.

    The signature is for clients to verify; what is checked here is what keeps a broken or confused upstream out.

    Raises:
        DocumentError: it is damaged, another repository's, or from the future.
    """
    manifest = Manifest.parse(data)
    if repository and manifest.fqrn is not None and manifest.fqrn != repository:
        raise DocumentError("manifest", f"it is for {manifest.fqrn}, not for {repository}")
    if manifest.timestamp > now + FUTURE_SECONDS_MAX:
        raise DocumentError("manifest", "it was published in the future")
    return manifest
