"""Transactions: one set of changes that becomes one revision or nothing.

The interface; see docs/decisions/0004-transactions.md.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, BinaryIO, Final, Self

from cdn.telemetry import NullProgress, Progress
from stratum0.changes import Change
from stratum0.parts import Head, RepositoryParts

if TYPE_CHECKING:
    from types import TracebackType

    from cdn.catalog.entries import Entry
    from cdn.hashing import Digest

LEASE_SECONDS: Final = 7200.0


class TransactionState(Enum):
    """Where a transaction is in its life."""

    OPEN = "open"
    COMMITTING = "committing"
    COMMITTED = "committed"
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True)
class TransactionRecord:
    """What ``state.sqlite`` says of a transaction; times are seconds since the epoch."""

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


@dataclass(frozen=True, slots=True)
class Revision:
    """What a commit published."""

    number: int
    root: Digest
    timestamp: int
    tags: tuple[str, ...] = ()
    catalogs_written: int = 0
    warnings: tuple[str, ...] = ()


def begin(
    repository: RepositoryParts,
    subtree: str = "",
    *,
    ephemeral: bool = False,
    holder: str | None = None,
    lease_seconds: float = LEASE_SECONDS,
) -> Transaction:
    """Begins a transaction on a subtree.

    Raises:
        LeaseHeldError: somebody else holds a lease on an overlapping subtree.
        UsageError: `subtree` is no path.
    """
    raise NotImplementedError


def records(repository: RepositoryParts) -> list[TransactionRecord]:
    """All transactions that are not finished, oldest first."""
    raise NotImplementedError


def protected_objects(repository: RepositoryParts) -> Iterator[str]:
    """Paths of the objects that unfinished transactions rely on; garbage collection spares them."""
    raise NotImplementedError


class Transaction:
    """An open transaction; a context manager that commits when left normally and aborts on an error.

    Begin one with `begin`, come back to a staged one with `Transaction.open`. One thread at a time.
    """

    repository: RepositoryParts
    id: str
    subtree: str
    base: Head

    @classmethod
    def open(cls, repository: RepositoryParts, transaction_id: str) -> Transaction:
        """Comes back to a staged transaction.

        Raises:
            RepositoryError: there is none of this id.
            TransactionStateError: it is finished, or another process is using it.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Lets go of a staged transaction without ending it; an ephemeral one is aborted."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    # changes: the ChangeSink of scan and tarball

    def stage(self, changes: Iterable[Change], objects: Iterable[str]) -> None:
        """See `stratum0.changes.ChangeSink`."""
        raise NotImplementedError

    def changes(self) -> Iterator[Change]:
        """The net changes so far, parents before what is below them."""
        raise NotImplementedError

    # the merged view

    def find(self, path: str) -> Entry | None:
        """The entry at a path as the tree would be after a commit."""
        raise NotImplementedError

    def listing(self, path: str) -> Iterator[Entry]:
        """The entries of a directory as it would be after a commit, in byte order of their names."""
        raise NotImplementedError

    # editing

    def put_file(
        self,
        path: str,
        source: bytes | str | os.PathLike[str] | BinaryIO,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        mtime_ns: int | None = None,
        parents: bool = False,
    ) -> Entry:
        """Stores a regular file."""
        raise NotImplementedError

    def symlink(self, path: str, target: str, *, parents: bool = False) -> Entry:
        """Makes a symbolic link."""
        raise NotImplementedError

    def mkdir(self, path: str, *, mode: int = 0o755, parents: bool = False) -> Entry:
        """Makes a directory; with `parents` also those above it, and one that is there is no error."""
        raise NotImplementedError

    def remove(self, path: str, *, recursive: bool = False) -> None:
        """Removes a path; a directory that is not empty only if `recursive`."""
        raise NotImplementedError

    def move(self, source: str, destination: str) -> None:
        """Gives a path, and everything below it, another name."""
        raise NotImplementedError

    def chmod(self, path: str, mode: int) -> Entry:
        """Changes the permission bits."""
        raise NotImplementedError

    def chown(self, path: str, uid: int | None = None, gid: int | None = None) -> Entry:
        """Changes the owner."""
        raise NotImplementedError

    def utime(self, path: str, mtime_ns: int) -> Entry:
        """Changes the modification time, in nanoseconds since the epoch."""
        raise NotImplementedError

    def set_xattrs(self, path: str, xattrs: dict[bytes, bytes]) -> Entry:
        """Replaces the extended attributes."""
        raise NotImplementedError

    # ending

    def renew(self) -> None:
        """Renews the lease, or takes it anew if it expired and nobody else has it."""
        raise NotImplementedError

    def commit(self, *, tag: str | None = None, message: str = "", progress: Progress | None = None) -> Revision | None:
        """Publishes the changes as one revision; None if they change nothing.

        Raises:
            ConflictError: the subtree changed since the transaction began.
            LeaseHeldError: the lease expired and somebody else has the subtree.
        """
        progress = progress or NullProgress()
        raise NotImplementedError

    def abort(self) -> None:
        """Ends the transaction and forgets its changes."""
        raise NotImplementedError
