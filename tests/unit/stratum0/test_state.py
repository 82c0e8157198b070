"""What a publisher remembers between commands."""

from __future__ import annotations

import os
import sqlite3
import stat

import pytest

from cdn.errors import StorageError
from stratum0.state import State

TABLE = "CREATE TABLE IF NOT EXISTS things (name TEXT)"


def names(state):
    with state.reading() as connection:
        return [name for (name,) in connection.execute("SELECT name FROM things ORDER BY name")]


@pytest.fixture
def state(tmp_path):
    with State(tmp_path / "state.sqlite") as state:
        state.define([TABLE])
        yield state


def test_only_its_owner_can_read_it(state):
    assert stat.S_IMODE(os.stat(state.path).st_mode) == 0o600


def test_what_was_written_is_seen_by_others(state):
    with state.writing() as connection:
        connection.execute("INSERT INTO things VALUES ('a')")
    with State(state.path) as other:
        other.define([TABLE])
        assert names(other) == ["a"]


def test_an_error_undoes_everything_also_what_was_written_within(state):
    with pytest.raises(KeyError), state.writing() as connection:
        connection.execute("INSERT INTO things VALUES ('a')")
        with state.writing() as inner:
            inner.execute("INSERT INTO things VALUES ('b')")
        raise KeyError
    assert names(state) == []
    with state.writing() as connection:
        connection.execute("INSERT INTO things VALUES ('c')")
    assert names(state) == ["c"]


def test_a_forked_child_has_a_connection_of_its_own(state):
    with state.writing() as connection:
        connection.execute("INSERT INTO things VALUES ('parent')")
    child = os.fork()
    if not child:
        with state.writing() as connection:
            connection.execute("INSERT INTO things VALUES ('child')")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert names(state) == ["child", "parent"]


def test_a_file_that_is_no_database_is_named_in_one_sentence(tmp_path):
    (tmp_path / "state.sqlite").write_text("this is no database, however long it may be" * 100)
    with pytest.raises(StorageError, match=r"state\.sqlite cannot be used: file is not a database"):
        State(tmp_path / "state.sqlite")


def test_a_file_of_a_newer_release_is_left_alone(tmp_path):
    connection = sqlite3.connect(tmp_path / "state.sqlite")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StorageError, match="newer release"):
        State(tmp_path / "state.sqlite")


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(StorageError, match="cannot be opened: No such file or directory"):
        State(tmp_path / "absent" / "state.sqlite")
