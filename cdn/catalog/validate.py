"""What the format's own checker demands of catalogs, beyond what it takes to read them (spec §5.8, §5.10).

`validate` looks at one catalog, `validate_pair` at the border between two, `validate_subtree` at the sums over many.
Each yields findings; none means that nothing is wrong. Memory is bounded by the depth of the tree and by the hard links
of one directory.
"""
# ruff: noqa: S608  # what is put into queries are names of tables and columns written in this package

from __future__ import annotations

import stat
from collections import Counter
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from cdn.catalog import entries
from cdn.catalog.nesting import CATALOG_MARKER
from cdn.catalog.paths import PATH_BYTES_MAX, is_path, parent_of
from cdn.catalog.reader import is_entered
from cdn.catalog.rows import decode_chunks, decode_row, has_chunks
from cdn.catalog.schema import COUNTER_NAMES, Counters
from cdn.database import guard
from cdn.errors import DocumentError
from cdn.hashing import path_key

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from cdn.catalog.entries import Entry
    from cdn.catalog.reader import Catalog
    from cdn.catalog.rows import Row
    from cdn.catalog.schema import NestedReference


class Rule(Enum):
    """What a finding violates; the value is what reports print."""

    ROOT = "root"
    ROW = "row"
    NAME = "name"
    KEY = "key"
    DUPLICATE = "duplicate"
    FLAGS = "flags"
    MARKER = "marker"
    DIGEST = "digest"
    LINK_COUNT = "link-count"
    HARD_LINKS = "hard-links"
    SYMLINK = "symlink"
    SPECIAL = "special"
    XATTR = "xattr"
    CHUNKS = "chunks"
    MOUNTPOINT = "mountpoint"
    DANGLING = "dangling"
    COUNTERS = "counters"
    SUBTREE_COUNTERS = "subtree-counters"
    ROOT_PREFIX = "root-prefix"
    TRANSITION = "transition"
    REFERENCE_SIZE = "reference-size"


@dataclass(frozen=True, slots=True)
class Finding:
    """One violation.

    Args:
        path: where; for a catalog as a whole, its root.
        rule: which rule.
        message: one clear sentence without a final stop.
    """

    path: str
    rule: Rule
    message: str


def validate(catalog: Catalog) -> Iterator[Finding]:
    """Everything that is wrong within one catalog.

    Raises:
        DocumentError: the file is so damaged that looking further makes no sense.
    """
    validation = _Validation(catalog)
    with guard(catalog.document):
        yield from validation.root()
        yield from validation.tree()
        yield from validation.references()
        yield from validation.leftovers()
        yield from validation.counters()


def validate_pair(parent: Catalog, reference: NestedReference, child: Catalog, *, size: int) -> Iterator[Finding]:
    """What is wrong at the border between a catalog and one attached to it.

    Args:
        parent: the catalog with the mountpoint.
        reference: what it says of the other.
        child: the other.
        size: of the child's uncompressed file in bytes.

    Raises:
        DocumentError: the mountpoint's row or the child's root is damaged.
    """
    path = reference.path
    if child.root_prefix != path:
        yield Finding(path, Rule.ROOT_PREFIX, f"the catalog attached here was made for {child.root_prefix or '/'!r}")
        return
    if reference.size not in (0, size):
        yield Finding(path, Rule.REFERENCE_SIZE, f"the reference says {reference.size} bytes, the catalog has {size}")
    mountpoint = parent.find(path)
    if mountpoint is None:
        return  # `validate` of the parent says so
    for name, above, below in _differences(mountpoint, child.root):
        yield Finding(path, Rule.TRANSITION, f"{name} is {above} at the mountpoint and {below} at the nested root")


def validate_subtree(catalog: Catalog, children: Counters) -> Iterator[Finding]:
    """Whether a catalog's subtree counters are the sums they must be.

    Args:
        catalog: the one to look at.
        children: what the catalogs attached directly to it count in all, added up.
    """
    yield from _compared(catalog.root_prefix, Rule.SUBTREE_COUNTERS, catalog.subtree_counters, children)


_COMPARED_FIELDS: Final = (
    "name", "mode", "size", "mtime", "mtime_ns", "uid", "gid", "link_count", "hardlink_group", "xattrs", "is_hidden"
)  # fmt: skip


def _differences(above: Entry, below: Entry) -> Iterator[tuple[str, object, object]]:
    for name in _COMPARED_FIELDS:
        if getattr(above, name) != getattr(below, name):
            yield name, getattr(above, name), getattr(below, name)


def _compared(path: str, rule: Rule, said: Counters, found: Counters) -> Iterator[Finding]:
    for name, left, right in zip(COUNTER_NAMES, said.values, found.values, strict=True):
        if left != right:
            yield Finding(path, rule, f"the counter {name} says {left}, there are {right}")


@dataclass(slots=True)
class _Group:
    """Hard links of one group within one directory."""

    sample: Entry
    count: int = 1
    is_alike: bool = True


@dataclass(slots=True)
class _Directory:
    """A directory whose rows are being looked at."""

    path: str
    link_count: int
    rows: Iterator[Row]
    subdirectories: int = 0
    name_before: str | None = None
    has_marker: bool = False
    groups: dict[int, _Group] = field(default_factory=dict)


class _Validation:
    """The state of one `validate`: what the walk has met so far."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._connection = catalog._connection  # noqa: SLF001  # raw rows: a decoded one is a valid one
        self._top = catalog.root_prefix
        self._found = Counters()
        self._kinds: Counter[int] = Counter()
        self._file_size = 0
        self._xattrs = 0
        self._reached = 0
        self._chunk_rows = 0

    # ------------------------------------------------------------------------------------------------------------- root

    def root(self) -> Iterator[Finding]:
        columns = f"{self._catalog.layout.row_columns}, parent_1, parent_2"
        query = f"SELECT {columns} FROM catalog WHERE md5path_1 = ? AND md5path_2 = ?"
        row = self._connection.execute(query, path_key(self._top)).fetchone()
        if row is None or type(row[3]) is not int or not stat.S_ISDIR(row[3]):
            yield Finding(self._top, Rule.ROOT, "the catalog has no directory as its root")
            return
        parent = path_key(parent_of(self._top)) if self._top else (0, 0)
        if row[15:] != parent:
            yield Finding(self._top, Rule.KEY, "the root's parent key is not that of the directory above it")
        if type(row[6]) is int and bool(row[6] & entries.FLAG_NESTED_ROOT) != bool(self._top):
            yield Finding(
                self._top,
                Rule.FLAGS,
                "only the root of a nested catalog, and always that, has the flag of a nested root",
            )

    # ------------------------------------------------------------------------------------------------------------- tree

    def tree(self) -> Iterator[Finding]:
        row = self._connection.execute(self._catalog._find, path_key(self._top)).fetchone()  # noqa: SLF001
        if row is None:
            return
        entry = yield from self._entry(self._top, row)
        if entry is None or not entry.is_directory:
            return
        self._count(entry)
        pending = [self._opened(self._top, entry)]
        while pending:
            directory = pending[-1]
            row = next(directory.rows, None)
            if row is None:
                yield from self._closing(pending.pop())
                continue
            child = yield from self._child(directory, row)
            if child is not None:
                pending.append(child)

    def _opened(self, path: str, entry: Entry) -> _Directory:
        return _Directory(path, entry.link_count, self._catalog.rows_below(path_key(path)))

    def _child(self, directory: _Directory, row: Row) -> Generator[Finding, None, _Directory | None]:
        """Looks at one row; returns its directory if the walk goes on into it."""
        self._reached += 1
        name = row[7]
        path = f"{directory.path}/{name}"
        if name == "" or not isinstance(name, str):
            yield Finding(directory.path, Rule.NAME, f"an entry has the name {name!r:.80}")
            return None
        if name == directory.name_before:
            yield Finding(path, Rule.DUPLICATE, "two entries have this name")
            return None
        directory.name_before = name
        if not is_path(path):
            yield Finding(
                path[:PATH_BYTES_MAX], Rule.NAME, "the name is none that a directory can hold, or the path is too long"
            )
            return None
        if row[13:15] != path_key(path):
            yield Finding(path, Rule.KEY, "the entry is stored under the key of another path")
        entry = yield from self._entry(path, row)
        if entry is None:
            return None
        self._count(entry)
        if entry.is_directory:
            directory.subdirectories += 1
        else:
            yield from self._hard_link(directory, path, entry)
        if name == CATALOG_MARKER:
            directory.has_marker = True
            if directory.path != self._top or not self._top:
                yield Finding(path, Rule.MARKER, "a catalog marker is in a directory that is no nested catalog's root")
        if not is_entered(entry):
            return None
        return self._opened(path, entry)

    def _closing(self, directory: _Directory) -> Iterator[Finding]:
        path = directory.path
        links = directory.subdirectories + 2
        if directory.link_count != links and not self._catalog.layout.is_legacy:
            yield Finding(
                path,
                Rule.LINK_COUNT,
                f"the link count is {directory.link_count}, with its subdirectories it must be {links}",
            )
        if path == self._top and self._top and not directory.has_marker:
            yield Finding(path, Rule.MARKER, f"the nested catalog has no {CATALOG_MARKER} in its root")
        for number, group in directory.groups.items():
            where = f"{path}/{group.sample.name}"
            if not group.is_alike:
                yield Finding(
                    where, Rule.HARD_LINKS, f"the members of hard link group {number} differ in more than their names"
                )
            if group.count != group.sample.link_count:
                message = (
                    f"hard link group {number} has {group.count} members, the link count is {group.sample.link_count}"
                )
                yield Finding(where, Rule.HARD_LINKS, message)

    def _hard_link(self, directory: _Directory, path: str, entry: Entry) -> Iterator[Finding]:
        if entry.link_count <= 1:
            return
        if not entry.hardlink_group:
            yield Finding(
                path, Rule.HARD_LINKS, f"the link count is {entry.link_count}, but it is in no group of hard links"
            )
            return
        group = directory.groups.get(entry.hardlink_group)
        if group is None:
            directory.groups[entry.hardlink_group] = _Group(entry)
            return
        group.count += 1
        group.is_alike &= _nameless(entry) == _nameless(group.sample)

    def _count(self, entry: Entry) -> None:
        self._kinds[entry.mode & 0xF000] += 1
        if not entry.is_file:
            return
        self._file_size += entry.size
        if entry.is_chunked or entry.is_external:
            # What is rare may take its time; what is counted above is not counted twice.
            self._found += replace(Counters.of_entry(entry), regular=0, file_size=0, xattr=0)
            self._chunk_rows += len(entry.chunks)

    # -------------------------------------------------------------------------------------------------------------- row

    def _entry(self, path: str, row: Row) -> Generator[Finding, None, Entry | None]:
        """Looks at a row for itself; returns its entry if it can be read."""
        document = self._catalog.document
        try:
            entry = decode_row(row, document)
        except DocumentError as error:
            yield Finding(path, Rule.ROW, error.reason)
            return None
        yield from _check_flags(path, entry, row[6])
        yield from _check_content(path, entry, row)
        if row[11] is not None:
            self._xattrs += 1
            if not entry.xattrs:
                yield Finding(path, Rule.XATTR, "the extended attributes cannot be read, though there are some")
        if has_chunks(row):
            try:
                chunks = decode_chunks(self._connection.execute(self._catalog._chunks, row[13:15]), row, document)  # noqa: SLF001
                entry = replace(entry, chunks=chunks)
            except DocumentError as error:
                yield Finding(path, Rule.CHUNKS, error.reason)
        return entry

    # --------------------------------------------------------------------------------------------------------- the rest

    def references(self) -> Iterator[Finding]:
        catalog = self._catalog
        binds = {reference.path for reference in catalog.bind_mountpoints()}
        nested = catalog.nested()
        self._found += Counters(nested=len(nested))
        for reference in nested:
            if reference.path in binds:
                yield Finding(
                    reference.path, Rule.MOUNTPOINT, "both a nested and a bind-mounted catalog are attached here"
                )
            yield from self._check_mountpoint(reference.path, "is_nested_mountpoint")
        for path in sorted(binds):
            yield from self._check_mountpoint(path, "is_bind_mountpoint")
        flags = entries.FLAG_NESTED_MOUNTPOINT | entries.FLAG_BIND_MOUNTPOINT
        query = f"SELECT name, flags, {_KEYS} FROM catalog WHERE flags & ? <> 0 AND mode & 61440 = 16384"
        attached = {path_key(path) for path in (*binds, *(reference.path for reference in nested))}
        for name, value, *key in self._connection.execute(query, (flags,)):
            if tuple(key) not in attached:
                yield Finding(f"{self._top}/…/{name}", Rule.MOUNTPOINT, "a mountpoint has no catalog attached")
            if value & flags == flags:
                yield Finding(f"{self._top}/…/{name}", Rule.MOUNTPOINT, "a mountpoint is both a nested and a bind one")

    def _check_mountpoint(self, path: str, role: str) -> Iterator[Finding]:
        try:
            entry = self._catalog.find(path)
        except DocumentError:
            return  # the walk told
        if entry is None or not entry.is_directory or not getattr(entry, role):
            yield Finding(
                path,
                Rule.MOUNTPOINT,
                "a catalog is attached here, but there is no directory with the flag of a mountpoint",
            )
        if next(self._catalog.rows_below(path_key(path)), None) is not None:
            yield Finding(path, Rule.MOUNTPOINT, "the catalog holds entries below the mountpoint of another")

    def leftovers(self) -> Iterator[Finding]:
        rows = self._catalog.entry_count
        reached = self._reached + 1  # the root
        if rows != reached:
            example = self._connection.execute(_ORPHAN, path_key(self._top)).fetchone()
            named = f", such as {example[0]!r:.80}" if example else ""
            yield Finding(
                self._top, Rule.DANGLING, f"{rows - reached} of {rows} rows cannot be reached from the root{named}"
            )
        if not self._catalog.layout.is_legacy:
            for (number,) in self._connection.execute(_SCATTERED):
                yield Finding(
                    self._top, Rule.HARD_LINKS, f"hard link group {number} has members in several directories"
                )
        if self._catalog.layout.has_chunks:
            chunks = self._connection.execute("SELECT count(*) FROM chunks").fetchone()[0]
            if chunks > self._chunk_rows:
                message = f"{chunks - self._chunk_rows} chunks belong to no chunked file that can be read"
                yield Finding(self._top, Rule.CHUNKS, message)

    def counters(self) -> Iterator[Finding]:
        if self._catalog.layout.required_counters():
            kinds = self._kinds
            found = self._found + Counters(
                regular=kinds.pop(stat.S_IFREG, 0),
                symlink=kinds.pop(stat.S_IFLNK, 0),
                dir=kinds.pop(stat.S_IFDIR, 0),
                special=kinds.total(),
                file_size=self._file_size,
                xattr=self._xattrs,
            )
            yield from _compared(self._top, Rule.COUNTERS, self._catalog.own_counters, found)


_KEYS: Final = "md5path_1, md5path_2"
_ORPHAN: Final = """
SELECT name FROM catalog AS lost WHERE (md5path_1, md5path_2) <> (?, ?) AND NOT EXISTS (
  SELECT 1 FROM catalog WHERE md5path_1 = lost.parent_1 AND md5path_2 = lost.parent_2) LIMIT 1"""
_SCATTERED: Final = """
SELECT hardlinks >> 32 FROM catalog WHERE hardlinks >> 32 <> 0 AND mode & 61440 <> 16384
GROUP BY 1 HAVING min(parent_1) <> max(parent_1) OR min(parent_2) <> max(parent_2)"""
_KIND_FLAGS: Final = entries.FLAG_DIRECTORY | entries.FLAG_FILE | entries.FLAG_SYMLINK | entries.FLAG_SPECIAL
_DIRECTORY_FLAGS: Final = entries.FLAG_NESTED_MOUNTPOINT | entries.FLAG_NESTED_ROOT | entries.FLAG_BIND_MOUNTPOINT
_FILE_FLAGS: Final = entries.FLAG_CHUNKED | entries.FLAG_EXTERNAL | entries.FLAG_DIRECT_IO


def _nameless(entry: Entry) -> Entry:
    return replace(entry, name="", plain_digest=None, chunks=())


def _check_flags(path: str, entry: Entry, flags: int) -> Iterator[Finding]:
    if flags & _KIND_FLAGS != entry.flags & _KIND_FLAGS:
        yield Finding(path, Rule.FLAGS, f"flags {flags:#x} and mode {entry.mode:#o} say different kinds of entry")
    if not entry.is_directory and flags & _DIRECTORY_FLAGS:
        yield Finding(path, Rule.FLAGS, f"flags {flags:#x} make a mountpoint or root of what is no directory")
    if not entry.is_file and flags & _FILE_FLAGS:
        yield Finding(
            path, Rule.FLAGS, f"flags {flags:#x} say chunked, external or direct I/O of what is no regular file"
        )


def _check_content(path: str, entry: Entry, row: Row) -> Iterator[Finding]:
    raw: Any = row[0]
    if entry.is_file:
        if entry.digest is None and not has_chunks(row):
            yield Finding(path, Rule.DIGEST, "a regular file has no digest of its content")
        elif raw is not None and entry.digest is None:
            yield Finding(path, Rule.DIGEST, "where there is no digest there must be NULL, not zeros or nothing")
    elif raw is not None:
        yield Finding(path, Rule.DIGEST, "something that is no regular file has a digest")
    if entry.is_symlink != bool(row[8]):
        yield Finding(path, Rule.SYMLINK, "a symlink needs a target, and nothing else may have one")
    if entry.is_special and entry.size:
        yield Finding(path, Rule.SPECIAL, f"a special file has size {entry.size}")
    if entry.link_count == 0:
        yield Finding(path, Rule.LINK_COUNT, "the link count is 0")
    if entry.is_directory and entry.hardlink_group:
        yield Finding(path, Rule.HARD_LINKS, "a directory is in a group of hard links")
