"""The content pipeline: many files read, hashed, compressed and stored on all cores, in bounded memory.

Work is handed in with a callback and the callback is called, in the thread that hands in, when the work is done. Small
files travel in batches, those of a new folder as the folder they are in; large ones are cut here and travel as chunks.
Some requests are under way to each worker, so that it has work while this process is busy with something else; so few
that all of them fit into a socket's buffer, so that this process never waits with a request for a worker that waits
with its reply.
Workers are started only when there is enough to do to be worth their start.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar, cast

from cdn.chunking import CHUNKED_ABOVE_BYTES, Span, cut_stream
from cdn.closing import Closing
from cdn.errors import StorageError, UsageError
from cdn.objects import Kind
from stratum0.content import StoredContent, StoredPiece, content_of_chunks, content_of_piece, index_row
from stratum0.jobs import (
    BytesJob,
    FileChanged,
    Job,
    JobFailed,
    Outcome,
    ReadJob,
    WorkerSetup,
    do,
    do_folder,
    folder_outcome_of,
    job_message,
    open_content,
    outcome_of,
)
from stratum0.new_folder import NewFolder, StoredFolder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection
    from typing import Any

    from stratum0.content import ContentStore, IndexRow
    from stratum0.stamps import Stamp

BATCH_JOBS_MAX: Final = 64
BATCH_BYTES_MAX: Final = 2 << 20
BATCH_PATH_BYTES_MAX: Final = 16 << 10
"""A batch's request must fit into a socket's buffer, or both sides could wait for each other to read."""
UNDER_WAY_MAX: Final = 8
START_AFTER_BATCHES: Final = 3
"""So many full batches are worth starting processes (some 80 ms each)."""
_SEND_BUFFER_BYTES: Final = 1 << 20
"""Asked for; a usual kernel gives 416 KiB, twice what the requests under way take at most."""
_INDEX_ROWS_MAX: Final = 20_000
_INDEX_BYTES_MAX: Final = 64 << 20
"""When the index is written: rarely, since few rows touch as many pages as many do, but soon after large content."""

_GONE: Final = (FileNotFoundError, NotADirectoryError)
_Part = TypeVar("_Part")

FileDone = Callable[[StoredContent | FileChanged], None]
"""Called with what became of a file."""
FolderDone = Callable[[StoredFolder], None]
"""Called with what became of a folder."""
PieceDone = Callable[[Outcome], None]


@dataclass(slots=True)
class _Batch:
    jobs: list[Job] = field(default_factory=list)
    done: list[PieceDone] = field(default_factory=list)
    size: int = 0
    path_bytes: int = 0

    @property
    def message(self) -> Any:
        """What a worker is sent."""
        return [job_message(job) for job in self.jobs]

    @property
    def is_full(self) -> bool:
        return (
            len(self.jobs) >= BATCH_JOBS_MAX or self.size >= BATCH_BYTES_MAX or self.path_bytes >= BATCH_PATH_BYTES_MAX
        )

    def add(self, job: Job, done: PieceDone) -> None:
        self.jobs.append(job)
        self.done.append(done)
        if isinstance(job, ReadJob):
            self.size += job.size
            self.path_bytes += len(job.path)
        else:
            self.size += len(job.data)


@dataclass(frozen=True, slots=True)
class _FolderRequest:
    folder: NewFolder
    done: FolderDone

    @property
    def message(self) -> Any:
        """What a worker is sent."""
        return tuple(self.folder)


_Request = _Batch | _FolderRequest


def cores() -> int:
    """How many processors this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on every platform
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


class Pipeline(Closing):
    """Stores content on all cores; a context manager that ends its workers.

    Callbacks may hand in more work. One thread at a time.

    Args:
        setup: where and how to store.
        workers: processes to use; None for as many as there are cores, 0 to do everything in this process.
    """

    def __init__(self, setup: WorkerSetup, *, workers: int | None = None) -> None:
        self._setup = setup
        self._workers_wanted = cores() if workers is None else workers
        self._workers: list[_Worker] = []
        self._inline: ContentStore = open_content(setup)
        self._filling = _Batch()
        self._waiting: deque[_Request] = deque()
        self._inline_left = START_AFTER_BATCHES * BATCH_JOBS_MAX
        self._remembered: list[IndexRow] = []
        self._remembered_bytes = 0

    @property
    def worker_ids(self) -> tuple[int, ...]:
        """The process ids of the workers that were started."""
        return tuple(worker.pid for worker in self._workers)

    # ----------------------------------------------------------------------------------------------------------- taking

    def store_file(self, path: bytes, stamp: Stamp, done: FileDone) -> None:
        """Stores a file's content; `done` gets it, or `FileChanged` if the file does not bear the stamp (any more).

        Raises:
            StorageError: this or earlier work failed.
            OSError: a file cannot be read.
        """
        if stamp.size > CHUNKED_ABOVE_BYTES:
            self._store_large(path, stamp, done)
        else:
            compression = self._setup.settings.compression
            self._take(
                ReadJob(path, stamp, 0, stamp.size, Kind.FILE),
                lambda outcome: done(
                    content_of_piece(outcome, compression) if isinstance(outcome, StoredPiece) else FileChanged()
                ),
            )

    def store_stream(self, stream: Any, size: int, done: Callable[[StoredContent], None]) -> None:
        """Stores what a stream gives, which is read before this returns.

        Args:
            stream: with `read`; must give exactly `size` bytes.
            size: how many bytes there are.
            done: gets the content.

        Raises:
            UsageError: the stream gives another number of bytes.
            StorageError, OSError: as `store_file`.
        """
        collector = _Collector(self._setup.settings.compression, lambda content: done(_stored(content)))
        if size <= CHUNKED_ABOVE_BYTES:
            data = stream.read(size)
            parts: Iterator[bytes] = iter([data])
        else:
            parts = (bytes(part) for part in cut_stream(_Limited(stream, size)))
        read = 0
        is_single = True
        for part, is_single in _with_lookahead(parts):
            read += len(part)
            self._take(BytesJob(part, Kind.FILE if is_single else Kind.CHUNK), collector.expect())
        if read != size:
            raise UsageError(f"a file of {size} bytes ended after {read}")
        collector.close(is_single=is_single, is_whole=True)

    def store_folder(self, folder: NewFolder, done: FolderDone) -> None:
        """Stores the ordinary small files of a folder of which nothing is published yet.

        Raises:
            StorageError: this or earlier work failed.
            OSError: the folder, or a file in it, cannot be read.
        """
        request = _FolderRequest(folder, done)
        if self._inline_left > 0 and not self._workers:
            outcome = do_folder(folder, self._inline)
            if isinstance(outcome, StoredFolder):
                self._inline_left -= max(1, outcome.seen, BATCH_JOBS_MAX * outcome.bytes_read // BATCH_BYTES_MAX)
            self._finish_folder(request, outcome)
            return
        self._waiting.append(request)
        self._start_workers()
        self._dispatch()

    def wait(self) -> bool:
        """Returns when something handed in was done, or False if nothing is left to do.

        Raises:
            StorageError, OSError: some of it failed.
        """
        if self._filling.jobs:
            self._waiting.append(self._filling)
            self._filling = _Batch()
        if self._waiting:
            self._dispatch()
        elif any(worker.under_way for worker in self._workers):
            self._collect()
        else:
            return False
        return True

    def drain(self) -> None:
        """Returns when everything handed in is done.

        Raises:
            StorageError, OSError: some of it failed.
        """
        while self.wait():
            pass
        self._remember()

    # ---------------------------------------------------------------------------------------------------------- working

    def _take(self, job: Job, done: PieceDone) -> None:
        self._filling.add(job, done)
        if not self._filling.is_full:
            return
        self._waiting.append(self._filling)
        self._filling = _Batch()
        if self._workers or len(self._waiting) > START_AFTER_BATCHES or self._workers_wanted == 0:
            self._start_workers()
            self._dispatch()

    def _store_large(self, path: bytes, stamp: Stamp, done: FileDone) -> None:
        collector = _Collector(self._setup.settings.compression, done)
        size = 0
        is_single = True
        try:
            for span, is_single in _with_lookahead(_spans_of(path)):
                size += span.size
                kind = Kind.FILE if is_single else Kind.CHUNK
                self._take(ReadJob(path, stamp, span.offset, span.size, kind), collector.expect())
        except _GONE:
            size = -1
        collector.close(is_single=is_single, is_whole=size == stamp.size)

    def _start_workers(self) -> None:
        if not self._workers:
            self._workers = [_Worker(self._setup) for _ in range(self._workers_wanted)]

    def _dispatch(self) -> None:
        """Sends all waiting batches, each as soon as a worker has room."""
        while self._waiting:
            free = min(self._workers, key=lambda worker: len(worker.under_way), default=None)
            if free is None:
                request = self._waiting.popleft()
                if isinstance(request, _Batch):
                    self._finish_batch(request, do(request.jobs, self._inline))
                else:
                    self._finish_folder(request, do_folder(request.folder, self._inline))
            elif len(free.under_way) < UNDER_WAY_MAX:
                free.send(self._waiting.popleft())
            else:
                self._collect()

    def _collect(self) -> None:
        """Waits for at least one reply and takes all that are there."""
        from multiprocessing.connection import wait

        busy = {worker.connection: worker for worker in self._workers if worker.under_way}
        for connection in wait(list(busy)):
            request, reply = busy[cast("Connection", connection)].receive()
            if isinstance(request, _Batch):
                algorithm = self._setup.settings.algorithm
                self._finish_batch(request, [outcome_of(message, algorithm) for message in reply])
            else:
                self._finish_folder(request, folder_outcome_of(reply))

    def _finish_batch(self, batch: _Batch, outcomes: list[Outcome]) -> None:
        for job, done, outcome in zip(batch.jobs, batch.done, outcomes, strict=True):
            if isinstance(outcome, JobFailed):
                raise outcome.error
            if isinstance(outcome, StoredPiece):
                self._remembered.append(index_row(outcome, job.kind, self._setup.settings))
                self._remembered_bytes += outcome.size
            done(outcome)
        self._remember_many()

    def _finish_folder(self, request: _FolderRequest, outcome: StoredFolder | JobFailed) -> None:
        if isinstance(outcome, JobFailed):
            raise outcome.error
        self._remembered += outcome.index_rows
        self._remembered_bytes += outcome.bytes_read
        request.done(outcome)
        self._remember_many()

    def _remember_many(self) -> None:
        if len(self._remembered) >= _INDEX_ROWS_MAX or self._remembered_bytes >= _INDEX_BYTES_MAX:
            self._remember()

    def _remember(self) -> None:
        if self._remembered and self._inline.index is not None:
            self._inline.index.add(self._remembered)
        self._remembered.clear()
        self._remembered_bytes = 0

    # ---------------------------------------------------------------------------------------------------------- closing

    def close(self) -> None:
        """Ends the workers; work not done by then is given up."""
        for worker in self._workers:
            worker.close()
        self._workers = []
        self._workers_wanted = 0
        if self._inline.index is not None:
            self._inline.index.close()


class _Worker:
    """One worker process and the requests it has not answered yet."""

    def __init__(self, setup: WorkerSetup) -> None:
        import socket
        from multiprocessing.connection import Connection

        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        with theirs:
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "stratum0.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=environment,
            )
        self.connection: Connection = Connection(ours.detach())
        self.under_way: deque[_Request] = deque()
        self.connection.send(setup)

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, request: _Request) -> None:
        try:
            self.connection.send(request.message)
        except OSError as error:
            raise self._gone() from error
        self.under_way.append(request)

    def receive(self) -> tuple[_Request, Any]:
        try:
            reply = self.connection.recv()
        except (EOFError, OSError) as error:
            raise self._gone() from error
        return self.under_way.popleft(), reply

    def close(self) -> None:
        self.connection.close()
        self._process.wait()

    def _gone(self) -> StorageError:
        code = self._process.wait()
        said = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return StorageError(f"a worker process {said}; check that memory is not short, then publish again")


class _Collector:
    """Gathers the pieces of one file, which may be done in any order."""

    def __init__(self, compression: Any, done: FileDone) -> None:
        self._compression = compression
        self._done = done
        self._pieces: list[StoredPiece | None] = []
        self._missing = 1  # `close` is waited for like a piece
        self._has_changed = False
        self._is_single = False

    def expect(self) -> PieceDone:
        """The callback of the next piece."""
        index = len(self._pieces)
        self._pieces.append(None)
        self._missing += 1

        def done(outcome: Outcome) -> None:
            if isinstance(outcome, StoredPiece):
                self._pieces[index] = outcome
            else:
                self._has_changed = True
            self._one_less()

        return done

    def close(self, *, is_single: bool, is_whole: bool) -> None:
        """Says that no more pieces come, whether there was just one, and whether they are the whole file."""
        self._is_single = is_single
        self._has_changed |= not is_whole
        self._one_less()

    def _one_less(self) -> None:
        self._missing -= 1
        if self._missing:
            return
        pieces = [piece for piece in self._pieces if piece is not None]
        if self._has_changed:
            self._done(FileChanged())
        elif self._is_single:
            self._done(content_of_piece(pieces[0], self._compression))
        else:
            self._done(content_of_chunks(pieces, self._compression))


class _Limited:
    """At most so many bytes of a stream."""

    def __init__(self, stream: Any, size: int) -> None:
        self._stream = stream
        self._left = size

    def read(self, size: int) -> bytes:
        data: bytes = self._stream.read(min(size, self._left))
        self._left -= len(data)
        return data


def _stored(content: StoredContent | FileChanged) -> StoredContent:
    if isinstance(content, FileChanged):
        raise AssertionError("bytes in memory do not change")  # noqa: TRY004 -- no wrong type, but a mistake of ours
    return content


def _with_lookahead(parts: Iterator[_Part]) -> Iterator[tuple[_Part, bool]]:
    """Each part, and whether it is the only one."""
    for first in parts:
        second = next(parts, None)
        yield first, second is None
        if second is not None:
            yield second, False
        break
    for part in parts:
        yield part, False


def _spans_of(path: bytes) -> Iterator[Span]:
    """Where a large file is cut. It is read, not mapped: mapped pages would count as this process's memory."""
    offset = 0
    with open(path, "rb", buffering=0, opener=_open_no_follow) as stream:
        for part in cut_stream(stream):
            yield Span(offset, len(part))
            offset += len(part)


def _open_no_follow(path: Any, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
