"""The local back end: objects as files that any web server can serve (spec §9.2).

A new file is written under a temporary name in a folder of its writer's own below ``data/txn`` and then linked to its
final name. `link` refuses to replace, so of several writers exactly one stores the object, and no reader ever sees a
part of it. Where the file system has no hard links it is renamed instead. A folder for each writer matters: processes
that create and remove names in one folder wait for its lock (docs/decisions/0003-synchronous-storage.md).

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
        self._writer: tuple[int, str] | None = None  # the process that writes, and its folder
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
            temporary, fd = self._create()
            try:
                try:
                    _write_all(fd, view)
                finally:
                    os.close(fd)
                return self._install(temporary, path, len(view))
            finally:
                _remove(temporary)

    def stage(self) -> _StagedFile:
        with self._mapped("store", STAGING_PATH):
            temporary, fd = self._create()
        return _StagedFile(self, temporary, fd)

    def replace(self, path: str, data: Buffer) -> None:
        target = self._file(path)
        with self._mapped("replace", path):
            temporary, fd = self._create()
            try:
                try:
                    _write_all(fd, memoryview(data).cast("B"))
                    os.fsync(fd)
                finally:
                    os.close(fd)
                self.flush()
                self._make_parent(path)
                os.replace(temporary, target)
                sync_directory(os.path.dirname(target))
            finally:
                _remove(temporary)

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

    def _create(self) -> tuple[str, int]:
        """A new temporary file: its path and a descriptor to write it by."""
        self._opened_staging()
        while True:
            temporary = f"{self._writers_folder()}/{next(self._names)}"
            try:
                return temporary, os.open(temporary, _CREATE, self._mode)
            except FileExistsError:
                continue  # another thread of a forked process counts on from the same number
            except FileNotFoundError:  # somebody removed the staging folder, or swept ours while it was empty
                self.prepare()
                self._writer = None

    def _writers_folder(self) -> str:
        """This process's own folder for temporary files."""
        writer = self._writer
        if writer is None or writer[0] != os.getpid():
            folder = f"{self._staging}/{os.getpid()}-{os.urandom(6).hex()}"
            os.mkdir(folder)
            weakref.finalize(self, _remove_folder, folder)
            self._writer = writer = (os.getpid(), folder)
        return writer[1]

    def _opened_staging(self) -> int:
        """A descriptor of the staging folder, kept open so that `flush` hears of every write that failed since."""
        if self._staging_fd is None:
            with self._lock:
                if self._staging_fd is None:
                    self.prepare()
                    self._staging_fd = os.open(self._staging, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                    weakref.finalize(self, os.close, self._staging_fd)
        return self._staging_fd

    def _install(self, temporary: str, path: str, size: int) -> bool:
        """Gives a complete temporary file its final name; the temporary name may remain."""
        self._make_parent(path)
        target = f"{self.root}/{path}"
        try:
            os.link(temporary, target, follow_symlinks=False)
        except FileExistsError:
            pass
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            if not os.path.lexists(target):
                os.rename(temporary, target)
                return True
        else:
            return True
        if _size_of_file(target) == size:
            return False
        os.rename(temporary, target)  # a power cut left a part of it, or the name leads nowhere
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


class _StagedFile:
    """An object growing in the staging folder.

    Its lock lets the `with` block be left while another thread still writes, as happens when a task is cancelled that
    had handed the write to a thread: without it the descriptor's number could belong to another file by then.
    """

    def __init__(self, store: LocalStore, temporary: str, fd: int) -> None:
        self._store = store
        self._temporary = temporary
        self._fd = fd
        self._size = 0
        self._lock = threading.Lock()

    def write(self, data: Buffer) -> None:
        view = memoryview(data).cast("B")
        with self._lock, self._store._mapped("store", STAGING_PATH):  # noqa: SLF001  a part of the store
            self._check_open()
            _write_all(self._fd, view)
            self._size += len(view)

    def commit(self, path: str) -> bool:
        checked_path(path)
        with self._lock, self._store._mapped("store", path):  # noqa: SLF001
            self._check_open()
            self._close()
            return self._store._install(self._temporary, path, self._size)  # noqa: SLF001

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._lock:
            if self._fd >= 0:
                with suppress(OSError):  # what is discarded need not be written
                    self._close()
            _remove(self._temporary)

    def _check_open(self) -> None:
        if self._fd < 0:
            raise StorageError(f"a staged object in {self._store.root} is already finished")

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        os.close(fd)


def _write_all(fd: int, view: memoryview) -> None:
    written = os.write(fd, view)
    while written < len(view):  # a disk that fills up, or more than 2 GiB at once
        written += os.write(fd, view[written:])


def _remove(temporary: str) -> None:
    with suppress(OSError):  # it has its final name, or `sweep_staging` removes it later
        os.unlink(temporary)


def _sweep(folder: str, older_than: float) -> int:
    """Removes old files below a staging folder, and the folders of writers that left them."""
    removed = 0
    with suppress(*_MISSING), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(*_MISSING):  # its writer finished it in between
                if entry.is_dir(follow_symlinks=False):
                    is_old = entry.stat(follow_symlinks=False).st_mtime < older_than
                    removed += _sweep(entry.path, older_than)
                    if is_old:
                        _remove_folder(entry.path)
                elif entry.stat(follow_symlinks=False).st_mtime < older_than:
                    os.unlink(entry.path)
                    removed += 1
    return removed


def _remove_folder(path: str) -> None:
    with suppress(OSError):  # its writer is still busy, or it is gone already
        os.rmdir(path)


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
