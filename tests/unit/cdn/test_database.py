"""SQLite files from strangers are opened only when nothing in them can do harm."""

from __future__ import annotations

import os
import sqlite3
import struct
from typing import TYPE_CHECKING

import pytest

from cdn import database
from cdn.errors import DocumentError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Opener = Callable[[Path | str], sqlite3.Connection]


def made_with(path: Path, *statements: str, journal: str = "DELETE", encoding: str = "UTF-8") -> Path:
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA encoding = '{encoding}'")
    connection.execute(f"PRAGMA journal_mode = {journal}")
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()
    return path


@pytest.fixture
def opened(request: pytest.FixtureRequest) -> Opener:
    """Opens files for reading and closes them after the test."""

    def opener(path: Path | str) -> sqlite3.Connection:
        connection = database.open_readonly(path, "tested")
        request.addfinalizer(connection.close)
        return connection

    return opener


def refusal(path: Path) -> str:
    with pytest.raises(DocumentError, match=r"^tested is damaged: ") as caught:
        database.open_readonly(path, "tested")
    with pytest.raises(DocumentError):
        database.open_writable(path, "tested")
    return caught.value.reason


def test_what_was_created_is_read_back_and_is_in_rollback_format_with_pages_of_4096_bytes(
    tmp_path: Path, opened: Opener
) -> None:
    path = tmp_path / "new.db"
    connection = database.create(path)
    connection.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT)")
    connection.execute("INSERT INTO t VALUES (1, 'one')")
    connection.commit()
    connection.close()
    header = path.read_bytes()[:100]
    assert header[18:20] == b"\x01\x01"
    assert int.from_bytes(header[16:18], "big") == 4096
    assert os.listdir(tmp_path) == ["new.db"]
    reader = opened(path)
    with database.guard("tested"):
        assert reader.execute("SELECT * FROM t").fetchall() == [(1, "one")]


def test_creating_over_an_existing_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"keep me")
    with pytest.raises(FileExistsError):
        database.create(tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"keep me"


@pytest.mark.parametrize("name", ["a?mode=rwc&x=1#y", "%2e%00", "né ", os.fsdecode(b"\xff\xfe"), "a;b'c"])
def test_a_file_name_is_never_read_as_options(tmp_path: Path, opened: Opener, name: str) -> None:
    made_with(tmp_path / "plain", "CREATE TABLE t (a)").rename(tmp_path / name)
    reader = opened(tmp_path / name)
    with database.guard("tested"):
        assert reader.execute("SELECT count(*) FROM t").fetchone() == (0,)
    assert len(os.listdir(tmp_path)) == 1


def test_a_path_that_begins_with_two_slashes_is_no_host_name(tmp_path: Path, opened: Opener) -> None:
    path = made_with(tmp_path / "x", "CREATE TABLE t (a)")
    assert opened(f"/{path}").execute("SELECT count(*) FROM t").fetchone() == (0,)


def test_a_reader_cannot_write(tmp_path: Path, opened: Opener) -> None:
    reader = opened(made_with(tmp_path / "x", "CREATE TABLE t (a)"))
    with pytest.raises(DocumentError, match="readonly"), database.guard("tested"):
        reader.execute("INSERT INTO t VALUES (1)")


def test_a_reader_cannot_attach_another_file(tmp_path: Path, opened: Opener) -> None:
    reader = opened(made_with(tmp_path / "x", "CREATE TABLE t (a)"))
    with pytest.raises(DocumentError, match="attached"), database.guard("tested"):
        reader.execute("ATTACH ? AS other", (str(tmp_path / "y"),))
    assert not (tmp_path / "y").exists()


def test_a_private_copy_can_be_changed_and_vacuumed(tmp_path: Path, opened: Opener) -> None:
    path = made_with(tmp_path / "x", "CREATE TABLE t (a)", "INSERT INTO t VALUES (1), (2)")
    writer = database.open_writable(path, "tested")
    writer.execute("DELETE FROM t WHERE a = 1")
    writer.commit()
    writer.execute("VACUUM")
    writer.close()
    assert opened(path).execute("SELECT a FROM t").fetchall() == [(2,)]
    assert os.listdir(tmp_path) == ["x"]


def test_undecodable_text_comes_back_as_the_bytes_it_was(tmp_path: Path, opened: Opener) -> None:
    path = made_with(tmp_path / "x", "CREATE TABLE t (a TEXT)", "INSERT INTO t VALUES (CAST(X'41FF00FE' AS TEXT))")
    (value,) = opened(path).execute("SELECT a FROM t").fetchone()
    assert os.fsencode(value) == b"A\xff\x00\xfe"


@pytest.mark.parametrize(
    "statements",
    [
        ["CREATE VIEW v AS SELECT a FROM t"],
        ["CREATE TRIGGER g AFTER INSERT ON t BEGIN DELETE FROM t; END"],
        ["CREATE TABLE computed (a, b AS (a + 1))"],
        ["CREATE TABLE computed (a, b AS (a + 1) STORED)"],
        ["CREATE INDEX computed ON t (abs(a))"],
        ["CREATE VIRTUAL TABLE v USING fts5(a)"],
        [f"CREATE TABLE t{i} (a)" for i in range(database.TABLES_MAX)],
    ],
    ids=["view", "trigger", "generated", "stored", "expression index", "virtual", "too many"],
)
def test_a_schema_with_more_than_plain_tables_and_indexes_is_refused(tmp_path: Path, statements: list[str]) -> None:
    assert (
        "schema" in (reason := refusal(made_with(tmp_path / "x", "CREATE TABLE t (a)", *statements)))
        or "more than" in reason
    )


@pytest.mark.parametrize("spaces", [" ", "  ", "/**/"])
def test_a_virtual_table_disguised_as_an_ordinary_one_is_refused(tmp_path: Path, spaces: str) -> None:
    path = made_with(
        tmp_path / "x",
        "CREATE TABLE t (a)",
        "PRAGMA writable_schema = ON",
        f"UPDATE sqlite_master SET sql = 'CREATE{spaces}VIRTUAL TABLE t USING fts5(a)'",
    )
    refusal(path)


def test_a_write_ahead_file_is_refused_since_real_clients_die_of_it(tmp_path: Path) -> None:
    assert "write-ahead" in refusal(made_with(tmp_path / "x", "CREATE TABLE t (a)", journal="WAL"))


def test_text_in_utf_16_is_refused(tmp_path: Path) -> None:
    assert "UTF-8" in refusal(made_with(tmp_path / "x", "CREATE TABLE t (a)", encoding="UTF-16le"))


@pytest.mark.parametrize("content", [b"", b"SQLite format 3\x00", b"x" * 5000, b"SQLite format 3\x00" + bytes(4080)])
def test_bytes_that_are_no_database_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    refusal(tmp_path / "x")


def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DocumentError, match="no regular file"):
        database.open_readonly(tmp_path / "pipe", "tested")


def test_a_missing_file_is_not_called_damaged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        database.open_readonly(tmp_path / "none", "tested")


def test_a_journal_beside_the_file_is_not_played_back(tmp_path: Path, opened: Opener) -> None:
    path = made_with(tmp_path / "x", "CREATE TABLE t (a)", "INSERT INTO t VALUES (1)")
    (tmp_path / "x-journal").write_bytes(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + bytes(504))
    assert opened(path).execute("SELECT a FROM t").fetchone() == (1,)
    assert (tmp_path / "x-journal").exists()


def test_a_page_bomb_that_holds_more_rows_than_can_be_counted_is_refused(tmp_path: Path) -> None:
    path = made_with(tmp_path / "x", "CREATE TABLE t (a)", "INSERT INTO t VALUES (1)")
    pages = bytearray(path.read_bytes())
    page_bytes = int.from_bytes(pages[16:18], "big")
    children = 200
    for number in range(3, 15):  # each level names the next one 201 times: 201 ** 12 rows in 60 kB
        cells = b"".join(struct.pack(">IB", number + 1, 1) for _ in range(children))
        first = page_bytes - len(cells)
        head = struct.pack(">BHHHBI", 5, 0, children, first, 0, number + 1)
        pointers = b"".join(struct.pack(">H", first + 5 * i) for i in range(children))
        pages += (head + pointers).ljust(first, b"\0") + cells
    pages += pages[page_bytes : 2 * page_bytes]
    pages[page_bytes : 2 * page_bytes] = pages[2 * page_bytes : 3 * page_bytes]
    pages[28:32] = (len(pages) // page_bytes).to_bytes(4, "big")
    path.write_bytes(pages)
    assert "used twice" in refusal(path)


def test_two_tables_on_one_page_are_refused(tmp_path: Path) -> None:
    path = made_with(
        tmp_path / "x",
        "CREATE TABLE t (a)",
        "CREATE TABLE u (a)",
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_master SET rootpage = 2",
    )
    refusal(path)


def test_a_query_that_works_much_longer_than_the_size_explains_is_stopped(tmp_path: Path, opened: Opener) -> None:
    path = made_with(
        tmp_path / "x",
        "CREATE TABLE t (a)",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000) INSERT INTO t SELECT i FROM n",
    )
    reader = opened(path)
    with pytest.raises(DocumentError, match="longer than its size explains"), database.guard("tested"):
        reader.execute("SELECT count(*) FROM t AS x, t AS y, t AS z WHERE x.a + y.a = z.a").fetchone()


def test_each_query_has_a_budget_of_its_own(tmp_path: Path, opened: Opener) -> None:
    path = made_with(
        tmp_path / "x",
        "CREATE TABLE t (a)",
        "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 900) INSERT INTO t SELECT i FROM n",
    )
    reader = opened(path)
    cursor = reader.cursor()
    for _ in range(6):  # together they are well over the budget of one
        with database.guard("tested"):
            assert cursor.execute("SELECT count(*) FROM t AS x, t AS y WHERE x.a = y.a + 0").fetchone() == (900,)


def test_a_value_longer_than_the_limit_is_refused_when_read(tmp_path: Path, opened: Opener) -> None:
    path = made_with(
        tmp_path / "x", "CREATE TABLE t (a)", f"INSERT INTO t VALUES (zeroblob({database.VALUE_BYTES_MAX + 1}))"
    )
    reader = opened(path)
    with pytest.raises(DocumentError, match="too big"), database.guard("tested"):
        reader.execute("SELECT a FROM t").fetchone()


@pytest.mark.parametrize(
    "error", [OverflowError("o"), ValueError("v"), UnicodeDecodeError("utf-8", b"", 0, 1, "u"), sqlite3.DataError("d")]
)
def test_guard_turns_conversions_that_fail_into_the_one_documented_error(error: Exception) -> None:
    with pytest.raises(DocumentError, match=r"^it is damaged") as caught, database.guard("it"):
        raise error
    assert caught.value.__cause__ is error


def test_guard_does_not_blame_the_file_for_a_full_disk() -> None:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = 10 | (3 << 8)  # SQLITE_IOERR_WRITE
    with pytest.raises(StorageError, match="could not be read"), database.guard("it"):
        raise error


def test_guard_does_not_hide_a_mistake_of_the_program(tmp_path: Path, opened: Opener) -> None:
    reader = opened(made_with(tmp_path / "x", "CREATE TABLE t (a)"))
    reader.close()
    with pytest.raises(sqlite3.ProgrammingError), database.guard("it"):
        reader.execute("SELECT 1")


def test_a_value_of_the_wrong_type_is_named() -> None:
    assert database.integer(1, "it", "size") == 1
    assert database.text("a", "it", "name") == "a"
    with pytest.raises(DocumentError, match="size holds str where int is needed"):
        database.integer("1", "it", "size")
    with pytest.raises(DocumentError, match="name holds NoneType where str is needed"):
        database.text(None, "it", "name")
