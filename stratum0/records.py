"""The table of transactions in ``state.sqlite``, and the states a transaction goes through.

        commit()                      manifest replaced
OPEN ------------> COMMITTING ----------------------------> COMMITTED
 |  ^                  |
 |  +------------------+  the commit was refused or died before the manifest was replaced
 |
 +--> ABORTED             abort(), or an ephemeral transaction whose process died
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from cdn.catalog.entries import decode_name, encode_name
from cdn.errors import RepositoryError, TransactionStateError
from cdn.hashing import Digest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stratum0.state import State

FINISHED_KEPT: Final = 200
"""So many finished transactions are remembered, for those who ask what became of one."""


class TransactionState(Enum):
    """Where a transaction is in its life."""

    OPEN = "open"
    COMMITTING = "committing"
    COMMITTED = "committed"
    ABORTED = "aborted"


NEXT_STATES: Final = {
    TransactionState.OPEN: {TransactionState.COMMITTING, TransactionState.ABORTED},
    TransactionState.COMMITTING: {TransactionState.COMMITTED, TransactionState.OPEN},
    TransactionState.COMMITTED: set(),
    TransactionState.ABORTED: set(),
}
UNFINISHED: Final = (TransactionState.OPEN, TransactionState.COMMITTING)


@dataclass(frozen=True, slots=True)
class TransactionRecord:
    """What is known of a transaction without opening it; times are seconds since the epoch.

    Args:
        id: its name, also that of its folder.
        state: where it is in its life.
        subtree: what it may change.
        is_ephemeral: whether it ends with its process.
        holder: who began it, for messages to others.
        lease: token of its lease.
        lease_seconds: for how long it is renewed each time.
        base_root, base_size, base_revision: the revision that its changes are relative to.
        began: when.
        changed: when its state changed last.
        new_root, new_revision: what its commit publishes; known shortly before it is published.
    """

    id: str
    state: TransactionState
    subtree: str
    is_ephemeral: bool
    holder: str
    lease: str
    lease_seconds: float
    base_root: Digest
    base_size: int
    base_revision: int
    began: float
    changed: float
    new_root: Digest | None = None
    new_revision: int | None = None


class TransactionTable:
    """The transactions of a repository.

    Args:
        state: the repository's.
    """

    def __init__(self, state: State) -> None:
        self._state = state

    def add(self, record: TransactionRecord) -> None:
        """Adds a transaction."""
        with self._state.writing() as connection:
            connection.execute(f"INSERT INTO transactions VALUES ({', '.join('?' * 14)})", _row(record))  # noqa: S608

    def find(self, transaction_id: str) -> TransactionRecord:
        """The transaction of this id.

        Raises:
            RepositoryError: there is none.
        """
        with self._state.reading() as connection:
            row = connection.execute("SELECT * FROM transactions WHERE id = ?", (transaction_id,)).fetchone()
        if row is None:
            raise RepositoryError(f"there is no transaction {transaction_id[:100]!r}")
        return _record(row)

    def unfinished(self) -> list[TransactionRecord]:
        """The transactions that are open or committing, oldest first."""
        with self._state.reading() as connection:
            query = "SELECT * FROM transactions WHERE state IN ('open', 'committing') ORDER BY began, id"
            return [_record(row) for row in connection.execute(query)]

    def advance(
        self, record: TransactionRecord, state: TransactionState, now: float, **fields: Any
    ) -> TransactionRecord:
        """Takes a transaction to another state.

        Args:
            record: what the caller believes it is.
            state: the new state.
            now: seconds since the epoch.
            fields: other fields of the record that change along.

        Raises:
            TransactionStateError: it is not in a state that leads there (any more).
        """
        with self._state.writing() as connection:
            current = self.find(record.id)
            if current.state is not state and state not in NEXT_STATES[current.state]:
                raise TransactionStateError(
                    f"transaction {record.id} is {current.state.value}, so it cannot become {state.value}"
                )
            advanced = replace(current, state=state, changed=now, **fields)
            connection.execute(_UPDATE, (*_row(advanced)[1:], record.id))
            if state not in UNFINISHED:
                connection.execute(_FORGET, (FINISHED_KEPT,))
        return advanced

    def update(self, record: TransactionRecord, **fields: Any) -> TransactionRecord:
        """Changes other fields than the state."""
        return self.advance(record, self.find(record.id).state, record.changed, **fields)


_FIELDS: Final = (
    "state", "subtree", "is_ephemeral", "holder", "lease", "lease_seconds", "base_root", "base_size", "base_revision",
    "began", "changed", "new_root", "new_revision",
)  # fmt: skip
_UPDATE: Final = f"UPDATE transactions SET {', '.join(f'{name} = ?' for name in _FIELDS)} WHERE id = ?"  # noqa: S608
_FORGET: Final = """
DELETE FROM transactions WHERE state IN ('committed', 'aborted') AND id NOT IN (
  SELECT id FROM transactions WHERE state IN ('committed', 'aborted') ORDER BY changed DESC LIMIT ?)"""


def _row(record: TransactionRecord) -> tuple[object, ...]:
    return (
        record.id,
        record.state.value,
        encode_name(record.subtree),
        int(record.is_ephemeral),
        record.holder,
        record.lease,
        record.lease_seconds,
        record.base_root.text,
        record.base_size,
        record.base_revision,
        record.began,
        record.changed,
        None if record.new_root is None else record.new_root.text,
        record.new_revision,
    )


def _record(row: Iterable[Any]) -> TransactionRecord:
    name, state, subtree, is_ephemeral, holder, lease, seconds, root, size, revision, began, changed, new, number = row
    return TransactionRecord(
        name,
        TransactionState(state),
        decode_name(subtree),
        bool(is_ephemeral),
        holder,
        lease,
        seconds,
        Digest.parse(root),
        size,
        revision,
        began,
        changed,
        None if new is None else Digest.parse(new),
        number,
    )
