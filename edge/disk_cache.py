"""The disk tier: one file per response, found by name alone, verified before it is used, never more bytes than allowed.

A response is found by computing its file's name from its key, so a restart serves at once, however much is cached. When
a file was last used is its modification time; room is made shard by shard, the longest unused files of a shard first,
with no list of all files in memory. Pinned files stay. What is written goes to `tmp` first and gets its name when it is
complete; what is left there from a crash is removed at the start.

All methods block and are called in threads; each may be called from several at once.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cdn.errors import DocumentError, StorageError, StorageFullError, StorageReadOnlyError, UsageError
from cdn.hashing import Digest, Hasher
from cdn.telemetry import event
from edge.cache_file import FileFacts, read_facts
from edge.http_caching import StoredHead
from edge.statistics import Statistics

SHARDS: Final = 256
_PINNED: Final = ".pinned"
_READ_BYTES: Final = 1 << 20
_TOUCH_SECONDS: Final = 300.0
"""How often the time of last use is written at most."""
_VERIFIED_MAX: Final = 100_000
_COMPLAINT_SECONDS: Final = 60.0
_LOW_WATER: Final = 0.98
"""To which part of the limit room is made, so that not every store makes some."""

Identity = tuple[int, int, int, int]
"""Inode, size, modification and change time of a file: another value means that somebody wrote to it."""


@dataclass(slots=True)
class OpenFile:
    """A verified cache file, open for reading; `close` when done."""

    facts: FileFacts
    descriptor: int
    body: bytes | None = None
    """The whole body, if it is small."""

    def read(self, start: int, size: int) -> bytes:
        """Bytes of the body."""
        return os.pread(self.descriptor, size, start)

    def close(self) -> None:
        """Lets go of the file."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class SpoolFile:
    """A body on its way to the disk; written at its end, read anywhere, given a name by `DiskCache.commit`."""

    def __init__(self, cache: DiskCache, path: Path) -> None:
        self._cache = cache
        self.path = path
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self.size = 0
        """How much is reserved and may be written."""
        self.is_named = False
        self._writing = threading.Lock()

    def write(self, data: bytes) -> None:
        """Appends bytes.

        Raises:
            StorageError: there is no room, or the disk refuses.
        """
        with self._writing:  # a thread that still writes while the edge stops must not meet a closed descriptor
            if self.descriptor < 0:
                raise StorageError(f"{self.path} is closed")
            self._cache.reserve(len(data))
            self.size += len(data)
            self._write(memoryview(data))

    def _write(self, view: memoryview) -> None:
        try:
            while view:
                view = view[os.write(self.descriptor, view) :]
        except OSError as error:
            raise storage_error(error, str(self.path)) from error

    def read(self, start: int, size: int) -> bytes:
        """Bytes that were written."""
        return os.pread(self.descriptor, size, start)

    def close(self) -> None:
        """Lets go of the file; without a name it disappears."""
        with self._writing:
            if self.descriptor < 0:
                return
            os.close(self.descriptor)
            self.descriptor = -1
        if not self.is_named:
            self._cache.release(self.size)
            with suppress(OSError):
                self.path.unlink()


class DiskCache:
    """Responses in files.

    Args:
        directory: for this cache alone.
        bytes_max: how many bytes its files have at most.
        memory_body_max: bodies up to this size are read whole when they are opened.
        verify_seconds: how long a verified body is trusted while its file does not change.
        statistics: counts failures and evictions.
        is_resident: says of a file name that its body is also in memory, which makes it worth keeping.
    """

    def __init__(
        self,
        directory: Path,
        *,
        bytes_max: int,
        memory_body_max: int,
        verify_seconds: float,
        statistics: Statistics,
        is_resident: Callable[[str], bool] = lambda _name: False,
    ) -> None:
        self._root = directory
        self._files = directory / "v1"
        self._temporary = directory / "tmp"
        self.bytes_max = bytes_max
        self._memory_body_max = memory_body_max
        self._verify_seconds = verify_seconds
        self._statistics = statistics
        self._is_resident = is_resident
        self._lock = threading.Lock()
        self._evicting = threading.Lock()
        self._used = 0
        self._shard_bytes = [0] * SHARDS
        self._shard_locks = [threading.Lock() for _ in range(SHARDS)]
        self._next_shard = 0
        self._next_temporary = 0
        self._verified: OrderedDict[str, tuple[Identity, float]] = OrderedDict()
        self._lock_descriptor = -1
        self._complained_at = -_COMPLAINT_SECONDS
        self.is_counted = False
        """Whether the bytes left by an earlier run have been counted."""

    # ------------------------------------------------------------------------------------------------ life

    def open(self) -> None:
        """Makes the directories and takes the cache; removes what an earlier run left unfinished.

        Raises:
            UsageError: another edge uses it, or it cannot be made.
        """
        try:
            for directory in (self._root, self._files, self._temporary):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock_descriptor = os.open(self._root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock_descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for shard in range(SHARDS):
                (self._files / f"{shard:02x}").mkdir(mode=0o700, exist_ok=True)
            for left in self._temporary.iterdir():
                left.unlink()
        except BlockingIOError as error:
            self.close()
            raise UsageError(f"the cache {self._root} is used by another edge") from error
        except OSError as error:
            self.close()
            raise UsageError(f"the cache {self._root} cannot be used: {error.strerror}") from error

    def close(self) -> None:
        """Gives the cache back."""
        if self._lock_descriptor >= 0:
            os.close(self._lock_descriptor)
            self._lock_descriptor = -1

    def count(self) -> None:
        """Adds up what an earlier run left; meanwhile the cache is in use."""
        for shard in range(SHARDS):
            with self._shard_locks[shard]:
                self._set_shard_bytes(shard, sum(size for _, size, _ in self._shard_files(shard)))
        self.is_counted = True
        self._make_room(0)

    def _set_shard_bytes(self, shard: int, size: int) -> None:
        with self._lock:
            self._used += size - self._shard_bytes[shard]
            self._shard_bytes[shard] = size

    @property
    def used_bytes(self) -> int:
        """How many bytes files have, unfinished ones included."""
        return self._used

    # ------------------------------------------------------------------------------------------------ reading

    def load(self, key: str, digest: Digest | None, *, pinned: bool = False) -> OpenFile | None:
        """Opens what is cached under a key, if its body is what it must be; what is not is removed.

        Args:
            key: of the response.
            digest: what the body must hash to; None if the file's own checksum counts.
            pinned: whether it is kept apart from what may be evicted.
        """
        name = file_name(key, pinned=pinned)
        path = self._path(name)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._complain("read", error)
            return None
        try:
            found = self._verified_file(name, descriptor, key, digest)
        except (DocumentError, OSError) as error:
            os.close(descriptor)
            self._discard_damaged(name, str(error))
            return None
        self._touch(path, descriptor)
        return found

    def _verified_file(self, name: str, descriptor: int, key: str | None, digest: Digest | None) -> OpenFile:
        facts = read_facts(descriptor)
        if key is not None and facts.key != key:
            raise DocumentError("cache file", "it is for another key")
        if facts.size <= self._memory_body_max:
            body = os.pread(descriptor, facts.size, 0) if facts.size else b""
            _check(_expected(facts, digest), (body,))
            return OpenFile(facts, descriptor, body)
        identity = _identity(descriptor)
        if not self._is_trusted(name, identity):
            _check(_expected(facts, digest), _pieces(descriptor, facts.size))
            self._trust(name, identity)
        return OpenFile(facts, descriptor)

    def _is_trusted(self, name: str, identity: Identity) -> bool:
        with self._lock:
            known = self._verified.get(name)
            return known is not None and known[0] == identity and time.monotonic() - known[1] < self._verify_seconds

    def _trust(self, name: str, identity: Identity) -> None:
        with self._lock:
            self._verified[name] = (identity, time.monotonic())
            self._verified.move_to_end(name)
            if len(self._verified) > _VERIFIED_MAX:
                self._verified.popitem(last=False)

    def _touch(self, path: Path, descriptor: int) -> None:
        """Notes that a file was used. Where the file system refuses, files are evicted in the order they came."""
        now = time.time()
        before = os.fstat(descriptor)
        if now - before.st_mtime < _TOUCH_SECONDS:
            return
        with suppress(OSError):
            os.utime(path, (now, now))
            with self._lock:
                known = self._verified.get(path.name)
                if known is not None and known[0] == _identity_of(before):
                    self._verified[path.name] = (_identity(descriptor), known[1])

    # ------------------------------------------------------------------------------------------------ writing

    def spool(self) -> SpoolFile:
        """A new unfinished body.

        Raises:
            StorageError: it cannot be made.
        """
        with self._lock:
            self._next_temporary += 1
            number = self._next_temporary
        path = self._temporary / f"{os.getpid()}-{number}"
        try:
            return SpoolFile(self, path)
        except OSError as error:
            raise storage_error(error, str(path)) from error

    def commit(self, spool: SpoolFile, key: str, head: StoredHead, checksum: str, *, pinned: bool = False) -> None:
        """Gives a complete body its name.

        Raises:
            StorageError: it could not be kept.
        """
        body_size = spool.size
        spool.write(FileFacts(key, head, body_size, checksum).to_bytes())
        name = file_name(key, pinned=pinned)
        self._rename(spool, name)
        if body_size > self._memory_body_max:
            self._trust(name, _identity(spool.descriptor))

    def _rename(self, spool: SpoolFile, name: str) -> None:
        shard, path = int(name[:2], 16), self._path(name)
        with self._shard_locks[shard]:
            replaced = _size_of(path)
            try:
                os.rename(spool.path, path)
            except OSError as error:
                raise storage_error(error, str(path)) from error
            spool.is_named = True
            self._set_shard_bytes(shard, max(0, self._shard_bytes[shard] - replaced) + spool.size)
        self.release(spool.size)  # it was counted as unfinished, and now is counted with its shard

    def store(self, key: str, head: StoredHead, body: bytes, checksum: str, *, pinned: bool = False) -> None:
        """Stores a small response at once; raises as `commit`."""
        spool = self.spool()
        try:
            if body:
                spool.write(body)
            self.commit(spool, key, head, checksum, pinned=pinned)
        finally:
            spool.close()

    def refresh(self, key: str, head: StoredHead, *, pinned: bool = False) -> None:
        """Replaces what is known about a body that stays; raises as `commit`."""
        found = self.load(key, None, pinned=pinned)
        if found is None:
            return
        spool = None
        try:
            spool = self.spool()
            for piece in _pieces(found.descriptor, found.facts.size):
                spool.write(piece)
            self.commit(spool, key, head, found.facts.checksum, pinned=pinned)
        finally:
            found.close()
            if spool is not None:
                spool.close()

    def remove(self, key: str, *, pinned: bool = False) -> None:
        """Forgets what is cached under a key."""
        self._unlink(file_name(key, pinned=pinned))

    # ------------------------------------------------------------------------------------------------ room

    def reserve(self, size: int) -> None:
        """Takes room for bytes that are about to be written.

        Raises:
            StorageFullError: even evicting everything that may go would not make enough.
        """
        with self._lock:
            self._used += size
            fits = self._used <= self.bytes_max
        if not fits and not self._make_room(size):
            self.release(size)
            raise StorageFullError(f"the cache {self._root} has no room for {size} more bytes")

    def release(self, size: int) -> None:
        """Gives room back."""
        with self._lock:
            self._used -= size

    def _make_room(self, size: int) -> bool:
        """Evicts until the limit holds again; False if it cannot."""
        with self._evicting:
            if self._used <= self.bytes_max:
                return True
            goal = max(int(self.bytes_max * _LOW_WATER), size)
            for spares_resident in (True, False):
                idle_rounds = 0
                while self._used > goal and idle_rounds < SHARDS:
                    idle_rounds = (
                        0 if self._evict_from_next_shard(goal, spares_resident=spares_resident) else idle_rounds + 1
                    )
                if self._used <= goal:
                    break
            return self._used <= self.bytes_max

    def _evict_from_next_shard(self, goal: int, *, spares_resident: bool) -> bool:
        """Evicts the least recently used eighth of a shard, as far as needed; whether there was anything to evict."""
        shard, self._next_shard = self._next_shard, (self._next_shard + 1) % SHARDS
        candidates = sorted(
            (used_at, size, name)
            for name, size, used_at in self._shard_files(shard)
            if not name.endswith(_PINNED) and not (spares_resident and self._is_resident(name))
        )
        evicted = 0
        for _, _, name in candidates[: max(1, len(candidates) // 8)]:
            if self._used <= goal:
                break
            self._unlink(name)
            evicted += 1
        self._statistics.evictions += evicted
        return evicted > 0

    def _shard_files(self, shard: int) -> Iterator[tuple[str, int, float]]:
        """Name, size and time of last use of each file."""
        try:
            with os.scandir(self._files / f"{shard:02x}") as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):
                        facts = entry.stat(follow_symlinks=False)
                        yield entry.name, facts.st_size, facts.st_mtime
        except OSError as error:
            self._complain("list", error)

    def _unlink(self, name: str) -> None:
        shard, path = int(name[:2], 16), self._path(name)
        with self._shard_locks[shard]:
            size = _size_of(path)
            try:
                path.unlink()
            except FileNotFoundError:
                return
            except OSError as error:
                self._complain("remove", error)
                return
            self._set_shard_bytes(shard, max(0, self._shard_bytes[shard] - size))
        with self._lock:
            self._verified.pop(name, None)

    # ------------------------------------------------------------------------------------------------ scrubbing

    def scrub_shard(self, shard: int, digest_of_key: Callable[[str], Digest | None]) -> Iterator[int]:
        """Reads every body of a shard and removes the rotten ones; gives the size of each file after it was read.

        Args:
            shard: from 0 to 255.
            digest_of_key: what the body cached under a key must hash to.
        """
        for name, size, _ in list(self._shard_files(shard)):
            self._scrub_file(name, digest_of_key)
            yield size

    def _scrub_file(self, name: str, digest_of_key: Callable[[str], Digest | None]) -> None:
        try:
            descriptor = os.open(self._path(name), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return  # evicted meanwhile
        try:
            facts = read_facts(descriptor)
            if name not in {file_name(facts.key), file_name(facts.key, pinned=True)}:
                raise DocumentError("cache file", "it is for another key")
            _check(_expected(facts, digest_of_key(facts.key)), _pieces(descriptor, facts.size))
        except (DocumentError, OSError) as error:
            self._discard_damaged(name, str(error))
        finally:
            os.close(descriptor)

    def _discard_damaged(self, name: str, reason: str) -> None:
        self._statistics.disk_failures += 1
        event("edge.cache.damaged", level="warning", file=str(self._path(name)), reason=reason)
        self._unlink(name)

    def _complain(self, action: str, error: OSError) -> None:
        """Warns of a failing disk, once a minute."""
        self._statistics.storage_failures += 1
        if time.monotonic() - self._complained_at >= _COMPLAINT_SECONDS:
            self._complained_at = time.monotonic()
            event("edge.cache.failing", level="warning", action=action, reason=str(error))

    def _path(self, name: str) -> Path:
        return self._files / name[:2] / name


def file_name(key: str, *, pinned: bool = False) -> str:
    """The name of the file for a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:48] + (_PINNED if pinned else "")


def storage_error(error: OSError, path: str) -> StorageError:
    """What a refusal of the operating system means."""
    text = f"{path}: {error.strerror}"
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return StorageFullError(text)
    return StorageReadOnlyError(text) if error.errno == errno.EROFS else StorageError(text)


def _expected(facts: FileFacts, digest: Digest | None) -> Digest | str:
    return digest if digest is not None else facts.checksum


def _check(expected: Digest | str, pieces: Iterator[bytes] | tuple[bytes, ...]) -> None:
    """Compares a body with what it must hash to.

    Raises:
        DocumentError: it has rotted.
    """
    if isinstance(expected, Digest):
        hasher = Hasher(expected.algorithm)
        for piece in pieces:
            hasher.update(piece)
        is_right = hasher.digest() == expected
    else:
        plain = hashlib.sha256()
        for piece in pieces:
            plain.update(piece)
        is_right = plain.hexdigest() == expected
    if not is_right:
        raise DocumentError("cache file", "its body has another digest than it must have")


def _pieces(descriptor: int, size: int) -> Iterator[bytes]:
    start = 0
    while start < size:
        piece = os.pread(descriptor, min(_READ_BYTES, size - start), start)
        if not piece:
            raise DocumentError("cache file", "it was cut short")
        yield piece
        start += len(piece)


def _identity(descriptor: int) -> Identity:
    return _identity_of(os.fstat(descriptor))


def _identity_of(facts: os.stat_result) -> Identity:
    return (facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
