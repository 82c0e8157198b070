"""Which paths `cdn find` lists. Pure."""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from cdn.catalog.entries import Entry
from cdn.catalog.paths import name_of
from cdn.config import parse_size
from cdn.errors import UsageError

TYPE_LETTERS: Final = {
    "f": stat.S_IFREG,
    "d": stat.S_IFDIR,
    "l": stat.S_IFLNK,
    "p": stat.S_IFIFO,
    "s": stat.S_IFSOCK,
    "c": stat.S_IFCHR,
    "b": stat.S_IFBLK,
}


@dataclass(frozen=True, slots=True)
class SizeTest:
    """A comparison with a number of bytes; `sign` is ``+`` for more, ``-`` for less, empty for exactly."""

    sign: str
    size: int

    @classmethod
    def parse(cls, text: str) -> SizeTest:
        """Reads ``+10MiB``, ``-4096`` or ``0``.

        Raises:
            UsageError: it is something else.
        """
        sign = text[:1] if text[:1] in ("+", "-") else ""
        try:
            return cls(sign, parse_size(text[len(sign) :]))
        except ValueError as error:
            raise UsageError(f"{text!r} is no size: write +10MiB for more, -4096 for less, or a number") from error

    def holds(self, size: int) -> bool:
        """Whether a size passes."""
        if self.sign == "+":
            return size > self.size
        return size < self.size if self.sign == "-" else size == self.size


@dataclass(frozen=True, slots=True)
class Filter:
    """What a path must be; every condition given must hold.

    Args:
        name: a glob for the last component.
        path: a glob for the whole path, in which ``*`` also matches slashes.
        ignores_case: whether both do without regard to case.
        types: letters of `TYPE_LETTERS`.
        sizes: comparisons; only regular files have a size.
        newer_than, older_than: bounds of the modification time, in seconds since the epoch.
        depth_min: levels below where the search began.
    """

    name: str | None = None
    path: str | None = None
    ignores_case: bool = False
    types: frozenset[str] = frozenset()
    sizes: tuple[SizeTest, ...] = ()
    newer_than: float | None = None
    older_than: float | None = None
    depth_min: int = 0

    def matches(self, path: str, entry: Entry, depth: int) -> bool:
        """Whether this path is listed."""
        return (
            depth >= self.depth_min
            and (not self.types or stat.S_IFMT(entry.mode) in {TYPE_LETTERS[letter] for letter in self.types})
            and (self.name is None or self._glob(name_of(path) or "/", self.name))
            and (self.path is None or self._glob(path or "/", self.path))
            and (not self.sizes or (entry.is_file and all(test.holds(entry.size) for test in self.sizes)))
            and (self.newer_than is None or entry.mtime > self.newer_than)
            and (self.older_than is None or entry.mtime < self.older_than)
        )

    def _glob(self, text: str, pattern: str) -> bool:
        change: Callable[[str], str] = str.casefold if self.ignores_case else str
        return fnmatchcase(change(text), change(pattern))
