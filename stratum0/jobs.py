"""The jobs of the content pipeline: what a worker process is asked, what it answers, and how one job is done."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from cdn.errors import StorageError
from cdn.hashing import Algorithm, Digest
from cdn.objects import Kind
from stratum0.content import ContentIndex, ContentSettings, ContentStore, StoredPiece

_BYTES_FIELDS: Final = 2
_NO_FILE: Final = frozenset({errno.ESPIPE, errno.EISDIR, errno.EAGAIN, errno.EINVAL})
_OPEN: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # what became a FIFO since must not hang


@dataclass(frozen=True, slots=True)
class WorkerSetup:
    """What a worker is told first: where to store, how, and where the index is."""

    store_root: str
    index_file: str
    settings: ContentSettings


class Stamp(NamedTuple):
    """What says that a file is still the one that was scanned: inode, size in bytes, mtime and ctime in nanoseconds."""

    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        """The stamp of a file's status."""
        return cls(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class ReadJob(NamedTuple):
    """Store `size` bytes at `offset` of a file, if it still bears this stamp."""

    path: bytes
    stamp: Stamp
    offset: int
    size: int
    kind: Kind


class BytesJob(NamedTuple):
    """Store these bytes."""

    data: bytes
    kind: Kind


@dataclass(frozen=True, slots=True)
class FileChanged:
    """The file is no longer the one that was scanned, or is gone."""


@dataclass(frozen=True, slots=True)
class JobFailed:
    """The job could not be done; `error` says why."""

    error: Exception


_CHANGED: Final = FileChanged()
Job = ReadJob | BytesJob
Outcome = StoredPiece | FileChanged | JobFailed

Message = tuple[object, ...]
"""A job or an outcome as it travels: plain values in a tuple cost a third of what the classes do."""


def job_message(job: Job) -> Message:
    """The job as a message."""
    if isinstance(job, BytesJob):
        return job.data, job.kind.value
    return job.path, *job.stamp, job.offset, job.size, job.kind.value


def job_of(message: Any) -> Job:
    """The job that a message says."""
    kind = Kind(message[-1])
    if len(message) == _BYTES_FIELDS:
        return BytesJob(message[0], kind)
    return ReadJob(message[0], Stamp(*message[1:5]), message[5], message[6], kind)


def outcome_message(outcome: Outcome) -> Message:
    """The outcome as a message."""
    if isinstance(outcome, StoredPiece):
        return outcome.digest.value, outcome.plain_digest, outcome.size, outcome.stored_size, outcome.is_new
    return (outcome.error,) if isinstance(outcome, JobFailed) else ()


def outcome_of(message: Any, algorithm: Algorithm) -> Outcome:
    """The outcome that a message says."""
    if not message:
        return FileChanged()
    if len(message) == 1:
        return JobFailed(message[0])
    return StoredPiece(Digest(algorithm, message[0]), *message[1:])


def do(jobs: Sequence[Job], content: ContentStore) -> list[Outcome]:
    """Does a batch of jobs; the outcomes in the same order. If one fails, they all do."""
    outcomes: list[Outcome] = [_CHANGED] * len(jobs)
    pieces: list[tuple[bytes, Kind]] = []
    read: list[int] = []
    try:
        for number, job in enumerate(jobs):
            data = job.data if isinstance(job, BytesJob) else _read(job)
            if data is not None:
                pieces.append((data, job.kind))
                read.append(number)
        for number, piece in zip(read, content.store_pieces(pieces), strict=True):
            outcomes[number] = piece
    except (OSError, StorageError) as error:
        return [JobFailed(error)] * len(jobs)
    return outcomes


def _read(job: ReadJob) -> bytes | None:
    """The bytes, or None if the file is not, or does not stay, the one that was scanned."""
    try:
        fd = os.open(job.path, _OPEN)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:  # it became a symbolic link
            return None
        raise
    try:
        data = _read_range(fd, job.offset, job.size)
        # Looking once, afterwards, is enough: the stamp is from before, and whatever writes to a file moves its ctime.
        return data if len(data) == job.size and Stamp.of(os.fstat(fd)) == job.stamp else None
    except OSError as error:
        if error.errno in _NO_FILE:  # a FIFO or a folder took its place
            return None
        raise
    finally:
        os.close(fd)


def _read_range(fd: int, offset: int, size: int) -> bytes:
    """The bytes, or fewer if there are no more."""
    data = os.pread(fd, size, offset)
    while len(data) < size and (more := os.pread(fd, size - len(data), offset + len(data))):
        data += more
    return data


def open_content(setup: WorkerSetup) -> ContentStore:
    """The content store a setup describes."""
    from cdn.storage.local import LocalStore

    return ContentStore(LocalStore(setup.store_root), setup.settings, ContentIndex(setup.index_file))
