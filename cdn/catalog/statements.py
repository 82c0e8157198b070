"""The SQL that changes a catalog, and the few steps of it that are more than one statement; for use inside `guard`."""
# ruff: noqa: S608  # what is put into queries are names of tables and columns written in this package

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cdn.catalog.entries import FLAG_BIND_MOUNTPOINT, FLAG_NESTED_MOUNTPOINT, encode_name
from cdn.catalog.rows import as_text
from cdn.catalog.schema import COUNTER_NAMES, Counters

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

ROW_ID_WASTE_MAX: Final = 0.25
"""Clients reserve an inode for every row id up to the largest (spec §5.1)."""
PAGE_WASTE_MAX: Final = 0.20
CACHE_KIBIBYTES: Final = 32 << 10
MOUNTPOINT_FLAGS: Final = FLAG_NESTED_MOUNTPOINT | FLAG_BIND_MOUNTPOINT

_HAS_KEY: Final = "md5path_1 = ? AND md5path_2 = ?"
_BELOW_PATH: Final = "path = CAST(? AS TEXT) OR (path > CAST(? AS TEXT) AND path < CAST(? AS TEXT))"

UPDATE_ROW: Final = f"""
UPDATE catalog SET hash = ?, hardlinks = ?, size = ?, mode = ?, mtime = ?, mtimens = ?, flags = ?,
  name = CAST(? AS TEXT), symlink = CAST(? AS TEXT), uid = ?, gid = ?, xattr = ?, plain_digest = ?
WHERE {_HAS_KEY}"""
DELETE_ROW: Final = f"DELETE FROM catalog WHERE {_HAS_KEY}"
DELETE_CHUNKS: Final = f"DELETE FROM chunks WHERE {_HAS_KEY}"
ADD_LINKS: Final = f"""
UPDATE catalog SET hardlinks = hardlinks + ?
WHERE {_HAS_KEY} AND mode & 61440 = 16384 AND flags & {MOUNTPOINT_FLAGS} = 0"""
SET_LINKS: Final = f"UPDATE catalog SET hardlinks = ? WHERE {_HAS_KEY}"
SET_REFERENCE: Final = "INSERT OR REPLACE INTO nested_catalogs (path, sha1, size) VALUES (CAST(? AS TEXT), ?, ?)"
SET_BIND: Final = "INSERT OR REPLACE INTO bind_mountpoints (path, sha1, size) VALUES (CAST(? AS TEXT), ?, ?)"
DELETE_REFERENCE: Final = "DELETE FROM nested_catalogs WHERE path = CAST(? AS TEXT)"
DELETE_REFERENCES_FROM: Final = tuple(
    f"DELETE FROM {table} WHERE {_BELOW_PATH}" for table in ("nested_catalogs", "bind_mountpoints")
)
REFERENCES_FROM: Final = f"SELECT path, sha1, size FROM nested_catalogs WHERE {_BELOW_PATH} ORDER BY path"

CREATE_BELOW: Final = """
CREATE TEMP TABLE IF NOT EXISTS below (key_1 INTEGER, key_2 INTEGER, PRIMARY KEY (key_1, key_2)) WITHOUT ROWID"""
COLLECT_BELOW: Final = """
INSERT INTO temp.below
WITH RECURSIVE found(key_1, key_2) AS (
  SELECT md5path_1, md5path_2 FROM catalog WHERE parent_1 = ? AND parent_2 = ?
  UNION SELECT md5path_1, md5path_2 FROM found JOIN catalog ON parent_1 = key_1 AND parent_2 = key_2)
SELECT key_1, key_2 FROM found"""
IS_BELOW: Final = "(md5path_1, md5path_2) IN temp.below"
FORGET_BELOW: Final = "DELETE FROM temp.below"

_ROW_IDS: Final = "SELECT count(*), max(rowid) FROM catalog"
_DENSE: Final = (
    "CREATE TEMP TABLE dense AS SELECT * FROM catalog ORDER BY rowid",
    "DELETE FROM catalog",
    "INSERT INTO catalog SELECT * FROM temp.dense ORDER BY rowid",
    "DROP TABLE temp.dense",
)


def below(path: str) -> tuple[bytes, bytes, bytes]:
    """The parameters that select references at and below a path: slash and zero are neighbours in byte order."""
    raw = encode_name(path)
    return raw, raw + b"/", raw + b"0"


def write_properties(connection: sqlite3.Connection, values: Mapping[str, str | None]) -> None:
    """Sets properties; None removes one."""
    connection.executemany("DELETE FROM properties WHERE key = ?", [(key,) for key in values])
    kept = [(key, as_text(value)) for key, value in values.items() if value is not None]
    connection.executemany("INSERT INTO properties (key, value) VALUES (?, CAST(? AS TEXT))", kept)


def write_counters(connection: sqlite3.Connection, own: Counters, subtree: Counters) -> None:
    """Sets the 24 counters; others that are there stay."""
    for prefix, counters in (("self_", own), ("subtree_", subtree)):
        rows = [(prefix + name, value) for name, value in zip(COUNTER_NAMES, counters.values, strict=True)]
        connection.executemany("DELETE FROM statistics WHERE counter = ?", [(name,) for name, _ in rows])
        connection.executemany("INSERT INTO statistics (counter, value) VALUES (?, ?)", rows)


def compact(connection: sqlite3.Connection) -> None:
    """Closes the gaps in row ids and returns free pages, where there are too many of them; outside of a transaction."""
    rows, last = connection.execute(_ROW_IDS).fetchone()
    if last and 1 - rows / last > ROW_ID_WASTE_MAX:
        for statement in _DENSE:
            connection.execute(statement)
        connection.commit()
    free = connection.execute("PRAGMA freelist_count").fetchone()[0]
    if free > PAGE_WASTE_MAX * connection.execute("PRAGMA page_count").fetchone()[0]:
        connection.execute("VACUUM")
