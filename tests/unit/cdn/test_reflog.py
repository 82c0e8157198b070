"""The reflog lists root-level objects once, with the time when they were first seen."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from cdn.errors import DocumentError
from cdn.hashing import Algorithm, digest_of
from cdn.objects import Kind, ObjectName
from cdn.reflog import Reflog, ReflogEntry, checksum

FQRN = "sw.example.org"
KINDS = (Kind.CATALOG, Kind.CERTIFICATE, Kind.HISTORY, Kind.METAINFO)


def name(text: str, kind: Kind = Kind.CATALOG, algorithm: Algorithm = Algorithm.SHA1) -> ObjectName:
    return ObjectName(digest_of(algorithm, text.encode()), kind)


def test_a_reflog_is_read_as_it_was_written(tmp_path: Path) -> None:
    names = [name(f"{kind}{algorithm}", kind, algorithm) for kind in KINDS for algorithm in Algorithm]
    reflog = Reflog(FQRN).with_objects(names, 1000)
    reflog.write(tmp_path / "r")
    assert Reflog.read(tmp_path / "r") == reflog
    assert Reflog.from_bytes((tmp_path / "r").read_bytes()) == reflog


def test_the_file_has_the_tables_and_properties_that_tools_of_the_format_expect(tmp_path: Path) -> None:
    names = [name(kind.value, kind) for kind in KINDS]
    Reflog(FQRN).with_objects(names, 1000).write(tmp_path / "r")
    with closing(sqlite3.connect(tmp_path / "r")) as connection:
        properties = dict(connection.execute("SELECT key, value FROM properties"))
        assert properties == {"schema": "1.0", "schema_revision": "0", "fqrn": FQRN}
        rows = connection.execute("SELECT hash, type, timestamp FROM refs").fetchall()
    assert rows == [(names[number].digest.text, number, 1000) for number in range(4)]


def test_its_checksum_is_over_the_file_as_it_is(tmp_path: Path) -> None:
    Reflog(FQRN).write(tmp_path / "r")
    for algorithm in Algorithm:
        assert checksum(tmp_path / "r", algorithm) == digest_of(algorithm, (tmp_path / "r").read_bytes())


def test_an_object_listed_again_keeps_its_time() -> None:
    reflog = Reflog(FQRN).with_objects([name("a")], 1000).with_objects([name("a"), name("b"), name("b")], 2000)
    assert reflog.entries == (ReflogEntry(name("a"), 1000), ReflogEntry(name("b"), 2000))


def test_entries_are_found_by_kind_and_removed() -> None:
    reflog = Reflog(FQRN).with_objects([name("a"), name("x", Kind.HISTORY)], 1000)
    assert name("a") in reflog
    assert [entry.name for entry in reflog.of_kind(Kind.HISTORY)] == [name("x", Kind.HISTORY)]
    rest = reflog.without([name("a"), name("never listed")])
    assert [entry.name for entry in rest.entries] == [name("x", Kind.HISTORY)]
    assert name("a") not in rest


def test_files_and_chunks_do_not_belong_in_it() -> None:
    for kind in (Kind.FILE, Kind.CHUNK):
        with pytest.raises(ValueError, match="does not list"):
            Reflog(FQRN).with_objects([name("a", kind)], 1000)


REFS = "CREATE TABLE refs (hash TEXT, type INTEGER, timestamp INTEGER)"
ROW = f"INSERT INTO refs VALUES ('{name('a').digest}', 0, 1000)"


def properties(schema: str = "1.0", revision: str = "0", fqrn: str = FQRN) -> list[str]:
    rows = {"schema": schema, "schema_revision": revision, "fqrn": fqrn}
    return ["CREATE TABLE properties (key TEXT, value TEXT)"] + [
        f"INSERT INTO properties VALUES ('{key}', '{value}')" for key, value in rows.items() if value
    ]


@pytest.mark.parametrize(
    "statements",
    [
        [REFS],
        properties(),
        [*properties(schema="1.1"), REFS],
        [*properties(revision="1"), REFS],
        [*properties(revision="x"), REFS],
        [*properties(fqrn=""), REFS],
        [*properties(), REFS, ROW, ROW],
        [*properties(), REFS, ROW.replace(" 0,", " 4,")],
        [*properties(), REFS, ROW.replace(" 0,", " NULL,")],
        [*properties(), REFS, ROW.replace("1000", "'x'")],
        [*properties(), REFS, ROW.replace("VALUES ('", "VALUES ('x")],
        [*properties(), REFS, ROW.replace("INSERT", "INSERT OR FAIL").replace("VALUES ('", "VALUES (X'00', 0, 1), ('")],
    ],
)
def test_a_damaged_reflog_raises_the_one_documented_error(tmp_path: Path, statements: list[str]) -> None:
    with closing(sqlite3.connect(tmp_path / "r")) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()
    with pytest.raises(DocumentError, match="is damaged"):
        Reflog.read(tmp_path / "r")
