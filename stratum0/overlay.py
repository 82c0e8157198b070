"""The tree as it would be after a commit: a base revision with staged changes over it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from cdn.catalog.entries import encode_name
from cdn.errors import PathMissingError
from stratum0.changes import Change, ChangeKind, name_of

if TYPE_CHECKING:
    from cdn.catalog.entries import Entry
    from cdn.catalog.tree import CatalogTree
    from stratum0.staging import Staging

BASE_GROUPS: Final = 1 << 30
"""What is added to the numbers that groups of hard links have in the base."""


class Overlay:
    """Staged changes over a base revision.

    Args:
        base: the revision's tree.
        staging: the changes.
    """

    def __init__(self, base: CatalogTree, staging: Staging) -> None:
        self._base = base
        self._staging = staging

    def find(self, path: str) -> Entry | None:
        """The entry at a path, None if there is none.

        Raises:
            CdnError: a catalog cannot be loaded.
        """
        change = self._staging.find(path)
        if change is not None:
            return change.entry
        return self.underlying(path)

    def underlying(self, path: str) -> Entry | None:
        """What the base has at a path, None if nothing, or if a change of a directory above took it away.

        Raises:
            CdnError: a catalog cannot be loaded.
        """
        return None if self._staging.hides(path) else self._base.find(path)

    def listing(self, path: str) -> Iterator[Entry]:
        """The entries of a directory in byte order of their names; none if it is not there.

        Groups of hard links are numbered so that those of the base do not meet those that are staged.

        Raises:
            CdnError: a catalog cannot be loaded.
        """
        for entry, change in self.children(path):
            if change is not None:
                if change.entry is not None:
                    yield change.entry
            elif entry is not None:
                yield (
                    replace(entry, hardlink_group=entry.hardlink_group + BASE_GROUPS) if entry.hardlink_group else entry
                )

    def children(self, path: str) -> Iterator[tuple[Entry | None, Change | None]]:
        """For each name in a directory what the base has, unless it was taken away, and what is staged."""
        change = self._staging.find(path)
        is_kept = change is None or change.kind is ChangeKind.PUT
        if change is not None and (change.entry is None or not change.entry.is_directory):
            return
        below = self._base.listing(path) if is_kept and not self._staging.hides(path) else iter(())
        yield from paired(below, self._staging.children(path))

    def walk(self, path: str) -> Iterator[tuple[str, Entry]]:
        """Everything at and below a path: parents before children, siblings in byte order of their names.

        Raises:
            PathMissingError: there is no such path.
            CdnError: a catalog cannot be loaded.
        """
        top = self.find(path)
        if top is None:
            raise PathMissingError(path)
        yield path, top
        pending = [(path, self.listing(path))] if top.is_directory else []
        while pending:
            folder, entries = pending[-1]
            entry = next(entries, None)
            if entry is None:
                pending.pop()
                continue
            child = f"{folder}/{entry.name}"
            yield child, entry
            if entry.is_directory and not entry.is_bind_mountpoint:
                pending.append((child, self.listing(child)))


def paired(entries: Iterator[Entry], changes: Iterator[Change]) -> Iterator[tuple[Entry | None, Change | None]]:
    """A listing and the changes of the same directory, both in order, as one: what has the same name comes together."""
    entry, change = next(entries, None), next(changes, None)
    while entry is not None or change is not None:
        left = None if entry is None else encode_name(entry.name)
        right = None if change is None else encode_name(name_of(change.path))
        if left == right:
            yield entry, change
            entry, change = next(entries, None), next(changes, None)
        elif right is None or (left is not None and left < right):
            yield entry, None
            entry = next(entries, None)
        else:
            yield None, change
            change = next(changes, None)
