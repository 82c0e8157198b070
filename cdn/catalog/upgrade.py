"""Bringing a catalog of an old schema to the newest one, in place, so that it can be written (spec §5.2).

Within schema 2.5 columns and tables were only ever added, which costs nothing. The 1.x layout counts inodes where later
ones count links, so its rows are written anew and link counts, which it does not have, are counted. Counters are
written when a catalog is finished; what an old catalog does not say of its subtree stays 0.
"""
# ruff: noqa: S608  # what is put into queries are names of tables and columns written in this package

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cdn.catalog.schema import CATALOG_TABLE, OTHER_TABLES, SCHEMA_REVISION, SCHEMA_VERSION

if TYPE_CHECKING:
    import sqlite3

    from cdn.catalog.schema import Layout

_COUNT_LINKS: Final = """
UPDATE catalog SET hardlinks = 2 + (
  SELECT count(*) FROM catalog AS child
  WHERE child.parent_1 = catalog.md5path_1 AND child.parent_2 = catalog.md5path_2 AND child.mode & 61440 = 16384)
WHERE mode & 61440 = 16384 AND flags & 16386 = 0"""


def to_newest(connection: sqlite3.Connection, layout: Layout) -> None:
    """Upgrades an open catalog; for use inside `guard`.

    A revision newer than ours stays what it says it is: what it added is unknown here, but it is not lost.
    """
    if layout.is_legacy:
        _rewrite_rows(connection, layout)
    for statement in OTHER_TABLES:
        connection.execute(statement)
    for table, column, kind in layout.missing_columns():
        if (table, "md5path_1") in layout.columns or (table, "path") in layout.columns:
            _add_column(connection, table, column, kind)
    if not layout.is_current_version:
        count_links(connection)
    revision = max(layout.revision, SCHEMA_REVISION) if layout.is_current_version else SCHEMA_REVISION
    values = (("schema", str(SCHEMA_VERSION)), ("schema_revision", str(revision)))
    connection.executemany("INSERT OR REPLACE INTO properties (key, value) VALUES (?, ?)", values)


def count_links(connection: sqlite3.Connection) -> None:
    """Gives every directory the link count it must have; mountpoints, whose content is elsewhere, keep theirs."""
    connection.execute(_COUNT_LINKS)


def _rewrite_rows(connection: sqlite3.Connection, layout: Layout) -> None:
    columns = "hash, hardlinks, size, mode, mtime, mtimens, flags, name, symlink, uid, gid, xattr, plain_digest"
    keys = "md5path_1, md5path_2"
    connection.execute("ALTER TABLE catalog RENAME TO legacy_catalog")
    connection.execute("DROP INDEX IF EXISTS idx_catalog_parent")
    connection.execute(CATALOG_TABLE)
    connection.execute(
        f"INSERT INTO catalog ({columns}, {keys}, parent_1, parent_2) "
        f"SELECT {layout.row_columns}, parent_1, parent_2 FROM legacy_catalog ORDER BY rowid"
    )
    connection.execute("DROP TABLE legacy_catalog")


def _add_column(connection: sqlite3.Connection, table: str, column: str, kind: str) -> None:
    present = connection.execute("SELECT 1 FROM pragma_table_info(?) WHERE name = ?", (table, column)).fetchone()
    if present is None:  # the table may be one that was made a moment ago
        connection.execute(f"ALTER TABLE {table} ADD COLUMN {column} {kind}")
