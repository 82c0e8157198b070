"""Garbage collection: marking what kept revisions need, sweeping the rest (spec §7.5).

Marking takes no lock and may take hours: what is published meanwhile is marked before anything is deleted. Sweeping
goes through the store folder by folder and deletes in batches; each batch holds the objects lock alone, looks again at
what is published and at what transactions rely on, and deletes what is still not needed. Between two batches everybody
else goes on. What was written since marking began, or since the oldest unfinished transaction did, is left for the next
time: nobody had to say yet that it is needed.

Root catalogs go first, so that whoever follows old revisions finds each of them whole or not at all.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cdn.certificate import CERTIFICATE_BYTES_MAX, Certificate
from cdn.errors import CdnError, DocumentError, LockHeldError, ObjectMissingError, RepositoryError
from cdn.objects import STAGING_PATH, Kind, ObjectName
from cdn.storage.base import StoredObject
from cdn.storage.paths import SHARDS
from cdn.telemetry import NullProgress, Progress, event, fault_point, step
from stratum0.documents import read_reflog, republish
from stratum0.information import status_date, update_status
from stratum0.locks import objects_lock, writers_lock
from stratum0.marks import ObjectMarks, name_of_path, record_of
from stratum0.revisions import KnownRevision, chain, of_head, of_tag, tags_of
from stratum0.transaction import protected_objects, records

if TYPE_CHECKING:
    from cdn.hashing import Digest
    from cdn.reflog import Reflog
    from stratum0.repository import Head, Repository

BATCH_OBJECTS: Final = 10_000
"""So many objects are looked for before some are deleted."""
HOLD_SECONDS: Final = 0.5
"""For about so long publishers may have to wait while objects are deleted."""
_DAY_SECONDS: Final = 86_400
_CLOCK_SLACK_SECONDS: Final = 1.0
"""File systems take their times from a clock that is a little behind."""


@dataclass(frozen=True, slots=True)
class Retention:
    """Which revisions are kept besides the current one and all that have tags.

    Args:
        revisions: so many of the newest revisions, the current one included.
        days: every revision that was current within so many days.
    """

    revisions: int = 1
    days: float = 0.0

    def keeps(self, index: int, replaced_at: float | None, now: float) -> bool:
        """Whether a revision is kept.

        Args:
            index: 0 for the current one, 1 for the one before, and so on.
            replaced_at: when the next one took its place, None for the current one.
            now: in seconds since the epoch.
        """
        if index < max(self.revisions, 1) or replaced_at is None:
            return True
        return replaced_at > now - self.days * _DAY_SECONDS


@dataclass(frozen=True, slots=True)
class Collection:
    """What a garbage collection did, or would have done.

    Args:
        is_dry_run: whether nothing was really removed.
        revisions_kept: revisions whose trees are whole afterwards.
        revisions_removed: root catalogs removed.
        objects_kept: objects that something kept needs.
        objects_removed: objects removed, root catalogs included.
        objects_spared: objects not needed but too young to be sure.
        bytes_freed: their size.
        bytes_kept: size of what remains.
        staged_removed: files that dead writers had left.
    """

    is_dry_run: bool
    revisions_kept: int
    revisions_removed: int = 0
    objects_kept: int = 0
    objects_removed: int = 0
    objects_spared: int = 0
    bytes_freed: int = 0
    bytes_kept: int = 0
    staged_removed: int = 0


def collect(
    repository: Repository, retention: Retention, *, dry_run: bool = False, progress: Progress | None = None
) -> Collection:
    """Removes the objects that no kept revision needs.

    Args:
        repository: which one.
        retention: what is kept.
        dry_run: only find out what would be removed.
        progress: where to report the advance.

    Raises:
        RepositoryError: the repository forbids it, or a kept revision is damaged; nothing was removed.
        CdnError: something could not be read or removed.
    """
    if not repository.head().manifest.garbage_collectable:
        raise RepositoryError(
            f"{repository.name} keeps every revision: allow garbage collection with "
            f"`cdn repo settings {repository.name} garbage_collectable=true`"
        )
    if not dry_run:
        repository.signer  # noqa: B018  # the reflog's new digest has to be signed: say now if that cannot be
    with (
        step("stratum0.garbage.collect", repository=repository.name, dry_run=dry_run) as told,
        tempfile.TemporaryDirectory(prefix="gc-", dir=repository.folder) as scratch,
    ):
        collector = _Collector(repository, retention, Path(scratch), dry_run=dry_run, progress=progress)
        result = collector.run()
        told.add(removed=result.objects_removed, freed=result.bytes_freed)
    return result


class _Collector:
    """One garbage collection."""

    def __init__(
        self, repository: Repository, retention: Retention, scratch: Path, *, dry_run: bool, progress: Progress | None
    ) -> None:
        self._repository = repository
        self._store = repository.store
        self._retention = retention
        self._dry_run = dry_run
        self._progress = progress or NullProgress()
        self._marks = ObjectMarks(scratch / "marks")
        self._seen = _SeenCatalogs(scratch / "catalogs.sqlite")
        self._marked_head: Head | None = None
        self._roots: set[Digest] = set()
        self._listed_roots: frozenset[Digest] | None = None
        self._spared_since = self._beginning()
        self._needed: tuple[int, AbstractSet[bytes]] = -1, frozenset()
        self._swept_roots: frozenset[str] = frozenset()
        self._result = Collection(dry_run, 0)

    def run(self) -> Collection:
        try:
            self._progress.start(None, "catalogs")
            while self._repository.head() is not self._marked_head:
                self._mark()
            fault_point("gc.marked")
            self._sweep()
            if not self._dry_run:
                self._finish()
        finally:
            self._seen.close()
        return replace(self._result, revisions_kept=len(self._roots))

    def _beginning(self) -> float:
        """A time that everything written from now on, or by an unfinished transaction, is not older than.

        It is the file system's own time, so that it compares with those of objects.
        """
        self._store.prepare()
        descriptor, path = tempfile.mkstemp(dir=os.path.join(self._store.root, STAGING_PATH))
        try:
            now = os.fstat(descriptor).st_mtime
        finally:
            os.close(descriptor)
            os.unlink(path)
        return min([now, *(record.began - _CLOCK_SLACK_SECONDS for record in records(self._repository))])

    # ------------------------------------------------------------------------------------------------------------- mark

    def _mark(self) -> None:
        """Marks everything that is needed by what is published now."""
        repository, head = self._repository, self._repository.head()
        self._progress.message("finding the revisions to keep")
        reflog = read_reflog(repository)
        kept = list(_kept(repository, head, self._retention, reflog))
        for revision in [*kept, *(of_tag(tag) for tag in tags_of(head).tags)]:
            self._mark_tree(revision)
        for name in (*head.manifest.objects, *self._attendants(reflog, kept)):
            self._marks.add(name)
        self._marked_head = head
        self._needed = -1, frozenset()

    def _mark_tree(self, revision: KnownRevision) -> None:
        if revision.root in self._roots:
            return
        self._progress.message(f"marking {revision.title}")
        try:
            self._mark_catalogs(revision)
        except (ObjectMissingError, DocumentError) as error:
            raise RepositoryError(
                f"{revision.title} of {self._repository.name} is damaged, so nothing was removed: {error}; "
                f"`cdn check {self._repository.name}` finds all damage"
            ) from error
        self._roots.add(revision.root)

    def _mark_catalogs(self, revision: KnownRevision) -> None:
        pending = [("", revision.root, revision.size)]
        while pending:
            path, digest, size = pending.pop()
            if not self._seen.add(digest):
                continue
            self._marks.add(ObjectName(digest, Kind.CATALOG))
            with self._repository.catalogs.load(digest, size=size, path=path) as catalog:
                for name, _ in catalog.references():
                    self._marks.add(name)
                pending += [(nested.path, nested.digest, nested.size) for nested in catalog.nested()]
            self._progress.advance()

    def _attendants(self, reflog: Reflog | None, kept: list[KnownRevision]) -> Iterator[ObjectName]:
        """Histories, certificates and metainfo that the manifests of kept revisions name (spec §7.5).

        Which ones those were is not known any more; so all since the oldest of them stay, and every certificate that
        the whitelist still lists.
        """
        if reflog is None:
            return
        listed_at = {entry.name.digest: entry.timestamp for entry in reflog.of_kind(Kind.CATALOG)}
        oldest = min((listed_at.get(revision.root, revision.timestamp) for revision in kept), default=0)
        whitelist = self._repository.whitelist()
        listed = set() if whitelist is None else {entry.fingerprint for entry in whitelist.entries}
        for entry in reflog.entries:
            if entry.name.kind is Kind.CATALOG:
                continue
            if entry.timestamp >= oldest:
                yield entry.name
            elif entry.name.kind is Kind.CERTIFICATE:
                with suppress(CdnError):
                    stored = self._repository.read_object(entry.name, size_max=2 * CERTIFICATE_BYTES_MAX)
                    certificate = Certificate.from_object(stored)
                    if any(certificate.fingerprint(each.digest.algorithm) == each for each in listed):
                        yield entry.name

    # ------------------------------------------------------------------------------------------------------------ sweep

    def _sweep(self) -> None:
        self._progress.start(len(SHARDS), "folders")
        self._progress.message("removing old root catalogs")
        roots = [candidate for candidate in self._old_roots() if self._is_garbage(candidate)]
        self._delete(roots)
        self._swept_roots = frozenset(root.path for root in roots)
        batch: list[StoredObject] = []
        for number, shard in enumerate(SHARDS):
            self._progress.message(f"sweeping data/{shard}")
            batch += self._garbage_in(number)
            while len(batch) >= BATCH_OBJECTS:
                self._delete(batch[:BATCH_OBJECTS])
                batch = batch[BATCH_OBJECTS:]
            self._progress.advance()
        self._delete(batch)

    def _old_roots(self) -> Iterator[StoredObject]:
        reflog = read_reflog(self._repository)
        for path in sorted(entry.name.path for entry in reflog.of_kind(Kind.CATALOG)) if reflog is not None else ():
            with suppress(ObjectMissingError, FileNotFoundError):
                status = os.stat(os.path.join(self._store.root, path))
                yield StoredObject(path, status.st_size, status.st_mtime)

    def _is_garbage(self, stored: StoredObject) -> bool:
        name = name_of_path(stored.path)
        if name is None or stored.modified >= self._spared_since:
            return False
        return record_of(name) not in self._needed_in(name.digest.value[0])

    def _needed_in(self, number: int) -> AbstractSet[bytes]:
        if self._needed[0] != number:
            self._needed = number, self._marks.shard(number)
        return self._needed[1]

    def _garbage_in(self, number: int) -> list[StoredObject]:
        """What is not needed in one folder of the store; counts the rest."""
        needed = self._needed_in(number)
        found = []
        kept = spared = kept_bytes = 0
        for stored in self._store.list(f"data/{SHARDS[number]}/"):
            name = name_of_path(stored.path)
            if stored.path in self._swept_roots:
                continue
            if name is not None and record_of(name) not in needed:
                if stored.modified < self._spared_since:
                    found.append(stored)
                    continue
                spared += 1
            else:
                kept += 1
            kept_bytes += stored.size
        self._count(objects_kept=kept, objects_spared=spared, bytes_kept=kept_bytes)
        return found

    def _delete(self, batch: list[StoredObject]) -> None:
        """Removes objects, unless somebody has come to need them since they were found."""
        if not batch:
            return
        if self._dry_run:
            self._count_removed(self._still_garbage(batch))
            return
        while batch:
            with objects_lock(self._repository.folder, alone=True):
                batch = self._still_garbage(batch)
                fault_point("gc.batch.before")
                tried, removed = self._delete_for_a_moment(batch)
            fault_point("gc.batch.after")
            self._count_removed(removed)
            batch = batch[tried:]

    def _delete_for_a_moment(self, batch: list[StoredObject]) -> tuple[int, list[StoredObject]]:
        """Deletes objects until the lock was held long enough; how many were tried, and which were removed."""
        clock = self._repository.clock
        until = clock.monotonic() + HOLD_SECONDS
        removed = []
        for tried, stored in enumerate(batch, start=1):
            if self._store.delete(stored.path):
                removed.append(stored)
            if clock.monotonic() >= until:
                return tried, removed
        return len(batch), removed

    def _still_garbage(self, batch: list[StoredObject]) -> list[StoredObject]:
        if self._repository.head() is not self._marked_head:
            self._mark()
            batch = [stored for stored in batch if self._is_garbage(stored)]
        relied_on = {stored.path for stored in batch}.intersection(protected_objects(self._repository))
        return [stored for stored in batch if stored.path not in relied_on]

    def _count_removed(self, removed: list[StoredObject]) -> None:
        self._count(
            objects_removed=len(removed),
            bytes_freed=sum(stored.size for stored in removed),
            revisions_removed=sum(1 for stored in removed if self._is_root(stored)),
        )

    def _is_root(self, stored: StoredObject) -> bool:
        name = name_of_path(stored.path)
        return name is not None and name.kind is Kind.CATALOG and name.digest in self._reflog_roots()

    def _reflog_roots(self) -> frozenset[Digest]:
        if self._listed_roots is None:
            reflog = read_reflog(self._repository)
            entries = () if reflog is None else reflog.of_kind(Kind.CATALOG)
            self._listed_roots = frozenset(entry.name.digest for entry in entries)
        return self._listed_roots

    def _count(self, **more: int) -> None:
        counted = {name: getattr(self._result, name) + count for name, count in more.items()}
        self._result = replace(self._result, **counted)

    # ----------------------------------------------------------------------------------------------------------- finish

    def _finish(self) -> None:
        repository = self._repository
        with suppress(LockHeldError), writers_lock(repository.folder, alone=True, timeout_seconds=0):
            self._count(staged_removed=self._store.sweep_staging(older_than=float("inf")))
        with repository.publishing():
            self._update_reflog()
            update_status(repository, last_gc=status_date(repository.clock.now()))
        event("stratum0.garbage.collected", repository=repository.name, bytes_freed=self._result.bytes_freed)

    def _update_reflog(self) -> None:
        """Takes what is gone out of the reflog and signs its new digest."""
        reflog = read_reflog(self._repository)
        if reflog is None:
            return
        gone = [entry.name for entry in reflog.entries if not self._store.exists(entry.name.path)]
        if gone:
            republish(self._repository, unlisted=gone)


def _kept(repository: Repository, head: Head, retention: Retention, reflog: Reflog | None) -> Iterator[KnownRevision]:
    """The current revision and those before it that are kept without a tag."""
    entries = () if reflog is None else reflog.of_kind(Kind.CATALOG)
    published_at = {entry.name.digest: float(entry.timestamp) for entry in entries}
    replaced_at: float | None = None
    now = repository.clock.now()
    for index, revision in enumerate(chain(repository, of_head(head))):
        if not retention.keeps(index, replaced_at, now):
            return
        yield revision
        replaced_at = published_at.get(revision.root, float(revision.timestamp))


class _SeenCatalogs:
    """The catalogs marked already, on disk, since there may be millions."""

    def __init__(self, file: Path) -> None:
        self._connection = sqlite3.connect(file, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = OFF")
        self._connection.execute("PRAGMA synchronous = OFF")
        self._connection.execute("CREATE TABLE seen (digest TEXT PRIMARY KEY) WITHOUT ROWID")

    def add(self, digest: Digest) -> bool:
        """Adds a catalog; False if it was there."""
        return self._connection.execute("INSERT OR IGNORE INTO seen VALUES (?)", (digest.text,)).rowcount == 1

    def close(self) -> None:
        self._connection.close()
