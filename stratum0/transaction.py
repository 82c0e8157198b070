"""Transactions: one set of changes that becomes one revision or nothing (docs/decisions/0004-transactions.md).

A transaction has a record and a lease in ``state.sqlite`` and a folder of its own, ``transactions/<id>``, with the
staged changes. Whoever works on it holds the lock in that folder, so a transaction belongs to one process at a time and
comes free when that process dies: a *staged* one then waits to be opened again, an *ephemeral* one is cleaned up by
whoever opens the repository next.
"""

from __future__ import annotations

import getpass
import os
import secrets
import shutil
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from cdn.catalog.tree import CatalogTree
from cdn.errors import (
    LeaseHeldError,
    LockHeldError,
    ObjectMissingError,
    StorageError,
    TransactionStateError,
    UsageError,
)
from cdn.hashing import Digest
from cdn.telemetry import NullProgress, Progress, event
from stratum0.changes import Change, ChangeKind, name_of
from stratum0.editing import MARKERS, Editing, Source, checked_path, objects_of
from stratum0.lease import Lease, LeaseTable, StateLeases
from stratum0.locks import FileLock, objects_lock, writers_lock
from stratum0.overlay import Overlay
from stratum0.records import UNFINISHED, TransactionRecord, TransactionState, TransactionTable
from stratum0.staging import Staging
from stratum0.transaction_folders import CHANGES_FILE, LOCK_FILE, folder_of, new_folder

if TYPE_CHECKING:
    from types import TracebackType

    from stratum0.content import StoredContent
    from stratum0.repository import Repository
    from stratum0.staging import Row

__all__ = ["Revision", "Transaction", "TransactionRecord", "TransactionState", "begin", "protected_objects", "records"]

LEASE_SECONDS: Final = 7200.0
_TAKEN_SECONDS: Final = 10.0
"""How long a command waits for another one that works on the same transaction."""
_RENEW_AFTER: Final = 0.1
"""A lease is renewed when this part of it has passed, so that bulk staging does not write to the state each time."""


@dataclass(frozen=True, slots=True)
class Revision:
    """What a commit published.

    Args:
        number: its number.
        root: digest of its root catalog.
        timestamp: when, in seconds since the epoch.
        tags: names it was given, `trunk` not among them.
        catalogs_written: how many catalogs are new.
        warnings: sentences for the publisher.
    """

    number: int
    root: Digest
    timestamp: int
    tags: tuple[str, ...] = ()
    catalogs_written: int = 0
    warnings: tuple[str, ...] = ()


def begin(
    repository: Repository,
    subtree: str = "",
    *,
    ephemeral: bool = False,
    holder: str | None = None,
    lease_seconds: float = LEASE_SECONDS,
) -> Transaction:
    """Begins a transaction.

    Args:
        repository: where.
        subtree: path of what it may change; ``/`` and the empty string are everything.
        ephemeral: whether it ends with this process.
        holder: who changes it, for messages to others; user, machine and process if omitted.
        lease_seconds: for how long others are kept off after the last sign of life.

    Raises:
        LeaseHeldError: somebody else holds a lease on an overlapping subtree.
        UsageError: `subtree` is no path, or one that nobody may change.
    """
    subtree = checked_path(subtree.rstrip("/"), "")
    holder = holder or default_holder()
    try:
        transaction = _begin(repository, subtree, ephemeral, holder, lease_seconds)
    except LeaseHeldError:
        from stratum0.recovery import recover

        recover(repository)  # whoever holds it may have died meanwhile
        transaction = _begin(repository, subtree, ephemeral, holder, lease_seconds)
    event("stratum0.transaction.begin", repository=repository.name, id=transaction.id, subtree=subtree or "/")
    return transaction


def _begin(repository: Repository, subtree: str, ephemeral: bool, holder: str, seconds: float) -> Transaction:  # noqa: FBT001
    """Lease, record and folder, all or nothing: a lease without a record would keep others off for nothing."""
    with ExitStack() as undo:
        with repository.state.writing():
            now = repository.clock.now()
            lease = StateLeases(repository.state).acquire(subtree, holder, seconds, now)
            head = repository.head()  # not before the lease, or somebody could publish to the subtree in between
            record = TransactionRecord(
                _new_id(now),
                TransactionState.OPEN,
                subtree,
                ephemeral,
                holder,
                lease.token,
                seconds,
                head.root,
                head.root_size,
                head.revision,
                now,
                now,
            )
            folder, lock = new_folder(repository, record.id)
            undo.callback(shutil.rmtree, folder, ignore_errors=True)
            undo.push(lock)
            TransactionTable(repository.state).add(record)
        undo.callback(_give_up, repository, record)
        transaction = Transaction(repository, record, lease, lock)
        repository.give_to_owner(folder, folder / LOCK_FILE, folder / CHANGES_FILE)
        undo.pop_all()
    return transaction


def records(repository: Repository) -> list[TransactionRecord]:
    """All transactions that are not finished, oldest first."""
    return TransactionTable(repository.state).unfinished()


def protected_objects(repository: Repository) -> Iterator[str]:
    """Paths of the objects that unfinished transactions rely on; garbage collection spares them.

    Raises:
        StorageError: the changes of one cannot be read.
    """
    for record in records(repository):
        file = folder_of(repository, record.id) / CHANGES_FILE
        try:
            if file.exists():
                with Staging(file) as staging:
                    yield from staging.objects()
        except StorageError:
            if file.exists():  # else it was finished a moment ago: what it relied on is published or not needed
                raise


def default_holder() -> str:
    """This user on this machine in this process."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()} (process {os.getpid()})"


class Transaction(Editing):
    """An open transaction, and the `ChangeSink` of scans and tarballs; one thread at a time.

    As a context manager it commits when left normally and aborts on an error. To let go of a staged one without ending
    it, call `close`.
    """

    def __init__(self, repository: Repository, record: TransactionRecord, lease: Lease, lock: FileLock) -> None:
        self.repository: Final = repository
        self.record = record
        self.id: Final = record.id
        self.subtree = record.subtree
        self.folder: Final = folder_of(repository, record.id)
        self._lease = lease
        self._is_closed = False
        self._is_batch = False
        self._state = repository.state  # this one, whatever the repository opens and closes
        self._leases: LeaseTable = StateLeases(self._state)
        self._table = TransactionTable(self._state)
        self._tree = CatalogTree(repository.catalogs, record.base_root, record.base_size)
        self._held = ExitStack()
        self._held.push(lock)
        self.staging: Final = self._held.enter_context(
            Staging(self.folder / CHANGES_FILE, durable=not record.is_ephemeral)
        )
        self._held.push(self._tree)
        if record.is_ephemeral:  # it may be storing at any time
            self._held.enter_context(writers_lock(repository.folder))
        self._overlay = Overlay(self._tree, self.staging)

    @classmethod
    def open(cls, repository: Repository, transaction_id: str) -> Transaction:
        """Comes back to a staged transaction.

        Raises:
            RepositoryError: there is none of this id.
            TransactionStateError: it is finished, or another process is using it.
            LeaseHeldError: its lease expired and somebody else has the subtree now.
        """
        table = TransactionTable(repository.state)
        record = table.find(transaction_id)
        if record.state not in UNFINISHED:
            raise TransactionStateError(f"transaction {record.id} is {record.state.value} already")
        try:
            lock = FileLock(folder_of(repository, record.id) / LOCK_FILE, timeout_seconds=_TAKEN_SECONDS)
        except LockHeldError:
            raise TransactionStateError(
                f"transaction {record.id} is being used by another process ({record.holder} began it): try again later"
            ) from None
        try:
            record = table.find(transaction_id)
            if record.state is TransactionState.COMMITTING:  # its process died; the lock says that it is gone
                from stratum0.recovery import settle

                record = settle(repository, record)
            if record.state is not TransactionState.OPEN or record.is_ephemeral:
                raise TransactionStateError(f"transaction {record.id} is {record.state.value} already")
            lease = Lease(record.lease, record.subtree, record.holder, record.began, 0.0)
            transaction = cls(repository, record, lease, lock)
        except BaseException:
            lock.close()
            raise
        try:
            transaction.renew()
        except BaseException:
            transaction.close()
            raise
        return transaction

    def close(self) -> None:
        """Lets go of a staged transaction, which can be opened again; an ephemeral one is aborted."""
        if self._is_closed:
            return
        if self.record.is_ephemeral and self.record.state is TransactionState.OPEN:
            self.abort()
        self._is_closed = True
        self._held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None and self.record.state is TransactionState.OPEN:
                self.commit()
        finally:
            if self.record.state is TransactionState.OPEN:  # also if it could not be committed: nobody comes back to it
                self.abort()
            self.close()

    # ---------------------------------------------------------------------------------------------------------- staging

    @property
    def base_root(self) -> Digest:
        """Digest of the root catalog that the changes are relative to."""
        return self.record.base_root

    @property
    def base_tree(self) -> CatalogTree:
        """The tree that the changes are relative to."""
        return self._tree

    @property
    def overlay(self) -> Overlay:
        """The tree as it would be after a commit.

        Raises:
            TransactionStateError: the transaction is not open.
        """
        self._check_open()
        return self._overlay

    def stage(self, changes: Iterable[Change], found: Iterable[str]) -> None:
        """Records changes; see `stratum0.changes.ChangeSink`.

        Raises:
            ObjectMissingError: an object is not in the store (any more); nothing was recorded.
            UsageError: a path is none that this transaction may change; nothing was recorded.
            TransactionStateError: the transaction is not open.
        """
        with self._staging_with(found) as staging:
            staging.record(self._admitted(changes))

    def stage_new(self, rows: Iterable[Row], found: Iterable[str]) -> None:
        """Records new files; see `stratum0.changes.ChangeSink`.

        Raises:
            ObjectMissingError, TransactionStateError: as `stage`.
        """
        with self._staging_with(found) as staging:
            staging.record_new(rows)

    @contextmanager
    def _staging_with(self, found: Iterable[str]) -> Iterator[Staging]:
        """The staging, to record what relies on objects that the store had and, while this lasts, has."""
        self._check_open()
        self._keep_lease()
        with objects_lock(self.repository.folder):
            if not self._is_batch:
                self._make_durable()
            self._check_present(found)
            yield self.staging

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Makes the operations within the block one: all are staged or, after an error, none.

        Each by itself waits until what it stored and recorded is on the disk; a batch waits once.
        """
        self._check_open()
        with objects_lock(self.repository.folder), self.staging.batch():
            self._is_batch = True
            try:
                yield
                self._make_durable()
            finally:
                self._is_batch = False

    def _make_durable(self) -> None:
        """What was stored must not be on the disk later than what says that it was."""
        if not self.record.is_ephemeral:
            self.repository.store.flush()

    def changes(self, path: str = "") -> Iterator[Change]:
        """The net changes so far at and below a path, parents before what is below them."""
        self._check_open()
        return self.staging.changes(path)

    def _admitted(self, changes: Iterable[Change]) -> Iterator[Change]:
        subtree = self.subtree
        for change in changes:
            if not change.path and (change.entry is None or not change.entry.is_directory):
                raise UsageError("the root of a repository can be nothing but a directory")
            checked_path(change.path, subtree)
            if change.entry is not None and name_of(change.path) in MARKERS and not change.entry.is_file:
                raise UsageError(f"{change.path} can only be a regular file: its name marks a nested catalog")
            yield change

    def _check_present(self, found: Iterable[str]) -> None:
        """Refuses objects that are gone. What was written since the transaction began is spared, whoever wrote it."""
        store = self.repository.store
        for path in found:
            if not store.exists(path):
                raise ObjectMissingError(path, "the repository's storage any more: it was removed meanwhile")

    def _store(self, source: Source) -> StoredContent:
        content = self.repository.content
        with writers_lock(self.repository.folder):
            if isinstance(source, bytes):
                return content.store_bytes(source)
            if isinstance(source, str | os.PathLike):
                return content.store_path(source)
            return content.store_stream(source)

    def _take_away(self, path: str, *, is_in_base: bool, moved: Iterable[Change] = ()) -> None:
        self._check_open()
        self._keep_lease()
        gone = (Change(path, ChangeKind.REMOVE),) if is_in_base else ()
        with objects_lock(self.repository.folder):
            self.staging.record_removal(path, gone, self._present(moved))

    def _present(self, moved: Iterable[Change]) -> Iterator[Change]:
        for change in self._admitted(moved):
            if change.entry is not None:
                self._check_present(objects_of(change.entry))
            yield change

    def _now_ns(self) -> int:
        return int(self.repository.clock.now() * 1_000_000_000)

    def _owner(self) -> tuple[int, int]:
        return self.repository.settings.owner_ids or (os.getuid(), os.getgid())

    # -------------------------------------------------------------------------------------------------------- the lease

    @property
    def lease(self) -> Lease:
        """The lease as it was when it was last renewed."""
        return self._lease

    def renew(self) -> None:
        """Renews the lease, or takes it anew if it expired and is free.

        Raises:
            LeaseHeldError: it expired and somebody else has the subtree now.
        """
        now, seconds = self.repository.clock.now(), self.record.lease_seconds
        renewed = self._leases.renew(self._lease, seconds, now)
        if renewed is None:
            renewed = self._leases.acquire(self.subtree, self.record.holder, seconds, now)
            self.record = self._table.update(self.record, lease=renewed.token)
        self._lease = renewed

    def _keep_lease(self) -> None:
        left = self._lease.expires - self.repository.clock.now()
        if left < self.record.lease_seconds * (1 - _RENEW_AFTER):
            self.renew()

    # ----------------------------------------------------------------------------------------------------------- ending

    def commit(self, *, tag: str | None = None, message: str = "", progress: Progress | None = None) -> Revision | None:
        """Publishes the changes as one revision.

        Args:
            tag: a name for the revision; if nothing changed, for the one that is current.
            message: a description that goes with it.
            progress: told how far it is.

        Returns:
            The revision, None if the changes change nothing.

        Raises:
            ConflictError: the subtree changed since the transaction began; the transaction stays open.
            LeaseHeldError: the lease expired and somebody else has the subtree; the transaction stays open.
            CdnError: it could not be published; the transaction stays open.
        """
        from stratum0.publisher import commit

        self._check_ending()
        return commit(self, tag=tag, message=message, progress=progress or NullProgress())

    def abort(self) -> None:
        """Ends the transaction and forgets its changes."""
        self._check_ending()
        self._end(TransactionState.ABORTED)
        event("stratum0.transaction.abort", repository=self.repository.name, id=self.id)

    def advance(self, state: TransactionState, **fields: object) -> None:
        """Takes the transaction to another state; for those who commit it."""
        self.record = self._table.advance(self.record, state, self.repository.clock.now(), **fields)

    def finish(self, revision: int | None) -> None:
        """Says that the changes are published, or were nothing, and forgets them; for those who commit it."""
        self._end(TransactionState.COMMITTED)
        event("stratum0.transaction.commit", repository=self.repository.name, id=self.id, revision=revision)

    def _end(self, state: TransactionState) -> None:
        with self._state.writing():  # both or neither, or a lease would outlive its transaction
            self.advance(state)
            self._leases.release(self.record.lease)
        self._held.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _check_ending(self) -> None:
        self._check_open()
        if self._is_batch:
            raise TransactionStateError(f"transaction {self.id} cannot end in the middle of a batch")

    def _check_open(self) -> None:
        if self.record.state is not TransactionState.OPEN:
            raise TransactionStateError(f"transaction {self.id} is {self.record.state.value} already")
        if self._is_closed:
            raise TransactionStateError(f"transaction {self.id} was let go: open it again")


def _give_up(repository: Repository, record: TransactionRecord) -> None:
    with repository.state.writing():
        TransactionTable(repository.state).advance(record, TransactionState.ABORTED, repository.clock.now())
        StateLeases(repository.state).release(record.lease)


def _new_id(now: float) -> str:
    return time.strftime("%Y%m%d-%H%M%S-", time.gmtime(now)) + secrets.token_hex(3)
