"""SQLite files from strangers: the one place that opens them (spec §5.1).

Catalogs, histories and reflogs are SQLite files. SQLite reads a file it is handed as a program that wants to be run:
schemas hold views, triggers and expressions, pages point at one another as they like, and a length field asks for
memory. So before any query:

- the header is looked at: rollback format only, UTF-8 only;
- the pages must form trees that share no page, or a file of some kilobytes could hold more rows than anybody can count;
- the schema may hold ordinary tables and plain indexes and nothing else, and no function in it is trusted;
- lengths are limited, and a query that works much longer than the file's size explains is stopped.

The rules follow "Defense Against The Dark Arts" of the SQLite documentation. Every value read still has to be looked
at: a column of a stranger holds any type (`integer`, `text`).
"""

from __future__ import annotations

import functools
import math
import os
import sqlite3
import stat
import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import quote

from cdn.errors import DocumentError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE_BYTES: Final = 4096
VALUE_BYTES_MAX: Final = 256 << 10
"""The longest row: the largest attribute blob of spec §5.7 has 130,562 bytes."""
TABLES_MAX: Final = 64
PROPERTIES_MAX: Final = 256

_TICK_OPERATIONS: Final = 250_000
"""Operations of SQLite's machine between two looks at the budget: some milliseconds, so that the look costs nothing."""
_TICKS_FREE: Final = 40
_TICK_BYTES: Final = 64 << 10
"""A scan needs about one operation for each byte of the file; this allows four."""

_NUMBER_DIGITS_MAX: Final = 20
_HEADER_BYTES: Final = 100
_MAGIC: Final = b"SQLite format 3\x00"
_UTF8: Final = 1
_PAGE_BYTES_MIN: Final = 512
_PAGE_BYTES_MAX: Final = 65536
_PAGE_HEAD_BYTES: Final = 12
_INTERIOR_PAGES: Final = frozenset({2, 5})
_LEAF_PAGES: Final = frozenset({10, 13})
_LOCAL_FAILURES: Final = frozenset(
    {3, 5, 6, 7, 10, 13, 14}
)  # PERM BUSY LOCKED NOMEM IOERR FULL CANTOPEN: not the file's fault
_LIMITS: Final = {
    sqlite3.SQLITE_LIMIT_LENGTH: VALUE_BYTES_MAX,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 64 << 10,
    sqlite3.SQLITE_LIMIT_COLUMN: 128,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 32,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 8,
    sqlite3.SQLITE_LIMIT_VDBE_OP: 25_000,
    sqlite3.SQLITE_LIMIT_FUNCTION_ARG: 8,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 256,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 1,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}
_Path = str | os.PathLike[str]
_Value = TypeVar("_Value")


def open_readonly(path: _Path, document: str) -> sqlite3.Connection:
    """Opens a file for reading; the file must not change while it is open.

    Text comes as `str` whose undecodable bytes are kept by surrogateescape. The connection may be handed from thread to
    thread but used by one at a time. Put every query and every look at its rows into `guard`.

    Args:
        path: a regular file.
        document: what to call it in an error.

    Raises:
        DocumentError: the file is no database, or one with content that a document of the format never has.
        OSError: the file is not there or cannot be read.
    """
    connection = _open(path, "mode=ro&immutable=1", document)
    connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    connection.execute("PRAGMA query_only = ON")
    return connection


def open_writable(path: _Path, document: str) -> sqlite3.Connection:
    """Opens a private copy of a document for changes, after the same checks as `open_readonly`.

    There is no journal: whoever writes does so in a file of its own and puts it into place when it is complete. Changes
    are in one transaction that `commit` ends.

    Raises:
        DocumentError: as `open_readonly`.
        OSError: the file is not there or cannot be read.
    """
    connection = _open(path, "mode=rw", document)
    connection.set_progress_handler(None, 0)
    _write_without_journal(connection)
    return connection


def create(path: _Path) -> sqlite3.Connection:
    """Makes a new, empty database that will be in rollback format, as real clients need it (spec §5.1).

    As with `open_writable` there is no journal and `commit` ends the one transaction.

    Raises:
        OSError: the file exists already or cannot be made.
    """
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666))
    connection = sqlite3.connect(_uri(path, "mode=rw"), uri=True, check_same_thread=False)
    connection.text_factory = _TEXT
    connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
    connection.execute("PRAGMA encoding = 'UTF-8'")
    _write_without_journal(connection)
    return connection


@contextmanager
def guard(document: str) -> Iterator[None]:
    """Turns whatever a damaged file makes SQLite or Python's conversions say into the one documented error.

    Raises:
        DocumentError: the file is damaged.
        StorageError: this machine failed, not the file.
    """
    try:
        yield
    except sqlite3.ProgrammingError:
        raise  # a mistake in this program, such as a closed connection; hiding it would blame the file
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
        if code == sqlite3.SQLITE_INTERRUPT:
            raise DocumentError(document, "a query on it takes longer than its size explains") from error
        if code & 0xFF in _LOCAL_FAILURES:
            raise StorageError(f"{document} could not be read: {error}") from error
        raise DocumentError(document, f"SQLite says: {error}") from error
    except (
        MemoryError
    ) as error:  # SQLite says so of some damaged schemas; lengths are limited, so it is not for want of memory
        raise DocumentError(document, "SQLite finds no memory for what it says to hold") from error
    except (OverflowError, UnicodeError, ValueError) as error:
        raise DocumentError(document, str(error)) from error


def integer(value: object, document: str, name: str) -> int:
    """This value of a stranger's row, if it is an integer.

    Raises:
        DocumentError: it is of another type.
    """
    return _typed(value, int, document, name)


def text(value: object, document: str, name: str) -> str:
    """This value of a stranger's row, if it is text.

    Raises:
        DocumentError: it is of another type.
    """
    return _typed(value, str, document, name)


def properties(connection: sqlite3.Connection, document: str) -> dict[str, str]:
    """The table `properties`, which catalogs, histories and reflogs have alike; every value as text (spec §5.3).

    Raises:
        DocumentError: there is no such table, it is too long, or a key is no text.
    """
    with guard(document):
        rows = connection.execute("SELECT key, value FROM properties LIMIT ?", (PROPERTIES_MAX + 1,)).fetchall()
    if len(rows) > PROPERTIES_MAX:
        raise DocumentError(document, f"it has more than {PROPERTIES_MAX} properties")
    return {text(key, document, "a property's key"): str(value) for key, value in rows if value is not None}


def schema_of(values: dict[str, str], document: str) -> tuple[float, int]:
    """Version and revision of the schema, from the properties; 1.0 and 0 where they are not said (spec §5.2).

    Raises:
        DocumentError: they are no numbers.
    """
    with guard(document):
        version = float(values.get("schema", "1.0"))
        if not math.isfinite(version):  # it would pass any comparison that asks whether it is too different
            raise ValueError("its schema is no number")
        return version, int(values.get("schema_revision", "0")[:_NUMBER_DIGITS_MAX])


def _typed(value: object, kind: type[_Value], document: str, name: str) -> _Value:
    if not isinstance(value, kind):
        raise DocumentError(document, f"{name} holds {type(value).__name__} where {kind.__name__} is needed")
    return value


# ------------------------------------------------------------------------------------------------------- the connection

_TEXT: Final = functools.partial(str, encoding="utf-8", errors="surrogateescape")


class _Cursor(sqlite3.Cursor):
    """Starts a new budget with each query."""

    def execute(self, sql: str, parameters: Any = (), /) -> _Cursor:
        self.connection.ticks_spent = 0  # type: ignore[attr-defined]  # it is a _Connection
        super().execute(sql, parameters)
        return self


class _Connection(sqlite3.Connection):
    """A connection that stops queries which do not end."""

    ticks_spent = 0

    def cursor(self, factory: Any = _Cursor) -> Any:
        return super().cursor(factory)

    def bound_work(self, size_bytes: int) -> None:
        ticks_max = _TICKS_FREE + size_bytes // _TICK_BYTES

        def tick() -> bool:
            self.ticks_spent += 1
            return self.ticks_spent > ticks_max

        self.set_progress_handler(tick, _TICK_OPERATIONS)


def _uri(path: _Path, parameters: str) -> str:
    # The empty authority keeps a path that begins with two slashes from being read as a host name.
    return f"file://{quote(os.path.abspath(os.fsencode(path)))}?{parameters}"


def _open(path: _Path, parameters: str, document: str) -> _Connection:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO must not make this wait
    try:
        pages = _Pages(descriptor, document)
        pages.walk(1)  # the schema itself, before SQLite reads it
        connection = _connect(path, parameters, os.fstat(descriptor).st_size)
        try:
            with guard(document):
                for root in _check_schema(connection, document):
                    pages.walk(root)
        except BaseException:
            connection.close()
            raise
    finally:
        os.close(descriptor)
    return connection


def _connect(path: _Path, parameters: str, size_bytes: int) -> _Connection:
    connection = sqlite3.connect(_uri(path, parameters), uri=True, check_same_thread=False, factory=_Connection)
    for limit, value in _LIMITS.items():
        connection.setlimit(limit, value)
    connection.text_factory = _TEXT
    connection.bound_work(size_bytes)
    for pragma in ("trusted_schema = OFF", "cell_size_check = ON", "mmap_size = 0"):  # none of these reads the file
        connection.execute(f"PRAGMA {pragma}")
    return connection


def _write_without_journal(connection: sqlite3.Connection) -> None:
    for pragma in ("journal_mode = OFF", "synchronous = OFF", "locking_mode = EXCLUSIVE"):
        connection.execute(f"PRAGMA {pragma}")


# ----------------------------------------------------------------------------------------------------------- the schema


_SCHEMA: Final = "SELECT type, name, rootpage, substr(sql, 1, 20) FROM sqlite_master LIMIT ?"
_STATEMENTS: Final = {"table": ("CREATE TABLE ",), "index": ("CREATE INDEX ", "CREATE UNIQUE INDEX ")}
"""How SQLite writes them down whatever was typed; views, triggers and virtual tables begin otherwise."""


def _check_schema(connection: sqlite3.Connection, document: str) -> list[int]:
    """The first page of each table and index."""
    rows = connection.execute(_SCHEMA, (TABLES_MAX + 1,)).fetchall()
    if len(rows) > TABLES_MAX:
        raise DocumentError(document, f"it has more than {TABLES_MAX} tables and indexes")
    for kind, name, root, statement in rows:
        begins_well = str(statement).startswith(_STATEMENTS.get(kind, ())) or (kind == "index" and statement is None)
        if not begins_well or not isinstance(root, int) or root < 1:
            raise DocumentError(document, f"its schema has {name!r}, which is no ordinary table or index")
        _check_columns(connection, document, kind, name)
    return [root for _, _, root, _ in rows]


def _check_columns(connection: sqlite3.Connection, document: str, kind: object, name: object) -> None:
    if kind == "table":
        odd = connection.execute("SELECT 1 FROM pragma_table_xinfo(?) WHERE hidden <> 0", (name,))
    else:
        odd = connection.execute("SELECT 1 FROM pragma_index_xinfo(?) WHERE cid < -1", (name,))
    if odd.fetchone():
        raise DocumentError(document, f"its schema computes a column of {name!r}")


# ------------------------------------------------------------------------------------------------------------ the pages


class _Pages:
    """The pages of a file, and the rule that its trees share none (SQLite file format, section 1.6).

    SQLite itself follows page numbers blindly: 20 levels of pages that each name the level below a hundred times make
    more rows than can be counted, and `count(*)` is one operation that no budget interrupts. Where each page has one
    parent at most, any scan is bounded by the size of the file.
    """

    def __init__(self, descriptor: int, document: str) -> None:
        self._descriptor = descriptor
        self._document = document
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise DocumentError(document, "it is no regular file")
        header = os.pread(descriptor, _HEADER_BYTES, 0)
        _check_header(header, document)
        self._page_bytes = int.from_bytes(header[16:18], "big")
        if self._page_bytes == 1:
            self._page_bytes = _PAGE_BYTES_MAX
        if self._page_bytes < _PAGE_BYTES_MIN or self._page_bytes & (self._page_bytes - 1):
            raise DocumentError(document, f"its page size of {self._page_bytes} bytes cannot be")
        self._seen = bytearray(status.st_size // self._page_bytes + 1)
        self._seen[0] = 1  # pages are counted from 1

    def walk(self, root: int) -> None:
        """Visits the tree below this page.

        Raises:
            DocumentError: it reaches a page a second time, or one that the file does not have.
        """
        pending = [root]
        while pending:
            number = pending.pop()
            if number >= len(self._seen) or self._seen[number]:
                raise DocumentError(self._document, f"its page {number} is not there or is used twice")
            self._seen[number] = 1
            pending.extend(self._children(number))

    def _children(self, number: int) -> list[int]:
        start = _HEADER_BYTES if number == 1 else 0
        offset = (number - 1) * self._page_bytes
        head = os.pread(self._descriptor, _PAGE_HEAD_BYTES, offset + start)
        if len(head) == _PAGE_HEAD_BYTES and head[0] in _LEAF_PAGES:
            return []
        if len(head) < _PAGE_HEAD_BYTES or head[0] not in _INTERIOR_PAGES:
            raise DocumentError(self._document, f"its page {number} is no part of a tree")
        page = os.pread(self._descriptor, self._page_bytes, offset)
        first = start + _PAGE_HEAD_BYTES
        count = int.from_bytes(head[3:5], "big")
        if first + 2 * count > len(page):
            raise DocumentError(self._document, f"its page {number} is too short for its {count} cells")
        children = [int.from_bytes(head[8:12], "big")]
        for (cell,) in struct.iter_unpack(">H", page[first : first + 2 * count]):
            children.append(int.from_bytes(page[cell : cell + 4], "big"))
        return children


def _check_header(header: bytes, document: str) -> None:
    if len(header) < _HEADER_BYTES or not header.startswith(_MAGIC):
        raise DocumentError(document, "it is no SQLite file")
    if header[18] != 1 or header[19] != 1:
        raise DocumentError(document, "it is an SQLite file in write-ahead format, which readers cannot open")
    if int.from_bytes(header[56:60], "big") != _UTF8:
        raise DocumentError(document, "its text is not in UTF-8")
