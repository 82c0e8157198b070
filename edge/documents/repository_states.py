"""What is known of each repository that passes through: its revision, who signed it, and when its whitelist expires."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cdn.errors import DocumentError
from cdn.hashing import Digest
from cdn.manifest import Manifest

if TYPE_CHECKING:
    from cdn.whitelist import Whitelist

REPOSITORIES_MAX: Final = 1000
REMINDER_SECONDS: Final = 21600.0
"""How often somebody is reminded of one whitelist."""


@dataclass(slots=True)
class RepositoryState:
    """What is known of one repository.

    Args:
        revision: of the newest manifest.
        certificate: digest of the object with the certificate that signed it.
        whitelist_expires_at: in seconds since the epoch.
        whitelist_created_at: the same.
        reminded_at: when somebody was last reminded that the whitelist expires.
    """

    revision: int | None = None
    certificate: Digest | None = None
    whitelist_expires_at: float | None = None
    whitelist_created_at: float | None = None
    reminded_at: float = float("-inf")


class RepositoryStates:
    """The repositories that were asked for lately, a bounded number of them."""

    def __init__(self) -> None:
        self._states: OrderedDict[str, RepositoryState] = OrderedDict()

    def __iter__(self) -> Iterator[tuple[str, RepositoryState]]:
        return iter(list(self._states.items()))

    def of(self, repository: str) -> RepositoryState:
        """The state of a repository."""
        state = self._states.setdefault(repository, RepositoryState())
        self._states.move_to_end(repository)
        if len(self._states) > REPOSITORIES_MAX:
            self._states.popitem(last=False)
        return state

    def note_manifest(self, repository: str, manifest: Manifest) -> None:
        """Takes a manifest that is given out from now on."""
        state = self.of(repository)
        state.revision, state.certificate = manifest.revision, manifest.certificate

    def note_whitelist(self, repository: str, whitelist: Whitelist) -> None:
        """Takes a whitelist that is given out from now on."""
        state = self.of(repository)
        state.whitelist_expires_at, state.whitelist_created_at = whitelist.expires_at, whitelist.created_at

    def expiring(self, now: float, within_seconds: float) -> list[tuple[str, float]]:
        """Repositories whose whitelists expire soon, with the seconds left; each named once in some hours."""
        found = []
        for repository, state in self:
            left = state.whitelist_expires_at - now if state.whitelist_expires_at is not None else float("inf")
            if left < within_seconds and now - state.reminded_at >= REMINDER_SECONDS:
                state.reminded_at = now
                found.append((repository, left))
        return found


def read_whitelist(data: bytes, repository: str) -> Whitelist:
    """Reads what an upstream gave as the whitelist of a repository; its signature is for clients to verify.

    Raises:
        DocumentError: it is none, or another repository's.
    """
    from cdn.signing import body_of
    from cdn.whitelist import Whitelist

    whitelist = Whitelist.parse(body_of(data))
    if repository and whitelist.fqrn != repository:
        raise DocumentError("whitelist", f"it is for {whitelist.fqrn}, not for {repository}")
    return whitelist


def lists(whitelist: bytes, certificate: bytes) -> bool:
    """Whether a stored whitelist permits a stored certificate; True also if one of them cannot be read."""
    from cdn.certificate import Certificate
    from cdn.signing import body_of
    from cdn.whitelist import Whitelist

    try:
        read, signer = Whitelist.parse(body_of(whitelist)), Certificate.from_object(certificate)
    except DocumentError:
        return True
    return any(signer.fingerprint(each.fingerprint.digest.algorithm) == each.fingerprint for each in read.entries)
