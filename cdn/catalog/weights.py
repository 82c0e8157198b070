"""How heavy the directories of a catalog are: what balancing decides by."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from cdn.catalog.paths import check_path
from cdn.catalog.statements import MOUNTPOINT_FLAGS
from cdn.database import guard, integer, text
from cdn.hashing import path_key

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

_BATCH: Final = 64
_KINDS: Final = "SELECT name, mode, flags FROM catalog WHERE parent_1 = ? AND parent_2 = ? ORDER BY name"


class Weight(NamedTuple):
    """How heavy a directory is within its catalog: rows at and below it, and rows directly in it."""

    path: str
    entries: int
    children: int


@dataclass(slots=True)
class _Weighing:
    """A directory whose weight is being taken."""

    path: str
    rows: Iterator[tuple[str, int, int]]
    entries: int = 1
    children: int = 0


def subtree_weights(connection: sqlite3.Connection, root: str, document: str) -> Iterator[Weight]:
    """The weights of a directory and all below it, children before parents; memory is bounded by the depth.

    Mountpoints count as one entry of their parent and are not listed themselves.

    Raises:
        DocumentError: the catalog is damaged.
    """
    with guard(document):
        pending = [_Weighing(root, _kinds_below(connection, root, document))]
        while pending:
            top = pending[-1]
            found = next(top.rows, None)
            if found is None:
                pending.pop()
                if pending:
                    pending[-1].entries += top.entries
                yield Weight(top.path, top.entries, top.children)
                continue
            name, mode, flags = found
            top.children += 1
            if stat.S_ISDIR(mode) and not flags & MOUNTPOINT_FLAGS:
                path = check_path(f"{top.path}/{name}", document)
                pending.append(_Weighing(path, _kinds_below(connection, path, document)))
            else:
                top.entries += 1


def _kinds_below(connection: sqlite3.Connection, path: str, document: str) -> Iterator[tuple[str, int, int]]:
    cursor = connection.execute(_KINDS, path_key(path))
    while rows := cursor.fetchmany(_BATCH):
        for name, mode, flags in rows:
            yield text(name, document, "name"), integer(mode, document, "mode"), integer(flags, document, "flags")
