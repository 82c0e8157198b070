"""Many rows at once: the inside of `CatalogBuilder.insert_many`, `split` and `merge`."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cdn.catalog.paths import PATH_BYTES_MAX, is_name, is_path
from cdn.catalog.rows import INSERT_CHUNK, INSERT_ROW, Row, as_text, decode_row, encode_chunks, encode_row
from cdn.catalog.statements import ADD_LINKS
from cdn.errors import PathExistsError, UsageError
from cdn.hashing import path_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from cdn.catalog.entries import Entry

_PATH_CHARACTERS_SAFE = PATH_BYTES_MAX // 4

EncodedEntry = tuple[Any, ...]
"""What `encode_row` made of an entry, without the keys: for callers who keep entries in this form anyway.

The entry must be no directory, have no chunks and be in no group of hard links.
"""


def begun(entry: Entry) -> Entry:
    """A directory as it is when it is new: empty and in no role.

    Only of one that is to be a mountpoint the link count is kept, as its subdirectories are in another catalog.
    """
    links = entry.link_count if entry.is_nested_mountpoint else 2
    has_role = entry.is_nested_mountpoint or entry.is_nested_root or entry.is_bind_mountpoint
    if entry.link_count == links and not has_role and not entry.hardlink_group:
        return entry
    return replace(
        entry,
        link_count=links,
        hardlink_group=0,
        is_nested_mountpoint=False,
        is_nested_root=False,
        is_bind_mountpoint=False,
    )


class Inserter:
    """Adds entries in batches: one statement for many rows, each directory looked at once per batch.

    Args:
        connection: to the catalog.
        check_directory: raises unless entries can be put into the directory of this path.
    """

    def __init__(self, connection: sqlite3.Connection, check_directory: Callable[[str], None]) -> None:
        self.count = 0
        self.has_hardlinks = False
        self._connection = connection
        self._check_directory = check_directory
        self._path = ""
        self._chunks: list[Row] = []
        self._parents: dict[str, tuple[tuple[int, int], list[None]]] = {}

    def insert(self, part: Iterable[tuple[str, Entry | EncodedEntry]]) -> None:
        """Adds one batch; for use inside `guard`."""
        try:
            self._connection.executemany(INSERT_ROW, self._rows(part))
        except sqlite3.IntegrityError as error:
            raise PathExistsError(self._path) from error
        self._connection.executemany(INSERT_CHUNK, self._chunks)
        for path, (key, directories) in self._parents.items():
            self._check_directory(path)
            if directories:
                self._connection.execute(ADD_LINKS, (len(directories), *key))
        self._chunks.clear()
        self._parents.clear()

    def _rows(self, part: Iterable[tuple[str, Entry | EncodedEntry]]) -> Iterator[Row]:
        parents = self._parents
        directory: str | None = None
        key = (0, 0)
        directories: list[None] = []
        for path, entry in part:
            self._path = path
            parent, slash, name = path.rpartition("/")
            if not slash or not is_name(name) or (len(path) > _PATH_CHARACTERS_SAFE and not is_path(path)):
                raise UsageError(f"{path[:200]!r} is no path of an entry")
            if parent != directory:
                directory = parent
                key, directories = parents.setdefault(parent, (path_key(parent), []))
            if isinstance(entry, tuple):
                self.count += 1
                yield (*path_key(path), *key, *entry)
                continue
            if entry.is_directory:
                directories.append(None)
                entry = begun(entry)  # noqa: PLW2901  # the same entry in the role it begins with
            elif entry.hardlink_group:
                self.has_hardlinks = True
            own = path_key(path)
            if entry.chunks:
                self._chunks += encode_chunks(own, entry)
            self.count += 1
            yield encode_row(own, key, name, entry)


def copied(rows: Iterable[Row], document: str, group_shift: int) -> Iterator[Row]:
    """Rows of another catalog as parameters of `INSERT_ROW`; each is looked at before.

    They are copied as they are rather than decoded and encoded: the root of a nested catalog elsewhere must stay
    equal to its mountpoint in everything, even in whether a nanosecond part is 0 or absent.

    Args:
        rows: both keys, then the columns of `Layout.row_columns`.
        document: what to call the other catalog in an error.
        group_shift: added to the numbers of groups of hard links, so that they do not meet those that are here.

    Raises:
        DocumentError: a row is damaged.
    """
    for row in rows:
        entry = decode_row(row[4:], document)
        hardlinks = row[5] + (group_shift << 32) if entry.hardlink_group else row[5]
        yield (*row[:5], hardlinks, *row[6:11], as_text(entry.name), as_text(row[12]), *row[13:17])
