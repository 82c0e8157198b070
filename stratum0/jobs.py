"""The jobs of the content pipeline: what a worker process is asked, what it answers, and how one job is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from cdn.errors import StorageError
from cdn.hashing import Algorithm, Digest
from cdn.objects import Kind
from stratum0.content import ContentIndex, ContentSettings, ContentStore, StoredPiece
from stratum0.new_folder import NewFolder, StoredFolder, store_new_folder
from stratum0.stamps import Stamp, read_stamped

_BYTES_FIELDS: Final = 2


@dataclass(frozen=True, slots=True)
class WorkerSetup:
    """What a worker is told first: where to store, how, and where the index is."""

    store_root: str
    index_file: str
    settings: ContentSettings


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


def folder_outcome_of(message: Any) -> StoredFolder | JobFailed:
    """The outcome of a folder that a message says."""
    return JobFailed(message[0]) if len(message) == 1 else StoredFolder(*message)


# ---------------------------------------------------------------------------------------------------------------- doing


def answer(message: Any, content: ContentStore) -> Any:
    """What a worker replies to the message of a batch of jobs, which is a list, or of a `NewFolder`, a tuple."""
    if isinstance(message, list):
        return [outcome_message(outcome) for outcome in do([job_of(job) for job in message], content)]
    outcome = do_folder(NewFolder(*message), content)
    return tuple(outcome) if isinstance(outcome, StoredFolder) else outcome_message(outcome)


def do(jobs: Sequence[Job], content: ContentStore) -> list[Outcome]:
    """Does a batch of jobs; the outcomes in the same order. If one fails, they all do."""
    outcomes: list[Outcome] = [_CHANGED] * len(jobs)
    pieces: list[tuple[bytes, Kind]] = []
    read: list[int] = []
    try:
        for number, job in enumerate(jobs):
            data = job.data if isinstance(job, BytesJob) else read_stamped(job.path, job.stamp, job.offset, job.size)
            if data is not None:
                pieces.append((data, job.kind))
                read.append(number)
        for number, piece in zip(read, content.store_pieces(pieces), strict=True):
            outcomes[number] = piece
    except (OSError, StorageError) as error:
        return [JobFailed(error)] * len(jobs)
    return outcomes


def do_folder(folder: NewFolder, content: ContentStore) -> StoredFolder | JobFailed:
    """Stores the ordinary small files of a new folder."""
    try:
        return store_new_folder(folder, content)
    except (OSError, StorageError) as error:
        return JobFailed(error)


def open_content(setup: WorkerSetup) -> ContentStore:
    """The content store a setup describes."""
    from cdn.storage.local import LocalStore

    return ContentStore(LocalStore(setup.store_root), setup.settings, ContentIndex(setup.index_file))
