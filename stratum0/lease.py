"""Leases: the exclusive, expiring right to change one subtree.

A lease keeps others from beginning what could not be published in the end. That nothing is lost if it expires too
early is not its task: the commit itself sees whether the subtree changed (docs/decisions/0004-transactions.md).

The rules are pure; `StateLeases` keeps the table in ``state.sqlite``. Publishers on several machines need a table
elsewhere, which is why transactions know only the Protocol `LeaseTable`.
"""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol

from cdn.catalog.entries import decode_name, encode_name
from cdn.errors import LeaseHeldError
from stratum0.changes import is_at_or_below

if TYPE_CHECKING:
    from stratum0.state import State

TOKEN_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Lease:
    """Who may change which subtree until when.

    Args:
        token: a random text that only the holder knows.
        subtree: path of its top; the root, and so everything, is the empty string.
        holder: who has it, for messages to others.
        acquired, expires: in seconds since the epoch.
    """

    token: str
    subtree: str
    holder: str
    acquired: float
    expires: float

    def is_expired(self, now: float) -> bool:
        """Whether others may have the subtree."""
        return self.expires <= now

    def excludes(self, subtree: str) -> bool:
        """Whether a lease on this subtree cannot exist beside this one: one lies in the other, or they are the same."""
        return is_at_or_below(subtree, self.subtree) or is_at_or_below(self.subtree, subtree)


def obstacle(leases: Iterable[Lease], subtree: str, now: float) -> Lease | None:
    """The lease that keeps a subtree from being leased, None if it is free."""
    return next((lease for lease in leases if not lease.is_expired(now) and lease.excludes(subtree)), None)


class LeaseTable(Protocol):
    """Where the leases of a repository are kept; every method is atomic among all publishers."""

    def acquire(self, subtree: str, holder: str, seconds: float, now: float) -> Lease:
        """Takes a lease; expired ones that are in the way are gone then.

        Raises:
            LeaseHeldError: somebody holds one that excludes it.
        """
        ...

    def renew(self, lease: Lease, seconds: float, now: float) -> Lease | None:
        """Makes a lease last `seconds` from now, also one that expired and that nobody took; None if it is gone."""
        ...

    def release(self, token: str) -> None:
        """Gives a lease back; one that is gone is no error."""
        ...

    def find(self, token: str) -> Lease | None:
        """The lease of this token, expired or not."""
        ...

    def held(self, now: float) -> list[Lease]:
        """All leases that are not expired, by subtree."""
        ...


class StateLeases:
    """The leases in ``state.sqlite``; a `LeaseTable` for the processes of one machine."""

    def __init__(self, state: State) -> None:
        self._state = state

    def acquire(self, subtree: str, holder: str, seconds: float, now: float) -> Lease:
        with self._state.writing() as connection:
            connection.execute("DELETE FROM leases WHERE expires <= ?", (now,))
            held = obstacle(_all(connection), subtree, now)
            if held is not None:
                raise LeaseHeldError(refusal(held, subtree))
            lease = Lease(secrets.token_hex(TOKEN_BYTES), subtree, holder, now, now + seconds)
            connection.execute("INSERT INTO leases VALUES (?, ?, ?, ?, ?)", _row(lease))
        return lease

    def renew(self, lease: Lease, seconds: float, now: float) -> Lease | None:
        with self._state.writing() as connection:
            query = "UPDATE leases SET expires = max(expires, ?) WHERE token = ? RETURNING expires"
            found = connection.execute(query, (now + seconds, lease.token)).fetchall()
        return replace(lease, expires=found[0][0]) if found else None

    def release(self, token: str) -> None:
        with self._state.writing() as connection:
            connection.execute("DELETE FROM leases WHERE token = ?", (token,))

    def find(self, token: str) -> Lease | None:
        with self._state.reading() as connection:
            row = connection.execute(f"{_SELECT} WHERE token = ?", (token,)).fetchone()
        return None if row is None else _lease(row)

    def held(self, now: float) -> list[Lease]:
        with self._state.reading() as connection:
            return [lease for lease in _all(connection) if not lease.is_expired(now)]


def refusal(held: Lease, subtree: str) -> str:
    """What to tell somebody who cannot have a subtree."""
    until = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(held.expires))
    return f"{subtree or '/'} cannot be changed now: {held.holder} holds a lease on {held.subtree or '/'} until {until}"


_SELECT: Final = "SELECT token, subtree, holder, acquired, expires FROM leases"


def _all(connection: sqlite3.Connection) -> list[Lease]:
    return [_lease(row) for row in connection.execute(f"{_SELECT} ORDER BY subtree")]


def _lease(row: tuple[str, bytes, str, float, float]) -> Lease:
    token, subtree, holder, acquired, expires = row
    return Lease(token, decode_name(subtree), holder, acquired, expires)


def _row(lease: Lease) -> tuple[object, ...]:
    return (lease.token, encode_name(lease.subtree), lease.holder, lease.acquired, lease.expires)
