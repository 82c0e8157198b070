"""How far a check is and what it found, on disk, so that an interrupted check can go on and findings may be many."""

from __future__ import annotations

import json
import shutil
import sqlite3
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cdn.storage.paths import SHARDS
from stratum0.marks import ObjectMarks

if TYPE_CHECKING:
    from cdn.hashing import Digest

_TABLES: Final = """
CREATE TABLE properties (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE catalogs (digest TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE shards (number INTEGER PRIMARY KEY, objects INTEGER NOT NULL, bytes INTEGER NOT NULL);
CREATE TABLE findings (
    id INTEGER PRIMARY KEY, area TEXT NOT NULL, rule TEXT NOT NULL, subject TEXT NOT NULL, message TEXT NOT NULL,
    revision TEXT NOT NULL, is_repaired INTEGER NOT NULL, UNIQUE (area, rule, subject, message));
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    Args:
        area: ``document``, ``catalog`` or ``object``.
        rule: which rule it breaks, in a word.
        subject: what breaks it: a document, a path in the tree, or an object's path.
        message: one clear sentence without a final stop.
        revision: in which revision a catalog finding was met first.
        is_repaired: whether it was mended.
    """

    area: str
    rule: str
    subject: str
    message: str
    revision: str = ""
    is_repaired: bool = False

    @property
    def line(self) -> str:
        """How a person reads it."""
        where = f"{self.subject} in {self.revision}" if self.revision else self.subject
        return f"{self.area} {where}: {self.message} [{'repaired' if self.is_repaired else self.rule}]"

    @property
    def document(self) -> dict[str, object]:
        """How a program reads it."""
        return {
            "area": self.area,
            "rule": self.rule,
            "subject": self.subject,
            "message": self.message,
            "revision": self.revision or None,
            "repaired": self.is_repaired,
        }


class Checkpoint:
    """The state of one check; use `open`.

    Args:
        folder: for its files.
        identity: what it is a check of; another one is not gone on with.
        was_resumed: whether there is a state to go on from.
    """

    def __init__(self, folder: Path, identity: str, *, was_resumed: bool) -> None:
        self.was_resumed: Final = was_resumed
        self.marks: Final = ObjectMarks(folder / "marks")
        self._connection = _connected(folder / "state.sqlite")
        weakref.finalize(self, self._connection.close).atexit = False  # a check that was interrupted does not close it
        if not was_resumed:
            self._connection.executescript(_TABLES)
            self._set("identity", identity)
            self._set("sizes", json.dumps([0] * len(SHARDS)))
            self._connection.commit()

    @classmethod
    def open(cls, folder: Path, identity: str, *, resume: bool) -> Checkpoint:
        """Goes on from what is in the folder if that is wanted and possible; else begins anew."""
        if resume and _is_usable(folder, identity):
            return cls(folder, identity, was_resumed=True)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return cls(folder, identity, was_resumed=False)

    def save(self) -> None:
        """Makes what was done so far what a resumed check goes on from."""
        self._set("sizes", json.dumps(self.marks.sizes()))
        self._connection.commit()

    def close(self) -> None:
        """Closes the files."""
        self._connection.close()

    # --------------------------------------------------------------------------------------------------------- catalogs

    def is_done(self, digest: Digest) -> bool:
        """Whether a catalog and everything below it was looked at."""
        row = self._connection.execute("SELECT 1 FROM catalogs WHERE digest = ?", (digest.text,)).fetchone()
        return row is not None

    def done(self, digest: Digest) -> None:
        """Says that a catalog and everything below it was looked at."""
        self._connection.execute("INSERT OR IGNORE INTO catalogs VALUES (?)", (digest.text,))

    def catalogs_done(self) -> int:
        """How many catalogs were looked at."""
        return int(self._connection.execute("SELECT count(*) FROM catalogs").fetchone()[0])

    # ---------------------------------------------------------------------------------------------------------- objects

    def shards_left(self) -> list[int]:
        """Which folders of the store are still to be verified."""
        done = {number for (number,) in self._connection.execute("SELECT number FROM shards")}
        return [number for number in range(len(SHARDS)) if number not in done]

    def shard_done(self, number: int, objects: int, size: int) -> None:
        """Says that the objects of a folder were verified."""
        self._connection.execute("INSERT OR REPLACE INTO shards VALUES (?, ?, ?)", (number, objects, size))
        self._connection.commit()

    def verified(self) -> tuple[int, int]:
        """How many objects were verified, and their size in bytes."""
        row = self._connection.execute("SELECT coalesce(sum(objects), 0), coalesce(sum(bytes), 0) FROM shards")
        objects, size = row.fetchone()
        return int(objects), int(size)

    # --------------------------------------------------------------------------------------------------------- findings

    def add(self, finding: Finding) -> None:
        """Writes a finding down; the same one twice is one."""
        values = (
            finding.area,
            finding.rule,
            _text(finding.subject),
            _text(finding.message),
            finding.revision,
            finding.is_repaired,
        )
        columns = "area, rule, subject, message, revision, is_repaired"
        self._connection.execute(f"INSERT OR IGNORE INTO findings ({columns}) VALUES (?, ?, ?, ?, ?, ?)", values)  # noqa: S608

    def replace_findings(self, area: str, findings: Iterable[Finding]) -> None:
        """Puts new findings in place of all former ones of an area."""
        self._connection.execute("DELETE FROM findings WHERE area = ?", (area,))
        for finding in findings:
            self.add(finding)
        self._connection.commit()

    def findings(self) -> Iterator[Finding]:
        """All findings in the order in which they were made."""
        query = "SELECT area, rule, subject, message, revision, is_repaired FROM findings ORDER BY id"
        for area, rule, subject, message, revision, is_repaired in self._connection.execute(query):
            yield Finding(area, rule, subject, message, revision, bool(is_repaired))

    def counts(self) -> tuple[int, int]:
        """How many findings remain, and how many were repaired."""
        row = self._connection.execute("SELECT count(*), coalesce(sum(is_repaired), 0) FROM findings").fetchone()
        return int(row[0]) - int(row[1]), int(row[1])

    def _set(self, key: str, value: str) -> None:
        self._connection.execute("INSERT OR REPLACE INTO properties VALUES (?, ?)", (key, value))


def _is_usable(folder: Path, identity: str) -> bool:
    """Whether a check can go on from this folder; brings its mark files back to what was saved."""
    if not (folder / "state.sqlite").exists():
        return False
    try:
        connection = _connected(folder / "state.sqlite")
        try:
            properties = dict(connection.execute("SELECT key, value FROM properties"))
        finally:
            connection.close()
        if properties.get("identity") != identity:
            return False
        return ObjectMarks(folder / "marks").truncate(json.loads(properties["sizes"]))
    except (sqlite3.Error, OSError, ValueError, KeyError):
        return False


def _connected(file: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA synchronous = OFF")  # after a power cut a check begins anew
    return connection


def _text(value: str) -> str:
    """Text that SQLite keeps: names that are no UTF-8 are shown escaped."""
    return value.encode("utf-8", "backslashreplace").decode()
