"""The local back end: objects as files that any web server can serve (spec §9.2).

A new file is written without a name (``O_TMPFILE`` in ``data/txn``) and then linked to its final one. `link` refuses to
replace, so of several writers exactly one stores the object; no reader ever sees a part of it, and nothing is left of a
writer that dies. Where the file system has no nameless files they have temporary names in ``data/txn``, and where it
has no hard links they are renamed (docs/decisions/0003-synchronous-storage.md).

A put is not synced: `flush` makes everything durable at once. So a power cut may leave an unflushed object truncated
under its final name; `put` sees the wrong size and stores it anew, and `exists` does not count an empty file as an
object.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
import weakref
from contextlib import contextmanager, suppress
from itertools import count
from typing import TYPE_CHECKING, BinaryIO, Final, Self

from cdn.errors import ObjectMissingError, StorageError, StorageFullError, StorageReadOnlyError
from cdn.hashing import Algorithm, digest_of
from cdn.objects import STAGING_PATH, ObjectName
from cdn.storage.base import StoredObject
from cdn.storage.durability import sync_directory, sync_file_system
from cdn.storage.paths import SHARDS, checked_path, checked_prefix, is_store_path

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from typing_extensions import Buffer

_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_NAMELESS: Final = os.O_WRONLY | os.O_CLOEXEC | getattr(os, "O_TMPFILE", 0)
_READ: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a FIFO in the store must not hang the reader
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_READ_ONLY: Final = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
_MISSING: Final = (FileNotFoundError, NotADirectoryError)
_NO_HARD_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EMLINK})
_EMPTY_OBJECTS: Final = frozenset(ObjectName(digest_of(algorithm, b"")).path for algorithm in Algorithm)
"""The objects that are rightly empty: those of the empty file, stored uncompressed."""


class LocalStore:
    """A store in a folder of the local file system; a `PrunableStore`.

    Args:
        root: the repository's folder; the first write creates it and the folders in it.
        mode: permissions of new files, which the umask reduces.
    """

    def __init__(self, root: str | os.PathLike[str], *, mode: int = 0o666) -> None:
        self.root: Final = os.path.abspath(os.fspath(root))
        self._mode = mode
        self._staging = f"{self.root}/{STAGING_PATH}"
        self._names = count()
        self._tag = os.urandom(6).hex()
        self._is_nameless = False  # known when the first file is written
        self._lock = threading.Lock()
        self._staging_fd: int | None = None
        self._folders: set[str] = set()

    def __repr__(self) -> str:
        return f"LocalStore({self.root!r})"

    # ---------------------------------------------------------------------------------------------------------- reading

    def exists(self, path: str) -> bool:
        try:
            status = os.stat(self._file(path))
        except _MISSING:
            return False
        except OSError as error:
            raise self._failure("look for", path, error) from error
        return stat.S_ISREG(status.st_mode) and (status.st_size > 0 or not _is_torn(path))

    def size(self, path: str) -> int:
        try:
            status = os.stat(self._file(path))
        except _MISSING:
            raise ObjectMissingError(path, self.root) from None
        except OSError as error:
            raise self._failure("look for", path, error) from error
        if not stat.S_ISREG(status.st_mode):
            raise ObjectMissingError(path, self.root)
        return status.st_size

    def read(self, path: str, *, size_max: int) -> bytes:
        with self.open(path) as stream:
            try:
                data = stream.read(size_max + 1)
            except OSError as error:
                raise self._failure("read", path, error) from error
        if len(data) > size_max:
            raise StorageError(f"{path} in {self.root} is larger than the limit of {size_max} bytes")
        return data

    def open(self, path: str) -> BinaryIO:
        try:
            fd = os.open(self._file(path), _READ)
        except _MISSING:
            raise ObjectMissingError(path, self.root) from None
        except OSError as error:
            raise self._failure("read", path, error) from error
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise ObjectMissingError(path, self.root)
        return os.fdopen(fd, "rb")

    # ---------------------------------------------------------------------------------------------------------- writing

    def prepare(self) -> None:
        """Creates the folder, ``data/00`` to ``data/ff`` and the staging folder, where they are not there yet.

        Raises:
            StorageReadOnlyError, StorageError: they cannot be created, or one of them is a symbolic link.
        """
        with self._mapped("prepare", "data"):
            if not os.path.isdir(self._staging):
                os.makedirs(f"{self.root}/data", exist_ok=True)
                for shard in SHARDS:
                    _make_folder(f"{self.root}/data/{shard}")
                _make_folder(self._staging)  # the last one, so that its presence says that all are there
            self._check_folder("data")
            self._check_folder(STAGING_PATH)

    def put(self, path: str, data: Buffer) -> bool:
        target = self._file(path)
        view = memoryview(data).cast("B")
        with self._mapped("store", path):
            if os.access(target, os.F_OK) and _size_of_file(target) == len(view):
                return False
            with self._create() as new:
                _write_all(new.fd, view)
                return self._install(new, path, len(view))

    def stage(self) -> _StagedFile:
        with self._mapped("store", STAGING_PATH):
            return _StagedFile(self, self._create())

    def replace(self, path: str, data: Buffer) -> None:
        target = self._file(path)
        with self._mapped("replace", path), self._create() as new:
            _write_all(new.fd, memoryview(data).cast("B"))
            os.fsync(new.fd)
            self.flush()
            self._make_parent(path)
            os.replace(self._name(new), target)
            sync_directory(os.path.dirname(target))

    def flush(self) -> None:
        with self._mapped("flush", "data"):
            sync_file_system(self._opened_staging())

    # ---------------------------------------------------------------------------------------------------------- pruning

    def list(self, prefix: str) -> Iterator[StoredObject]:
        checked_prefix(prefix)
        if prefix == "":
            yield from self._list_folder("")
        if prefix in {"", "data/"}:
            for shard in SHARDS:
                yield from self._list_folder(f"data/{shard}/")
        else:
            yield from self._list_folder(prefix)

    def delete(self, path: str) -> bool:
        try:
            os.unlink(self._file(path))
        except _MISSING:
            return False
        except OSError as error:
            raise self._failure("delete", path, error) from error
        return True

    def sweep_staging(self, *, older_than: float) -> int:
        with self._mapped("sweep", STAGING_PATH):
            return _sweep(self._staging, older_than)

    # -------------------------------------------------------------------------------------------------------- internals

    def _file(self, path: str) -> str:
        return f"{self.root}/{checked_path(path)}"

    def _create(self) -> _NewFile:
        """A new file that nobody sees yet."""
        self._opened_staging()
        while True:
            try:
                if self._is_nameless:
                    return _NewFile(os.open(self._staging, _NAMELESS, self._mode), None)
                name = self._temporary_name()
                return _NewFile(os.open(name, _CREATE, self._mode), name)
            except FileExistsError:
                continue  # another thread of a forked process counts on from the same number
            except FileNotFoundError:  # somebody removed the staging folder
                self.prepare()

    def _temporary_name(self) -> str:
        return f"{self._staging}/{os.getpid()}-{self._tag}-{next(self._names)}"

    def _name(self, new: _NewFile) -> str:
        """The temporary name of a new file, which gets one if it has none."""
        while new.name is None:
            name = self._temporary_name()
            with suppress(FileExistsError):
                new.link(name)
                new.name = name
        return new.name

    def _opened_staging(self) -> int:
        """A descriptor of the staging folder, kept open so that `flush` hears of every write that failed since."""
        if self._staging_fd is None:
            with self._lock:
                if self._staging_fd is None:
                    self.prepare()
                    self._is_nameless = _has_nameless_files(self._staging, self._temporary_name())
                    self._staging_fd = os.open(self._staging, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                    weakref.finalize(self, os.close, self._staging_fd)
        return self._staging_fd

    def _install(self, new: _NewFile, path: str, size: int) -> bool:
        """Gives a complete new file its final name; a temporary one may remain."""
        new.complete()
        self._make_parent(path)
        target = f"{self.root}/{path}"
        try:
            new.link(target)
        except FileExistsError:
            pass
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            if not os.path.lexists(target):
                os.rename(self._name(new), target)
                return True
        else:
            return True
        if _size_of_file(target) == size:
            return False
        os.rename(self._name(new), target)  # a power cut left a part of it, or the name leads nowhere
        return True

    def _make_parent(self, path: str) -> None:
        folder = path.rpartition("/")[0]
        if folder and folder not in self._folders:
            if not os.path.lexists(f"{self.root}/{folder}"):
                os.makedirs(f"{self.root}/{folder}", exist_ok=True)
            self._check_folder(folder)

    def _check_folder(self, folder: str) -> None:
        """Refuses to write through a symbolic link, which could lead anywhere."""
        if folder not in self._folders:
            if not stat.S_ISDIR(os.lstat(f"{self.root}/{folder}").st_mode):
                raise StorageError(f"{self.root}/{folder} is a symbolic link or a file: make it a folder")
            self._folders.add(folder)

    def _list_folder(self, folder: str) -> Iterator[StoredObject]:
        """The objects directly in one folder; other files are passed over."""
        with self._mapped("list", folder), suppress(*_MISSING), os.scandir(f"{self.root}/{folder}") as entries:
            for entry in entries:
                path = folder + entry.name
                with suppress(FileNotFoundError):  # removed in between
                    if is_store_path(path) and entry.is_file():
                        status = entry.stat()
                        yield StoredObject(path, status.st_size, status.st_mtime)

    @contextmanager
    def _mapped(self, verb: str, path: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._failure(verb, path, error) from error

    def _failure(self, verb: str, path: str, error: OSError) -> StorageError:
        said = f"cannot {verb} {path} in {self.root}: {error.strerror or error}"
        if error.errno in _FULL:
            return StorageFullError(f"{said}; free some space and try again")
        if error.errno in _READ_ONLY:
            return StorageReadOnlyError(f"{said}; check the folder's owner and permissions")
        return StorageError(said)


class _NewFile:
    """A file being written that nobody sees yet; a context manager that closes it and takes its temporary name away.

    Args:
        fd: to write it by.
        name: its temporary name; None if it has none, and goes by itself when it is closed.
    """

    __slots__ = ("fd", "name")

    def __init__(self, fd: int, name: str | None) -> None:
        self.fd = fd
        self.name = name

    def complete(self) -> None:
        """Says that everything is written. A network file system may say only on closing that it was not."""
        if self.name is not None:
            self._close()

    def link(self, target: str) -> None:
        """Gives it a name; refuses one that exists."""
        if self.name is not None:
            os.link(self.name, target, follow_symlinks=False)
        else:  # only with a folder's descriptor does Python follow the link that /proc has for the file
            os.link(f"/proc/self/fd/{self.fd}", target, src_dir_fd=self.fd, follow_symlinks=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with suppress(OSError):  # what is complete is closed or cannot fail, what is discarded need not be written
            self._close()
        if self.name is not None:
            with suppress(OSError):  # it has its final name, or `sweep_staging` removes it later
                os.unlink(self.name)

    def _close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


class _StagedFile:
    """An object growing unseen.

    Its lock lets the `with` block be left while another thread still writes, as happens when a task is cancelled that
    had handed the write to a thread: without it the descriptor's number could belong to another file by then.
    """

    def __init__(self, store: LocalStore, new: _NewFile) -> None:
        self._store = store
        self._new: _NewFile | None = new
        self._size = 0
        self._lock = threading.Lock()

    def write(self, data: Buffer) -> None:
        view = memoryview(data).cast("B")
        with self._lock, self._store._mapped("store", STAGING_PATH):  # noqa: SLF001  a part of the store
            _write_all(self._opened().fd, view)
            self._size += len(view)

    def commit(self, path: str) -> bool:
        checked_path(path)
        with self._lock, self._store._mapped("store", path):  # noqa: SLF001 -- of this module
            new, self._new = self._opened(), None
            with new:
                return self._store._install(new, path, self._size)  # noqa: SLF001 -- of this module

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._lock:
            new, self._new = self._new, None
            if new is not None:
                new.__exit__(kind, error, traceback)

    def _opened(self) -> _NewFile:
        if self._new is None:
            raise StorageError(f"a staged object in {self._store.root} is already finished")
        return self._new


def _write_all(fd: int, view: memoryview) -> None:
    written = os.write(fd, view)
    while written < len(view):  # a disk that fills up, or more than 2 GiB at once
        written += os.write(fd, view[written:])


def _has_nameless_files(folder: str, name: str) -> bool:
    """Whether a file can be made without a name there, and be given one afterwards."""
    if not hasattr(os, "O_TMPFILE"):
        return False
    try:
        with _NewFile(os.open(folder, _NAMELESS, 0o600), None) as new:
            new.link(name)
        os.unlink(name)
    except OSError:  # if it is for another reason, what comes next says it
        return False
    return True


def _sweep(folder: str, older_than: float) -> int:
    """Removes old files in a folder; how many."""
    removed = 0
    with suppress(*_MISSING), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(*_MISSING):  # its writer finished it in between
                is_file = not entry.is_dir(follow_symlinks=False)
                if is_file and entry.stat(follow_symlinks=False).st_mtime < older_than:
                    os.unlink(entry.path)
                    removed += 1
    return removed


def _make_folder(path: str) -> None:
    with suppress(FileExistsError):
        os.mkdir(path)


def _size_of_file(path: str) -> int | None:
    """The size of what is there, or None where there is nothing or the name leads nowhere."""
    try:
        return os.stat(path).st_size
    except _MISSING:
        return None


def _is_torn(path: str) -> bool:
    """Whether an empty file of this path is what a power cut left of an object."""
    return path.startswith("data/") and path not in _EMPTY_OBJECTS
