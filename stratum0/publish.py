"""Publishing a folder or a tarball: lease, transaction, content and commit, in one call."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final

from cdn.catalog.diff import diff
from cdn.catalog.nesting import DIRTAB, DIRTAB_BYTES_MAX, Dirtab
from cdn.errors import CdnError, ObjectMissingError, StorageError, UsageError
from cdn.telemetry import NullProgress, Progress
from stratum0.jobs import WorkerSetup
from stratum0.pipeline import Pipeline
from stratum0.publisher import check_tag
from stratum0.scan import Doubts, Scanner
from stratum0.scan_counts import ScanCounts
from stratum0.sources import SourceMemory

if TYPE_CHECKING:
    from pathlib import Path

    from cdn.hashing import Digest
    from stratum0.repository import Repository
    from stratum0.transaction import Revision

SOURCES_FOLDER: Final = "sources"
_TRIES: Final = 2

Warn = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class PublishResult:
    """What publishing did.

    Args:
        revision: what was published; None if nothing had to change.
        counts: what was seen and stored.
        seconds: how long it took.
    """

    revision: Revision | None
    counts: ScanCounts
    seconds: float


@dataclass(frozen=True, slots=True)
class PublishOptions:
    """How to publish.

    Args:
        tag: a name for the new revision.
        message: its description.
        verify_content: read every file, whatever its size and times say.
        workers: processes to use; None for one for each core.
    """

    tag: str | None = None
    message: str = ""
    verify_content: bool = False
    workers: int | None = None


def publish_tree(
    repository: Repository,
    source: str | os.PathLike[str],
    to: str = "",
    *,
    options: PublishOptions | None = None,
    progress: Progress | None = None,
    warn: Warn = lambda _: None,
) -> PublishResult:
    """Makes a subtree equal to a folder: what is not in the folder is removed.

    Args:
        repository: where to publish.
        source: the folder.
        to: the subtree's path, the root by default.
        options: how.
        progress: counts files.
        warn: is told, in a sentence, what could not be published.

    Raises:
        UsageError: `source` is no folder, or holds the repository itself.
        LeaseHeldError: somebody else is changing the subtree.
        CdnError: it could not be published; the repository is as it was.
    """
    options = options or PublishOptions()
    folder = checked_source(repository, source)
    began = time.monotonic()
    check_tag(repository, repository.head(), options.tag)  # now, not after hours of reading
    for attempt in range(1, _TRIES + 1):
        try:
            revision, counts = _publish_once(repository, folder, to, options, progress or NullProgress(), warn)
            return PublishResult(revision, counts, time.monotonic() - began)
        except ObjectMissingError:
            if attempt == _TRIES:
                raise
            _forget_content(repository)  # garbage collection took what the index still knew
    raise AssertionError("the last try returns or raises")


def ingest_tarball(
    repository: Repository,
    tarball: str | os.PathLike[str] | BinaryIO,
    to: str = "",
    *,
    strip_components: int = 0,
    options: PublishOptions | None = None,
    progress: Progress | None = None,
    warn: Warn = lambda _: None,
) -> PublishResult:
    """Adds what a tarball holds to a subtree; what is there and not in the tarball stays.

    Args:
        repository: where to publish.
        tarball: its path, or a binary stream; plain, gzip, xz or zstandard, which its first bytes tell.
        to: the subtree's path, the root by default.
        strip_components: leading path components to take off every name.
        options: how.
        progress: counts files.
        warn: is told, in a sentence, what could not be published.

    Raises:
        DocumentError: the tarball is damaged.
        LeaseHeldError: somebody else is changing the subtree.
        CdnError: it could not be published; the repository is as it was.
    """
    from stratum0.tar_stream import opened_tarball
    from stratum0.tarball import TarballReader

    options = options or PublishOptions()
    began = time.monotonic()
    counts = ScanCounts()
    check_tag(repository, repository.head(), options.tag)
    with opened_tarball(tarball) as stream, repository.transaction(to, ephemeral=True) as transaction:
        with _pipeline(repository, options) as pipeline:
            reader = TarballReader(
                stream,
                transaction,
                pipeline,
                to=to,
                strip_components=strip_components,
                with_xattrs=repository.settings.include_xattrs,
                counts=counts,
                progress=progress or NullProgress(),
                warn=warn,
            )
            reader.run()
        revision = transaction.commit(tag=options.tag, message=options.message, progress=progress)
    return PublishResult(revision, counts, time.monotonic() - began)


def _publish_once(
    repository: Repository, source: bytes, to: str, options: PublishOptions, progress: Progress, warn: Warn
) -> tuple[Revision | None, ScanCounts]:
    with (
        repository.transaction(to, ephemeral=True) as transaction,
        source_memory(repository, source, to) as memory,
        _pipeline(repository, options) as pipeline,
        readable(),
    ):
        doubts = (
            Doubts(everywhere=True)
            if options.verify_content
            else doubts_about(repository, memory, transaction.base_root, to)
        )
        if doubts.everywhere:
            memory.forget(b"")
        scanner = Scanner(
            source,
            to,
            tree=transaction.base_tree,
            memory=memory,
            doubts=doubts,
            pipeline=pipeline,
            sink=transaction,
            dirtab=dirtab_of(source, to),
            with_xattrs=repository.settings.include_xattrs,
            by_folder=True,
            progress=progress,
            warn=warn,
            clock=repository.clock,
        )
        scanner.run()
        revision = transaction.commit(tag=options.tag, message=options.message, progress=progress)
        if doubts.everywhere or scanner.counts.put or scanner.counts.removed or memory.published is None:
            memory.commit(revision.root if revision is not None else transaction.base_root)
    return revision, scanner.counts


def doubts_about(repository: Repository, memory: SourceMemory, base: Digest, to: str) -> Doubts:
    """Where the revision with this root catalog is no longer what the memory holds for."""
    published = memory.published
    if published is None:
        return Doubts(everywhere=True)
    if published == base:
        return Doubts()
    try:
        return Doubts.about((change.path for change in diff(repository.catalogs, published, base, below=to)), to)
    except CdnError:  # the old revision is no longer there to compare with
        return Doubts(everywhere=True)


def source_memory(repository: Repository, source: bytes, to: str) -> SourceMemory:
    """What is remembered of a source folder."""
    settings = repository.settings
    kept = f"{settings.algorithm.option} {settings.compression.option} {settings.include_xattrs}"
    return SourceMemory(repository.folder / SOURCES_FOLDER, source, to, kept)


def _pipeline(repository: Repository, options: PublishOptions) -> Pipeline:
    setup = WorkerSetup(repository.store.root, str(repository.content_index_file), repository.content_settings)
    return Pipeline(setup, workers=options.workers)


def _forget_content(repository: Repository) -> None:
    if repository.content.index is not None:
        repository.content.index.clear()


def dirtab_of(source: bytes, to: str) -> Dirtab:
    """The rules in the source, where it is the one that has them, and they are a regular file.

    A FIFO would never end, and a link would show a line of another file in the message about it.
    """
    if to:
        return Dirtab()
    file = source + b"/" + DIRTAB.encode()
    try:
        if not stat.S_ISREG(os.lstat(file).st_mode):
            return Dirtab()
        with open(file, "rb", opener=_open_as_it_is) as stream:
            return Dirtab.parse(stream.read(DIRTAB_BYTES_MAX + 1).decode("utf-8", "surrogateescape"))
    except FileNotFoundError:
        return Dirtab()


def _open_as_it_is(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def checked_source(repository: Repository, source: str | os.PathLike[str]) -> bytes:
    """The source folder, absolute and without links.

    Raises:
        UsageError: it is no folder, or holds the repository.
    """
    folder = os.path.realpath(os.fspath(source))
    if not os.path.isdir(folder):
        raise UsageError(f"{os.fspath(source)} is not a folder: name the folder to publish, or use `cdn ingest`")
    for own in (repository.store.root, repository.folder):
        if _is_inside(own, folder):
            raise UsageError(f"{folder} holds the repository itself ({own}): publish a folder that does not")
    return os.fsencode(folder)


def _is_inside(path: str | Path, folder: str) -> bool:
    return os.path.commonpath([os.path.realpath(path), folder]) == folder


@contextmanager
def readable() -> Iterator[None]:
    """Says of a source that cannot be read which file it was."""
    try:
        yield
    except OSError as error:
        name = os.fsdecode(error.filename) if error.filename is not None else "the source"
        raise StorageError(f"cannot read {name}: {error.strerror or error}") from error
