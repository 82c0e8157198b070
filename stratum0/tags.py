"""Names for revisions: adding and removing them.

The tree does not change, so neither does the revision: the manifest is signed again with another tag database.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cdn.errors import RepositoryError, UsageError
from cdn.history import DEFAULT_BRANCH, Tag, is_tag_name
from cdn.telemetry import step
from stratum0.documents import republish
from stratum0.expiry import require_publishable
from stratum0.revisions import MANAGED_TAGS, resolve, tags_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stratum0.repository import Repository


def checked_tag_name(name: str) -> str:
    """The name itself.

    Raises:
        UsageError: no tag can have it, or the publisher manages it.
    """
    if not is_tag_name(name):
        raise UsageError(f"{name[:100]!r} is no tag name: use letters, digits and -_./:")
    if name in MANAGED_TAGS:
        raise UsageError(f"the tag {name} moves by itself and cannot be set or removed")
    if name.isdigit():
        raise UsageError(f"{name!r} cannot be a tag: it would be taken for a revision's number")
    return name


def add_tag(
    repository: Repository, name: str, *, revision: str = "trunk", message: str = "", move: bool = False
) -> Tag:
    """Gives a revision a name.

    Args:
        repository: whose.
        name: new, unless `move`.
        revision: which one, as `stratum0.revisions.resolve` takes it.
        message: what to say about it.
        move: whether a tag of this name may be taken from another revision.

    Raises:
        RepositoryError: there is a tag of this name, or no such revision.
        CdnError: it could not be published; the tags are as before.
    """
    checked_tag_name(name)
    require_publishable(repository)
    with step("stratum0.tag.add", repository=repository.name, tag=name), repository.publishing():
        tags = tags_of(repository.head())
        if name in tags and not move:
            raise RepositoryError(
                f"{repository.name} has a tag {name} already, for revision {tags.tag(name).revision}: "
                "use another name, or --move"
            )
        known = resolve(repository, revision)
        tag = Tag(name, known.root, known.number, known.timestamp, message, known.size, DEFAULT_BRANCH)
        republish(repository, history=tags.with_tag(tag))
    return tag


def remove_tags(repository: Repository, names: Sequence[str]) -> list[Tag]:
    """Takes names away, all of them or none; the revisions stay until garbage collection.

    Raises:
        RepositoryError: there is no tag of one of these names.
        CdnError: the change could not be published; the tags are as before.
    """
    for name in names:
        checked_tag_name(name)
    require_publishable(repository)
    with step("stratum0.tag.remove", repository=repository.name, tags=list(names)), repository.publishing():
        tags = tags_of(repository.head())
        gone = [_existing(repository, name) for name in dict.fromkeys(names)]
        for tag in gone:
            tags = tags.without_tag(tag.name)
        republish(repository, history=tags)
    return gone


def _existing(repository: Repository, name: str) -> Tag:
    tags = tags_of(repository.head())
    if name in tags:
        return tags.tag(name)
    resolve(repository, name)  # says that there is none, and which one may be meant
    raise RepositoryError(f"{repository.name} has no tag {name!r}")
