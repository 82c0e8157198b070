"""The disk tier: one file per response, found by name alone, verified before it is used, never more bytes than allowed.

A response is found by computing its file's name from its key, so a restart serves at once, however much is cached. What
is written goes to `tmp` first and gets its name when it is complete; what is left there from a crash is removed at the
start. Room is the concern of `edge.cache.disk_room`.

All methods block and are called in threads; each may be called from several at once.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from cdn.errors import DocumentError, UsageError
from cdn.hashing import Digest
from edge.cache.cache_file import FileFacts, read_facts
from edge.cache.cache_lock import PATIENCE_SECONDS, TEMPORARY, CacheLock
from edge.cache.disk_room import DiskRoom, storage_error
from edge.cache.disk_trouble import DiskTrouble
from edge.cache.purging import Verdict
from edge.cache.shards import WHOLE, Share, file_name
from edge.cache.spool_file import SpoolFile
from edge.cache.verified_bodies import Identity, VerifiedBodies, check_body, identity_of, pieces_of
from edge.http.caching import StoredHead
from edge.watching.statistics import Statistics

_OUTDATED_MODE: Final = 0o400


@dataclass(slots=True)
class OpenFile:
    """A verified cache file, open for reading; `close` when done."""

    facts: FileFacts
    descriptor: int
    name: str = ""
    digest: Digest | None = None
    """What the body must hash to; None if the file's own checksum counts."""
    body: bytes | None = None
    """The whole body, if it is small."""
    identity: Identity | None = None
    """Of the file as it was verified."""
    holders: int = 1

    @property
    def is_outdated(self) -> bool:
        """Whether an upstream must confirm it before it is used: see `DiskCache.outdate`."""
        return not os.fstat(self.descriptor).st_mode & stat.S_IWUSR

    def read(self, start: int, size: int) -> bytes:
        """Bytes of the body."""
        return os.pread(self.descriptor, size, start)

    def is_unchanged(self) -> bool:
        """Whether nobody wrote to the file, cut it short or removed it since it was verified."""
        return identity_of(os.fstat(self.descriptor)) == self.identity

    def keep(self) -> OpenFile:
        """One more holder; each has to `close`."""
        self.holders += 1
        return self

    def close(self) -> None:
        """Lets go of the file."""
        self.holders -= 1
        if self.holders == 0 and self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class DamagedFileError(DocumentError):
    """A body on disk that is no longer what it must be, found after some of it was sent.

    Args:
        key: what it is cached under.
    """

    def __init__(self, key: str) -> None:
        super().__init__("cache file", f"the body of {key} changed after it was verified")


class DiskCache:
    """Responses in files.

    Args:
        directory: for this cache alone.
        bytes_max: how many bytes its files occupy at most.
        memory_body_max: bodies up to this size are read whole when they are opened.
        verify_seconds: how long a verified body is trusted while its file does not change.
        statistics: counts failures and evictions.
        is_resident: says of a file name that its body is also in memory, which makes it worth keeping.
        pinned_share: which part of the room what is pinned may keep for itself.
        share: whose shards are counted and evicted from; what lies in others may be read. Workers that share a
            directory leave taking it, and what others left in it, to the process that started them.
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
        pinned_share: float = 0.25,
        share: Share = WHOLE,
    ) -> None:
        self._root = directory
        self._files = directory / "v1"
        self._temporary = directory / TEMPORARY
        self._unfinished = f"{self._temporary}/{share.index}-{os.getpid()}"
        self._memory_body_max = memory_body_max
        self._share = share
        self._trouble = DiskTrouble(statistics)
        self._make_room = partial(
            DiskRoom,
            self._files,
            bytes_max=bytes_max,
            shards=share.shards,
            statistics=statistics,
            trouble=self._trouble,
            is_resident=is_resident,
            pinned_share=pinned_share,
        )
        self.room = self._make_room()
        self._verified = VerifiedBodies(verify_seconds)
        self._lock = threading.Lock()
        self._next_temporary = 0
        self._taken = CacheLock(directory)

    # ------------------------------------------------------------------------------------------------ life

    def open(self, patience_seconds: float = 0.0) -> None:
        """Makes the directories and takes the cache; removes what an earlier run left unfinished.

        Args:
            patience_seconds: how long one that somebody has is waited for.

        Raises:
            UsageError: another edge uses it, or it cannot be made.
        """
        try:
            for directory in (self._root, self._files, self._temporary):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._share.is_whole:
                self._taken.take(patience_seconds)
            for left in self._temporary.glob(f"{self._share.index}-*"):
                left.unlink()
            self.room.open()
        except UsageError:
            self.close()
            raise
        except OSError as error:
            self.close()
            raise UsageError(f"the cache {self._root} cannot be used: {error.strerror}") from error

    def close(self) -> None:
        """Gives the cache back."""
        self.room.close()
        self._taken.close()

    def retire(self) -> None:
        """Gives the cache to a successor: from now on it is read, but nothing is stored or evicted."""
        self.room.retire()
        self._taken.close()

    def resume(self) -> None:
        """Takes the cache back from a successor that did not start, if it was given away; `count` follows.

        Raises:
            UsageError: as `open`.
        """
        if not self.room.is_retired:
            return
        self.room = self._make_room()
        self.open(PATIENCE_SECONDS)

    def count(self) -> None:
        """Adds up what an earlier run left; meanwhile the cache is in use."""
        self.room.count()

    @property
    def is_counted(self) -> bool:
        """Whether what an earlier run left has been counted."""
        return self.room.is_counted

    @property
    def bytes_max(self) -> int:
        """How many bytes files occupy at most."""
        return self.room.bytes_max

    @property
    def used_bytes(self) -> int:
        """How many bytes files occupy, unfinished ones included."""
        return self.room.used_bytes

    @property
    def file_count(self) -> int | None:
        """How many responses there are; None while that is being counted."""
        return self.room.file_count

    # ------------------------------------------------------------------------------------------------ reading

    def lacks(self, key: str) -> bool:
        """Whether surely nothing that is not pinned is cached under a key; asks no disk, and may be called anywhere."""
        return self.room.lacks(file_name(key))

    def load(self, key: str, digest: Digest | None, *, pinned: bool = False) -> OpenFile | None:
        """Opens what is cached under a key, if its body is what it must be; what is not is removed.

        Args:
            key: of the response.
            digest: what the body must hash to; None if the file's own checksum counts.
            pinned: whether it is kept apart from what may be evicted.
        """
        name = file_name(key, pinned=pinned)
        try:
            descriptor = os.open(self._path(name), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._trouble.refused("read", error)
            return None
        try:
            found = self._verified_file(name, descriptor, key, digest)
        except (DocumentError, OSError) as error:
            os.close(descriptor)
            self._discard_damaged(name, str(error))
            return None
        if self._touch(name, descriptor) and found.identity is not None:
            found.identity = identity_of(os.fstat(descriptor))
        return found

    def _verified_file(self, name: str, descriptor: int, key: str, digest: Digest | None) -> OpenFile:
        facts = read_facts(descriptor)
        if facts.key != key:
            raise DocumentError("cache file", "it is for another key")
        if facts.size <= self._memory_body_max:
            body = os.pread(descriptor, facts.size, 0) if facts.size else b""
            check_body(facts, digest, (body,))
            return OpenFile(facts, descriptor, name, digest, body)
        identity = identity_of(os.fstat(descriptor))
        if not self._verified.is_trusted(name, identity):
            check_body(facts, digest, pieces_of(descriptor, facts.size))
            self._verified.note(name, identity)
        return OpenFile(facts, descriptor, name, digest, identity=identity)

    def confirm(self, file: OpenFile) -> bool:
        """Hashes an open body again; a damaged one is removed."""
        try:
            before = identity_of(os.fstat(file.descriptor))
            check_body(file.facts, file.digest, pieces_of(file.descriptor, file.facts.size))
        except (DocumentError, OSError) as error:
            self._discard_damaged(file.name, str(error))
            return False
        file.identity = before
        return True

    def _touch(self, name: str, descriptor: int) -> bool:
        """Notes that a file was used; whether that changed its times."""
        before = os.fstat(descriptor)
        if not self.room.touch(name, before):
            return False
        self._verified.follow(name, identity_of(before), identity_of(os.fstat(descriptor)))
        return True

    # ------------------------------------------------------------------------------------------------ writing

    def spool(self) -> SpoolFile:
        """A new unfinished body.

        Raises:
            StorageError: it cannot be made.
        """
        with self._lock:
            self._next_temporary += 1
            number = self._next_temporary
        path = f"{self._unfinished}-{number}"
        try:
            return SpoolFile(self.room, path)
        except OSError as error:
            raise storage_error(error, path) from error

    def commit(
        self,
        spool: SpoolFile,
        key: str,
        head: StoredHead,
        checksum: str,
        *,
        pinned: bool = False,
        rest: bytes = b"",
    ) -> None:
        """Gives a complete body its name, once the rest of it, if there is any, is written as well.

        Raises:
            StorageError: it could not be kept.
        """
        body_size = spool.size + len(rest)
        spool.write(rest + FileFacts(key, head, body_size, checksum).to_bytes())
        name = file_name(key, pinned=pinned)
        try:
            self.room.rename(spool, name)
        except OSError as error:
            raise storage_error(error, self._path(name)) from error
        spool.is_named = True
        if body_size > self._memory_body_max:
            self._verified.note(name, identity_of(os.fstat(spool.descriptor)))

    def store(self, key: str, head: StoredHead, body: bytes, checksum: str, *, pinned: bool = False) -> None:
        """Stores a small response at once; raises as `commit`."""
        spool = self.spool()
        try:
            self.commit(spool, key, head, checksum, pinned=pinned, rest=body)
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
            for piece in pieces_of(found.descriptor, found.facts.size):
                spool.write(piece)
            self.commit(spool, key, head, found.facts.checksum, pinned=pinned)
        finally:
            found.close()
            if spool is not None:
                spool.close()

    def pin(self, key: str, *, is_pinned: bool = True) -> None:
        """Lets what is cached under a key stay when room is made, or no longer."""
        self.room.pin(file_name(key), is_pinned=is_pinned)

    # ------------------------------------------------------------------------------------------------ forgetting

    def owns(self, key: str) -> bool:
        """Whether what is cached under a key is this worker's to change."""
        return self._share.owns(key)

    def remove(self, key: str, *, pinned: bool = False) -> bool:
        """Forgets what is cached under a key; whether there was something."""
        return self._unlink(file_name(key, pinned=pinned))

    def forget(self, key: str) -> bool:
        """Forgets what is cached under a key, pinned or not; whether there was anything."""
        return any([self._unlink(file_name(key)), self._unlink(file_name(key, pinned=True))])

    def remove_matching(self, matches: Callable[[str], bool]) -> int:
        """Forgets everything whose key matches; how many responses that were."""
        return sum(self.remove_matching_in(shard, matches) for shard in self.room.shards)

    def remove_matching_in(self, shard: int, matches: Callable[[str], bool]) -> int:
        """The same for one shard: a step of a purge that others may go between."""
        removed = 0
        for file in self.room.listed(shard):
            key = self._key_of(file.name)
            removed += key is not None and matches(key) and self._unlink(file.name)
        return removed

    def outdate(self, key: str) -> bool:
        """Lets a response be used only once an upstream has confirmed it; whether there was one, pinned or not.

        Its file loses the permission to be written: that copies nothing, outlives a restart, and ends with the file.
        """
        return any([self._outdate_file(file_name(key)), self._outdate_file(file_name(key, pinned=True))])

    def _outdate_file(self, name: str) -> bool:
        try:
            os.chmod(self._path(name), _OUTDATED_MODE)
        except FileNotFoundError:
            return False
        except OSError as error:
            self._trouble.refused("change", error)
            return False
        return True

    def purge_shard(self, shard: int, judge: Callable[[str, float], Verdict]) -> Iterator[Verdict]:
        """Removes and outdates what is to be, file by file; gives each verdict once it is carried out.

        Args:
            shard: from 0 to 255.
            judge: says of a key and the time of its answer what is to happen.
        """
        for file in self.room.listed(shard):
            yield self._purge_file(file.name, judge)

    def _purge_file(self, name: str, judge: Callable[[str, float], Verdict]) -> Verdict:
        try:
            descriptor = os.open(self._path(name), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return Verdict.KEPT  # gone meanwhile
        try:
            facts = read_facts(descriptor)
            verdict = judge(facts.key, facts.head.answered_at)
            if verdict is Verdict.STALE:
                os.fchmod(descriptor, _OUTDATED_MODE)
        except (DocumentError, OSError):
            return Verdict.KEPT  # damaged: nobody gets it
        finally:
            os.close(descriptor)
        if verdict is Verdict.GONE:
            self._unlink(name)
        return verdict

    def _key_of(self, name: str) -> str | None:
        """What a file says it is cached under."""
        try:
            descriptor = os.open(self._path(name), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None  # gone meanwhile
        try:
            return read_facts(descriptor).key
        except (DocumentError, OSError):
            return None  # damaged: nobody gets it
        finally:
            os.close(descriptor)

    def _unlink(self, name: str) -> bool:
        self._verified.forget(name)
        return self.room.unlink(name)

    # ------------------------------------------------------------------------------------------------ scrubbing

    def scrub_shard(self, shard: int, digest_of_key: Callable[[str], Digest | None]) -> Iterator[int]:
        """Reads every body of a shard and removes the rotten ones; gives the size of each file after it was read.

        Args:
            shard: from 0 to 255.
            digest_of_key: what the body cached under a key must hash to.
        """
        for file in self.room.listed(shard):
            self._scrub_file(file.name, digest_of_key)
            yield file.occupied_bytes

    def _scrub_file(self, name: str, digest_of_key: Callable[[str], Digest | None]) -> None:
        try:
            descriptor = os.open(self._path(name), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return  # evicted meanwhile
        try:
            facts = read_facts(descriptor)
            if name not in {file_name(facts.key), file_name(facts.key, pinned=True)}:
                raise DocumentError("cache file", "it is for another key")
            check_body(facts, digest_of_key(facts.key), pieces_of(descriptor, facts.size))
        except (DocumentError, OSError) as error:
            self._discard_damaged(name, str(error))
        finally:
            os.close(descriptor)

    def _discard_damaged(self, name: str, reason: str) -> None:
        self._trouble.damaged(self._path(name), reason)
        self._unlink(name)

    def _path(self, name: str) -> str:
        return self.room.path(name)
