"""What changed from one revision to another, without looking at what did not (spec §5.8).

Both trees are walked at once in the same order. Where both have a nested catalog of the same digest at the same place,
everything below is the same and stays unopened; where one has a nested catalog and the other has the same directory
within its own, the walk goes on through both, so splitting or merging catalogs is no change by itself.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias

from cdn.catalog.entries import encode_name
from cdn.catalog.paths import PATH_BYTES_MAX
from cdn.catalog.schema import NestedReference
from cdn.catalog.tree import CatalogLoader
from cdn.errors import DocumentError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cdn.catalog.entries import Entry
    from cdn.catalog.reader import Catalog
    from cdn.hashing import Digest

__all__ = ["CatalogLoader", "Change", "ChangeKind", "diff"]


class ChangeKind(Enum):
    """What happened to a path; the value is what reports print."""

    ADDED = "added"
    REMOVED = "removed"
    CONTENT = "content"
    METADATA = "metadata"


@dataclass(frozen=True, slots=True)
class Change:
    """One path that differs.

    Args:
        path: where.
        before, after: the entries; None where the path was not there or is no more.
    """

    path: str
    before: Entry | None
    after: Entry | None

    @property
    def kind(self) -> ChangeKind:
        """Content means other bytes, another link target, another device, or another kind of entry."""
        if self.before is None:
            return ChangeKind.ADDED
        if self.after is None:
            return ChangeKind.REMOVED
        return ChangeKind.METADATA if _content(self.before) == _content(self.after) else ChangeKind.CONTENT


def diff(loader: CatalogLoader, old_root: Digest, new_root: Digest, *, below: str = "") -> Iterator[Change]:
    """Every path that differs between two revisions, parents before children, siblings in byte order of their names.

    Not a change are link counts and sizes of directories, the numbers of hard link groups, where catalogs begin, and
    what an entry says of itself beyond what readers see (plain digests). Other revisions that are bind-mounted are
    compared as mountpoints only. Memory is bounded by the depth of the tree; open are the catalogs on the way to the
    path being looked at.

    Args:
        loader: where catalogs come from.
        old_root, new_root: digests of the root catalogs.
        below: only this path and what is below it.

    Raises:
        CdnError: a catalog cannot be loaded or is damaged.
    """
    if old_root == new_root:
        return
    with ExitStack() as opened:
        old = _Side.at(loader, old_root, below, opened)
        new = _Side.at(loader, new_root, below, opened)
        before, after = old.top, new.top
        if _is_changed(before, after):
            yield Change(below, before, after)
        if _may_differ_below(old.source, new.source, before, after):
            yield from _Comparison(loader).below(below, old.source, new.source)


# --------------------------------------------------------------------------------------------------------------- values


def _content(entry: Entry) -> tuple[object, ...]:
    kind = entry.mode & 0xF000
    if not entry.is_file:
        return kind, entry.symlink, entry.device
    chunks = tuple((chunk.offset, chunk.size, chunk.digest) for chunk in entry.chunks)
    return kind, entry.size, entry.digest, chunks, entry.compression, entry.is_external


def _seen(entry: Entry) -> Entry:
    """The entry without what is no change to those who read the tree."""
    same = replace(entry, hardlink_group=0, plain_digest=None, is_nested_mountpoint=False, is_nested_root=False)
    if entry.chunks:
        same = replace(same, chunks=tuple(replace(chunk, plain_digest=None) for chunk in entry.chunks))
    return replace(same, link_count=0, size=0) if entry.is_directory else same


def _is_changed(before: Entry | None, after: Entry | None) -> bool:
    if before is None or after is None:
        return before is not after
    return before != after and _seen(before) != _seen(after)


def _is_searched(entry: Entry | None) -> bool:
    return entry is not None and entry.is_directory and not entry.is_bind_mountpoint


# ----------------------------------------------------------------------------------------------------------------- walk

_Source: TypeAlias = "Catalog | NestedReference | None"
"""Where what is below a path is to be found: in a catalog that is open, in one that is not, or nowhere."""


def _may_differ_below(old: _Source, new: _Source, before: Entry | None, after: Entry | None) -> bool:
    if isinstance(old, NestedReference) and isinstance(new, NestedReference) and old.digest == new.digest:
        return False
    return _is_searched(before) or _is_searched(after)


@dataclass(slots=True)
class _Side:
    """Where a path is in one of the two trees."""

    top: Entry | None
    source: _Source

    @classmethod
    def at(cls, loader: CatalogLoader, root: Digest, path: str, opened: ExitStack) -> _Side:
        """Goes down to a path, opening the catalogs on the way."""
        catalog = opened.enter_context(loader.load(root, size=0, path=""))
        while (reference := catalog.covering(path)) is not None and reference.path != path:
            if catalog.bind_mountpoint_at(reference.path):
                break  # other revisions are not searched
            catalog = opened.enter_context(_loaded(loader, reference))
        entry = catalog.find(path)
        return cls(entry, _source_of(catalog, path, entry))


def _source_of(catalog: Catalog | None, path: str, entry: Entry | None) -> _Source:
    if catalog is None or entry is None or not _is_searched(entry):
        return None
    return (catalog.nested_at(path) or catalog) if entry.is_nested_mountpoint else catalog


def _loaded(loader: CatalogLoader, reference: NestedReference) -> Catalog:
    catalog = loader.load(reference.digest, size=reference.size, path=reference.path)
    if catalog.root_prefix != reference.path:
        catalog.close()
        raise DocumentError(f"catalog {reference.path}", f"it was made for {catalog.root_prefix[:200]!r}")
    return catalog


@dataclass(slots=True)
class _Level:
    """A directory being compared, and the catalogs to close behind it."""

    path: str
    old: Catalog | None
    new: Catalog | None
    pairs: Iterator[tuple[Entry | None, Entry | None]]
    opened: ExitStack


class _Comparison:
    """The walk through both trees."""

    def __init__(self, loader: CatalogLoader) -> None:
        self._loader = loader

    def below(
        self,
        path: str,
        old: _Source,
        new: _Source,
    ) -> Iterator[Change]:
        """The changes below a path, without itself."""
        levels = [self._level(path, old, new)]
        try:
            while levels:
                level = levels[-1]
                pair = next(level.pairs, None)
                if pair is None:
                    levels.pop().opened.close()
                    continue
                before, after = pair
                child = f"{level.path}/{(before or after).name}"  # type: ignore[union-attr]  # one of them is there
                if _is_changed(before, after):
                    yield Change(child, before, after)
                old, new = _source_of(level.old, child, before), _source_of(level.new, child, after)
                if _may_differ_below(old, new, before, after):
                    levels.append(self._level(child, old, new))
        finally:
            while levels:
                levels.pop().opened.close()

    def _level(self, path: str, old: _Source, new: _Source) -> _Level:
        if len(path) > PATH_BYTES_MAX:
            raise DocumentError("the tree", f"it has paths of more than {PATH_BYTES_MAX} bytes")
        with ExitStack() as opened:
            left, right = self._entered(old, opened), self._entered(new, opened)
            pairs = _paired(left.listing(path) if left else iter(()), right.listing(path) if right else iter(()))
            return _Level(path, left, right, pairs, opened.pop_all())

    def _entered(self, source: _Source, opened: ExitStack) -> Catalog | None:
        return opened.enter_context(_loaded(self._loader, source)) if isinstance(source, NestedReference) else source


def _paired(old: Iterator[Entry], new: Iterator[Entry]) -> Iterator[tuple[Entry | None, Entry | None]]:
    """Two sorted listings as one, entries of the same name together."""
    before, after = next(old, None), next(new, None)
    while before is not None or after is not None:
        left = None if before is None else encode_name(before.name)
        right = None if after is None else encode_name(after.name)
        if left == right:
            yield before, after
            before, after = next(old, None), next(new, None)
        elif right is None or (left is not None and left < right):
            yield before, None
            before = next(old, None)
        else:
            yield None, after
            after = next(new, None)
