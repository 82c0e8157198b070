"""The room of the disk tier: how much is taken, never more than allowed, and whose turn it is to go.

Files lie in 256 folders, the shards, by the first two digits of their names. There is no list of them in memory: when
room is needed, the next shards are listed, and of what they hold the part that is worth least goes. What lies there
from an earlier run is not known until it was counted; until then a mark that the earlier run left says how much it can
be at most, and room is given out accordingly.

All methods block and may be called from several threads at once.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cdn.errors import StorageError, StorageFullError, StorageReadOnlyError
from edge.disk_trouble import DiskTrouble
from edge.shards import PINNED, SHARDS, shard_of
from edge.statistics import Statistics

BLOCK_BYTES: Final = 4096
"""What files occupy is counted in whole blocks of this size, as file systems give them out."""
SAMPLE_FILES: Final = 128
"""From how many files at least the worst are chosen."""
_MARKS: Final = 64
_UNKNOWN: Final = 1 << 62


def occupied(size: int) -> int:
    """How much room a file of a size takes."""
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A cache file as its folder shows it."""

    name: str
    occupied_bytes: int
    used_at: float


class DiskRoom:
    """Takes and gives room.

    Args:
        directory: holds the folders of the shards.
        bytes_max: how much room there is.
        shards: the ones that are counted and may be evicted from; ``range(i, 256, n)`` for the i-th of n sharers.
        statistics: counts evictions.
        trouble: is told of what the disk refuses.
        is_resident: says of a file name that its body is also in memory, which makes it worth keeping.
    """

    def __init__(
        self,
        directory: Path,
        *,
        bytes_max: int,
        shards: range,
        statistics: Statistics,
        trouble: DiskTrouble,
        is_resident: Callable[[str], bool],
    ) -> None:
        self._directory = directory
        self.bytes_max = bytes_max
        self.shards = shards
        self._statistics = statistics
        self._trouble = trouble
        self._is_resident = is_resident
        self._lock = threading.Lock()
        self._evicting = threading.Lock()
        self._shard_locks = [threading.Lock() for _ in range(SHARDS)]
        self._shard_bytes = [0] * SHARDS
        self._uncounted = set(shards)
        self._assumed = 0
        self._used = 0
        self._mark = 0
        self._mark_descriptor = -1
        self._turn = 0

    # ------------------------------------------------------------------------------------------------ life

    def open(self, *, is_new: bool) -> None:
        """Makes the folders of the shards, and reads how much an earlier run may have left.

        Args:
            is_new: whether there was no earlier run.

        Raises:
            OSError: the disk refuses.
        """
        for shard in range(SHARDS):
            self.folder(shard).mkdir(mode=0o700, exist_ok=True)
        root, layout = self._directory.parent, f"used-{self.shards.step}-"
        for other in root.glob("used-*"):
            if not other.name.startswith(layout):  # the shards were dealt out otherwise then
                other.unlink(missing_ok=True)
        path = root / f"{layout}{self.shards.start}"
        self._mark_descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        left = 0 if is_new else _read_mark(self._mark_descriptor)
        self._assumed = self._used = self._mark = left

    def close(self) -> None:
        """Leaves word how much there is."""
        if self._mark_descriptor >= 0:
            with suppress(OSError):
                self._write_mark(self._used)
            os.close(self._mark_descriptor)
            self._mark_descriptor = -1

    def count(self) -> None:
        """Counts what an earlier run left, and evicts what is too much; meanwhile the cache is in use."""
        for shard in self.shards:
            if shard in self._uncounted:
                self.listed(shard)
        with self._lock:
            self._uncounted.clear()
            self._used -= self._assumed
            self._assumed = 0
        with suppress(StorageFullError):  # all that is left may not go
            self.reserve(0)

    @property
    def is_counted(self) -> bool:
        """Whether it is known how much an earlier run left."""
        return not self._uncounted

    @property
    def used_bytes(self) -> int:
        """How much room is taken, or may be while that is not known."""
        return self._used

    def folder(self, shard: int) -> Path:
        """Where the files of a shard are."""
        return self._directory / f"{shard:02x}"

    def path(self, name: str) -> Path:
        """Where a file is."""
        return self._directory / name[:2] / name

    # ------------------------------------------------------------------------------------------------ taking room

    def reserve(self, size: int) -> None:
        """Takes room for bytes that are about to be written.

        Raises:
            StorageFullError: even evicting everything that may go would not make enough.
        """
        if self._take(size):
            return
        with self._evicting:
            listed = 0
            while not self._take(size):
                if listed >= 2 * len(self.shards) or self._is_unknown():
                    raise StorageFullError(f"the cache {self._directory.parent} has no room for {size} more bytes")
                count, evicted = self._evict(size, spares_resident=listed < len(self.shards))
                listed = 0 if evicted else listed + count

    def _take(self, size: int) -> bool:
        with self._lock:
            if self._used + size > self.bytes_max:
                return False
            if self._used + size > self._mark:
                self._write_mark(self._used + size + self.bytes_max // _MARKS)
            self._used += size
            return True

    def release(self, size: int) -> None:
        """Gives room back."""
        with self._lock:
            self._used -= size

    def _is_unknown(self) -> bool:
        """Whether an earlier run may have left more than is allowed: then nothing is taken until it was counted."""
        with self._lock:
            return self._assumed > self.bytes_max

    def _write_mark(self, mark: int) -> None:
        """Says for a later run how much there may be."""
        try:
            os.pwrite(self._mark_descriptor, b"%020d" % mark, 0)
        except OSError as error:
            raise storage_error(error, "the mark of the cache") from error
        self._mark = mark

    # ------------------------------------------------------------------------------------------------ files

    def rename(self, path: Path, name: str, occupied_bytes: int) -> None:
        """Gives a file, for which room was taken, its name.

        Raises:
            OSError: the disk refuses.
        """
        shard, target = shard_of(name), self.path(name)
        with self._shard_locks[shard]:
            replaced = _occupied_by(target)
            os.rename(path, target)
            self._note_change(shard, occupied_bytes, replaced)

    def unlink(self, name: str) -> bool:
        """Removes a file; whether it was there."""
        shard, path = shard_of(name), self.path(name)
        with self._shard_locks[shard]:
            size = _occupied_by(path)
            try:
                path.unlink()
            except FileNotFoundError:
                return False
            except OSError as error:
                self._trouble.refused("remove", error)
                return False
            self._note_change(shard, 0, size)
        return True

    def _note_change(self, shard: int, came: int, went: int) -> None:
        """Counts what a file of a shard took and gave; what another sharer's has, that one counts when it looks."""
        with self._lock:
            if shard in self.shards:
                self._shard_bytes[shard] += came - went
                self._used -= went
            else:
                self._used -= came

    def listed(self, shard: int) -> list[ListedFile]:
        """The files of a shard, whose size is known from then on."""
        with self._shard_locks[shard]:
            try:
                files = list(self._entries(shard))
            except FileNotFoundError:
                files = []
            except OSError as error:
                self._trouble.refused("list", error)
                return []
            self._note_counted(shard, sum(file.occupied_bytes for file in files))
        return files

    def _note_counted(self, shard: int, counted: int) -> None:
        with self._lock:
            surplus = counted - self._shard_bytes[shard]
            self._shard_bytes[shard] = counted
            if shard in self._uncounted:
                self._uncounted.discard(shard)
                assumed = min(self._assumed, max(0, surplus))
                self._assumed -= assumed
                surplus -= assumed
            self._used += surplus

    def _entries(self, shard: int) -> Iterator[ListedFile]:
        with os.scandir(self.folder(shard)) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    facts = entry.stat(follow_symlinks=False)
                    yield ListedFile(entry.name, occupied(facts.st_size), facts.st_mtime)

    # ------------------------------------------------------------------------------------------------ evicting

    def _evict(self, size: int, *, spares_resident: bool) -> tuple[int, int]:
        """Evicts what is worth least in the next shards; how many were listed, and how many files went."""
        files: list[ListedFile] = []
        listed = 0
        while len(files) < SAMPLE_FILES and listed < len(self.shards):
            shard = self.shards[self._turn % len(self.shards)]
            self._turn += 1
            listed += 1
            files += (
                file
                for file in self.listed(shard)
                if not file.name.endswith(PINNED) and not (spares_resident and self._is_resident(file.name))
            )
        files.sort(key=lambda file: file.used_at)
        evicted = 0
        for file in files[: max(1, len(files) // 8)]:
            if self._used + size <= self.bytes_max:
                break
            evicted += self.unlink(file.name)
        self._statistics.evictions += evicted
        return listed, evicted


def storage_error(error: OSError, path: str) -> StorageError:
    """What a refusal of the operating system means."""
    text = f"{path}: {error.strerror}"
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return StorageFullError(text)
    return StorageReadOnlyError(text) if error.errno == errno.EROFS else StorageError(text)


def _read_mark(descriptor: int) -> int:
    try:
        return int(os.pread(descriptor, 20, 0))
    except ValueError:
        return _UNKNOWN


def _occupied_by(path: Path) -> int:
    try:
        return occupied(path.stat().st_size)
    except OSError:
        return 0
