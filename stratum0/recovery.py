"""What a process that died left behind, put right when the repository is opened next.

Whoever works on something holds a lock that ends with its process, so what is not locked is nobody's. Nothing here
waits for a lock: what is locked is alive and left alone.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cdn.errors import CdnError, LockHeldError, ObjectMissingError, StorageError
from cdn.hashing import Algorithm, Digest, digest_of
from cdn.keyfiles import write_file
from cdn.objects import REFLOG_PATH
from cdn.reflog import Reflog, checksum
from cdn.telemetry import event
from stratum0 import documents
from stratum0.lease import StateLeases
from stratum0.locks import FileLock, commit_lock, writers_lock
from stratum0.records import TransactionRecord, TransactionState, TransactionTable
from stratum0.transaction_folders import LOCK_FILE, TRANSACTIONS_FOLDER, folder_of

if TYPE_CHECKING:
    from stratum0.repository import Repository

_ENTRIES_PER_PUBLICATION: Final = 8
"""Root catalog, certificate, history and metainfo, of a revision and, where a reflog is begun, of the one before."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """What was found and done.

    Args:
        committed: ids of transactions whose revision is published but which did not live to say so.
        reopened: ids of staged transactions whose commit did not happen; they can be committed again.
        aborted: ids of transactions that died with their process.
        swept: files removed from the store's staging folder.
    """

    committed: tuple[str, ...] = ()
    reopened: tuple[str, ...] = ()
    aborted: tuple[str, ...] = ()
    swept: int = 0

    def __bool__(self) -> bool:
        return bool(self.committed or self.reopened or self.aborted or self.swept)


def recover(repository: Repository) -> Recovery:
    """Finishes or undoes what dead processes began; what living ones do is left alone.

    Cheap where there is nothing to do, so it is called whenever a repository is opened.

    Raises:
        CdnError: what is published cannot be read, so that nothing can be said about what became of a commit.
    """
    recovery = Recovery()
    for record in TransactionTable(repository.state).unfinished():
        if record.state is TransactionState.COMMITTING or record.is_ephemeral or _is_lost(repository, record):
            with suppress(LockHeldError):
                recovery = _recover_one(repository, record, recovery)
    _remove_unknown_folders(repository)
    _restore_reflog(repository)
    recovery = replace(recovery, swept=_sweep(repository))
    if recovery:
        event(
            "stratum0.repository.recover",
            level="warning",
            repository=repository.name,
            committed=recovery.committed,
            reopened=recovery.reopened,
            aborted=recovery.aborted,
            swept=recovery.swept,
        )
    return recovery


def settle(repository: Repository, record: TransactionRecord) -> TransactionRecord:
    """Says what became of a commit whose process died; the caller holds the transaction's lock.

    Returns:
        The record, committed if its revision is HEAD or HEAD came from it, else open again.

    Raises:
        CdnError: what is published cannot be read.
    """
    table, now = TransactionTable(repository.state), repository.clock.now()
    if record.new_root is not None and _is_published(repository, record.new_root, record.new_revision or 0):
        return table.advance(record, TransactionState.COMMITTED, now)
    return table.advance(record, TransactionState.OPEN, now, new_root=None, new_revision=None)


def _recover_one(repository: Repository, record: TransactionRecord, recovery: Recovery) -> Recovery:
    folder = folder_of(repository, record.id)
    with _folder_lock(folder):
        record = TransactionTable(repository.state).find(record.id)
        if record.state is TransactionState.COMMITTING:
            record = settle(repository, record)
            if record.state is TransactionState.COMMITTED:
                _forget(repository, record)
                return replace(recovery, committed=(*recovery.committed, record.id))
            recovery = replace(recovery, reopened=(*recovery.reopened, record.id))
        if record.state is TransactionState.OPEN and (record.is_ephemeral or not folder.is_dir()):
            TransactionTable(repository.state).advance(record, TransactionState.ABORTED, repository.clock.now())
            _forget(repository, record)
            reopened = tuple(name for name in recovery.reopened if name != record.id)
            return replace(recovery, reopened=reopened, aborted=(*recovery.aborted, record.id))
    return recovery


def _folder_lock(folder: Path) -> AbstractContextManager[object]:
    """The lock of whoever works on a transaction; where there is no folder nobody does."""
    return FileLock(folder / LOCK_FILE, timeout_seconds=0) if folder.is_dir() else nullcontext()


def _is_lost(repository: Repository, record: TransactionRecord) -> bool:
    return not folder_of(repository, record.id).is_dir()


def _forget(repository: Repository, record: TransactionRecord) -> None:
    StateLeases(repository.state).release(record.lease)
    shutil.rmtree(folder_of(repository, record.id), ignore_errors=True)


def _remove_unknown_folders(repository: Repository) -> None:
    """Removes folders that belong to no unfinished transaction."""
    transactions = repository.folder / TRANSACTIONS_FOLDER
    if not _unknown(repository, transactions):
        return
    with repository.state.writing():  # nobody begins a transaction meanwhile
        for folder in _unknown(repository, transactions):
            with suppress(LockHeldError, StorageError), FileLock(folder / LOCK_FILE, timeout_seconds=0):
                shutil.rmtree(folder, ignore_errors=True)


def _unknown(repository: Repository, transactions: Path) -> list[Path]:
    try:
        folders = [folder for folder in transactions.iterdir() if folder.is_dir()]
    except FileNotFoundError:
        return []
    known = {record.id for record in TransactionTable(repository.state).unfinished()} if folders else set()
    return [folder for folder in folders if folder.name not in known]


def _sweep(repository: Repository) -> int:
    """Removes unfinished objects from the store's staging folder, if nobody is storing anything."""
    with suppress(LockHeldError), writers_lock(repository.folder, alone=True, timeout_seconds=0):
        return repository.store.sweep_staging(older_than=math.inf)
    return 0


def _is_published(repository: Repository, root: Digest, revision: int) -> bool:
    """Whether a root catalog is HEAD's or that of a revision before it."""
    head = repository.head()
    current: Digest | None = head.root
    while current is not None and current != root:
        try:
            with repository.catalogs.load(current) as catalog:
                if catalog.revision <= revision:
                    return False
                current = catalog.previous
        except (
            ObjectMissingError
        ):  # removed by garbage collection; the changes are found to be there already, or refused
            return False
    return current == root


# ---------------------------------------------------------------------------------------------------------- the reflog


def _restore_reflog(repository: Repository) -> None:
    """Makes reflog, its kept checksum and the manifest agree again, which a kill between their replacements prevents.

    A reflog that lists objects which were never published is taken back to what the manifest says. One that was damaged
    otherwise is left for `check` to find.
    """
    with suppress(CdnError, OSError):
        head = repository.head()
        kept = documents.kept_reflog_checksum(repository)
        served = Path(repository.store.root, REFLOG_PATH)
        is_newer = kept is None or served.stat().st_mtime_ns > _checksum_file(repository).stat().st_mtime_ns
        if kept == head.manifest.reflog and not is_newer:
            return
        with commit_lock(repository.folder, timeout_seconds=0):
            _agree(repository, repository.head().manifest.reflog, is_newer=is_newer)


def _agree(repository: Repository, signed: Digest | None, *, is_newer: bool) -> None:
    reflog = documents.read_reflog(repository)
    if reflog is None or signed is None:
        return
    data = repository.store.read(REFLOG_PATH, size_max=documents.REFLOG_BYTES_MAX)
    if digest_of(signed.algorithm, data) == signed:
        write_file(_checksum_file(repository), f"{signed}\n".encode(), 0o644, replace=True)
        return
    for count in range(1, _ENTRIES_PER_PUBLICATION + 1):
        shorter = replace(reflog, entries=reflog.entries[:-count])
        if _digest(shorter, signed.algorithm) == signed:
            documents.write_reflog(repository, shorter)
            return
    if is_newer:
        documents.write_reflog(repository, reflog)


def _checksum_file(repository: Repository) -> Path:
    return repository.folder / documents.REFLOG_CHECKSUM_FILE


def _digest(reflog: Reflog, algorithm: Algorithm) -> Digest:
    with tempfile.TemporaryDirectory(prefix="reflog-") as folder:
        file = Path(folder, "reflog")
        reflog.write(file)
        return checksum(file, algorithm)
