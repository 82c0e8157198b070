"""What a transaction holds: net changes against its base revision, one for each path that differs.

Publishing a folder, ingesting a tarball and staging by hand all end here, so that there is one way of applying
(`stratum0.apply`) whatever the way of describing. Sorted by path components, parents come before what is below them,
and applying the changes in that order to the base gives the new tree.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cdn.catalog.entries import Entry
    from stratum0.staging import Row


class ChangeKind(Enum):
    """What happens to a path."""

    PUT = "put"
    """It is exactly this entry; if it was and is a directory, what lies below stays."""
    CLEAR = "clear"
    """It is exactly this directory, and everything below that is not a change itself is gone."""
    REMOVE = "remove"
    """It and everything below is gone."""


class Change(NamedTuple):
    """One changed path.

    Args:
        path: absolute in the repository; the root is the empty string.
        kind: what happens to it.
        entry: what it becomes; None exactly for `ChangeKind.REMOVE`. In `entry`, `hardlink_group` numbers groups within
            one folder only and `link_count` is ignored: applying gives both their final values. A group has its
            members among the changes alone: who changes one stages all.
    """

    path: str
    kind: ChangeKind
    entry: Entry | None = None


class ChangeSink(Protocol):
    """Where changes go: the staging of a transaction."""

    def stage(self, changes: Iterable[Change], found: Iterable[str]) -> None:
        """Records changes that replace earlier ones of the same paths.

        When this returns, garbage collection spares the objects that they rely on for as long as the transaction lives.

        Args:
            changes: in any order.
            found: those of their objects that the store had before the transaction began, which may be gone by now.

        Raises:
            ObjectMissingError: an object that was relied on is not in the store (any more); nothing was recorded.
        """
        ...

    def stage_new(self, rows: Iterable[Row], found: Iterable[str]) -> None:
        """Does the same for new files in folders that were staged as new; see `stratum0.staging.new_file_row`.

        Args:
            rows: of paths at and below which nothing was staged.
            found: as for `stage`.

        Raises:
            ObjectMissingError: as `stage`.
        """
        ...


def sort_key(path: str) -> tuple[bytes, ...]:
    """Orders paths by components, so that a folder comes right before everything below it."""
    return tuple(path.encode("utf-8", "surrogateescape").split(b"/"))


def is_below(path: str, folder: str) -> bool:
    """Whether `path` lies strictly below `folder`."""
    return path.startswith(folder + "/")


def is_at_or_below(path: str, folder: str) -> bool:
    """Whether `path` is `folder` or lies below it."""
    return path == folder or path.startswith(folder + "/")


def parent_of(path: str) -> str:
    """The folder that holds this path.

    Raises:
        ValueError: the root has none.
    """
    if not path:
        raise ValueError("the root has no parent")
    return path.rpartition("/")[0]


def name_of(path: str) -> str:
    """The last component; empty for the root."""
    return path.rpartition("/")[2]
