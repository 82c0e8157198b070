"""The local cache: plain content under the names of objects, shared by processes, trusted by none blindly.

Objects are kept *plain*, not as they are stored at servers: readers want any offset at once, catalogs must be files
that SQLite opens, and inflating at every open costs more than the disk (docs/decisions/0006-plain-client-cache.md). The
digest in the name is over the stored form, so each file ends with a seal: its size, the SHA-256 of its content and the
name it was verified for. The seal is checked when a process first opens the file, and again when the file has changed
since; a flipped byte, a truncated file or one with another's name is removed and fetched again.

A file is written under another name and renamed when complete, so several processes may fill the same cache. What it
holds is limited: each process adds what it wrote to a total now and then, and whoever finds it over the limit removes
the files not used for longest. What is open stays readable. A cache that cannot be written is done without.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
import struct
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from cdn.client.content import Content, Spool, temporary_folders
from cdn.objects import ObjectName
from cdn.telemetry import event

SIZE_BYTES_DEFAULT: Final = 4 << 30
_SEAL: Final = struct.Struct("<8sQ32s20s")
_MAGIC: Final = b"cdnseal1"
_READ: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_PIECE_BYTES: Final = 1 << 20
_KEPT_SHARE: Final = 0.75
"""How much of the limit is left filled after making room."""
_REPORT_SHARE: Final = 1 / 32
_REPORT_BYTES_MAX: Final = 64 << 20
_TOUCH_SECONDS: Final = 60.0
_KNOWN_MAX: Final = 65_536
_STAGED_SECONDS: Final = 86_400.0
"""A file staged longer ago than this belongs to a process that died."""

_Signature = tuple[int, int, int]


class ObjectCache:
    """The cache in one folder; methods may be called from several threads.

    Args:
        folder: made when needed, for its owner alone.
        size_bytes_max: about how much it may hold; None for no limit. 0 keeps nothing.
    """

    def __init__(self, folder: str | os.PathLike[str], *, size_bytes_max: int | None = SIZE_BYTES_DEFAULT) -> None:
        self.folder: Final = os.path.abspath(os.fspath(folder))
        self.size_bytes_max = size_bytes_max
        self._staging = f"{self.folder}/staging"
        self._verified: OrderedDict[str, _Signature] = OrderedDict()
        self._unreported = 0
        self._has_swept = False
        self._warned = False

    # ---------------------------------------------------------------------------------------------------------- reading

    def open(self, name: ObjectName) -> Content | None:
        """The content of an object, None if the cache does not have it in a form that can be trusted."""
        path = self._path(name)
        try:
            fd = os.open(path, _READ)
        except OSError:
            return None
        try:
            size = self._checked(fd, path, name)
        except OSError:
            size = None
        if size is None:
            os.close(fd)
            event("client.cache.damaged", level="warning", object=name.path)
            self.forget(name)
            return None
        return Content(fd, size, path)

    def has(self, name: ObjectName) -> bool:
        """Whether it seems to have an object; `open` says whether that can be trusted."""
        return os.path.exists(self._path(name))

    def _checked(self, fd: int, path: str, name: ObjectName) -> int | None:
        """The size of the content, None if the seal does not hold."""
        status = os.fstat(fd)
        size = status.st_size - _SEAL.size
        if size < 0 or not stat.S_ISREG(status.st_mode):
            return None
        signature = (status.st_ino, status.st_size, status.st_mtime_ns)
        if self._verified.get(path) != signature:
            seal = _seal(size, _sha256_of(fd, size), name)
            if os.pread(fd, _SEAL.size, size) != seal:
                return None
            self._remember(path, signature)
        self._touch(fd, status)
        return size

    def _touch(self, fd: int, status: os.stat_result) -> None:
        """Notes the use; file systems themselves note it once a day at best."""
        now = time.time_ns()
        if now - status.st_atime_ns > _TOUCH_SECONDS * 1e9:
            with suppress(OSError):
                os.utime(fd, ns=(now, status.st_mtime_ns))

    # ---------------------------------------------------------------------------------------------------------- writing

    def stage(self) -> Spool:
        """A file for content that is arriving; elsewhere if the cache cannot be written.

        Raises:
            StorageError: there is no place at all.
        """
        if self.size_bytes_max != 0:
            with suppress(OSError):
                os.makedirs(self._staging, mode=0o700, exist_ok=True)
            if not self._has_swept:
                self._has_swept = True
                self._sweep_staging()
        spool = Spool((self._staging, *temporary_folders()))
        self._note_missing(spool)
        return spool

    def keep(self, spool: Spool, name: ObjectName, sha256: bytes) -> Content:
        """Turns verified content into a cached file, or into a temporary one if there is no room.

        Args:
            spool: the whole content.
            name: the object that the content was verified to be.
            sha256: of the content.
        """
        size = spool.size
        if spool.path.startswith(f"{self._staging}/") and self._fits(size):
            try:
                return self._kept(spool, name, size, sha256)
            except OSError as error:
                self._note_failure(error.strerror or "")
        self._note_missing(spool)
        return Content(spool.released(), size, spool.path, is_temporary=True)

    def _kept(self, spool: Spool, name: ObjectName, size: int, sha256: bytes) -> Content:
        path = self._path(name)
        seal = _seal(size, sha256, name)
        if os.pwrite(spool.fd, seal, size) != len(seal):
            raise OSError("the disk is full")
        try:
            os.rename(spool.path, path)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            os.rename(spool.path, path)
        fd = spool.released()
        status = os.fstat(fd)
        self._remember(path, (status.st_ino, status.st_size, status.st_mtime_ns))
        content = Content(fd, size, path)
        self._report(status.st_size)
        return content

    def forget(self, name: ObjectName) -> None:
        """Removes an object."""
        path = self._path(name)
        self._verified.pop(path, None)
        with suppress(OSError):
            os.unlink(path)

    # -------------------------------------------------------------------------------------------------------- its limit

    def size_bytes(self) -> int:
        """How much it holds, counted anew."""
        return sum(size for _, size, _ in self._files())

    def make_room(self) -> int:
        """Removes what was not used for longest until the limit is kept with some room to spare.

        Returns:
            how many bytes are left.
        """
        if self.size_bytes_max is None:
            return self.size_bytes()
        with self._locked():
            return self._make_room(int(self.size_bytes_max * _KEPT_SHARE))

    def _make_room(self, goal: int) -> int:
        files = sorted(self._files())
        total = sum(size for _, size, _ in files)
        for _, size, path in files:
            if total <= goal:
                break
            with suppress(OSError):
                os.unlink(path)
            total -= size
        self._sweep_staging()
        self._write_total(total)
        return total

    def _fits(self, size: int) -> bool:
        return self.size_bytes_max is None or size + _SEAL.size <= self.size_bytes_max // 2

    def _report(self, size: int) -> None:
        """Adds to the total of all processes, once it is worth the trouble."""
        self._unreported += size
        limit = self.size_bytes_max
        if limit is None or self._unreported < min(limit * _REPORT_SHARE, _REPORT_BYTES_MAX):
            return
        with suppress(OSError), self._locked():
            added, self._unreported = self._unreported, 0
            total = self._read_total()
            total = self.size_bytes() if total is None else total + added
            if total > limit:
                total = self._make_room(int(limit * _KEPT_SHARE))
                event("client.cache.shrunk", level="debug", bytes=total)
            self._write_total(total)

    def _files(self) -> Iterator[tuple[int, int, str]]:
        """Time of last use, size and path of every object."""
        top = f"{self.folder}/objects"
        with suppress(OSError), os.scandir(top) as shards:
            for shard in list(shards):
                with suppress(OSError), os.scandir(shard.path) as entries:
                    for entry in entries:
                        with suppress(OSError):
                            status = entry.stat(follow_symlinks=False)
                            yield status.st_atime_ns, status.st_size, entry.path

    def _sweep_staging(self) -> None:
        limit = time.time() - _STAGED_SECONDS
        with suppress(OSError), os.scandir(self._staging) as entries:
            for entry in entries:
                with suppress(OSError):
                    if entry.stat(follow_symlinks=False).st_mtime < limit:
                        os.unlink(entry.path)

    def _read_total(self) -> int | None:
        try:
            with open(f"{self.folder}/total", encoding="ascii") as file:
                return int(file.read(32))
        except (OSError, ValueError):
            return None

    def _write_total(self, total: int) -> None:
        with suppress(OSError), open(f"{self.folder}/total", "w", encoding="ascii") as file:
            file.write(f"{total}\n")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        fd = os.open(f"{self.folder}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    # -------------------------------------------------------------------------------------------------------- internals

    def _path(self, name: ObjectName) -> str:
        return f"{self.folder}/objects/{name.path.removeprefix('data/')}"

    def _remember(self, path: str, signature: _Signature) -> None:
        self._verified[path] = signature
        while len(self._verified) > _KNOWN_MAX:
            with suppress(KeyError):
                self._verified.popitem(last=False)

    def _note_missing(self, spool: Spool) -> None:
        if self.size_bytes_max != 0 and not spool.path.startswith(f"{self.folder}/"):
            self._note_failure("no space, or no permission")

    def _note_failure(self, reason: str) -> None:
        if not self._warned:
            self._warned = True
            event("client.cache.unusable", level="warning", folder=self.folder, reason=reason)


def _seal(size: int, sha256: bytes, name: ObjectName) -> bytes:
    identity = hashlib.sha256(name.path.encode()).digest()[:20]
    return _SEAL.pack(_MAGIC, size, sha256, identity)


def _sha256_of(fd: int, size: int) -> bytes:
    hasher = hashlib.sha256()
    offset = 0
    while offset < size:
        piece = os.pread(fd, min(_PIECE_BYTES, size - offset), offset)
        if not piece:
            break
        hasher.update(piece)
        offset += len(piece)
    return hasher.digest()
