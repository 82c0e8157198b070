"""The commit: from changed catalogs to the one atomic step (spec §7.2).

The interface; see docs/decisions/0005-one-atomic-step.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cdn.hashing import Digest
from stratum0.parts import Head, RepositoryParts

if TYPE_CHECKING:
    from cdn.history import History


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


def create_root(repository: RepositoryParts, *, revision: int = 1) -> NewRoot:
    """Stores the root catalog of an empty repository, for `publish_root` with ``expected=None``.

    The caller holds `Locks.publishing`.
    """
    raise NotImplementedError


def rewrite_root(repository: RepositoryParts, head: Head, source: Digest | None = None) -> NewRoot:
    """Stores a root catalog once more as the successor of HEAD: its revision, predecessor and time are new.

    The caller holds `Locks.publishing`.

    Args:
        repository: where.
        head: the revision to follow.
        source: the root catalog to take, HEAD's if omitted; rollback gives its target's (spec §7.3).
    """
    raise NotImplementedError


def publish_root(
    repository: RepositoryParts,
    root: NewRoot,
    *,
    expected: Head | None,
    history: History | None,
    metainfo: Digest | None = None,
    before_manifest: Callable[[], None] | None = None,
) -> Head:
    """Stores history and certificate, updates the reflog, signs, and replaces the manifest: the one atomic step.

    The caller holds `Locks.publishing` since before it read `expected`.

    Args:
        repository: where.
        root: the root catalog.
        expected: the HEAD it follows; None for the first revision of all.
        history: the tags as they shall be; None for none.
        metainfo: digest of the object that describes the repository; that of `expected` if omitted.
        before_manifest: called when all that is left is the manifest.

    Raises:
        ConflictError: HEAD is not `expected` any more; nothing was published.
    """
    raise NotImplementedError


def republish(
    repository: RepositoryParts,
    edit: Callable[[Head, NewRoot, History], History],
    *,
    source: Digest | None = None,
    metainfo: Digest | None = None,
) -> Head:
    """Publishes a tree that exists already under a new revision: tags, rollback, key rotation.

    Takes the locks, reads HEAD, rewrites the root catalog, lets `edit` make the history, publishes.

    Args:
        repository: where.
        edit: gets HEAD, the new root and the history with `trunk` already moved; returns the history to publish.
        source: root catalog of the tree; HEAD's if omitted.
        metainfo: as in `publish_root`.
    """
    raise NotImplementedError
