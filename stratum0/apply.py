"""The heart of a commit: a base revision and net changes become the catalogs of a new tree (spec §5.8).

Changes come in the order of the tree, so applying is one walk that keeps open only what lies on the way to the path it
is at: a stack of directories and a stack of catalogs. A catalog is copied and rewritten when the first change that
really changes something meets it; all others keep their digest. What is left behind is complete: it is finished, stored
and attached to the catalog above, bottom-up, the root last.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cdn.catalog.entries import Chunk, Entry
from cdn.catalog.nesting import AUTO_MARKER, CATALOG_MARKER, Dirtab, should_merge
from cdn.catalog.paths import name_of, parent_of
from cdn.catalog.schema import NestedReference
from cdn.catalog.tree import CatalogTree
from cdn.catalog.writer import CatalogBuilder
from cdn.errors import PathKindError
from cdn.hashing import Digest
from cdn.telemetry import NullProgress, Progress
from stratum0 import balance
from stratum0.changes import Change, ChangeKind, is_at_or_below, sort_key
from stratum0.editing import MARKERS
from stratum0.levels import ApplyOptions, CatalogFiles, Level, Shelf
from stratum0.overlay import Overlay, paired
from stratum0.staging import Row, change_of, path_of, plain_file, row_of

if TYPE_CHECKING:
    from cdn.catalog.writer import FinishedCatalog
    from cdn.storage.base import ObjectStore
    from stratum0.staging import Staging

__all__ = ["ApplyOptions", "CatalogFiles", "NewTree", "apply"]

_PROGRESS_STEP: Final = 500
_DIRECTORY_MODE: Final = 0o40755
_DIRECTORY_SIZE: Final = 4096


@dataclass(frozen=True, slots=True)
class NewTree:
    """The catalogs of a new tree, stored.

    Args:
        root: digest of the root catalog.
        finished: the root catalog itself.
        catalogs: how many were written.
        warnings: sentences for the publisher.
    """

    root: Digest
    finished: FinishedCatalog
    catalogs: int
    warnings: tuple[str, ...] = ()


def apply(
    base: NestedReference,
    staging: Staging,
    *,
    catalogs: CatalogFiles,
    store: ObjectStore,
    folder: Path,
    options: ApplyOptions,
    progress: Progress | None = None,
) -> NewTree | None:
    """Applies staged changes to a revision and stores the new catalogs.

    Args:
        base: the root catalog; its path is empty.
        staging: the changes.
        catalogs: where catalogs come from.
        store: where new ones go.
        folder: for files in the making; emptied first.
        options: see there.
        progress: told about changes applied.

    Returns:
        The new tree, None if the changes change nothing.

    Raises:
        PathKindError: something is to be put into what is no directory.
        DocumentError: a catalog of the base or the `.cvmfsdirtab` is damaged.
        StorageError: a catalog could not be read or stored.
    """
    _empty(folder)
    progress = progress or NullProgress()
    staging.dissolve_lone_members()
    shelf = Shelf(catalogs, store, folder, options)
    with CatalogTree(catalogs, base.digest, base.size) as tree:
        overlay = Overlay(tree, staging)
        dirtab = balance.read_dirtab(store, overlay)
        marked = dict(balance.directories_to_mark(overlay, staging, dirtab))
    application = _Application(base, staging, shelf, dirtab, marked)
    try:
        progress.start(staging.count, "changes")
        return application.run(progress)
    finally:
        application.close()


def _empty(folder: Path) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    for file in folder.iterdir():
        file.unlink()


@dataclass(slots=True)
class _Directory:
    """A directory on the way to the path being applied.

    Args:
        path: where.
        level: the catalog that holds what is in it.
        is_new: whether the base has nothing in it.
        is_cleared: whether what the base has in it and the changes have not was removed.
        uid, gid: its owner.
        groups: numbers of hard links groups in the changes, and what they became in the catalog.
    """

    path: str
    level: Level
    is_new: bool
    is_cleared: bool
    uid: int
    gid: int
    groups: dict[int, int] = field(default_factory=dict)


# ---------------------------------------------------------------------------------------------------------- the walk


class _Application:
    """One walk along the changes."""

    def __init__(
        self, base: NestedReference, staging: Staging, shelf: Shelf, dirtab: Dirtab, marked: dict[str, Entry]
    ) -> None:
        self._staging = staging
        self._shelf = shelf
        self._options = shelf.options
        self._dirtab = dirtab
        self._marked = marked
        self._planned: frozenset[str] = frozenset()
        if shelf.options.is_balanced:
            limits = {"entries_min": shelf.options.entries_min, "entries_max": shelf.options.entries_max_possible}
            self._planned = balance.planned_splits(staging, **limits)
        self._base = base
        self._levels = [Level("", shelf, base)]
        root = self._levels[0].view.root
        self._directories = [_Directory("", self._levels[0], False, False, root.uid, root.gid)]

    def run(self, progress: Progress) -> NewTree | None:
        """Applies everything."""
        count = 0
        for row in self._rows():
            self._apply_row(row)
            count += 1
            if count == _PROGRESS_STEP:
                progress.advance(count)
                count = 0
        while len(self._directories) > 1:
            self._leave()
        progress.advance(count)
        return self._finish_root()

    def close(self) -> None:
        """Closes every file."""
        for level in self._levels:
            level.close()

    def _rows(self) -> Iterator[Row]:
        if not self._marked:
            return self._staging.rows()
        markers = (row_of(self._marker(path)) for path in sorted(self._marked, key=sort_key))
        return heapq.merge(self._staging.rows(), markers, key=lambda row: row[0])

    def _marker(self, directory: str) -> Change:
        entry = self._shelf.markers.entry(self._marked[directory])
        return Change(f"{directory}/{CATALOG_MARKER}", ChangeKind.PUT, entry)

    # ------------------------------------------------------------------------------------------------------ one change

    def _apply_row(self, row: Row) -> None:
        """One change; what is put into the directory that was put before is spared the detour by way of an `Entry`."""
        encoded = plain_file(row)
        directory = self._directories[-1]
        if encoded is not None and directory.is_new:
            path = path_of(row[0])
            if path.rpartition("/")[0] == directory.path:
                directory.level.insert(path, encoded)
                return
        self._apply(change_of(row))

    def _apply(self, change: Change) -> None:
        if not change.path:
            self._apply_to_root(change)
            return
        directory = self._enter(parent_of(change.path))
        before = None if directory.is_new else directory.level.view.find(change.path)
        if change.entry is None:
            self._remove(directory, change.path, before)
        elif before is None:
            self._insert(directory, change.path, change.entry)
        elif before.is_bind_mountpoint:
            raise PathKindError(f"another revision is mounted here, which cannot be changed: {change.path}")
        elif before.is_directory and change.entry.is_directory:
            self._change_directory(directory, change, before)
        else:
            self._replace(directory, change.path, before, change.entry)

    def _apply_to_root(self, change: Change) -> None:
        root = self._directories[0]
        if change.entry is not None:
            if not change.entry.is_directory:
                raise PathKindError("the root of a repository must be a directory")
            self._update(root.level, "", root.level.view.root, change.entry)
        root.is_cleared = change.kind is not ChangeKind.PUT
        if root.is_cleared:
            self._clear(root)

    def _remove(self, directory: _Directory, path: str, before: Entry | None) -> None:
        if before is None:
            return
        level, name = directory.level, name_of(path)
        if name in MARKERS and level.path == directory.path and level.path:
            if self._keeps_markers(level):
                return
            if name == CATALOG_MARKER and before.is_file:
                level.is_dissolved = True
        level.builder().remove(path)

    def _insert(self, directory: _Directory, path: str, entry: Entry) -> None:
        level = directory.level
        if entry.hardlink_group:
            entry = replace(entry, hardlink_group=self._group(directory, entry.hardlink_group), link_count=2)
        level.insert(path, entry)
        if entry.is_directory:
            self._push(path, level, is_new=True, is_cleared=False, entry=entry)

    def _replace(self, directory: _Directory, path: str, before: Entry, entry: Entry) -> None:
        """One of the two, or both, is no directory."""
        level = directory.level
        if before.is_directory:
            level.builder().remove(path)
            self._insert(directory, path, entry)
            return
        if entry.hardlink_group:
            group = self._group(directory, entry.hardlink_group, before if _is_same(before, entry) else None)
            entry = replace(entry, hardlink_group=group, link_count=2)
        if not _is_same(before, entry) or before.hardlink_group != entry.hardlink_group:
            if name_of(path) == CATALOG_MARKER:
                self._change_marker(directory, before, entry)
            level.builder().replace(path, entry)
        if entry.is_directory:
            self._push(path, level, is_new=True, is_cleared=False, entry=entry)

    def _change_directory(self, directory: _Directory, change: Change, before: Entry) -> None:
        assert change.entry is not None
        is_cleared = change.kind is ChangeKind.CLEAR or directory.is_cleared
        pushed = self._push(change.path, directory.level, is_new=False, is_cleared=is_cleared, entry=before)
        self._update(pushed.level, change.path, before, change.entry)
        if is_cleared:
            self._clear(pushed)

    def _update(self, level: Level, path: str, before: Entry, entry: Entry) -> None:
        """Gives a directory other metadata, in the catalog that has its content."""
        if not _is_same(before, entry):
            level.builder().replace(path, entry)

    def _group(self, directory: _Directory, number: int, same: Entry | None = None) -> int:
        """What a group of hard links among the changes is called in the catalog.

        If the first of its members is in the base as it is, the group there goes on; so what is published unchanged
        changes nothing.
        """
        known = directory.groups.get(number)
        if known is None:
            known = 0 if same is None or same.hardlink_group in directory.groups.values() else same.hardlink_group
            known = known or directory.level.builder().next_hardlink_group()
            directory.groups[number] = known
        return known

    # ----------------------------------------------------------------------------------------------------- directories

    def _enter(self, path: str) -> _Directory:
        """Goes to a directory: leaves what is not above it, opens or makes what is."""
        while not is_at_or_below(path, self._directories[-1].path):
            self._leave()
        while (top := self._directories[-1]).path != path:
            end = path.find("/", len(top.path) + 1)
            self._step_into(top, path if end < 0 else path[:end])
        return top

    def _step_into(self, directory: _Directory, path: str) -> None:
        """Opens a directory that is no change itself, or makes it, where its publisher did not say what it is like."""
        entry = None if directory.is_new else directory.level.view.find(path)
        if entry is None:
            made = Entry(
                "", _DIRECTORY_MODE, _DIRECTORY_SIZE, self._options.timestamp, uid=directory.uid, gid=directory.gid
            )
            self._insert(directory, path, made)
        elif not entry.is_directory or entry.is_bind_mountpoint:
            raise PathKindError(f"it is no directory that anything could be put into: {path}")
        else:
            self._push(path, directory.level, is_new=False, is_cleared=False, entry=entry)

    def _push(self, path: str, level: Level, *, is_new: bool, is_cleared: bool, entry: Entry) -> _Directory:
        """Puts a directory on the stack, and the catalog that begins there, if one does or is to."""
        if entry.is_nested_mountpoint and not is_new:
            level = self._open(level, path)
        elif self._becomes_catalog(path, is_new=is_new):
            level = self._begin(level, path, is_new=is_new, entry=entry)
        directory = _Directory(path, level, is_new, is_cleared, entry.uid, entry.gid)
        self._directories.append(directory)
        return directory

    def _leave(self) -> None:
        directory = self._directories.pop()
        if directory.level.path == directory.path:
            self._close_level()

    def _clear(self, directory: _Directory) -> None:
        """Removes what the base has in a directory and the changes have not."""
        level = directory.level
        gone = [
            (f"{directory.path}/{entry.name}", entry)
            for entry, change in paired(level.view.listing(directory.path), self._staging.children(directory.path))
            if entry is not None and change is None and not entry.is_bind_mountpoint and not entry.is_hidden
        ]
        for path, entry in gone:
            self._remove(directory, path, entry)

    # -------------------------------------------------------------------------------------------------------- catalogs

    def _becomes_catalog(self, path: str, *, is_new: bool) -> bool:
        if self._staging.has_file(f"{path}/{CATALOG_MARKER}") or path in self._marked:
            return True
        if is_new and path in self._planned:
            return True
        return is_new and bool(self._dirtab) and self._dirtab.matches(path)

    def _keeps_markers(self, level: Level) -> bool:
        """Whether the catalog of this level is there because of balancing or the dirtab."""
        if level.is_dissolved:
            return False
        return self._dirtab.matches(level.path) or level.view.find(f"{level.path}/{AUTO_MARKER}") is not None

    def _change_marker(self, directory: _Directory, before: Entry, entry: Entry) -> None:
        """A publisher's own marker in place of one made by balancing makes a catalog stay whatever its size."""
        level = directory.level
        automatic = f"{directory.path}/{AUTO_MARKER}"
        if level.path != directory.path:
            return
        if before.is_file and not entry.is_file:
            level.is_dissolved = True
        elif self._staging.find(automatic) is None and level.view.find(automatic) is not None:
            level.builder().remove(automatic)

    def _open(self, above: Level, path: str) -> Level:
        reference = above.view.nested_at(path)
        if reference is None:
            raise PathKindError(f"the nested catalog that should begin here is missing: {path}")
        level = Level(path, self._shelf, reference)
        self._levels.append(level)
        return level

    def _begin(self, above: Level, path: str, *, is_new: bool, entry: Entry) -> Level:
        """A new catalog; a marker that nobody staged is made."""
        file = self._shelf.new_file()
        if is_new:
            builder = CatalogBuilder.create(file, root_prefix=path, root=entry, totals=self._shelf.totals)
        else:
            builder = above.builder().split(path, file)
        level = Level(path, self._shelf, None, builder)
        self._levels.append(level)
        marker = f"{path}/{CATALOG_MARKER}"
        if is_new and path not in self._marked and not self._staging.has_file(marker):
            level.insert(marker, self._shelf.markers.entry(entry))
            if path in self._planned:
                level.insert(f"{path}/{AUTO_MARKER}", self._shelf.markers.entry(entry))
        return level

    def _close_level(self) -> None:
        """Finishes the catalog that was just left and tells the one above."""
        level = self._levels[-1]
        try:
            if level.is_touched:
                self._settle(self._levels[-2], level)
        finally:
            self._levels.pop()
            level.close()

    def _settle(self, above: Level, level: Level) -> None:
        builder = level.builder()
        if level.is_dissolved or self._has_shrunk(above, level, builder):
            above.builder().merge(builder)
            builder.close()
            with suppress(OSError):
                Path(builder.file).unlink()
            return
        previous = level.reference.digest if level.reference else None
        self._shelf.attach(above.builder(), builder, previous)

    def _has_shrunk(self, above: Level, level: Level, builder: CatalogBuilder) -> bool:
        """Whether balancing takes a catalog back that it made; its markers go first."""
        if not self._options.is_balanced or level.reference is None or self._dirtab.matches(level.path):
            return False
        if builder.find(f"{level.path}/{AUTO_MARKER}") is None:
            return False
        entries_min, entries_max = self._options.entries_min, self._options.entries_max_possible
        here, there = builder.entry_count, above.builder().entry_count
        if not should_merge(here, there, entries_min=entries_min, entries_max=entries_max):
            return False
        for name in MARKERS:
            if builder.find(f"{level.path}/{name}") is not None:
                builder.remove(f"{level.path}/{name}")
        return True

    def _finish_root(self) -> NewTree | None:
        level = self._levels[0]
        if not level.is_touched:
            return None
        digest, finished = self._shelf.complete(level.builder(), self._base.digest)
        return NewTree(digest, finished, self._shelf.written, tuple(self._shelf.warnings))


# ---------------------------------------------------------------------------------------------------------- comparison


def _is_same(before: Entry, entry: Entry) -> bool:
    """Whether publishing an entry over another would change nothing that anybody reads."""
    if before.mode != entry.mode or before.mtime != entry.mtime or before.mtime_ns != entry.mtime_ns:
        return False
    if before.uid != entry.uid or before.gid != entry.gid or before.xattrs != entry.xattrs:
        return False
    if before.is_hidden != entry.is_hidden:
        return False
    return _has_same_content(before, entry)


def _has_same_content(before: Entry, entry: Entry) -> bool:
    if entry.is_directory:
        return True
    if not entry.is_file:
        return before.symlink == entry.symlink and before.device == entry.device
    if before.size != entry.size or before.digest != entry.digest or before.compression != entry.compression:
        return False
    if before.is_external != entry.is_external or before.is_direct_io != entry.is_direct_io:
        return False
    return before.chunks == entry.chunks or _bare(before.chunks) == _bare(entry.chunks)


def _bare(chunks: tuple[Chunk, ...]) -> list[tuple[int, int, Digest]]:
    return [(chunk.offset, chunk.size, chunk.digest) for chunk in chunks]
