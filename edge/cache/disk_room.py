"""The room of the disk tier: how much is taken, never more than allowed, and whose turn it is to go.

Files lie in 256 folders, the shards, by the first two digits of their names. There is no list of them in memory: when
room is needed, the next shards are listed, and of what they hold the part that is worth least goes (`cache.eviction`),
so that the next listing is a while away. Each file carries its place itself (`edge.cache.disk_places`). What lies there
from an earlier run is not known until it was counted; until then a mark that the earlier run left says how much it can
be at most, and room is given out accordingly.

All methods block and may be called from several threads at once.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

from cdn.errors import StorageError, StorageFullError, StorageReadOnlyError
from edge.cache.disk_places import PINNED_MODE, ListedFile, listed_file, occupied, time_of_place
from edge.cache.disk_trouble import DiskTrouble
from edge.cache.eviction import GHOST_BYTES, Ghosts, risen
from edge.cache.name_filter import NameFilter
from edge.cache.shards import SHARDS, code_of, shard_of
from edge.watching.statistics import Statistics

SAMPLE_FILES: Final = 512
"""From how many files at least the worst are chosen."""
EVICTED_PART: Final = 16
"""Which part of what was listed goes at once, by room."""
TOUCH_SECONDS: Final = 60.0
"""How often a file's place is written at most."""
_GHOSTS_MAX: Final = 1 << 20
_MARKS: Final = 64
_UNKNOWN: Final = 1 << 62


class SpooledFile(Protocol):
    """An unfinished file; see `edge.cache.spool_file`."""

    path: str
    descriptor: int
    occupied_bytes: int


class DiskRoom:
    """Takes and gives room.

    Args:
        directory: holds the folders of the shards.
        bytes_max: how much room there is.
        shards: the ones that are counted and may be evicted from; ``range(i, 256, n)`` for the i-th of n sharers.
        statistics: counts evictions.
        trouble: is told of what the disk refuses.
        is_resident: says of a file name that its body is also in memory, which makes it worth keeping.
        pinned_share: which part of the room what is pinned may keep for itself.
        touch_seconds: how often a file's place is written at most.
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
        pinned_share: float,
        touch_seconds: float = TOUCH_SECONDS,
    ) -> None:
        self._directory = directory
        self._prefix = f"{directory}/"
        self.bytes_max = bytes_max
        self.shards = shards
        self._statistics = statistics
        self._trouble = trouble
        self._is_resident = is_resident
        self._pinned_bytes_max = int(bytes_max * pinned_share)
        self._touch_seconds = touch_seconds
        self._ghosts = Ghosts(min(_GHOSTS_MAX, bytes_max // GHOST_BYTES))
        self._level = 0.0
        self._lock = threading.Lock()
        self._evicting = threading.Lock()
        self._shard_locks = [threading.Lock() for _ in range(SHARDS)]
        self._shard_bytes = [0] * SHARDS
        self._shard_pinned_bytes = [0] * SHARDS
        self._shard_files = [0] * SHARDS
        self._uncounted = set(shards)
        self._assumed = 0
        self._used = 0
        self._mark = 0
        self._mark_descriptor = -1
        self._is_closing = False
        self._turn = 0
        self._names = NameFilter(bytes_max)
        self._has_names_of = [False] * SHARDS
        """Of which shards all names are known."""
        self.is_retired = False
        """Whether a successor takes and gives room now."""

    # ------------------------------------------------------------------------------------------------ life

    def open(self) -> None:
        """Makes the folders of the shards, and reads how much an earlier run may have left.

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
        left, self._level = _read_mark(self._mark_descriptor)
        if left == _UNKNOWN and all(self._is_empty(shard) for shard in self.shards):
            left = 0
        self._assumed = self._used = self._mark = left

    def _is_empty(self, shard: int) -> bool:
        with os.scandir(self.folder(shard)) as entries:
            return next(entries, None) is None

    def close(self) -> None:
        """Leaves word how much there is, and ends counting."""
        self._is_closing = True
        if self._mark_descriptor >= 0:
            with suppress(OSError):
                self._write_mark(self._used)
            os.close(self._mark_descriptor)
            self._mark_descriptor = -1

    def retire(self) -> None:
        """Takes and gives no more room, since a successor does: what is here may still be read.

        When this returns, nothing gets a name or is evicted any more.
        """
        with self._evicting:
            self.is_retired = True
        for lock in self._shard_locks:
            with lock:
                pass  # whoever was renaming in this shard is done
        self.close()

    def _check_in_service(self) -> None:
        if self.is_retired:
            raise StorageError(f"the cache {self._directory.parent} has been handed over to a successor")

    def count(self) -> None:
        """Counts what an earlier run left, and evicts what is too much; meanwhile the cache is in use."""
        for shard in self.shards:
            if self._is_closing:
                return
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

    @property
    def file_count(self) -> int | None:
        """How many files there are; None until those of an earlier run were counted."""
        return sum(self._shard_files[shard] for shard in self.shards) if self.is_counted else None

    def folder(self, shard: int) -> Path:
        """Where the files of a shard are."""
        return self._directory / f"{shard:02x}"

    def path(self, name: str) -> str:
        """Where a file is; text, since making a `Path` takes as long as asking the system for the file."""
        return f"{self._prefix}{name[:2]}/{name}"

    # ------------------------------------------------------------------------------------------------ taking room

    def reserve(self, size: int) -> None:
        """Takes room for bytes that are about to be written.

        Raises:
            StorageFullError: even evicting everything that may go would not make enough.
        """
        self._check_in_service()
        if self._take(size):
            return
        with self._evicting:
            listed = 0
            self._check_in_service()
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
                self._write_mark(min(self.bytes_max, self._used + size + self.bytes_max // _MARKS))
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
            os.pwrite(self._mark_descriptor, b"%020d %020d" % (mark, int(self._level * 1e9)), 0)
        except OSError as error:
            raise storage_error(error, "the mark of the cache") from error
        self._mark = mark

    # ------------------------------------------------------------------------------------------------ files

    def lacks(self, name: str) -> bool:
        """Whether there is surely no file of this name, as far as can be said without asking the disk."""
        is_known = self._has_names_of[shard_of(name)] and not self.is_retired
        return is_known and not self._names.may_hold(code_of(name))

    def rename(self, file: SpooledFile, name: str) -> None:
        """Gives a file, for which room was taken, its name.

        Raises:
            OSError: the disk refuses.
            StorageError: the cache was handed over.
        """
        shard, target = shard_of(name), self.path(name)
        with self._shard_locks[shard]:
            self._check_in_service()
            before = None if self.lacks(name) else _status_of(target)
            replaced = occupied(before.st_size) if before is not None else 0
            uses = listed_file(name, before).uses if before is not None else 0
            self._place(file.descriptor, file.occupied_bytes, 1 + max(uses, self._ghosts.take(code_of(name))))
            os.rename(file.path, target)
            self._note_change(shard, file.occupied_bytes, replaced, came_new=name if before is None else "")

    def touch(self, name: str, facts: os.stat_result) -> bool:
        """Notes that a file was used; whether that changed its times.

        Where the file system refuses, files are evicted in the order they came.
        """
        return self._touch(listed_file(name, facts))

    def _touch(self, file: ListedFile) -> bool:
        if self.is_retired or time.time() - file.changed_at < self._touch_seconds:
            return False
        with suppress(OSError):
            self._place(self.path(file.name), file.occupied_bytes, file.uses + 1)
        return True

    def _place(self, file: str | int, occupied_bytes: int, uses: int) -> None:
        os.utime(file, ns=(time.time_ns(), time_of_place(self._level, occupied_bytes, uses)))

    def pin(self, name: str, *, is_pinned: bool) -> None:
        """Lets a file stay, or no longer; one that is not there is passed over."""
        path = self.path(name)
        try:
            mode = os.stat(path).st_mode & 0o777
            wanted = mode | PINNED_MODE if is_pinned else mode & ~PINNED_MODE
            if wanted != mode:
                os.chmod(path, wanted)
        except FileNotFoundError:
            pass
        except OSError as error:
            self._trouble.refused("pin", error)

    def unlink(self, name: str) -> bool:
        """Removes a file; whether it was there."""
        shard, path = shard_of(name), self.path(name)
        with self._shard_locks[shard]:
            facts = _status_of(path)
            size = occupied(facts.st_size) if facts is not None else 0
            try:
                os.unlink(path)
            except FileNotFoundError:
                return False
            except OSError as error:
                self._trouble.refused("remove", error)
                return False
            self._note_change(shard, 0, size, went_away=name)
        return True

    def _note_change(self, shard: int, came: int, went: int, *, came_new: str = "", went_away: str = "") -> None:
        """Counts what a file of a shard took and gave; what another sharer's has, that one counts when it looks."""
        with self._lock:
            if came_new and self._has_names_of[shard]:
                self._names.add(code_of(came_new))
            if went_away and self._has_names_of[shard]:
                self._names.discard(code_of(went_away))
            self._shard_files[shard] += bool(came_new) - bool(went_away)
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
            self._note_names(shard, files)
            self._note_counted(shard, sum(file.occupied_bytes for file in files))
            self._shard_files[shard] = len(files)
            self._shard_pinned_bytes[shard] = sum(file.occupied_bytes for file in files if file.is_pinned)
        return files

    def _note_names(self, shard: int, files: list[ListedFile]) -> None:
        """Learns what there is in a shard, at the first look; then its names change only here."""
        with self._lock:
            if shard not in self.shards or self._has_names_of[shard]:
                return
            for file in files:
                self._names.add(code_of(file.name))
            self._has_names_of[shard] = True

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
                try:
                    facts = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                yield listed_file(entry.name, facts)

    # ------------------------------------------------------------------------------------------------ evicting

    def _evict(self, size: int, *, spares_resident: bool) -> tuple[int, int]:
        """Evicts what is worth least in the next shards; how many were listed, and how many files went."""
        files: list[ListedFile] = []
        listed = 0
        while len(files) < SAMPLE_FILES and listed < len(self.shards):
            shard = self.shards[self._turn % len(self.shards)]
            if shard in self._uncounted or self._shard_bytes[shard]:
                files += self.listed(shard)
            self._turn += 1
            listed += 1
        wanted = max(size, sum(file.occupied_bytes for file in files) // EVICTED_PART)
        gone: list[ListedFile] = []
        for file in sorted(self._candidates(files, spares_resident=spares_resident), key=lambda file: file.place):
            if wanted <= 0:
                break
            if self.unlink(file.name):
                wanted -= file.occupied_bytes
                gone.append(file)
        self._statistics.evictions += len(gone)
        self._note_gone(gone)
        return listed, len(gone)

    def _candidates(self, files: list[ListedFile], *, spares_resident: bool) -> Iterator[ListedFile]:
        """What may go. What is in memory is used there without its file being touched, so that is made up for."""
        keeps_pinned = sum(self._shard_pinned_bytes) <= self._pinned_bytes_max
        for file in files:
            if keeps_pinned and file.is_pinned:
                continue
            if spares_resident and self._is_resident(file.name):
                self._touch(file)
                continue
            yield file

    def _note_gone(self, files: list[ListedFile]) -> None:
        """Remembers the uses of what went, and raises the level towards the lowest place of those used often."""
        for file in files:
            self._ghosts.note(code_of(file.name), file.uses)
        lowest = next((file.place for file in files if file.uses > 1), 0.0)
        with self._lock, suppress(StorageError):
            self._level = risen(self._level, lowest)
            self._write_mark(self._mark)


def storage_error(error: OSError, path: str) -> StorageError:
    """What a refusal of the operating system means."""
    text = f"{path}: {error.strerror}"
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return StorageFullError(text)
    return StorageReadOnlyError(text) if error.errno == errno.EROFS else StorageError(text)


def _read_mark(descriptor: int) -> tuple[int, float]:
    """How much room may be taken, and the level of the order of eviction."""
    try:
        used, level = os.pread(descriptor, 64, 0).split()
        return int(used), int(level) / 1e9
    except ValueError:
        return _UNKNOWN, time.time()


def _status_of(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None
