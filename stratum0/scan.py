"""Scanning a source folder: what must change so that a subtree of the repository equals it.

Folders are visited one after another, each compared with what was remembered of it (`stratum0.sources`) or, where
nothing is or it cannot be trusted, with the published catalogs. Only files that differ are opened, and they are read by
the content pipeline while the scan goes on. Changes are staged as their content arrives; memory holds the folders that
are not done, never the tree.

The repository may have moved on since the source was last published here. The paths that changed since are *doubted*:
there, the memory says nothing, and the published catalogs are asked.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cdn.catalog.entries import Entry, decode_name
from cdn.catalog.nesting import AUTO_MARKER, CATALOG_MARKER, Dirtab
from cdn.clock import Clock, SystemClock
from cdn.errors import StorageError
from cdn.telemetry import NullProgress, Progress
from stratum0.changes import Change, ChangeKind, ChangeSink, is_at_or_below, parent_of
from stratum0.content import StoredContent
from stratum0.jobs import FileChanged
from stratum0.new_folder import NewFolder, StoredFolder, listed
from stratum0.scan_counts import STAGED_CHANGES_MAX, ScanCounts
from stratum0.source_entries import SourceEntries, says_the_same
from stratum0.sources import (
    Records,
    SourceMemory,
    is_directory_record,
    is_settled,
    link_of_record,
    pack,
    packed_records,
    record_of,
    settled,
    unpack,
)
from stratum0.staging import key_of
from stratum0.stamps import Stamp

if TYPE_CHECKING:
    from cdn.catalog.tree import CatalogTree
    from stratum0.pipeline import Pipeline
    from stratum0.staging import Row

ATTEMPTS_MAX: Final = 5
DOUBTS_MAX: Final = 200_000
"""More doubted paths than this and the whole memory is doubted instead of holding them."""

_ALWAYS_LEFT_OUT: Final = frozenset({b".cvmfs"})
_MARKERS: Final = frozenset({CATALOG_MARKER.encode(), AUTO_MARKER.encode()})
_NOT_ALWAYS_TAKEN: Final = _ALWAYS_LEFT_OUT | _MARKERS
_NANO: Final = 1_000_000_000

Warn = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Doubts:
    """Where the memory of a source cannot be trusted.

    Args:
        everywhere: whether that is the whole tree.
        paths: otherwise the changed paths.
        folders: the folders they are in.
    """

    everywhere: bool = False
    paths: frozenset[str] = frozenset()
    folders: frozenset[str] = frozenset()

    @classmethod
    def about(cls, changed: Iterator[str], below: str) -> Doubts:
        """The doubts that these changed paths raise about what is at or below a path."""
        paths: set[str] = set()
        for path in changed:
            if is_at_or_below(path, below):
                paths.add(path)
                if len(paths) > DOUBTS_MAX:
                    return cls(everywhere=True)
        return cls(False, frozenset(paths), frozenset(parent_of(path) for path in paths if path))


@dataclass(slots=True, eq=False)
class _Folder:
    """A folder whose files may still be being read."""

    relative: bytes
    path: str
    looked_ns: int
    records: Records
    waiting: int = 1  # for the scan of it to end


@dataclass(frozen=True, slots=True)
class _View:
    """What is known of a folder.

    Args:
        known: the records that were published.
        base: what is published now, where that may differ from `known`; None to go by `known` alone.
    """

    known: Records
    base: dict[str, Entry] | None

    def published(self, name: bytes) -> Entry | None:
        """The published entry, where it was looked up."""
        return None if self.base is None else self.base.get(decode_name(name))


class Scanner:
    """Compares one source folder with one subtree.

    Args:
        source: the folder, absolute.
        target: the subtree's path.
        tree: the published tree.
        memory: what the source looked like.
        doubts: where the memory says nothing.
        pipeline: what stores content.
        sink: where changes go.
        dirtab: which directories the repository makes nested catalogs of by itself.
        with_xattrs: whether extended attributes are published.
        by_folder: whether the pipeline looks into new folders itself; not where it cannot, or for extended attributes.
        progress: counts files.
        warn: is told, in a sentence, what was left out.
        clock: tells when a file was looked at; it must be the one that gives files their times.
    """

    def __init__(
        self,
        source: bytes,
        target: str,
        *,
        tree: CatalogTree,
        memory: SourceMemory,
        doubts: Doubts,
        pipeline: Pipeline,
        sink: ChangeSink,
        dirtab: Dirtab,
        with_xattrs: bool,
        by_folder: bool = False,
        progress: Progress | None = None,
        warn: Warn = lambda _: None,
        clock: Clock | None = None,
    ) -> None:
        self.counts = ScanCounts()
        self._source = source
        self._target = target
        self._tree = tree
        self._memory = memory
        self._doubts = doubts
        self._pipeline = pipeline
        self._sink = sink
        self._dirtab = dirtab
        self._entries = SourceEntries(with_xattrs=with_xattrs, warn=warn)
        self._by_folder = by_folder and not with_xattrs
        self._progress = progress or NullProgress()
        self._warn = warn
        self._clock = clock or SystemClock()
        self._todo: list[tuple[bytes, bool]] = []
        self._changes: list[Change] = []
        self._found: list[str] = []
        self._new_rows: list[Row] = []
        self._new_found: list[str] = []

    def run(self) -> None:
        """Stages every change.

        Raises:
            StorageError: something cannot be read or stored, or does not stop changing.
            DocumentError: the published tree is damaged.
        """
        self._progress.start(None, "files")
        status = os.stat(self._source)
        base = self._tree.find(self._target)
        is_fresh = base is None or not base.is_directory
        self._put_if_different(self._target, self._entries.entry(_name(self._target), self._source, status), base)
        self._todo = [(b"", is_fresh)]
        while self._todo or (self._by_folder and self._pipeline.wait()):
            while self._todo:
                relative, is_fresh = self._todo.pop()
                if relative and is_fresh and self._by_folder:
                    self._hand_over(relative)
                else:
                    self._todo.extend(reversed(self._scan_folder(relative, is_fresh=is_fresh)))
        self._pipeline.drain()
        self._flush()

    # ------------------------------------------------------------------------------------------------------ one folder

    def _scan_folder(self, relative: bytes, *, is_fresh: bool) -> list[tuple[bytes, bool]]:
        """Stages what changed directly in a folder; returns the folders in it and whether each is new."""
        looked_ns = self._now_ns()
        statuses = self._list(relative)
        path = self._path(relative)
        packed, directories = packed_records(statuses)
        self.counts.folders += 1
        self.counts.files += len(statuses)
        old = None if is_fresh or self._doubts.everywhere else self._memory.records(relative)
        if old == packed and path not in self._doubts.folders:
            self._progress.advance(len(statuses))
            return [(_join(relative, name), False) for name in directories]
        folder = _Folder(relative, path, looked_ns, unpack(packed))
        known = unpack(old) if old is not None else None
        view = _View(known or {}, self._base_of(folder, known, is_fresh=is_fresh))
        below = self._compare(folder, dict(statuses), view)
        self._one_less(folder)
        return below

    def _hand_over(self, relative: bytes) -> None:
        """Lets the pipeline look into a new folder and store what is ordinary in it."""
        path, looked_ns = self._path(relative), self._now_ns()

        def done(stored: StoredFolder) -> None:
            self._todo.extend(reversed(self._take_over(relative, path, looked_ns, stored)))

        self._pipeline.store_folder(NewFolder(self._file(relative), key_of(path), looked_ns), done)

    def _take_over(self, relative: bytes, path: str, looked_ns: int, stored: StoredFolder) -> list[tuple[bytes, bool]]:
        """Stages what the pipeline stored of a new folder and handles the rest; returns the folders in it."""
        self.counts.folders += 1
        self.counts.files += stored.seen
        self.counts.files_read += len(stored.rows)
        self.counts.bytes_read += stored.bytes_read
        self.counts.bytes_stored += stored.bytes_stored
        self.counts.objects_new += stored.objects_new
        self.counts.put += len(stored.rows)
        self._new_rows += stored.rows
        self._new_found += stored.found
        if len(self._new_rows) >= STAGED_CHANGES_MAX:
            self._flush_new()
        self._progress.advance(len(stored.rows))
        rest = {name: status for name, status in stored.rest if self._is_taken(relative, name, status)}
        is_simple = len(rest) == len(stored.rest) and all(stat.S_ISDIR(status.st_mode) for status in rest.values())
        records = {name: record_of(status) for name, status in rest.items()} if is_simple else unpack(stored.records)
        for name in {name for name, _ in stored.rest} - rest.keys():
            del records[name]
        folder = _Folder(relative, path, looked_ns, records)
        below = self._compare(folder, rest, _View({}, {}))
        if is_simple:
            self._memory.remember(relative, stored.settled)
        else:
            self._one_less(folder)
        return below

    def _compare(self, folder: _Folder, statuses: dict[bytes, os.stat_result], view: _View) -> list[tuple[bytes, bool]]:
        """Handles every name in a folder that differs from what is known of it, and those that are gone."""
        groups = _link_groups(folder.records)
        different = self._different(folder, groups, view)
        below: list[tuple[bytes, bool]] = []
        linked: dict[int, list[bytes]] = {}
        for name, status in statuses.items():
            if stat.S_ISDIR(status.st_mode):
                is_new = name in different and self._put_folder(folder, name, status, view)
                below.append((_join(folder.relative, name), is_new))
            elif name in groups and name in different:
                linked.setdefault(status.st_ino, []).append(name)
                continue
            elif name in different:
                self._put_file(folder, [name], status, [view.published(name)])
                continue
            self._progress.advance()
        for number, names in enumerate(linked.values(), 1):
            before = [view.published(name) for name in names]
            self._put_file(folder, names, statuses[names[0]], before, group=number)
        for text in self._gone(folder, statuses, view):
            self._remove(folder, text)
        return below

    def _different(self, folder: _Folder, groups: dict[bytes, tuple[bytes, ...]], view: _View) -> set[bytes]:
        """Names whose records are not those that were published and still are. Of hard links all count or none."""
        old_groups = _link_groups(view.known)
        found: set[bytes] = set()
        for name, record in folder.records.items():
            if view.known.get(name) != record or groups.get(name) != old_groups.get(name):
                found.update(groups.get(name, (name,)))
            elif view.base is not None:
                text = decode_name(name)
                if text not in view.base or f"{folder.path}/{text}" in self._doubts.paths:
                    found.update(groups.get(name, (name,)))
        return found

    def _gone(self, folder: _Folder, statuses: dict[bytes, os.stat_result], view: _View) -> list[str]:
        """Published names that the source does not have. Markers that the repository made itself stay."""
        if view.base is None:
            return [decode_name(name) for name in view.known if name not in statuses]
        kept: set[str] = set()
        if AUTO_MARKER in view.base or self._dirtab.matches(folder.path):
            kept = {CATALOG_MARKER, AUTO_MARKER} - {decode_name(name) for name in view.known}
        present = {decode_name(name) for name in statuses}
        return [name for name in view.base if name not in present and name not in kept]

    def _put_folder(self, folder: _Folder, name: bytes, status: os.stat_result, view: _View) -> bool:
        """Stages a directory's own entry if it differs; whether it is new."""
        text = decode_name(name)
        path = f"{folder.path}/{text}"
        before = view.published(name)
        if view.base is None:
            is_new = name not in view.known or not is_directory_record(view.known[name])
        else:
            is_new = before is None or not before.is_directory
        entry = self._entries.entry(text, self._file(_join(folder.relative, name)), status)
        if is_new:
            self._memory.forget(_join(folder.relative, name))
            self._stage(Change(path, ChangeKind.CLEAR, entry))
        else:
            self._put_if_different(path, entry, before)
        return is_new

    def _put_file(
        self, folder: _Folder, names: list[bytes], status: os.stat_result, before: list[Entry | None], group: int = 0
    ) -> None:
        """Stages a file under its names in this folder, once its content is stored."""
        if not stat.S_ISREG(status.st_mode):
            self._put_names(folder, names, status, None, before, group)
            return
        folder.waiting += 1
        self._read(folder, names, status, before, group, attempt=1)

    def _read(
        self,
        folder: _Folder,
        names: list[bytes],
        status: os.stat_result,
        before: list[Entry | None],
        group: int,
        attempt: int,
    ) -> None:
        file = self._file(_join(folder.relative, names[0]))
        self.counts.files_read += 1
        self.counts.bytes_read += status.st_size

        def done(content: StoredContent | FileChanged) -> None:
            if isinstance(content, StoredContent):
                self.counts.bytes_stored += content.stored_size
                self.counts.objects_new += content.objects_new
                self._put_names(folder, names, status, content, before, group)
                self._one_less(folder)
            elif attempt >= ATTEMPTS_MAX:
                raise StorageError(
                    f"{decode_name(file)} keeps changing while it is read: stop what writes to it, then publish again"
                )
            else:
                self._read_again(folder, names, before, group, attempt)

        self._pipeline.store_file(file, Stamp.of(status), done)

    def _read_again(
        self, folder: _Folder, names: list[bytes], before: list[Entry | None], group: int, attempt: int
    ) -> None:
        """Looks again at a file that changed, or is gone, since it was looked at."""
        file = self._file(_join(folder.relative, names[0]))
        try:
            status = os.lstat(file)
        except FileNotFoundError:
            self._vanished(folder, names, before)
            return
        if not stat.S_ISREG(status.st_mode) or len(names) > 1:
            raise StorageError(
                f"{decode_name(file)} became something else while it was read: stop what changes it, then publish again"
            )
        folder.records[names[0]] = settled(record_of(status), self._now_ns())
        self._read(folder, names, status, before, group, attempt + 1)

    def _vanished(self, folder: _Folder, names: list[bytes], before: list[Entry | None]) -> None:
        for name, entry in zip(names, before, strict=True):
            text = decode_name(name)
            self._warn(f"{decode_name(self._file(_join(folder.relative, name)))} vanished while it was published")
            del folder.records[name]
            if entry is not None or self._tree.find(f"{folder.path}/{text}") is not None:
                self._remove(folder, text)
        self._one_less(folder)

    def _put_names(
        self,
        folder: _Folder,
        names: list[bytes],
        status: os.stat_result,
        content: StoredContent | None,
        before: list[Entry | None],
        group: int,
    ) -> None:
        file = self._file(_join(folder.relative, names[0]))
        found = content.found if content is not None else ()
        for name, old in zip(names, before, strict=True):
            text = decode_name(name)
            entry = self._entries.entry(text, file, status, content, group, len(names) if group else 1)
            self._put_if_different(f"{folder.path}/{text}", entry, old, found)
        self._progress.advance(len(names))

    def _one_less(self, folder: _Folder) -> None:
        """Remembers a folder when all that changed in it is staged."""
        folder.waiting -= 1
        if not folder.waiting:
            records = [(name, settled(record, folder.looked_ns)) for name, record in folder.records.items()]
            self._memory.remember(folder.relative, pack(records))

    # ------------------------------------------------------------------------------------------------------- comparing

    def _base_of(self, folder: _Folder, known: Records | None, *, is_fresh: bool) -> dict[str, Entry] | None:
        """What is published in a folder; None if its records say it already."""
        if is_fresh:
            return {}
        if known is not None and folder.path not in self._doubts.folders and all(map(is_settled, known.values())):
            return None
        hidden = _ALWAYS_LEFT_OUT if not folder.path else frozenset()
        return {e.name: e for e in self._tree.listing(folder.path) if e.name.encode("utf-8", "replace") not in hidden}

    def _put_if_different(self, path: str, entry: Entry, before: Entry | None, found: tuple[str, ...] = ()) -> None:
        if before is None or not says_the_same(entry, before):
            self._stage(Change(path, ChangeKind.PUT, entry), found)

    def _remove(self, folder: _Folder, text: str) -> None:
        self._memory.forget(_join(folder.relative, text.encode("utf-8", "surrogateescape")))
        self._stage(Change(f"{folder.path}/{text}", ChangeKind.REMOVE))

    def _stage(self, change: Change, found: tuple[str, ...] = ()) -> None:
        if change.kind is ChangeKind.REMOVE:
            self.counts.removed += 1
        else:
            self.counts.put += 1
        self._changes.append(change)
        self._found.extend(found)
        if len(self._changes) >= STAGED_CHANGES_MAX:
            self._flush()

    def _flush(self) -> None:
        if self._changes:
            changes, found = self._changes, self._found
            self._changes, self._found = [], []
            self._sink.stage(changes, found)
        self._flush_new()

    def _flush_new(self) -> None:
        if self._new_rows:
            rows, found = self._new_rows, self._new_found
            self._new_rows, self._new_found = [], []
            self._sink.stage_new(rows, found)

    # --------------------------------------------------------------------------------------------------------- looking

    def _list(self, relative: bytes) -> list[tuple[bytes, os.stat_result]]:
        """Name and status of everything in a folder, in byte order of the names."""
        found = listed(self._file(relative))
        return [pair for pair in found if pair[0] not in _NOT_ALWAYS_TAKEN or self._is_taken(relative, *pair)]

    def _is_taken(self, relative: bytes, name: bytes, status: os.stat_result) -> bool:
        """Whether a name is published; says so where it is not."""
        if not relative and not self._target and (name in _ALWAYS_LEFT_OUT or name in _MARKERS):
            self._warn(f"/{decode_name(name)} is left out: the name means something else at the top of a repository")
            return False
        if name in _MARKERS and not stat.S_ISREG(status.st_mode):
            file = decode_name(self._file(_join(relative, name)))
            self._warn(f"{file} is left out: only a regular file may have that name")
            return False
        return True

    def _now_ns(self) -> int:
        return int(self._clock.now() * _NANO)

    def _file(self, relative: bytes) -> bytes:
        return self._source + b"/" + relative if relative else self._source

    def _path(self, relative: bytes) -> str:
        return f"{self._target}/{decode_name(relative)}" if relative else self._target


def _link_groups(records: Records) -> dict[bytes, tuple[bytes, ...]]:
    """For each name that shares its inode with others in its folder: all of them."""
    by_inode: dict[int, list[bytes]] = {}
    for name, record in records.items():
        if not is_directory_record(record):
            inode, links = link_of_record(record)
            if links > 1 and inode:
                by_inode.setdefault(inode, []).append(name)
    return {name: tuple(names) for names in by_inode.values() if len(names) > 1 for name in names}


def _join(folder: bytes, name: bytes) -> bytes:
    return folder + b"/" + name if folder else name


def _name(path: str) -> str:
    return path.rpartition("/")[2]
