"""Copying out of a repository into a local folder, so that nothing in the repository decides where anything is written.

Names and links come from strangers. So every directory is opened without following links and everything is made
relative to that descriptor; a name that is no plain name is refused; a file appears under its name only when its
content is complete and verified; bits that lend the owner's rights (setuid, setgid) are not copied; devices, sockets
and FIFOs are left out and reported.
"""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import stat
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
    """A local directory being filled; its own times are set when nothing more comes into it."""

    fd: int
    entry: Entry | None
    parent: _Directory | None
    users: int = 1

    def close(self) -> None:
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            os.close(fd)


@dataclass(slots=True)
class _Copy:
    """One copy command."""

    files: FileSystem
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
    copy = _Copy(files, progress or NullProgress(), complain)
    found = await files.resolve(path, follow=not recursive or path.endswith("/"))
    if found.entry.is_directory and not recursive:
        raise PathKindError(f"{found.path or '/'} is a directory: use -r to copy it with everything in it")
    copy.progress.start(None, "bytes")
    try:
        top, name = _parent_of(target)
        try:
            await _copy_tree(copy, found.path, found.entry, top, name)
        finally:
            os.close(top.fd)
    except OSError as error:
        raise _unwritable(target, error) from error
    except ExceptionGroup as failures:
        cause = failures.exceptions[0]
        raise (_unwritable(target, cause) if isinstance(cause, OSError) else cause) from None
    return copy.report


def _parent_of(target: str) -> tuple[_Directory, str]:
    """The directory that a target lies in, and its name there."""
    folder, name = os.path.split(os.path.abspath(target))
    return _Directory(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), None, None), name


def _unwritable(target: str, error: OSError) -> StorageError:
    kind = StorageFullError if error.errno in _FULL else StorageError
    return kind(f"cannot write {target}: {error.strerror}")


async def _copy_tree(copy: _Copy, path: str, entry: Entry, top: _Directory, name: str) -> None:
    if not entry.is_directory:
        await _copy_one(copy, path, entry, top, name)
        return
    directories = {path: _make_directory(copy, top, name, entry)}
    try:
        await _copy_below(copy, path, directories)
        for directory in reversed(list(directories.values())):
            _leave(directory)
    finally:
        for directory in directories.values():
            directory.close()


async def _copy_below(copy: _Copy, path: str, directories: dict[str, _Directory]) -> None:
    """Copies what is in a directory; `directories` are those being filled, by their paths in the repository."""
    async with asyncio.TaskGroup() as group:
        last = path
        async for below, child in copy.files.walk(path):
            if below == path:
                continue
            folder = parent_of(below)
            for left in _left_behind(last, folder):
                _leave(directories.pop(left))
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
        _leave(parent)


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
    _replace(parent.fd, name, lambda new: os.symlink(target, new, dir_fd=parent.fd))
    _set_times(entry, name, parent.fd)
    copy.report.symlinks += 1


async def _copy_content(copy: _Copy, path: str, entry: Entry, parent: _Directory, name: str) -> None:
    copy.progress.expect(entry.size)
    temporary = f".cdn-{secrets.token_hex(8)}"
    async with copy.files.open_entry(path, entry) as file:
        fd = os.open(temporary, _NEW_FILE, 0o600, dir_fd=parent.fd)
        try:
            async for piece in pieces_of(file):
                await in_thread(_write_all, fd, piece)
                copy.progress.advance(len(piece))
            os.fchmod(fd, stat.S_IMODE(entry.mode) & _PERMISSIONS)
            os.utime(fd, ns=(_nanoseconds(entry), _nanoseconds(entry)))
            os.rename(temporary, name, src_dir_fd=parent.fd, dst_dir_fd=parent.fd)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary, dir_fd=parent.fd)
            raise
        finally:
            os.close(fd)
    copy.report.files += 1
    copy.report.bytes += entry.size


def _make_directory(copy: _Copy, parent: _Directory, name: str, entry: Entry) -> _Directory:
    """A directory to fill, made if it is not there; a link in its place is not followed."""
    try:
        os.mkdir(name, 0o700, dir_fd=parent.fd)
    except FileExistsError:
        try:
            fd = os.open(name, _DIRECTORY, dir_fd=parent.fd)
        except OSError as error:
            raise StorageError(f"{name!r} is in the way where a directory must be: {error.strerror}") from error
    else:
        fd = os.open(name, _DIRECTORY, dir_fd=parent.fd)
    parent.users += 1
    copy.report.directories += 1
    return _Directory(fd, entry, parent)


def _leave(directory: _Directory) -> None:
    """Gives up one use of a directory; with the last one it gets its own mode and time, and so may those above it."""
    left: _Directory | None = directory
    while left is not None:
        left.users -= 1
        if left.users or left.entry is None:
            return
        os.fchmod(left.fd, stat.S_IMODE(left.entry.mode) & _PERMISSIONS)
        os.utime(left.fd, ns=(_nanoseconds(left.entry), _nanoseconds(left.entry)))
        left.close()
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
