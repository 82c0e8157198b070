"""``state.sqlite``: what a publisher remembers between commands, shared by all its processes.

One file holds leases and transactions (tables below) and what other modules define for themselves with `State.define`.
Nothing in it is needed to serve or to verify the repository.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from cdn.closing import Closing
from cdn.errors import StorageError

BUSY_SECONDS: Final = 60.0
SCHEMA_VERSION: Final = 1

_TABLES: Final = (
    """CREATE TABLE IF NOT EXISTS leases (
        token TEXT PRIMARY KEY, subtree BLOB NOT NULL UNIQUE, holder TEXT NOT NULL, acquired REAL NOT NULL,
        expires REAL NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS transactions (
        id TEXT PRIMARY KEY, state TEXT NOT NULL, subtree BLOB NOT NULL, is_ephemeral INTEGER NOT NULL,
        holder TEXT NOT NULL, lease TEXT NOT NULL, lease_seconds REAL NOT NULL, base_root TEXT NOT NULL,
        base_size INTEGER NOT NULL, base_revision INTEGER NOT NULL, began REAL NOT NULL, changed REAL NOT NULL,
        new_root TEXT, new_revision INTEGER)""",
    "CREATE INDEX IF NOT EXISTS transactions_by_state ON transactions (state)",
)


class State(Closing):
    """The open file; may be used from several threads, by one at a time, and after a fork.

    Args:
        path: created, readable by its owner alone, if it is not there.

    Raises:
        StorageError: it cannot be opened, or was written by a newer release.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path: Final = os.fspath(path)
        self._lock = threading.RLock()
        self._pid = 0
        self._connection: sqlite3.Connection | None = None
        self._depth = 0
        with self._mapped():
            self._connected()

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None and self._pid == os.getpid():
                connection.close()

    def define(self, statements: Sequence[str]) -> None:
        """Creates tables of another module; each statement says ``IF NOT EXISTS``."""
        with self.writing() as connection:
            for statement in statements:
                connection.execute(statement)

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction of the database, alone among all processes; an exception undoes it.

        Raises:
            StorageError: the file cannot be written.
        """
        with self._lock, self._mapped():
            connection = self._connected()
            if self._depth:  # part of the one around it
                yield connection
                return
            connection.execute("BEGIN IMMEDIATE")
            self._depth += 1
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            finally:
                self._depth -= 1

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The connection for queries.

        Raises:
            StorageError: the file cannot be read.
        """
        with self._lock, self._mapped():
            yield self._connected()

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None or self._pid != os.getpid():  # a connection must not be carried across a fork
            self._pid = os.getpid()
            self._depth = 0
            self._connection = self._connect()
        return self._connection

    def _connect(self) -> sqlite3.Connection:
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version > SCHEMA_VERSION:
                raise StorageError(f"{self.path} was written by a newer release: update this one")
            if version < SCHEMA_VERSION:
                self._create(connection)
        except BaseException:
            connection.close()
            raise
        weakref.finalize(self, connection.close).atexit = False  # nobody need close a repository
        return connection

    def _create(self, connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")
        for statement in _TABLES:
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.ProgrammingError:
            raise  # a mistake in this program
        except sqlite3.Error as error:
            raise StorageError(f"{self.path} cannot be used: {error}") from error
        except OSError as error:
            raise StorageError(f"{self.path} cannot be opened: {error.strerror}") from error
