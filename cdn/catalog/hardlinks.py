"""Groups of hard links put right (spec §5.6).

A group is numbered within one catalog; its members share a directory and everything but their names, and each says how
many there are. Editing entries one by one breaks this in every way there is, so instead of following each edit the
groups are settled once,
when a catalog is finished: members that differ part ways, groups of one dissolve, counts are counted.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

_MEMBERS: Final = """
SELECT rowid, hardlinks, parent_1, parent_2, hardlinks >> 32,
       hash, size, mode, mtime, mtimens, flags, symlink, uid, gid, xattr
FROM catalog WHERE hardlinks >> 32 <> 0 AND mode & 61440 <> 16384
ORDER BY parent_1, parent_2, hardlinks >> 32, rowid"""
_GROUP_MAX: Final = (1 << 31) - 1


def group_last(connection: sqlite3.Connection) -> int:
    """The highest number of a group; 0 if there are none."""
    highest = connection.execute("SELECT max(hardlinks >> 32) FROM catalog").fetchone()[0]
    return max(int(highest or 0), 0)


def settle_hardlinks(connection: sqlite3.Connection) -> None:
    """Makes every group follow the rules; for use inside `guard`."""
    changes = connection.cursor()
    changes.execute("CREATE TEMP TABLE settled (id INTEGER PRIMARY KEY, links INTEGER)")
    connection.executemany("INSERT INTO temp.settled VALUES (?, ?)", _settled(connection))
    changes.execute("UPDATE catalog SET hardlinks = links FROM temp.settled WHERE catalog.rowid = settled.id")
    changes.execute("DROP TABLE temp.settled")


def _settled(connection: sqlite3.Connection) -> Iterator[tuple[int, int]]:
    """Row id and new value of the column `hardlinks`, where that changes."""
    number_next = group_last(connection) + 1
    used: set[int] = set()
    for (_, _, number), rows in itertools.groupby(connection.execute(_MEMBERS), key=lambda row: row[2:5]):
        alike: dict[tuple[object, ...], list[tuple[int, int]]] = {}
        for row in rows:
            alike.setdefault(row[5:], []).append(row[:2])
        for members in alike.values():
            group = number
            if len(members) > 1 and (number in used or not 0 < number <= _GROUP_MAX):
                group, number_next = number_next, number_next + 1
            links = group << 32 | len(members) if len(members) > 1 else 1
            if len(members) > 1:
                used.add(group)
            yield from ((row_id, links) for row_id, before in members if before != links)
