"""Tarballs as changes: read once from front to back, never unpacked to disk.

A name that occurs twice means its last occurrence, as unpacking would have it. Hard links point to what the same
tarball, or the repository, already has. Names that would lead out of the subtree are refused. So is an archive that
ends without its end marker, because a download that broke off looks just like that.
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from tarfile import XGLTYPE, HeaderError, TarFile
from typing import IO, TYPE_CHECKING, Any, Final, Self, cast

from cdn.catalog.entries import XATTR_BYTES_MAX, XATTR_COUNT_MAX, Entry, encode_name
from cdn.errors import DocumentError, StorageError, UsageError
from cdn.telemetry import NullProgress, Progress
from stratum0.changes import Change, ChangeKind, name_of, parent_of
from stratum0.content import StoredContent
from stratum0.editing import objects_of
from stratum0.overlay import BASE_GROUPS
from stratum0.scan_counts import STAGED_CHANGES_MAX, ScanCounts

if TYPE_CHECKING:
    from stratum0.pipeline import Pipeline
    from stratum0.transaction import Transaction

HEADERS_BYTES_MAX: Final = 4 << 20
"""Of one member, extended headers and the map of a sparse file among them; also of global headers in all."""
HEADERS_MAX: Final = 16
"""Of one member, one describing the next."""

_NANO: Final = 1_000_000_000
_DIRECTORY_SIZE: Final = 4096
_ID_MAX: Final = 2**32 - 1
_SECONDS_MAX: Final = 2**63 - 1
_XATTR_PREFIX: Final = "SCHILY.xattr."
_BUFFER_BYTES: Final = 1 << 20
_TYPES: Final = {
    tarfile.FIFOTYPE: stat.S_IFIFO,
    tarfile.CHRTYPE: stat.S_IFCHR,
    tarfile.BLKTYPE: stat.S_IFBLK,
}

_CARELESS: Final = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What the standard library raises for some damaged headers, besides its own error."""
_END: Final[type[Exception]] = cast("Any", tarfile).EOFHeaderError
_NO_END: Final[type[Exception]] = cast("Any", tarfile).EmptyHeaderError

Warn = Callable[[str], None]


class _Forward:
    """A stream that is read forward only, and gives out only so much for what describes one member.

    The standard library reads a header that says that it is a gigabyte long into memory, and an endless map of a sparse
    file as well; a few kilobytes of a compressed tarball can be either.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._position = 0
        self._depth = 0
        self._left = HEADERS_BYTES_MAX

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> None:
        if position < self._position:
            raise DocumentError("tarball", "a member of it has a negative size")
        while (left := position - self._position) and self.read(min(left, _BUFFER_BYTES)):
            pass

    def read(self, size: int) -> bytes:
        if self._depth:
            self._left -= size
            if self._left < 0:
                raise DocumentError("tarball", f"a member has more than {HEADERS_BYTES_MAX} bytes of headers")
        data = _read_up_to(self._stream, size)
        self._position += len(data)
        return data

    def drain(self) -> None:
        """Reads to the end: there a compressed stream says whether it was whole, and who writes a pipe expects it."""
        while self._stream.read(_BUFFER_BYTES):
            pass

    @contextmanager
    def headers(self) -> Iterator[None]:
        """While the headers of a member are read; one may ask for the next from within this."""
        if not self._depth:
            self._left = HEADERS_BYTES_MAX
        if self._depth == HEADERS_MAX:
            raise DocumentError("tarball", f"a member has more than {HEADERS_MAX} headers")
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1


def _read_up_to(stream: IO[bytes], size: int) -> bytes:
    parts = []
    while size > 0 and (part := stream.read(size)):
        parts.append(part)
        size -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


class _StrictInfo(tarfile.TarInfo):
    """A header that says so when it is damaged; the standard library takes that for the end of the archive."""

    @classmethod
    def fromtarfile(cls, tarfile: TarFile) -> Self:
        with cast("_Forward", tarfile.fileobj).headers():
            try:
                return super().fromtarfile(tarfile)
            except _END:
                raise
            except _NO_END as error:
                raise DocumentError("tarball", "it ends without its end marker, so the rest may be missing") from error
            except (HeaderError, *_CARELESS) as error:
                raise DocumentError("tarball", f"a header is damaged ({error})") from error

    def _proc_member(self, tarfile: TarFile) -> Self:
        """Also limits what headers that hold for all later members may add up to."""
        info: Self = cast("Any", super())._proc_member(tarfile)  # noqa: SLF001  made to be overridden, its comments say
        if self.type == XGLTYPE:
            held = sum(len(key) + len(value) for key, value in tarfile.pax_headers.items())
            if held > HEADERS_BYTES_MAX:
                raise DocumentError("tarball", f"it has more than {HEADERS_BYTES_MAX} bytes of global headers")
        return info


@dataclass(slots=True)
class _Pending:
    """A change that waits for its content, or for those before it."""

    change: Change
    found: tuple[str, ...] = ()
    is_ready: bool = True


class TarballReader:
    """Turns the members of one tarball into staged changes.

    Args:
        stream: the uncompressed tarball.
        transaction: where changes go, and where hard links find what they point to.
        pipeline: what stores content.
        to: the subtree's path.
        strip_components: leading components to take off every name.
        with_xattrs: whether extended attributes are published.
        counts: what was seen is added here.
        progress: counts members.
        warn: is told what was left out.
    """

    def __init__(
        self,
        stream: IO[bytes],
        transaction: Transaction,
        pipeline: Pipeline,
        *,
        to: str,
        strip_components: int = 0,
        with_xattrs: bool = False,
        counts: ScanCounts | None = None,
        progress: Progress | None = None,
        warn: Warn = lambda _: None,
    ) -> None:
        self._stream = stream
        self._transaction = transaction
        self._pipeline = pipeline
        self._to = to
        self._strip = strip_components
        self._with_xattrs = with_xattrs
        self._counts = counts if counts is not None else ScanCounts()
        self._progress = progress or NullProgress()
        self._warn = warn
        self._queue: deque[_Pending] = deque()
        self._above: set[str] = set()  # directories above what is in the queue
        self._groups = 0

    def run(self) -> None:
        """Stages every member.

        Raises:
            DocumentError: the tarball is damaged.
            UsageError: a member cannot be published.
            StorageError: content cannot be stored.
        """
        self._progress.start(None, "files")
        stream = _Forward(self._stream)
        try:
            with tarfile.TarFile(
                fileobj=cast("Any", stream),
                tarinfo=_StrictInfo,
                encoding="utf-8",
                errors="surrogateescape",
            ) as archive:
                for info in archive:
                    self._take(info, archive)
                    cast("Any", archive).members.clear()  # it would keep all of them
                    self._progress.advance()
            stream.drain()
            self._settle()
        except (tarfile.TarError, ValueError, OverflowError) as error:
            raise DocumentError("tarball", str(error) or type(error).__name__) from error
        except OSError as error:
            raise StorageError(f"cannot read the tarball: {error}") from error

    def _take(self, info: tarfile.TarInfo, archive: TarFile) -> None:
        path = self._path_of(info.name)
        if path is None:
            return
        self._counts.files += 1
        if info.islnk():
            self._take_hardlink(info, path)
        elif info.isreg() or info.issparse():
            self._take_file(info, archive, path)
        elif info.isdir():
            self._queue_change(Change(path, ChangeKind.PUT, replace(self._entry(info, path), size=_DIRECTORY_SIZE)))
        elif info.issym():
            target = info.linkname
            entry = replace(self._entry(info, path), symlink=target, size=len(encode_name(target)))
            self._queue_change(Change(path, ChangeKind.PUT, entry))
        elif info.type in _TYPES:
            device = os.makedev(info.devmajor, info.devminor) if info.ischr() or info.isblk() else 0
            self._queue_change(Change(path, ChangeKind.PUT, replace(self._entry(info, path), device=device)))
        else:
            self._warn(f"{info.name} is left out: it is of a kind that cannot be published ({info.type!r})")

    def _take_file(self, info: tarfile.TarInfo, archive: TarFile, path: str) -> None:
        stream = archive.extractfile(info)
        if stream is None:
            raise DocumentError("tarball", f"{info.name} has no content")
        pending = _Pending(Change(path, ChangeKind.PUT, self._entry(info, path)), is_ready=False)
        self._enqueue(pending)
        self._counts.files_read += 1
        self._counts.bytes_read += info.size

        def done(content: StoredContent) -> None:
            entry = cast("Entry", pending.change.entry)
            pending.change = pending.change._replace(entry=replace(entry, **content.entry_fields))
            pending.found = content.found
            pending.is_ready = True
            self._counts.bytes_stored += content.stored_size
            self._counts.objects_new += content.objects_new

        self._pipeline.store_stream(stream, info.size, done)
        self._flush()

    def _take_hardlink(self, info: tarfile.TarInfo, path: str) -> None:
        """A hard link is its target's content under another name; in one folder the two stay linked."""
        target = self._path_of(info.linkname)
        self._settle()
        entry = None if target is None else self._transaction.find(target)
        if entry is None or target is None or entry.is_directory:
            raise DocumentError("tarball", f"{info.name} is a hard link to {info.linkname}, which is not there")
        if target == path:
            return
        is_linked = parent_of(target) == parent_of(path)
        group = self._group_of(target, entry) if is_linked else 0
        self._queue_change(_linked(path, entry, group), tuple(objects_of(entry)))

    def _group_of(self, target: str, entry: Entry) -> int:
        """The group of hard links that another name of a file in its folder joins; one begins where there is none."""
        if entry.hardlink_group and self._transaction.staging.find(target) is not None:
            return entry.hardlink_group
        self._groups += 1
        folder, members = parent_of(target), [entry]
        if entry.hardlink_group:  # the repository's: who changes one of its members stages all
            group = entry.hardlink_group + BASE_GROUPS
            members = [each for each in self._transaction.listing(folder) if each.hardlink_group == group]
        for member in members:
            self._queue_change(_linked(f"{folder}/{member.name}", member, self._groups), tuple(objects_of(member)))
        return self._groups

    def _queue_change(self, change: Change, found: tuple[str, ...] = ()) -> None:
        self._enqueue(_Pending(change, found))
        self._flush()

    def _enqueue(self, pending: _Pending) -> None:
        path, entry = pending.change.path, pending.change.entry
        if path in self._above and entry is not None and not entry.is_directory:
            self._settle()  # what it takes the place of is staged first, so that it goes with all that is in it
        self._queue.append(pending)
        while path and (path := parent_of(path)) not in self._above:
            self._above.add(path)

    def _settle(self) -> None:
        """Stages all that came so far."""
        self._pipeline.drain()
        self._flush(everything=True)
        self._above.clear()

    def _flush(self, *, everything: bool = False) -> None:
        """Stages what is ready, in the order of the tarball, once there is enough of it."""
        if not everything and len(self._queue) < STAGED_CHANGES_MAX:
            return
        changes: list[Change] = []
        found: list[str] = []
        while self._queue and self._queue[0].is_ready:
            pending = self._queue.popleft()
            changes.append(pending.change)
            found.extend(pending.found)
        self._counts.put += len(changes)
        if changes:
            self._transaction.stage(changes, found)

    def _path_of(self, name: str) -> str | None:
        """Where in the repository a member goes; None for what stripping leaves nothing of.

        Raises:
            UsageError: the name leads out of the subtree.
        """
        components = [part for part in name.split("/") if part not in {"", "."}]
        if ".." in components or "\0" in name:
            raise UsageError(f"the tarball holds {name!r}, which leads out of the subtree: nothing was published")
        kept = components[self._strip :]
        if not kept:
            return self._to if not components and not self._strip else None
        return "/".join([self._to, *kept])

    def _entry(self, info: tarfile.TarInfo, path: str) -> Entry:
        seconds, nanoseconds = _mtime_of(info)
        if not 0 <= info.uid <= _ID_MAX or not 0 <= info.gid <= _ID_MAX:
            raise DocumentError("tarball", f"{info.name} has an impossible owner")
        kind = stat.S_IFREG
        if info.isdir():
            kind = stat.S_IFDIR
        elif info.issym():
            kind = stat.S_IFLNK
        return Entry(
            name=name_of(path),
            mode=_TYPES.get(info.type, kind) | (info.mode & 0o7777),
            mtime=seconds,
            mtime_ns=nanoseconds,
            uid=info.uid,
            gid=info.gid,
            xattrs=self._xattrs(info) if self._with_xattrs else (),
        )

    def _xattrs(self, info: tarfile.TarInfo) -> tuple[tuple[bytes, bytes], ...]:
        found: list[tuple[bytes, bytes]] = []
        for key, value in info.pax_headers.items():
            if key.startswith(_XATTR_PREFIX):
                raw = (encode_name(key.removeprefix(_XATTR_PREFIX)), encode_name(value))
                if max(map(len, raw)) > XATTR_BYTES_MAX or not raw[0] or len(found) >= XATTR_COUNT_MAX:
                    self._warn(f"an extended attribute of {info.name} is left out: the format cannot hold it")
                else:
                    found.append(raw)
        return tuple(sorted(found))


def _linked(path: str, entry: Entry, group: int) -> Change:
    return Change(path, ChangeKind.PUT, replace(entry, name=name_of(path), hardlink_group=group))


def _mtime_of(info: tarfile.TarInfo) -> tuple[int, int]:
    """Seconds and nanoseconds; from the text of the extended header, since a float loses nanoseconds."""
    text = info.pax_headers.get("mtime")
    try:
        moment = Decimal(text) if text is not None else Decimal(info.mtime)
        if not -_SECONDS_MAX <= moment <= _SECONDS_MAX:  # before it becomes an integer of any number of digits
            raise DocumentError("tarball", f"{info.name} has an impossible time")
    except (ArithmeticError, ValueError) as error:
        raise DocumentError("tarball", f"{info.name} has an impossible time") from error
    return divmod(int(moment * _NANO), _NANO)
