"""Catalog files: whatever the bytes, reading and changing them succeeds or says that they are damaged."""

from __future__ import annotations

import sqlite3
import tempfile
from pathlib import Path

from cdn.catalog.reader import Catalog
from cdn.catalog.validate import validate
from cdn.catalog.writer import CatalogBuilder
from cdn.errors import DocumentError, RepositoryError
from tests.fakes.catalogs import CatalogFolder, directory_entry, file_entry, publish, symlink_entry
from tests.fuzz.driver import main

ENTRIES_MAX = 5_000
_FOLDER = Path(tempfile.mkdtemp(prefix="fuzz_catalog."))


def seeds() -> list[bytes]:
    folder = CatalogFolder(_FOLDER)
    tree = {"": directory_entry(), "/d": directory_entry(), "/d/e": directory_entry(), "/l": symlink_entry()}
    tree |= {f"/d/f{number}": file_entry(b"%d" % number, xattrs=((b"k", b"v"),)) for number in range(20)}
    root = publish(folder, tree | {"/n": directory_entry(), "/n/x": file_entry()}, {"/n"})
    files = sorted(_FOLDER.glob("*.catalog"))
    small = _FOLDER / "small"
    connection = sqlite3.connect(small)
    connection.execute("PRAGMA page_size = 512")
    connection.execute("ATTACH ? AS origin", (str(folder.path_of(root.digest)),))
    for table, sql in connection.execute("SELECT name, sql FROM origin.sqlite_master WHERE type = 'table'").fetchall():
        connection.execute(sql)
        connection.execute(f"INSERT INTO main.{table} SELECT * FROM origin.{table}")
    connection.commit()
    connection.close()
    return [file.read_bytes() for file in [*files, small]]


def check(data: bytes) -> None:
    file = _FOLDER / "input"
    file.write_bytes(data)
    with Catalog.open(file) as catalog:
        for step in (_walk, _lists, _validate):
            try:
                step(catalog)
            except DocumentError:
                continue
    _modify(file)


def _walk(catalog: Catalog) -> None:
    for _, (path, entry) in zip(range(ENTRIES_MAX), catalog.walk(), strict=False):
        assert ".." not in path.split("/")
        assert entry.size >= 0


def _lists(catalog: Catalog) -> None:
    catalog.covering("/n/x")
    catalog.find("/d/f1")
    assert all(reference.path for reference in catalog.nested() + catalog.bind_mountpoints())
    for name, _ in catalog.references():
        assert len(name.digest.value) == 20


def _validate(catalog: Catalog) -> None:
    for _, finding in zip(range(ENTRIES_MAX), validate(catalog), strict=False):
        assert finding.message


def _modify(file: Path) -> None:
    with CatalogBuilder.modify(file) as builder:
        try:
            builder.remove("/d")
            builder.insert("/new", file_entry())
        except RepositoryError:
            pass
        builder.finish(revision=2, previous=None, last_modified=0)


if __name__ == "__main__":
    main(
        "fuzz_catalog",
        seeds,
        check,
        tokens=[b"SQLite format 3\0", b"\x0d", b"\x05", b"\0\0\0\1", b"schema", b"2.5", b"self_regular", b"CREATE"],
    )
