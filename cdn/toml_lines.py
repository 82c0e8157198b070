"""At which line each key of a TOML document stands, which the standard library's parser does not tell.

The scanner reads only documents that `tomllib` has accepted, so it checks nothing; it finds its way by the few marks
that matter (headers, keys, quotes, brackets) and moves forward at every step.
"""

from __future__ import annotations

import re
import tomllib
from typing import Final

KeyPath = tuple[str | int, ...]
"""The keys, and the places in arrays, that lead from the top of a document to a value."""

_BLANK: Final = re.compile(r"[ \t]*")
_BLANK_LINES: Final = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BARE_KEY: Final = re.compile(r"[^ \t\r\n.=\]\"']+")
_SCALAR: Final = re.compile(r"[^,\]}#\r\n]*")
_STRINGS: Final = (
    ('"""', re.compile(r'"""(?:\\.|[^\\])*?"{3,5}', re.DOTALL)),
    ("'''", re.compile(r"'''.*?'{3,5}", re.DOTALL)),
    ('"', re.compile(r'"(?:\\.|[^"\\])*"')),
    ("'", re.compile(r"'[^']*'")),
)


def key_lines(text: str) -> dict[KeyPath, int]:
    """Finds the line, counted from 1, of every table, key and array item in a valid TOML document."""
    scanner = _Scanner(text)
    scanner.document()
    return scanner.lines


class _Scanner:
    def __init__(self, text: str) -> None:
        self.lines: dict[KeyPath, int] = {}
        self._text = text
        self._at = 0
        self._line = 1
        self._array_sizes: dict[KeyPath, int] = {}

    def document(self) -> None:
        table: KeyPath = ()
        self._skip(_BLANK_LINES)
        while self._at < len(self._text):
            if self._text.startswith("[", self._at):
                table = self._header()
            else:
                self._pair(table)
            self._skip(_BLANK_LINES)

    def _header(self) -> KeyPath:
        is_array = self._text.startswith("[[", self._at)
        self._at += 2 if is_array else 1
        *parents, last = self._key()
        self._at += 2 if is_array else 1
        table = (*self._resolve((), parents), last)
        if is_array:
            self._array_sizes[table] = self._array_sizes.get(table, 0) + 1
        table = self._resolve(table[:-1], [last])
        self._record(table)
        return table

    def _resolve(self, base: KeyPath, keys: list[str]) -> KeyPath:
        """Follows keys; a key of an array of tables means the array's latest table."""
        for key in keys:
            base = (*base, key)
            if size := self._array_sizes.get(base):
                base = (*base, size - 1)
        return base

    def _pair(self, table: KeyPath) -> None:
        line = self._line
        path = table
        for key in self._key():
            path = (*path, key)
            self.lines.setdefault(path, line)
        self._at += 1  # the equals sign
        self._skip(_BLANK)
        self._value(path)

    def _key(self) -> list[str]:
        """Reads a dotted key and the blanks behind it."""
        keys = []
        while True:
            self._skip(_BLANK)
            keys.append(self._key_part())
            self._skip(_BLANK)
            if not self._text.startswith(".", self._at):
                return keys
            self._at += 1

    def _key_part(self) -> str:
        if self._text[self._at] not in "\"'":
            return self._skip(_BARE_KEY)
        return str(tomllib.loads(f"key = {self._string()}")["key"])

    def _value(self, path: KeyPath) -> None:
        mark = self._text[self._at]
        if mark in "\"'":
            self._string()
        elif mark == "[":
            self._array(path)
        elif mark == "{":
            self._inline_table(path)
        else:
            self._skip(_SCALAR)

    def _string(self) -> str:
        for opening, pattern in _STRINGS:
            if self._text.startswith(opening, self._at):
                return self._skip(pattern)
        raise AssertionError("not at a quote")

    def _array(self, path: KeyPath) -> None:
        self._at += 1
        index = 0
        while self._has_item("]"):
            self._record((*path, index))
            self._value((*path, index))
            index += 1

    def _inline_table(self, path: KeyPath) -> None:
        self._at += 1
        while self._has_item("}"):
            self._pair(path)

    def _has_item(self, closing: str) -> bool:
        """Goes to the next item of an array or inline table, or past its end."""
        self._skip(_BLANK_LINES)
        if self._text.startswith(",", self._at):
            self._at += 1
            self._skip(_BLANK_LINES)
        if self._text.startswith(closing, self._at):
            self._at += 1
            return False
        return True

    def _record(self, path: KeyPath) -> None:
        self.lines.setdefault(path, self._line)

    def _skip(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self._text, self._at)
        if found is None or (not found.group() and pattern is _SCALAR):
            raise AssertionError("the document is not valid TOML")
        self._at = found.end()
        self._line += found.group().count("\n")
        return found.group()
