"""Databases that a test looks into behind the back of what wrote them."""

from __future__ import annotations

import os
import sqlite3


class _Connection(sqlite3.Connection):
    """Is closed when the test that opened it is over; Python 3.13 warns of one that is only forgotten."""

    def __del__(self) -> None:
        self.close()


def connect(file: str | os.PathLike[str]) -> sqlite3.Connection:
    """A connection that nobody has to close."""
    return sqlite3.connect(file, factory=_Connection)
