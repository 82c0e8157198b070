"""The commit: everything new is stored under new names, then one replacement makes it the repository (spec §7.2).

The order is objects, catalogs bottom-up, history, certificate, reflog, manifest; docs/decisions/0005-one-atomic-step.md
says why nothing but the last step can be seen by anybody. The names of the fault points tell how far a commit was when
a test killed it; `stratum0.recovery` puts right what is left then.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cdn.catalog.diff import diff
from cdn.catalog.entries import Entry
from cdn.catalog.nesting import AUTO_MARKER, CATALOG_MARKER
from cdn.catalog.paths import parent_of, prefixes
from cdn.catalog.schema import NestedReference
from cdn.catalog.tree import CatalogTree
from cdn.catalog.writer import CatalogBuilder
from cdn.compression import compress
from cdn.errors import CdnError, ConflictError, ObjectMissingError, RepositoryError
from cdn.hashing import Digest, digest_of
from cdn.history import History, Tag
from cdn.manifest import PLAIN_DIGEST_KEY
from cdn.objects import Kind, ObjectName
from cdn.reflog import Reflog
from cdn.telemetry import fault_point, step
from stratum0 import documents
from stratum0.apply import NewTree, apply
from stratum0.changes import name_of
from stratum0.expiry import require_publishable
from stratum0.levels import ApplyOptions
from stratum0.records import TransactionState
from stratum0.transaction import Revision
from stratum0.transaction_folders import WORK_FOLDER, work_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cdn.catalog.writer import FinishedCatalog
    from cdn.storage.base import ObjectStore
    from cdn.telemetry import Progress
    from stratum0.repository import Head, Repository
    from stratum0.transaction import Transaction

AUTO_TAG: Final = re.compile(r"generic(?:_[0-9]{1,9})?-\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)
"""What automatic tags are called (spec §7.1)."""


@dataclass(frozen=True, slots=True)
class NewRoot:
    """A root catalog that is stored and waits for its manifest.

    Args:
        digest: of the stored object.
        size: of the uncompressed file in bytes.
        plain_digest: SHA-256 of the uncompressed file.
        revision: what the catalog says its number is.
        timestamp: what the catalog says its `last_modified` is; becomes the manifest's T.
    """

    digest: Digest
    size: int
    plain_digest: bytes
    revision: int
    timestamp: int


# ----------------------------------------------------------------------------------------------------------- the commit


def commit(transaction: Transaction, *, tag: str | None, message: str, progress: Progress) -> Revision | None:
    """Publishes a transaction's changes; see `Transaction.commit`."""
    repository = transaction.repository
    require_publishable(repository)
    with step("stratum0.transaction.publish", repository=repository.name, id=transaction.id) as told:
        with repository.publishing():
            transaction.renew()
            head = repository.head()
            check_tag(repository, head, tag)
            check_rebase(transaction, head)
            fault_point("commit.objects.stored")
            transaction.advance(TransactionState.COMMITTING, new_root=None, new_revision=None)
            with _reopened_on_error(transaction):
                revision = _publish(transaction, head, tag, message, progress)
            number = head.revision if revision is None else revision.number
            transaction.finish(number)
            fault_point("commit.state.recorded")
        told.add(revision=number)
    return revision


def _publish(
    transaction: Transaction, head: Head, tag: str | None, message: str, progress: Progress
) -> Revision | None:
    repository = transaction.repository
    timestamp = next_timestamp(repository, head)
    with _written_meanwhile(repository.store):
        tree = _applied(transaction, head, timestamp, progress)
    if tree is None:
        if tag is not None:
            documents.republish(
                repository, history=tags_of(repository, head).with_tag(_tag_of_head(head, tag, message))
            )
        return None
    root = _new_root(tree.root, tree.finished, head.revision + 1, timestamp)
    fault_point("commit.catalogs.stored")
    transaction.advance(TransactionState.COMMITTING, new_root=root.digest, new_revision=root.revision)
    history, names = tagged(repository, tags_of(repository, head), root, tag=tag, message=message)
    progress.message("publishing")
    publish_root(repository, root, head, history)
    return Revision(root.revision, root.digest, root.timestamp, names, tree.catalogs, tree.warnings)


@contextmanager
def _written_meanwhile(store: ObjectStore) -> Iterator[None]:
    """Flushes what is stored while the block computes, so that the flush before publishing has little left to do."""
    failures: list[CdnError] = []

    def flush() -> None:
        try:
            store.flush()
        except CdnError as error:
            failures.append(error)

    flushing = threading.Thread(target=flush)
    flushing.start()
    try:
        yield
    finally:
        flushing.join()
    if failures:
        raise failures[0]


def _applied(transaction: Transaction, head: Head, timestamp: int, progress: Progress) -> NewTree | None:
    repository, settings = transaction.repository, transaction.repository.settings
    options = ApplyOptions(
        algorithm=settings.algorithm,
        compression=settings.compression,
        revision=head.revision + 1,
        timestamp=timestamp,
        ttl_seconds=settings.ttl_seconds,
        entries_min=settings.catalog_entries_min,
        entries_max=settings.catalog_entries_max,
        is_balanced=settings.catalog_entries_max > 0,
    )
    return apply(
        NestedReference("", head.root, head.root_size),
        transaction.staging,
        catalogs=repository.catalogs,
        store=repository.store,
        folder=transaction.folder / WORK_FOLDER,
        options=options,
        progress=progress,
    )


@contextmanager
def _reopened_on_error(transaction: Transaction) -> Iterator[None]:
    """After an error a transaction is open again, unless it happened when the manifest had been replaced already."""
    try:
        yield
    except BaseException:
        new_root = transaction.record.new_root
        if new_root is not None and transaction.repository.head().root == new_root:
            transaction.finish(transaction.record.new_revision)
        else:
            transaction.advance(TransactionState.OPEN, new_root=None, new_revision=None)
        raise


def next_timestamp(repository: Repository, head: Head) -> int:
    """The time of the next revision in seconds since the epoch: never before the one it follows, whatever the clock.

    Clients refuse manifests that are older than what they have (spec §11.4).
    """
    return max(int(repository.clock.now()), head.manifest.timestamp)


# -------------------------------------------------------------------------------------------------------------- rebase


def check_rebase(transaction: Transaction, head: Head) -> None:
    """Returns if the changes can be applied to HEAD as well as to the revision they were made for.

    That is so if nothing changed within the subtree since, and the directories above it are still directories. What
    balancing did to catalogs is no change. The cost follows what changed.

    Raises:
        ConflictError: it is not so.
    """
    record, repository = transaction.record, transaction.repository
    if record.base_root == head.root:
        return
    try:
        path = _obstacle(repository, record.base_root, head, record.subtree)
    except ObjectMissingError as error:
        raise ConflictError(
            f"revision {record.base_revision} of {repository.name}, to which transaction {record.id} belongs, was "
            f"removed by garbage collection: begin a new transaction"
        ) from error
    if path is not None:
        raise ConflictError(
            f"{path or '/'} was changed by somebody else between revision {record.base_revision}, when transaction "
            f"{record.id} began, and revision {head.revision} of {repository.name}: abort it and begin a new one"
        )


def _obstacle(repository: Repository, base_root: Digest, head: Head, subtree: str) -> str | None:
    """A path that keeps changes of a subtree from being applied to HEAD."""
    with CatalogTree(repository.catalogs, base_root) as base, CatalogTree(repository.catalogs, head.root) as current:
        for path in [*prefixes(subtree)][:0:-1]:
            before, after = base.find(path), current.find(path)
            was, is_now = _is_directory(before), _is_directory(after)
            if (was and not is_now) or (before is None and after is not None and not is_now):
                return path
        for change in diff(repository.catalogs, base_root, head.root, below=subtree):
            if not _is_by_balancing(change.path, base, current):
                return change.path
    return None


def _is_directory(entry: Entry | None) -> bool:
    return entry is not None and entry.is_directory


def _is_by_balancing(path: str, base: CatalogTree, current: CatalogTree) -> bool:
    name = name_of(path)
    if name == AUTO_MARKER:
        return True
    automatic = f"{parent_of(path)}/{AUTO_MARKER}"
    return name == CATALOG_MARKER and (base.find(automatic) is not None or current.find(automatic) is not None)


# ---------------------------------------------------------------------------------------------------------------- tags


def tagged(
    repository: Repository, history: History, root: NewRoot, *, tag: str | None = None, message: str = ""
) -> tuple[History, tuple[str, ...]]:
    """The tags after a new revision, and the names that it got besides `trunk`."""
    history = history.with_head(
        root.digest, revision=root.revision, timestamp=root.timestamp, root_catalog_bytes=root.size
    )
    names: list[str] = []
    settings = repository.settings
    if settings.auto_tag:
        history = without_old_tags(
            history,
            root.timestamp,
            keep_seconds=settings.auto_tag_keep_seconds,
            keep_count=settings.auto_tag_keep_count,
        )
        names.append(auto_tag_name(history, root.timestamp))
    if tag is not None:
        names.append(tag)
    for name in names:
        history = history.with_tag(Tag(name, root.digest, root.revision, root.timestamp, message, root.size))
    return history, tuple(names)


def tags_of(repository: Repository, head: Head) -> History:
    """The tags of a revision, also where there is no tag database yet."""
    return head.history or History(repository.name)


def auto_tag_name(history: History, timestamp: int) -> str:
    """The name of an automatic tag for this time that is not taken."""
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(timestamp))
    name, number = f"generic-{moment}", 0
    while name in history:
        number += 1
        name = f"generic_{number}-{moment}"
    return name


def without_old_tags(history: History, now: int, *, keep_seconds: float, keep_count: int) -> History:
    """Without the automatic tags that are too old or too many, one more being about to come.

    Args:
        history: the tags.
        now: seconds since the epoch.
        keep_seconds: how old they may get; 0 is no limit.
        keep_count: how many there may be; 0 is no limit.
    """
    automatic = [tag for tag in history.tags if AUTO_TAG.fullmatch(tag.name)]
    automatic.sort(key=lambda tag: (tag.revision, tag.timestamp), reverse=True)
    kept = automatic[: keep_count - 1] if keep_count else automatic
    gone = set(automatic) - {tag for tag in kept if not keep_seconds or tag.timestamp >= now - keep_seconds}
    return replace(history, tags=tuple(tag for tag in history.tags if tag not in gone)) if gone else history


def check_tag(repository: Repository, head: Head, tag: str | None) -> None:
    """Returns if a new revision can have this tag, or is to have none.

    Raises:
        UsageError: no tag can have this name.
        RepositoryError: there is one of this name.
    """
    from stratum0.tags import checked_tag_name

    if tag is None:
        return
    checked_tag_name(tag)
    if tag in tags_of(repository, head):
        raise RepositoryError(f"{repository.name} has a tag {tag!r} already: remove it first or choose another name")


def _tag_of_head(head: Head, name: str, message: str) -> Tag:
    return Tag(name, head.root, head.revision, head.manifest.timestamp, message, head.root_size)


# ------------------------------------------------------------------------------------------------------- root catalogs


def rewrite_root(repository: Repository, head: Head, source: Digest | None = None) -> NewRoot:
    """Stores a root catalog once more as the successor of HEAD: its revision, predecessor and time are new.

    The caller holds the locks of `Repository.publishing`.

    Args:
        repository: where.
        head: the revision to follow.
        source: the root catalog to take, HEAD's if omitted; rollback gives its target's (spec §7.3).

    Raises:
        CdnError: the source cannot be read, or the catalog not be stored.
    """
    with work_folder(repository) as folder:
        file = folder / "root"
        repository.catalogs.copy(source or head.root, file)
        settings, timestamp = repository.settings, next_timestamp(repository, head)
        with CatalogBuilder.modify(file) as builder:
            finished = builder.finish(
                revision=head.revision + 1,
                previous=head.root,
                last_modified=timestamp,
                ttl_seconds=settings.ttl_seconds,
            )
        stored = compress(Path(finished.file).read_bytes())
    digest = digest_of(settings.algorithm, stored)
    repository.store.put(ObjectName(digest, Kind.CATALOG).path, stored)
    return _new_root(digest, finished, head.revision + 1, timestamp)


def _new_root(digest: Digest, finished: FinishedCatalog, revision: int, timestamp: int) -> NewRoot:
    return NewRoot(digest, finished.size, finished.plain_digest, revision, timestamp)


# ------------------------------------------------------------------------------------------------------------- publish


def publish_root(repository: Repository, root: NewRoot, head: Head, history: History) -> Head:
    """Stores history and certificate, updates the reflog, signs, and replaces the manifest: the one atomic step.

    The caller holds the locks of `Repository.publishing` since before it read `head`.

    Args:
        repository: where.
        root: the root catalog.
        head: the revision it follows.
        history: the tags as they shall be.

    Raises:
        CdnError: something could not be stored or signed; what was published stays.
    """
    store, settings = repository.store, repository.settings
    previous = head.manifest.history
    successor = history.following(previous) if previous else history
    manifest = replace(
        head.manifest,
        root_catalog=root.digest,
        root_catalog_bytes=root.size,
        revision=root.revision,
        timestamp=root.timestamp,
        fqrn=repository.name,
        ttl_seconds=settings.ttl_seconds,
        garbage_collectable=settings.garbage_collectable,
        alternative_names=False,  # such names are not written here
        certificate=documents.store_certificate(store, repository.signer.certificate, settings.algorithm).digest,
        history=documents.store_history(store, successor, settings.algorithm).digest,
        extensions=_extensions(head, root),
    )
    fault_point("commit.history.stored")
    reflog = documents.read_reflog(repository) or Reflog(repository.name)
    listed = reflog.with_objects((*head.manifest.objects, *manifest.objects), root.timestamp)
    manifest = replace(manifest, reflog=documents.write_reflog(repository, listed))
    fault_point("commit.reflog.stored")
    store.flush()
    fault_point("commit.flush.done")
    fault_point("commit.manifest.before")
    documents.publish_manifest(repository, manifest)
    fault_point("commit.manifest.after")
    return repository.head()


def _extensions(head: Head, root: NewRoot) -> tuple[tuple[str, str], ...]:
    others = (pair for pair in head.manifest.extensions if pair[0] != PLAIN_DIGEST_KEY)
    return (*others, (PLAIN_DIGEST_KEY, root.plain_digest.hex()))


def republish(
    repository: Repository,
    edit: Callable[[Head, NewRoot, History], History],
    *,
    source: Digest | None = None,
) -> Head:
    """Publishes a tree that exists already as a new revision, as rollback does.

    Takes the locks, reads HEAD, stores the root catalog anew, lets `edit` make the history, publishes.

    Args:
        repository: where.
        edit: gets HEAD, the new root and the history with `trunk` already moved; returns the history to publish.
        source: root catalog of the tree; HEAD's if omitted.

    Raises:
        CdnError: something could not be stored or signed; what was published stays.
    """
    with repository.publishing():
        head = repository.head()
        root = rewrite_root(repository, head, source)
        moved = tags_of(repository, head).with_head(
            root.digest, revision=root.revision, timestamp=root.timestamp, root_catalog_bytes=root.size
        )
        return publish_root(repository, root, head, edit(head, root, moved))
