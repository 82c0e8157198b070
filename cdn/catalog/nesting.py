"""Where one catalog ends and the next begins: markers, `.cvmfsdirtab`, and balancing by size (spec §1.4, §5.8).

Pure decisions; whoever publishes carries them out with `CatalogBuilder.split` and `merge`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cdn.catalog.paths import parent_of
from cdn.errors import DocumentError

if TYPE_CHECKING:
    from collections.abc import Iterable

CATALOG_MARKER: Final = ".cvmfscatalog"
"""A file of this name makes its directory the root of a nested catalog."""
AUTO_MARKER: Final = ".cvmfsautocatalog"
"""Beside the other marker: the catalog was made by balancing, so balancing may take it away again."""
DIRTAB: Final = ".cvmfsdirtab"
ENTRIES_MIN_DEFAULT: Final = 1_000
ENTRIES_MAX_DEFAULT: Final = 200_000
DIRTAB_BYTES_MAX: Final = 1 << 20
RULES_MAX: Final = 10_000

_SPECIAL: Final = "*?"
_ESCAPE: Final = "\\"


# --------------------------------------------------------------------------------------------------------------- dirtab


@dataclass(frozen=True, slots=True)
class _Class:
    """One character of several, or none of them."""

    characters: frozenset[str]
    ranges: tuple[tuple[str, str], ...] = ()
    is_negated: bool = False

    def __contains__(self, character: str) -> bool:
        is_listed = character in self.characters or any(low <= character <= high for low, high in self.ranges)
        return is_listed != self.is_negated


_RUN: Final = None
"""The token of ``*``."""
_ONE: Final = _Class(frozenset("/"), is_negated=True)
_Token = str | _Class | None


@dataclass(frozen=True, slots=True)
class _Rule:
    """A pattern: its components as tokens."""

    components: tuple[tuple[_Token, ...], ...]
    is_absolute: bool

    def matches(self, components: list[str]) -> bool:
        """Whether each component matches its own pattern, so that no wildcard crosses a slash."""
        if len(components) != len(self.components):
            return False
        return all(_is_match(tokens, name) for tokens, name in zip(self.components, components, strict=True))

    def relaxed(self) -> tuple[_Token, ...]:
        """The pattern as one, in which ``*`` matches slashes too."""
        tokens: list[_Token] = []
        for component in self.components:
            tokens += ("/", *component) if tokens or self.is_absolute else component
        return tuple(tokens)


class Dirtab:
    """The rules of a `.cvmfsdirtab`: which directories become nested catalogs.

    A line is a pattern of absolute paths, in which ``*`` stands for any characters but a slash, ``?`` for one of them,
    ``[...]`` for one of a set and a backslash takes the meaning away from what follows. A line that begins with ``!``
    names exceptions; there, ``*`` matches slashes too and the path may be relative. ``#`` begins a comment line. A
    directory becomes a nested catalog if a pattern matches it and no exception does.
    """

    def __init__(self, rules: tuple[_Rule, ...] = (), exceptions: tuple[tuple[_Token, ...], ...] = ()) -> None:
        self._rules: dict[int, list[_Rule]] = {}
        for rule in rules:
            self._rules.setdefault(len(rule.components), []).append(rule)
        self._exceptions = exceptions

    @classmethod
    def parse(cls, text: str) -> Dirtab:
        """Reads the file's text.

        Raises:
            DocumentError: a line is no pattern, a pattern that is no exception is not absolute, the same pattern is
                also an
                exception, or the file is too long.
        """
        if len(text) > DIRTAB_BYTES_MAX:
            raise DocumentError(DIRTAB, f"it is longer than {DIRTAB_BYTES_MAX} characters")
        rules: dict[_Rule, int] = {}
        exceptions: dict[_Rule, int] = {}
        for number, line in enumerate(text.split("\n"), 1):
            pattern = line.strip()
            if not pattern or pattern.startswith("#"):
                continue
            is_exception = pattern.startswith("!")
            if is_exception and not (pattern := pattern[1:].strip()):
                continue
            rule = _parse_pattern(pattern, number)
            if not is_exception and not rule.is_absolute:
                raise DocumentError(DIRTAB, f"line {number}: {pattern[:80]!r} must begin with a slash")
            (exceptions if is_exception else rules)[rule] = number
        if len(rules) + len(exceptions) > RULES_MAX:
            raise DocumentError(DIRTAB, f"it has more than {RULES_MAX} patterns")
        for rule in rules.keys() & exceptions.keys():
            raise DocumentError(DIRTAB, f"lines {rules[rule]} and {exceptions[rule]} contradict each other")
        return cls(tuple(rules), tuple(rule.relaxed() for rule in exceptions))

    def __bool__(self) -> bool:
        return bool(self._rules)

    def matches(self, path: str) -> bool:
        """Whether the directory at this path is to be a nested catalog of its own."""
        path = path.rstrip("/")
        if not path.startswith("/"):
            return False
        components = path[1:].split("/")
        rules = self._rules.get(len(components), ())
        if not any(rule.matches(components) for rule in rules):
            return False
        return not any(_is_match(tokens, path) for tokens in self._exceptions)


def _parse_pattern(pattern: str, number: int) -> _Rule:
    components = tuple(_parse_component(part, number) for part in pattern.split("/") if part)
    if not components:
        raise DocumentError(DIRTAB, f"line {number}: the repository's root cannot be a nested catalog")
    return _Rule(components, pattern.startswith("/"))


def _parse_component(part: str, number: int) -> tuple[_Token, ...]:
    tokens: list[_Token] = []
    position = 0
    while position < len(part):
        character = part[position]
        position += 1
        if character == _ESCAPE:
            if part[position : position + 1] not in ("*", "?", "[", "]", _ESCAPE):
                raise DocumentError(DIRTAB, f"line {number}: a backslash must stand before one of * ? [ ] \\")
            tokens.append(part[position])
            position += 1
        elif character == "*":
            if not tokens or tokens[-1] is not _RUN:
                tokens.append(_RUN)
        elif character == "?":
            tokens.append(_ONE)
        elif character == "[":
            token, position = _parse_class(part, position)
            tokens.append(token)
        else:
            tokens.append(character)
    return tuple(tokens)


def _parse_class(part: str, start: int) -> tuple[_Token, int]:
    """The set that begins after a bracket and where it ends; a bracket that nothing closes is itself."""
    is_negated = part[start : start + 1] in ("!", "^")
    first = start + is_negated
    end = part.find("]", first + 1)  # one that comes first is a member, as in a shell
    if end < 0:
        return "[", start
    characters: set[str] = set()
    ranges: list[tuple[str, str]] = []
    position = first
    while position < end:
        if part[position + 1 : position + 2] == "-" and position + 2 < end:
            ranges.append((part[position], part[position + 2]))
            position += 3
        else:
            characters.add(part[position])
            position += 1
    return _Class(frozenset(characters), tuple(ranges), is_negated), end + 1


def _is_match(tokens: tuple[_Token, ...], text: str) -> bool:
    """Whether the tokens match the whole text.

    Only the last ``*`` met is ever tried again, which suffices and takes at most pattern times text steps, however many
    there are.
    """
    at = position = 0
    run_at = run_position = -1
    while position < len(text):
        token = tokens[at] if at < len(tokens) else ""
        if token is _RUN:
            run_at, run_position = at, position
            at += 1
        elif token and (token == text[position] if isinstance(token, str) else text[position] in token):
            at, position = at + 1, position + 1
        elif run_at >= 0:
            run_position += 1
            at, position = run_at + 1, run_position
        else:
            return False
    return all(token is _RUN for token in tokens[at:])


# ------------------------------------------------------------------------------------------------------------ balancing


def choose_splits(
    weights: Iterable[tuple[str, int, int]],
    *,
    entries_min: int = ENTRIES_MIN_DEFAULT,
    entries_max: int = ENTRIES_MAX_DEFAULT,
) -> list[str]:
    """Which directories of a catalog that is too large become nested catalogs.

    From the bottom up, each directory that is too heavy gives away its heaviest subdirectories until it is not. So no
    catalog gets more than `entries_max` entries except where one directory has more by itself, and none that is made
    has fewer than `entries_min`.

    Args:
        weights: `CatalogBuilder.subtree_weights`: path, entries at and below it, entries directly in it; children
            before parents.
        entries_min: no new catalog is smaller than this.
        entries_max: a catalog larger than this is split where it can be.

    Returns:
        Paths, deeper ones first, in an order in which they can be split off one after the other.
    """
    chosen: list[str] = []
    below: dict[str, list[tuple[int, str]]] = {}
    for path, _, children in weights:
        heavy = sorted(below.pop(path, []))
        kept = 1 + children + sum(weight - 1 for weight, _ in heavy)
        while kept > entries_max and heavy and heavy[-1][0] >= max(entries_min, 2):
            weight, heaviest = heavy.pop()
            chosen.append(heaviest)
            kept -= weight - 1
        if path:
            below.setdefault(parent_of(path), []).append((kept, path))
    return chosen


def should_merge(
    entries: int,
    parent_entries: int,
    *,
    entries_min: int = ENTRIES_MIN_DEFAULT,
    entries_max: int = ENTRIES_MAX_DEFAULT,
) -> bool:
    """Whether a nested catalog that balancing made has become so small that its parent takes it back.

    Not if the parent would then be too large, so that no catalog is merged and split by turns.

    Args:
        entries: rows of the nested catalog.
        parent_entries: rows of its parent.
        entries_min, entries_max: as for `choose_splits`.
    """
    return entries < entries_min and parent_entries + entries - 1 <= entries_max
