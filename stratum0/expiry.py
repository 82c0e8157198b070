"""What expires, when to say so, and the whitelist that signs itself anew where the master key is at hand.

The rules are pure functions; `require_publishable` and `resign_if_due` apply them to a repository.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from cdn.errors import CdnError, ExpiredError, RepositoryError
from cdn.reporting import duration_text
from cdn.telemetry import event

if TYPE_CHECKING:
    from cdn.whitelist import Whitelist
    from stratum0.repository import Repository

WARNING_SECONDS: Final = 10 * 86_400
"""From so long before an expiry every command warns."""
DUE_FRACTION: Final = 1 / 3
"""A whitelist is signed anew when less than this part of its life is left."""


@dataclass(frozen=True, slots=True)
class Expiry:
    """Something that ends.

    Args:
        repository: whose it is.
        thing: what: ``whitelist`` or ``certificate``.
        at: when, in seconds since the epoch.
        remedy: what to do about it, as words after a colon.
    """

    repository: str
    thing: str
    at: float
    remedy: str

    def warning(self, now: float) -> str | None:
        """What to tell the user, None if it is not time yet."""
        left = self.at - now
        if left > WARNING_SECONDS:
            return None
        said = f"expired {duration_text(-left)} ago" if left <= 0 else f"expires in {duration_text(left)}"
        return f"the {self.thing} of {self.repository} {said} ({date_text(self.at)}): {self.remedy}"


def is_due(whitelist: Whitelist, now: float) -> bool:
    """Whether a whitelist should be signed anew: less than a third of its life is left."""
    return whitelist.expires_at - now < (whitelist.expires_at - whitelist.created_at) * DUE_FRACTION


def expiries(repository: Repository) -> list[Expiry]:
    """What of a repository expires, the nearest first; what cannot be read is left out.

    Publishing and checking tell what is wrong with it; a warning must never be what stops a command.
    """
    name = repository.name
    found = []
    try:
        whitelist = repository.whitelist()
        if whitelist is not None:
            here = repository.keys.has_master_key
            remedy = f"run `cdn repo keys {'resign' if here else 'export'} {name}`"
            found.append(Expiry(name, "whitelist", whitelist.expires_at, remedy))
    except (CdnError, OSError):
        pass
    try:
        certificate = repository.keys.certificate()
        remedy = f"run `cdn repo keys rotate {name}`"
        found.append(Expiry(name, "certificate", certificate.not_valid_after, remedy))
    except (CdnError, OSError):
        pass
    return sorted(found, key=lambda expiry: expiry.at)


def warnings(repository: Repository) -> list[str]:
    """What every command says about a repository's expiries, none if all is well."""
    now = repository.clock.now()
    said = [expiry.warning(now) for expiry in expiries(repository)]
    return [text for text in said if text is not None]


def resign_if_due(repository: Repository) -> bool:
    """Signs the whitelist anew if it is time and the master key is here; True if it did.

    A failure is told as an event and is none of the caller's: its own work does not depend on it.
    """
    from stratum0.keys import resign

    try:
        whitelist = repository.whitelist()
        if not repository.keys.has_master_key or whitelist is None or not is_due(whitelist, repository.clock.now()):
            return False
        resign(repository)
    except (CdnError, OSError) as error:
        event("stratum0.whitelist.resign.failed", level="warning", repository=repository.name, reason=str(error))
        return False
    return True


def require_publishable(repository: Repository) -> None:
    """Refuses to publish what no client could verify.

    Raises:
        RepositoryError: there is no whitelist yet.
        ExpiredError: it has expired.
        CdnError: it must not be believed.
    """
    resign_if_due(repository)
    name = repository.name
    whitelist = repository.whitelist()
    if whitelist is None:
        raise RepositoryError(
            f"{name} has no whitelist yet, so no client could read it: run `cdn repo keys export {name} FILE`, "
            f"have the file signed with the master key, and `cdn repo keys import {name} FILE`"
        )
    if whitelist.is_expired(repository.clock.now()):
        remedy = "resign" if repository.keys.has_master_key else "export"
        raise ExpiredError(
            f"the whitelist of {name} expired on {date_text(whitelist.expires_at)}, so no client would accept a new "
            f"revision: run `cdn repo keys {remedy} {name}`"
        )


def date_text(seconds: float) -> str:
    """A time for people, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
