"""Copying out of a repository into a local folder, so that nothing in the repository decides where anything is written.

Names and links come from strangers. So every directory is opened without following links and everything is made
relative to that descriptor; a name that is no plain name is refused; a file appears under its name only when its
content is complete and verified; bits that lend the owner's rights (setuid, setgid) are not copied; devices, sockets
and FIFOs are left out and reported.

However deep a tree is, only some of its directories are open at a time. One that was closed is opened again relative to
the one above it, without following links, and must be the same directory as before.
"""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import stat
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from cdn.catalog.entries import Entry
from cdn.catalog.paths import is_name, parent_of
from cdn.client.files import pieces_of
from cdn.client.filesystem import FileSystem
from cdn.client.threads import in_thread
from cdn.errors import CdnError, DocumentError, PathKindError, StorageError, StorageFullError
from cdn.telemetry import NullProgress, Progress

FILES_AT_ONCE: Final = 8
DIRECTORIES_OPEN_MAX: Final = 32
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PERMISSIONS: Final = 0o777
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_ENDING: Final = _FULL | {errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE}
"""What will not be better with the next file."""


@dataclass(slots=True)
class CopyReport:
    """What was copied, and what was not."""

    files: int = 0
    directories: int = 0
    symlinks: int = 0
    bytes: int = 0
    skipped: int = 0
    failed: int = 0


@dataclass(slots=True, eq=False)
class _Directory:
    """A local directory being filled; its own times are set when nothing more comes into it.

    Its parent and its name there are how it is opened again; that in which everything happens has none and stays open.
    """

    entry: Entry | None
    parent: _Directory | None
    name: str
    identity: tuple[int, int]
    users: int = 1


class _Descriptors:
    """Descriptors of directories, those used last kept open; what is given is good until the next one is asked for.

    Args:
        top: the directory in which everything happens.
        fd: its descriptor, closed with the others.
    """

    def __init__(self, top: _Directory, fd: int) -> None:
        self._top = top
        self._top_fd = fd
        self._open: OrderedDict[_Directory, int] = OrderedDict()

    def of(self, directory: _Directory) -> int:
        """The descriptor of a directory.

        Raises:
            OSError, StorageError: it cannot be opened again.
        """
        closed = []
        while directory is not self._top and directory not in self._open:
            closed.append(directory)
            assert directory.parent is not None
            directory = directory.parent
        fd = self._top_fd
        if directory is not self._top:
            self._open.move_to_end(directory)
            fd = self._open[directory]
        for below in reversed(closed):
            fd = _opened_again(below, fd)
            self.keep(below, fd)
        return fd

    def keep(self, directory: _Directory, fd: int) -> None:
        """Takes over the descriptor of a directory."""
        self._open[directory] = fd
        while len(self._open) > DIRECTORIES_OPEN_MAX:
            os.close(self._open.popitem(last=False)[1])

    def close(self, directory: _Directory) -> None:
        """Closes a directory, if it is open."""
        fd = self._open.pop(directory, None)
        if fd is not None:
            os.close(fd)

    def close_all(self) -> None:
        """Closes every directory."""
        while self._open:
            os.close(self._open.popitem()[1])
        os.close(self._top_fd)


@dataclass(slots=True)
class _Copy:
    """One copy command."""

    files: FileSystem
    descriptors: _Descriptors
    progress: Progress
    complain: Callable[[str], None]
    report: CopyReport = field(default_factory=CopyReport)
    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(FILES_AT_ONCE))


async def copy_out(
    files: FileSystem,
    path: str,
    target: str,
    *,
    recursive: bool = False,
    progress: Progress | None = None,
    complain: Callable[[str], None] = lambda _: None,
) -> CopyReport:
    """Copies a file, or with `recursive` a whole tree, to a local path.

    Modes, times and links are kept; what exists is replaced file by file. What cannot be copied is reported through
    `complain` and counted, and the rest goes on.

    Args:
        files: where from.
        path: of the file or directory.
        target: the local path it gets; its parent must exist.
        recursive: whether directories are copied.
        progress: told of every byte.
        complain: told in a sentence what is not copied.

    Raises:
        PathKindError: the path is a directory and `recursive` is not set, or the target cannot be.
        CdnError: the path cannot be read at all.
        StorageError: the target cannot be written.
    """
    progress = progress or NullProgress()
    found = await files.resolve(path, follow=not recursive or path.endswith("/"))
    if found.entry.is_directory and not recursive:
        raise PathKindError(f"{found.path or '/'} is a directory: use -r to copy it with everything in it")
    progress.start(None, "bytes")
    try:
        top, fd, name = _parent_of(target)
        copy = _Copy(files, _Descriptors(top, fd), progress, complain)
        try:
            await _copy_tree(copy, found.path, found.entry, top, name)
        finally:
            copy.descriptors.close_all()
    except OSError as error:
        raise _unwritable(target, error) from error
    except ExceptionGroup as failures:
        cause = failures.exceptions[0]
        raise (_unwritable(target, cause) if isinstance(cause, OSError) else cause) from None
    return copy.report


def _parent_of(target: str) -> tuple[_Directory, int, str]:
    """The directory that a target lies in, its descriptor, and the target's name there."""
    folder, name = os.path.split(os.path.abspath(target))
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    return _Directory(None, None, folder, _identity(fd)), fd, name


def _opened_again(directory: _Directory, above: int) -> int:
    """A descriptor of a directory that was closed, if it still is where it was in the one above it."""
    complaint = f"the directory {directory.name!r} was taken away or replaced while it was being filled"
    try:
        fd = os.open(directory.name, _DIRECTORY, dir_fd=above)
    except OSError as error:
        if error.errno in _ENDING:
            raise
        raise StorageError(complaint) from error
    if _identity(fd) != directory.identity:
        os.close(fd)
        raise StorageError(complaint)
    return fd


def _identity(fd: int) -> tuple[int, int]:
    """What tells a directory from any other one that may be put in its place."""
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def _unwritable(target: str, error: OSError) -> StorageError:
    kind = StorageFullError if error.errno in _FULL else StorageError
    return kind(f"cannot write {target}: {error.strerror}")


async def _copy_tree(copy: _Copy, path: str, entry: Entry, top: _Directory, name: str) -> None:
    if not entry.is_directory:
        await _copy_one(copy, path, entry, top, name)
        return
    directories = {path: _make_directory(copy, top, name, entry)}
    await _copy_below(copy, path, directories)
    for directory in reversed(list(directories.values())):
        _leave(copy, directory)


async def _copy_below(copy: _Copy, path: str, directories: dict[str, _Directory]) -> None:
    """Copies what is in a directory; `directories` are those being filled, by their paths in the repository."""
    async with asyncio.TaskGroup() as group:
        last = path
        async for below, child in copy.files.walk(path):
            if below == path:
                continue
            folder = parent_of(below)
            for left in _left_behind(last, folder):
                _leave(copy, directories.pop(left))
            last = below if child.is_directory else folder
            parent = directories[folder]
            if not is_name(child.name):
                raise DocumentError(f"the directory {folder or '/'}", f"it has an entry named {child.name[:100]!r}")
            if child.is_directory:
                directories[below] = _make_directory(copy, parent, child.name, child)
                continue
            await copy.slots.acquire()
            parent.users += 1
            group.create_task(_copy_in_background(copy, below, child, parent))


def _left_behind(last: str, folder: str) -> list[str]:
    """The directories that a walk has left for good when it comes from one path to an entry of another."""
    left = []
    while last != folder and not folder.startswith(f"{last}/"):
        left.append(last)
        last = parent_of(last)
    return left


async def _copy_in_background(copy: _Copy, path: str, entry: Entry, parent: _Directory) -> None:
    try:
        await _copy_one(copy, path, entry, parent, entry.name)
    finally:
        copy.slots.release()
        _leave(copy, parent)


async def _copy_one(copy: _Copy, path: str, entry: Entry, parent: _Directory, name: str) -> None:
    """Copies one file or link; a failure of this one alone is reported and counted."""
    if entry.is_special:
        copy.report.skipped += 1
        copy.complain(f"{path} is left out: it is a device, socket or FIFO")
        return
    try:
        if entry.is_symlink:
            _copy_link(copy, path, entry, parent, name)
        else:
            await _copy_content(copy, path, entry, parent, name)
    except OSError as error:
        if error.errno in _ENDING:
            raise
        copy.report.failed += 1
        reason = "a directory is in its place" if isinstance(error, IsADirectoryError) else error.strerror
        copy.complain(f"{path} is not copied: {reason}")
    except CdnError as error:
        copy.report.failed += 1
        copy.complain(str(error))


def _copy_link(copy: _Copy, path: str, entry: Entry, parent: _Directory, name: str) -> None:
    target = copy.files.target_of(entry)
    if not target:
        copy.report.skipped += 1
        copy.complain(f"{path} is left out: its target {entry.symlink!r} is empty here")
        return
    fd = copy.descriptors.of(parent)
    _replace(fd, name, lambda new: os.symlink(target, new, dir_fd=fd))
    _set_times(entry, name, fd)
    copy.report.symlinks += 1


async def _copy_content(copy: _Copy, path: str, entry: Entry, parent: _Directory, name: str) -> None:
    copy.progress.expect(entry.size)
    temporary = f".cdn-{secrets.token_hex(8)}"
    async with copy.files.open_entry(path, entry) as file:
        fd = os.open(temporary, _NEW_FILE, 0o600, dir_fd=copy.descriptors.of(parent))
        try:
            async for piece in pieces_of(file):
                await in_thread(_write_all, fd, piece)
                copy.progress.advance(len(piece))
            os.fchmod(fd, stat.S_IMODE(entry.mode) & _PERMISSIONS)
            os.utime(fd, ns=(_nanoseconds(entry), _nanoseconds(entry)))
            folder = copy.descriptors.of(parent)
            os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with suppress(OSError, StorageError):
                os.unlink(temporary, dir_fd=copy.descriptors.of(parent))
            raise
        finally:
            os.close(fd)
    copy.report.files += 1
    copy.report.bytes += entry.size


def _make_directory(copy: _Copy, parent: _Directory, name: str, entry: Entry) -> _Directory:
    """A directory to fill, made if it is not there; a link in its place is not followed."""
    above = copy.descriptors.of(parent)
    try:
        os.mkdir(name, 0o700, dir_fd=above)
    except FileExistsError:
        try:
            fd = os.open(name, _DIRECTORY, dir_fd=above)
        except OSError as error:
            raise StorageError(f"{name!r} is in the way where a directory must be: {error.strerror}") from error
    else:
        fd = os.open(name, _DIRECTORY, dir_fd=above)
    made = _Directory(entry, parent, name, _identity(fd))
    copy.descriptors.keep(made, fd)
    parent.users += 1
    copy.report.directories += 1
    return made


def _leave(copy: _Copy, directory: _Directory) -> None:
    """Gives up one use of a directory; with the last one it gets its own mode and time, and so may those above it."""
    left: _Directory | None = directory
    while left is not None:
        left.users -= 1
        if left.users or left.entry is None:
            return
        fd = copy.descriptors.of(left)
        os.fchmod(fd, stat.S_IMODE(left.entry.mode) & _PERMISSIONS)
        os.utime(fd, ns=(_nanoseconds(left.entry), _nanoseconds(left.entry)))
        copy.descriptors.close(left)
        left = left.parent


def _replace(fd: int, name: str, make: Callable[[str], None]) -> None:
    """Makes something under another name and puts it in the place of what is there."""
    temporary = f".cdn-{secrets.token_hex(8)}"
    make(temporary)
    try:
        os.rename(temporary, name, src_dir_fd=fd, dst_dir_fd=fd)
    except BaseException:
        os.unlink(temporary, dir_fd=fd)
        raise


def _set_times(entry: Entry, name: str, fd: int) -> None:
    with suppress(NotImplementedError):
        os.utime(name, ns=(_nanoseconds(entry), _nanoseconds(entry)), dir_fd=fd, follow_symlinks=False)


def _nanoseconds(entry: Entry) -> int:
    return entry.mtime * 1_000_000_000 + entry.mtime_ns


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
