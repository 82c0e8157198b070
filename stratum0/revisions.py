"""What a user means by a revision: a tag's name, a number, ``trunk``, or the digest of a root catalog."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cdn.errors import DocumentError, ObjectMissingError, RepositoryError
from cdn.hashing import Digest
from cdn.history import TRUNK, TRUNK_PREVIOUS, History, Tag

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stratum0.repository import Head, Repository

MANAGED_TAGS: Final = (TRUNK, TRUNK_PREVIOUS)
"""Names that move by themselves."""


@dataclass(frozen=True, slots=True)
class KnownRevision:
    """A revision that can be read.

    Args:
        number: its number.
        root: digest of its root catalog.
        size: of the uncompressed root catalog in bytes, 0 if unknown.
        timestamp: when it was published, in seconds since the epoch.
        tag: the tag by which it was named, None if it was not.
    """

    number: int
    root: Digest
    size: int
    timestamp: int
    tag: str | None = None

    @property
    def title(self) -> str:
        """How to call it in a sentence."""
        return f"revision {self.number} ({self.tag})" if self.tag else f"revision {self.number}"


def resolve(repository: Repository, text: str) -> KnownRevision:
    """Finds the revision a user means; a tag's name goes before a number.

    Raises:
        RepositoryError: there is none such, or it is not kept any more.
        CdnError: a catalog on the way to it cannot be read.
    """
    head = repository.head()
    tags = tags_of(head)
    if text in tags:
        return of_tag(tags.tag(text))
    if text in {TRUNK, "HEAD"}:
        return of_head(head)
    if text.isascii() and text.isdigit() and len(text) < 19:
        return _numbered(repository, head, int(text))
    try:
        digest = Digest.parse(text)
    except DocumentError:
        raise RepositoryError(_unknown(repository.name, text, tags)) from None
    return _of_root(repository, digest)


def of_head(head: Head) -> KnownRevision:
    """The current revision."""
    return KnownRevision(head.revision, head.root, head.root_size, head.manifest.timestamp)


def of_tag(tag: Tag) -> KnownRevision:
    """The revision a tag names."""
    return KnownRevision(tag.revision, tag.root_catalog, tag.root_catalog_bytes, tag.timestamp, tag.name)


def tags_of(head: Head) -> History:
    """The tags, also where there is no tag database."""
    return head.history or History(head.manifest.fqrn or "")


def chain(repository: Repository, start: KnownRevision) -> Iterator[KnownRevision]:
    """A revision and those before it, as far back as they are kept.

    Raises:
        CdnError: a root catalog is damaged.
    """
    revision: KnownRevision | None = start
    while revision is not None:
        with repository.catalogs.load(revision.root, size=revision.size) as catalog:
            previous = catalog.previous
        yield revision
        if previous is None:
            return
        try:
            older = _of_root(repository, previous)
        except ObjectMissingError:  # collected
            return
        revision = older if older.number < revision.number else None


def _numbered(repository: Repository, head: Head, number: int) -> KnownRevision:
    if number == head.revision:
        return of_head(head)
    tagged = [of_tag(tag) for tag in tags_of(head).tags]
    for revision in tagged:
        if revision.number == number:
            return revision
    if number > head.revision or number < 1:
        raise RepositoryError(f"{repository.name} has no revision {number}: it is at revision {head.revision}")
    # From the nearest one above that is known; of two equally near ones HEAD's own line counts.
    above = [revision for revision in (of_head(head), *tagged) if revision.number > number]
    for start in sorted(above, key=lambda revision: revision.number):
        for revision in chain(repository, start):
            if revision.number == number:
                return revision
            if revision.number < number:
                break
    raise RepositoryError(
        f"revision {number} of {repository.name} is not kept any more: `cdn tag list {repository.name}` shows which are"
    )


def _of_root(repository: Repository, root: Digest) -> KnownRevision:
    size = repository.catalogs.file_of(root).stat().st_size
    with repository.catalogs.load(root) as catalog:
        return KnownRevision(catalog.revision, root, size, catalog.last_modified)


def _unknown(name: str, text: str, tags: History) -> str:
    if text == TRUNK_PREVIOUS:
        return f"{name} has no revision before the current one: `cdn tag list {name}` shows those that can be named"
    nearest = difflib.get_close_matches(text, [tag.name for tag in tags.tags], n=1)
    if nearest:
        return f"{name} has no revision or tag {text!r}; did you mean {nearest[0]}?"
    return f"{name} has no revision or tag {text!r}: `cdn tag list {name}` shows which there are"
