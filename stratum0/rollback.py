"""Going back: an earlier revision's tree published as the newest revision (spec §7.3)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cdn.errors import RepositoryError
from cdn.history import DEFAULT_BRANCH, TRUNK_PREVIOUS, History, Tag
from cdn.telemetry import step
from stratum0.expiry import require_publishable
from stratum0.publisher import republish
from stratum0.revisions import MANAGED_TAGS, KnownRevision, resolve, tags_of

if TYPE_CHECKING:
    from stratum0.publisher import NewRoot
    from stratum0.repository import Head, Repository


@dataclass(frozen=True, slots=True)
class Rollback:
    """What going back came to.

    Args:
        target: the revision whose tree is current again.
        before: the number of the revision that was current.
        number: the number of the one that is current now.
        removed_tags: tags of later revisions, which are gone.
    """

    target: KnownRevision
    before: int
    number: int
    removed_tags: tuple[str, ...]


def rollback(repository: Repository, to: str = TRUNK_PREVIOUS) -> Rollback:
    """Publishes an earlier revision's tree as a new revision.

    Tags of revisions after the target are removed, and the target's own tag names the new revision. What was current
    stays readable by its number until garbage collection.

    Args:
        repository: which one.
        to: the target, as `stratum0.revisions.resolve` takes it; the revision before the current one if omitted.

    Raises:
        RepositoryError: there is no such revision, or it is the current one.
        CdnError: it could not be published; everything is as before.
    """
    require_publishable(repository)
    head = repository.head()
    if to == TRUNK_PREVIOUS and TRUNK_PREVIOUS not in tags_of(head):
        raise RepositoryError(f"{repository.name} has no revision to go back to: name one with --to")
    target = resolve(repository, to)
    if target.number >= head.revision:
        raise RepositoryError(f"{repository.name} is at {target.title} already")

    removed: list[str] = []

    def edit(before: Head, root: NewRoot, _moved: History) -> History:
        if before.manifest.root_catalog != head.root:
            raise RepositoryError(f"{repository.name} was published by somebody else meanwhile: look again, then retry")
        history, gone = rolled_back(tags_of(before), target, root)
        removed.extend(gone)
        return history

    with step("stratum0.revision.rollback", repository=repository.name, to=target.number):
        after = republish(repository, edit, source=target.root)
    return Rollback(target, head.revision, after.revision, tuple(removed))


def rolled_back(tags: History, target: KnownRevision, root: NewRoot) -> tuple[History, list[str]]:
    """The tags after going back, and the names of those that are gone."""
    is_gone = [tag for tag in tags.tags if tag.branch == DEFAULT_BRANCH and tag.revision > target.number]
    kept = tuple(tag for tag in tags.tags if tag not in is_gone and tag.name not in MANAGED_TAGS)
    if target.tag is not None:
        kept = tuple(_moved(tag, root) if tag.name == target.tag else tag for tag in kept)
    history = replace(tags, tags=kept).with_head(
        root.digest, revision=root.revision, timestamp=root.timestamp, root_catalog_bytes=root.size
    )
    return history, [tag.name for tag in is_gone if tag.name not in MANAGED_TAGS]


def _moved(tag: Tag, root: NewRoot) -> Tag:
    return replace(
        tag, root_catalog=root.digest, revision=root.revision, timestamp=root.timestamp, root_catalog_bytes=root.size
    )
