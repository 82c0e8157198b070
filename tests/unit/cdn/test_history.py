"""Tags are kept, found, moved and rolled back as the tools of the format do it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from cdn.compression import compress
from cdn.errors import DocumentError, RepositoryError
from cdn.hashing import Algorithm, Digest, digest_of
from cdn.history import TRUNK, TRUNK_PREVIOUS, Branch, History, Tag, is_branch_name, is_tag_name

FQRN = "sw.example.org"


def root(revision: int) -> Digest:
    return digest_of(Algorithm.SHAKE128, b"root %d" % revision)


def tag(name: str, revision: int, **changes: object) -> Tag:
    return Tag(name, root(revision), revision, 1000 + revision, **changes)  # type: ignore[arg-type]


def published(*revisions: int) -> History:
    history = History(FQRN)
    for revision in revisions:
        history = history.with_head(
            root(revision), revision=revision, timestamp=1000 + revision, root_catalog_bytes=10 * revision
        )
        history = history.with_tag(tag(f"v{revision}", revision))
    return history


def raw(path: Path, *statements: str) -> Path:
    """A database as somebody else may have written it."""
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()
    return path


def properties(**values: str) -> list[str]:
    rows = {"schema": "1.0", "schema_revision": "3", "fqrn": FQRN} | values
    return ["CREATE TABLE properties (key TEXT, value TEXT)"] + [
        f"INSERT INTO properties VALUES ('{key}', '{value}')" for key, value in rows.items() if value
    ]


TAGS = """CREATE TABLE tags (name TEXT, hash TEXT, revision INTEGER, timestamp INTEGER, channel INTEGER,
          description TEXT, size INTEGER, branch TEXT)"""
BRANCHES = "CREATE TABLE branches (branch TEXT, parent TEXT, initial_revision INTEGER)"
DEFAULT_BRANCH = "INSERT INTO branches VALUES ('', NULL, 0)"
ROW = f"INSERT INTO tags VALUES ('v1', '{root(1)}', 1, 1001, 0, 'first', 99, '')"


# Reading and writing


def test_a_history_is_read_as_it_was_written(tmp_path: Path) -> None:
    history = (
        published(1, 2, 3).with_branch(Branch("dev@x", "", 2)).with_tag(tag("d", 4, branch="dev@x", description="ü"))
    )
    history = history.following(digest_of(Algorithm.SHA1, b"previous"))
    history.write(tmp_path / "h")
    assert History.read(tmp_path / "h") == history
    assert History.from_object(compress((tmp_path / "h").read_bytes())) == history


def test_the_file_has_the_tables_and_properties_that_readers_of_the_format_expect(tmp_path: Path) -> None:
    published(1).write(tmp_path / "h")
    with closing(sqlite3.connect(tmp_path / "h")) as connection:
        assert dict(connection.execute("SELECT key, value FROM properties")) == {
            "schema": "1.0",
            "schema_revision": "3",
            "fqrn": FQRN,
            "previous_revision": "0" * 40,
        }
        assert connection.execute("SELECT * FROM branches").fetchall() == [("", None, 0)]
        assert connection.execute("SELECT * FROM recycle_bin").fetchall() == []
        row = connection.execute("SELECT * FROM tags WHERE name = 'trunk'").fetchone()
        assert row == ("trunk", root(1).text, 1, 1001, 0, "current HEAD", 10, "")
        names = {row[1] for row in connection.execute("PRAGMA table_info(tags)")}
        assert names == {"name", "hash", "revision", "timestamp", "channel", "description", "size", "branch"}


def test_an_existing_file_is_not_written_over(tmp_path: Path) -> None:
    published(1).write(tmp_path / "h")
    with pytest.raises(FileExistsError):
        published(2).write(tmp_path / "h")


@pytest.mark.parametrize(
    ("revision", "columns", "values"),
    [
        (0, "", ""),
        (1, ", size INTEGER", ", 99"),
        (2, ", size INTEGER", ", 99"),
        (3, ", size INTEGER, branch TEXT", ", 99, ''"),
        (4, ", size INTEGER, branch TEXT, later TEXT", ", 99, '', 'x'"),
    ],
)
def test_every_revision_of_the_schema_is_read(tmp_path: Path, revision: int, columns: str, values: str) -> None:
    base = "name TEXT, hash TEXT, revision INTEGER, timestamp INTEGER, channel INTEGER, description TEXT"
    path = raw(
        tmp_path / "h",
        *properties(schema_revision=str(revision)),
        f"CREATE TABLE tags ({base}{columns})",
        f"INSERT INTO tags VALUES ('v1', '{root(1)}', 1, 1001, 4, 'first'{values})",
        *([BRANCHES, DEFAULT_BRANCH] if revision >= 3 else []),
    )
    size = 99 if revision else 0
    expected = tag("v1", 1, description="first", channel=4, root_catalog_bytes=size)
    assert History.read(path) == History(FQRN, (expected,))


def test_values_that_old_tools_left_out_are_empty(tmp_path: Path) -> None:
    row = f"INSERT INTO tags VALUES ('v1', '{root(1)}', 1, 1001, NULL, NULL, NULL, NULL)"
    path = raw(tmp_path / "h", *properties(), TAGS, BRANCHES, DEFAULT_BRANCH, row)
    assert History.read(path).tags == (tag("v1", 1),)


@pytest.mark.parametrize(
    "statements",
    [
        [TAGS, BRANCHES, DEFAULT_BRANCH],
        [*properties(schema="2.0"), TAGS, BRANCHES, DEFAULT_BRANCH],
        [*properties(schema="nan"), TAGS, BRANCHES, DEFAULT_BRANCH],
        [*properties(schema="x"), TAGS, BRANCHES, DEFAULT_BRANCH],
        [*properties(schema_revision="-1"), TAGS, BRANCHES, DEFAULT_BRANCH],
        [*properties(schema_revision="9" * 5000), TAGS[:-1] + ", x)", BRANCHES],
        [*properties(fqrn=""), TAGS, BRANCHES, DEFAULT_BRANCH],
        [*properties(previous_revision="x"), TAGS, BRANCHES, DEFAULT_BRANCH],
        [*properties(), BRANCHES, DEFAULT_BRANCH],
        [*properties(), TAGS],
        [*properties(), TAGS, BRANCHES],
        [*properties(), TAGS, BRANCHES, DEFAULT_BRANCH, ROW, ROW],
        [*properties(), TAGS, BRANCHES, DEFAULT_BRANCH, DEFAULT_BRANCH],
        [*properties(), TAGS, BRANCHES, DEFAULT_BRANCH, ROW.replace("'first'", "X'00'")],
        [*properties(), TAGS, BRANCHES, DEFAULT_BRANCH, ROW.replace("1001", "'soon'")],
        [*properties(), TAGS, BRANCHES, DEFAULT_BRANCH, ROW.replace("1001", "1.5")],
        [*properties(), TAGS, BRANCHES, DEFAULT_BRANCH, ROW.replace("1001", "NULL")],
        [*properties(), TAGS, BRANCHES, DEFAULT_BRANCH, ROW.replace(root(1).text, "x")],
        [*properties(), TAGS, BRANCHES, DEFAULT_BRANCH, ROW.replace("'v1'", "NULL")],
        [*properties(), "CREATE TABLE other (a)", "CREATE VIEW tags AS SELECT * FROM other", BRANCHES, DEFAULT_BRANCH],
    ],
)
def test_a_damaged_history_raises_the_one_documented_error(tmp_path: Path, statements: list[str]) -> None:
    with pytest.raises(DocumentError, match=r"is damaged"):
        History.read(raw(tmp_path / "h", *statements))


def test_rows_that_share_one_long_text_are_refused_before_they_fill_the_memory(tmp_path: Path) -> None:
    long = ROW.replace("'first'", f"'{'x' * 200_000}'")
    path = raw(tmp_path / "h", *properties(), TAGS, BRANCHES, DEFAULT_BRANCH, long)
    assert len(History.read(path).tags[0].description) == 200_000
    data = bytearray(path.read_bytes())
    page_bytes = int.from_bytes(data[16:18], "big")
    page = data.index(b"v1" + root(1).text.encode()) // page_bytes * page_bytes
    assert data[page] == 13, "the row is not on a leaf of a table"
    data[page + 3 : page + 5] = (100).to_bytes(2, "big")  # one cell becomes a hundred, all in the same place
    data[page + 8 : page + 208] = data[page + 8 : page + 10] * 100
    path.write_bytes(data)
    with pytest.raises(DocumentError, match="more text than the file has bytes"):
        History.read(path)


def test_an_object_that_does_not_inflate_is_damaged() -> None:
    with pytest.raises(DocumentError, match="history is damaged"):
        History.from_object(b"no stream")
    with pytest.raises(DocumentError, match="history is damaged"):
        History.from_object(compress(b"no database"))


# Tags


def test_a_tag_is_found_by_name() -> None:
    history = published(1, 2)
    assert history.tag("v1").root_catalog == root(1)
    assert "v1" in history
    assert "v9" not in history
    with pytest.raises(RepositoryError, match=r"sw\.example\.org has no tag 'v9'"):
        history.tag("v9")


def test_what_was_current_at_a_time_is_the_newest_revision_not_younger() -> None:
    history = published(1, 2, 3).with_branch(Branch("dev", "", 1)).with_tag(tag("d", 9, branch="dev"))
    found = history.at(1002)
    assert found is not None
    assert found.revision == 2
    assert history.at(1000) is None
    latest = history.at(10_000)
    assert latest is not None
    assert latest.revision == 3


def test_an_old_revision_tagged_late_does_not_hide_a_newer_one() -> None:
    history = published(1, 2).with_tag(Tag("late", root(1), 1, 1_005))
    found = history.at(1_010)
    assert found is not None
    assert found.revision == 2


def test_each_publication_moves_trunk_and_keeps_the_one_before_for_undoing() -> None:
    history = published(1, 2)
    assert history.tag(TRUNK).revision == 2
    assert history.tag(TRUNK).description == "current HEAD"
    assert history.tag(TRUNK_PREVIOUS).revision == 1
    assert history.tag(TRUNK_PREVIOUS).description == "default undo target"
    assert TRUNK_PREVIOUS not in published(1)


def test_a_tag_is_replaced_and_removed() -> None:
    history = published(1).with_tag(tag("v1", 5)).with_tag(tag("w", 6))
    assert history.tag("v1").revision == 5
    assert [t.name for t in history.without_tag("v1").tags] == [TRUNK, "w"]
    with pytest.raises(RepositoryError):
        history.without_tag("none")


def test_a_rollback_removes_later_tags_of_the_default_branch_and_moves_the_target() -> None:
    history = published(1, 2, 3).with_branch(Branch("dev", "", 1)).with_tag(tag("d", 9, branch="dev"))
    rolled = history.rolled_back("v1", root(4), revision=4, timestamp=2000)
    assert {t.name for t in rolled.tags} == {"v1", "d"}
    assert rolled.tag("v1") == Tag("v1", root(4), 4, 2000)
    assert rolled.with_head(root(4), revision=4, timestamp=2000, root_catalog_bytes=1).tag(TRUNK).revision == 4
    with pytest.raises(RepositoryError):
        history.rolled_back("none", root(4), revision=4, timestamp=2000)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("v1.0", True),
        ("generic-2026-11-24T00:25:03Z", True),
        ("a/b_c", True),
        ("", False),
        ("a b", False),
        ("ä", False),
    ],
)
def test_tag_names_have_the_characters_that_tools_accept(name: str, expected: bool) -> None:
    assert is_tag_name(name) is expected
    if not expected:
        with pytest.raises(RepositoryError, match="no tag name"):
            History(FQRN).with_tag(tag(name, 1))


@pytest.mark.parametrize(("name", "expected"), [("", True), ("dev@site/x.y-z_1", True), ("a:b", False), ("a\n", False)])
def test_branch_names_have_the_characters_that_tools_accept(name: str, expected: bool) -> None:
    assert is_branch_name(name) is expected


def test_a_branch_needs_a_new_name_and_a_parent() -> None:
    history = History(FQRN).with_branch(Branch("dev", "", 1))
    for branch in (
        Branch("dev", "", 1),
        Branch("", "", 1),
        Branch("x", "none", 1),
        Branch("x", None, 1),
        Branch("a:b", "", 1),
    ):
        with pytest.raises(RepositoryError):
            history.with_branch(branch)
    with pytest.raises(RepositoryError, match="no branch 'none'"):
        history.with_tag(tag("v1", 1, branch="none"))


def test_two_tags_or_branches_of_one_name_are_no_history() -> None:
    with pytest.raises(ValueError, match="two tags"):
        History(FQRN, (tag("a", 1), tag("a", 2)))
    with pytest.raises(ValueError, match="default branch"):
        History(FQRN, branches=())
