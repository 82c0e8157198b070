"""Editing a tree by hand: what each operation demands of the tree, and which net changes it comes to.

The rules are those of a file system, with two differences: an operation names a path, so other names of a hard-linked
file stay as they were; and directories do not get a new modification time when something in them changes.
"""

from __future__ import annotations

import itertools
import os
import re
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, BinaryIO, Final

from cdn.catalog.entries import Entry, encode_name, encode_xattrs
from cdn.catalog.nesting import AUTO_MARKER, CATALOG_MARKER
from cdn.catalog.paths import is_path
from cdn.errors import PathExistsError, PathKindError, PathMissingError, UsageError
from cdn.objects import Kind, ObjectName
from stratum0.changes import Change, ChangeKind, is_at_or_below, is_below, name_of, parent_of

if TYPE_CHECKING:
    from stratum0.content import StoredContent
    from stratum0.overlay import Overlay

RESERVED_PATH: Final = "/.cvmfs"
"""Where clients find other revisions; publishers keep out of it (spec §5.9)."""
ROOT_MARKER: Final = f"/{CATALOG_MARKER}"
MARKERS: Final = frozenset({CATALOG_MARKER, AUTO_MARKER})
_BELOW_MARKERS: Final = tuple(f"/{name}/" for name in sorted(MARKERS))
_PERMISSIONS: Final = 0o7777
_FILE_MODE: Final = 0o644
_DIRECTORY_SIZE: Final = 4096
_NANOSECONDS: Final = 1_000_000_000
_SUSPECT: Final = re.compile(r"\0|//|/\.{1,2}(?:/|$)|/$|^[^/]")
_SAFE_LENGTH: Final = 63
"""No name in a path of so many characters can be longer than 255 bytes."""

Source = bytes | str | os.PathLike[str] | BinaryIO


def checked_path(path: str, subtree: str) -> str:
    """The path itself, if a transaction on this subtree may change it.

    Raises:
        UsageError: it is no path, lies outside of the subtree, or is none that anybody may change.
    """
    if (path and _SUSPECT.search(path)) or (len(path) > _SAFE_LENGTH and not is_path(path)):
        raise UsageError(f"{path[:200]!r} is no path in a repository: it must look like /software/readme")
    if subtree and not is_at_or_below(path, subtree):
        raise UsageError(f"{path or '/'} is outside of {subtree}, the subtree of this transaction")
    if any(below in path for below in _BELOW_MARKERS):
        raise UsageError(f"{path[:200]!r} lies below what only marks a nested catalog: name it otherwise")
    if path.startswith(RESERVED_PATH):
        if is_at_or_below(path, RESERVED_PATH):
            raise UsageError(f"{RESERVED_PATH} belongs to the repository itself and cannot be changed")
        if path == ROOT_MARKER:
            raise UsageError(f"{ROOT_MARKER} cannot be: the root is a catalog already")
    return path


def objects_of(entry: Entry) -> Iterator[str]:
    """Paths of the objects that an entry relies on."""
    if entry.is_external:
        return
    if entry.digest is not None:
        yield ObjectName(entry.digest, Kind.FILE).path
    for chunk in entry.chunks:
        yield ObjectName(chunk.digest, Kind.CHUNK).path


class Editing(ABC):
    """The operations; whoever implements it provides the tree and takes the changes.

    Paths are absolute; the root is the empty string. Every operation raises `UsageError` for a path that cannot be
    changed, and otherwise what it says.
    """

    subtree: str

    @property
    @abstractmethod
    def overlay(self) -> Overlay:
        """The tree as it would be after a commit."""

    @abstractmethod
    def stage(self, changes: Iterable[Change], found: Iterable[str]) -> None:
        """Records changes; see `stratum0.changes.ChangeSink`."""

    @abstractmethod
    def _store(self, source: Source) -> StoredContent:
        """Puts content into the object store."""

    @abstractmethod
    def _take_away(self, path: str, *, is_in_base: bool, moved: Iterable[Change] = ()) -> None:
        """Records, all at once, that a path and everything below it is gone, after it was copied if it was moved."""

    @abstractmethod
    def _now_ns(self) -> int:
        """The time for new entries, in nanoseconds since the epoch."""

    @abstractmethod
    def _owner(self) -> tuple[int, int]:
        """User and group of new entries."""

    # ---------------------------------------------------------------------------------------------------------- looking

    def find(self, path: str) -> Entry | None:
        """The entry at a path as the tree would be after a commit, None if there is none."""
        return self.overlay.find(path)

    def listing(self, path: str) -> Iterator[Entry]:
        """The entries of a directory as it would be after a commit, in byte order of their names."""
        return self.overlay.listing(path)

    def walk(self, path: str = "") -> Iterator[tuple[str, Entry]]:
        """Everything at and below a path as it would be after a commit, parents first."""
        return self.overlay.walk(path)

    # ------------------------------------------------------------------------------------------------------ new entries

    def put_file(
        self,
        path: str,
        source: Source,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        mtime_ns: int | None = None,
        parents: bool = False,
    ) -> Entry:
        """Stores a regular file, in place of what other than a directory is there.

        Args:
            path: where.
            source: the content: bytes, a binary stream, or the path of a file, which then also gives mode and time.
            mode: permission bits; those of the file that is replaced, or 0644, if nothing says otherwise.
            uid, gid: its owner; likewise, or the repository's owner.
            mtime_ns: modification time in nanoseconds since the epoch; now if nothing says otherwise.
            parents: whether missing directories above are made.

        Raises:
            PathMissingError: there is no directory to put it into.
            PathKindError: there is a directory at the path, or something above it is none.
            OSError: the source cannot be read.
        """
        before = self._free(path, parents=parents, replaced=True)
        model = before if before is not None and before.is_file else None
        if isinstance(source, str | os.PathLike):
            status = os.stat(source)
            mode = stat.S_IMODE(status.st_mode) if mode is None else mode
            mtime_ns = status.st_mtime_ns if mtime_ns is None else mtime_ns
        content = self._store(source)
        made = self._made(stat.S_IFREG, _FILE_MODE, model=model)
        entry = replace(made, **content.entry_fields)
        return self._put(path, _adjusted(entry, mode=mode, uid=uid, gid=gid, mtime_ns=mtime_ns), content.found)

    def symlink(self, path: str, target: str, *, parents: bool = False) -> Entry:
        """Makes a symbolic link.

        Raises:
            PathExistsError: there is something at the path.
            PathMissingError, PathKindError: as `put_file`.
        """
        if not target or "\0" in target:
            raise UsageError(f"{path} cannot be a symbolic link to {target!r}")
        self._free(path, parents=parents)
        entry = replace(self._made(stat.S_IFLNK, 0o777), symlink=target, size=len(encode_name(target)))
        return self._put(path, entry)

    def mkdir(self, path: str, *, mode: int = 0o755, parents: bool = False) -> Entry:
        """Makes a directory.

        Args:
            path: where.
            mode: permission bits.
            parents: whether missing directories above are made too, and one that is there is no error.

        Raises:
            PathExistsError: there is something at the path.
            PathMissingError, PathKindError: as `put_file`.
        """
        present = self.find(checked_path(path, self.subtree))
        if parents and present is not None and present.is_directory:
            return present
        self._free(path, parents=parents)
        return self._put(path, self._made(stat.S_IFDIR, mode))

    # ---------------------------------------------------------------------------------------------- removing and moving

    def remove(self, path: str, *, recursive: bool = False) -> None:
        """Removes a path.

        Args:
            path: what.
            recursive: whether a directory may hold something.

        Raises:
            PathMissingError: there is no such path.
            PathKindError: it is a directory that is not empty.
        """
        entry = self._existing(path)
        if not path:
            raise UsageError("the root of a repository cannot be removed")
        if entry.is_directory and not recursive and self._holds_something(path):
            raise PathKindError(f"the directory is not empty: {path}")
        self._take_away(path, is_in_base=self.overlay.underlying(path) is not None)

    def move(self, source: str, destination: str) -> None:
        """Gives a path, and everything below it, another name; a file in its place is replaced.

        Raises:
            PathMissingError: there is no such path, or no directory to put it into.
            PathExistsError: there is a directory at the destination, or it would replace something.
            PathKindError: it would get into itself, or something above the destination is no directory.
        """
        entry = self._existing(source)
        if not source or is_below(destination, source):
            raise PathKindError(f"{source or '/'} cannot be moved into itself")
        if source == destination:
            return
        self._free(destination, replaced=not entry.is_directory)
        moved = self._copies(source, destination) if entry.is_directory else iter((_placed(destination, entry),))
        self._take_away(source, is_in_base=self.overlay.underlying(source) is not None, moved=moved)

    def _copies(self, source: str, destination: str) -> Iterator[Change]:
        for path, entry in self.overlay.walk(source):
            if entry.is_bind_mountpoint:
                raise PathKindError(f"another revision is mounted here, which cannot be moved: {path}")
            kind = ChangeKind.CLEAR if entry.is_directory else ChangeKind.PUT
            yield Change(destination + path[len(source) :], kind, entry)

    # --------------------------------------------------------------------------------------------------------- metadata

    def chmod(self, path: str, mode: int) -> Entry:
        """Changes the permission bits.

        Raises:
            PathMissingError: there is no such path.
            PathKindError: it is a symbolic link, which has none.
        """
        entry = self._existing(path)
        if entry.is_symlink:
            raise PathKindError(f"a symbolic link has no permissions of its own: {path}")
        return self._put(path, _adjusted(entry, mode=mode))

    def chown(self, path: str, uid: int | None = None, gid: int | None = None) -> Entry:
        """Changes the owner; None leaves it.

        Raises:
            PathMissingError: there is no such path.
        """
        return self._put(path, _adjusted(self._existing(path), uid=uid, gid=gid))

    def utime(self, path: str, mtime_ns: int) -> Entry:
        """Changes the modification time, in nanoseconds since the epoch.

        Raises:
            PathMissingError: there is no such path.
        """
        return self._put(path, _adjusted(self._existing(path), mtime_ns=mtime_ns))

    def set_xattrs(self, path: str, xattrs: dict[bytes, bytes]) -> Entry:
        """Replaces the extended attributes.

        Raises:
            PathMissingError: there is no such path.
            DocumentError: the format cannot hold them.
        """
        attributes = tuple(sorted(xattrs.items()))
        encode_xattrs(attributes)
        return self._put(path, replace(self._existing(path), xattrs=attributes))

    # ----------------------------------------------------------------------------------------------------------- inside

    def _put(self, path: str, entry: Entry, found: Iterable[str] | None = None) -> Entry:
        entry = replace(entry, name=name_of(path), hardlink_group=0)
        self.stage([Change(path, ChangeKind.PUT, entry)], objects_of(entry) if found is None else found)
        return entry

    def _existing(self, path: str) -> Entry:
        entry = self.find(checked_path(path, self.subtree))
        if entry is None:
            raise PathMissingError(path)
        return entry

    def _holds_something(self, path: str) -> bool:
        """Whether a directory has entries other than the markers that balancing made."""
        names = {entry.name for entry in itertools.islice(self.listing(path), len(MARKERS) + 1)}
        return bool(names - MARKERS if AUTO_MARKER in names else names)

    def _free(self, path: str, *, parents: bool = False, replaced: bool = False) -> Entry | None:
        """What is to be replaced at a path where something can be put.

        Args:
            path: where.
            parents: whether missing directories above are made.
            replaced: whether something other than a directory may be there.
        """
        checked_path(path, self.subtree)
        if not path:
            raise PathExistsError(path)
        present = self.find(path)
        if present is not None and present.is_directory and replaced:
            raise PathKindError(f"it is a directory: {path}")
        if present is not None and not replaced:
            raise PathExistsError(path)
        if present is None and path != self.subtree:  # what is above the subtree is made by the commit
            self._check_parent(parent_of(path), parents=parents)
        return present

    def _check_parent(self, path: str, *, parents: bool) -> None:
        entry = self.find(path)
        if entry is None and (parents or (path and path == self.subtree)):
            self.mkdir(path, parents=True)
        elif entry is None and path:
            raise PathMissingError(path)
        elif entry is not None and not entry.is_directory:
            raise PathKindError(f"it is no directory, so nothing can be put into it: {path}")

    def _made(self, kind: int, mode: int, *, model: Entry | None = None) -> Entry:
        seconds, nanoseconds = divmod(self._now_ns(), _NANOSECONDS)
        if model is not None:
            return replace(model, mtime=seconds, mtime_ns=nanoseconds, digest=None, chunks=(), plain_digest=None)
        uid, gid = self._owner()
        size = _DIRECTORY_SIZE if kind == stat.S_IFDIR else 0
        return Entry("", kind | (mode & _PERMISSIONS), size, seconds, nanoseconds, uid, gid)


def _placed(path: str, entry: Entry) -> Change:
    return Change(path, ChangeKind.PUT, replace(entry, hardlink_group=0))


def _adjusted(
    entry: Entry,
    *,
    mode: int | None = None,
    uid: int | None = None,
    gid: int | None = None,
    mtime_ns: int | None = None,
) -> Entry:
    for number, most in ((mode, _PERMISSIONS), (uid, _ID_MAX), (gid, _ID_MAX)):
        if number is not None and not 0 <= number <= most:
            raise UsageError(f"{number} is no mode, user or group")
    seconds, nanoseconds = (entry.mtime, entry.mtime_ns) if mtime_ns is None else divmod(mtime_ns, _NANOSECONDS)
    return replace(
        entry,
        mode=entry.mode if mode is None else stat.S_IFMT(entry.mode) | mode,
        uid=entry.uid if uid is None else uid,
        gid=entry.gid if gid is None else gid,
        mtime=seconds,
        mtime_ns=nanoseconds,
    )


_ID_MAX: Final = (1 << 32) - 1
