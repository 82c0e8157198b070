"""From a TOML file to a frozen dataclass, with every mistake in it told at once.

A configuration is a frozen dataclass whose fields have defaults; the file names only what differs. A field's type
says what may stand there:

- ``bool``, ``int``, ``float``, ``str``, `pathlib.Path`, a `Literal` or an `Enum` (by value);
- `Size`, a number of bytes written as ``1048576`` or ``"64MiB"``, and `Duration`, seconds written as ``0.5`` or
  ``"4m"``;
- a nested dataclass (a table), ``tuple[X, ...]`` (an array), ``dict[str, X]`` (a table with free keys), ``X | None``,
  and ``str | X``;
- ``Annotated[int, Between(1, 65535)]`` where a number has bounds.

A class refuses values that contradict one another by raising ``ValueError("key: why", ...)`` in ``__post_init__``,
one argument for each mistake. Keys nobody knows are refused, with the nearest known one suggested: a misspelt limit
must not silently be no limit.
"""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from cdn.errors import ConfigError
from cdn.toml_lines import KeyPath, key_lines

T = TypeVar("T")

CONFIG_BYTES_MAX: Final = 4 * 1024 * 1024
"""A longer file is not a configuration but a mistake."""

INTEGER_MAX: Final = 2**63 - 1
"""TOML promises integers of 64 bits."""


@dataclass(frozen=True, slots=True)
class Between:
    """Bounds of a number, both included; None is no bound."""

    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        if self.high is None:
            return f"at least {self.low:.15g}"
        if self.low is None:
            return f"at most {self.high:.15g}"
        return f"from {self.low:.15g} to {self.high:.15g}"

    def holds(self, value: float) -> bool:
        """Says whether a value is within the bounds."""
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)


@dataclass(frozen=True, slots=True)
class _Quantity:
    """A number that may be written with a unit."""

    read: Callable[[str], float]
    expected: str


_NUMBER_AND_UNIT: Final = re.compile(r"\s*([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*([A-Za-z]*)\s*", re.ASCII)
_SIZE_UNITS: Final = {"": 1, "b": 1} | {
    name: base**power
    for power, letter in enumerate("kmgtp", start=1)
    for name, base in ((letter, 1024), (f"{letter}ib", 1024), (f"{letter}b", 1000))
}
_DURATION_UNITS: Final = {"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 604800}


def parse_size(text: str) -> int:
    """Reads a number of bytes such as ``4096``, ``64MiB`` (1024 based, as is ``64M``) or ``10GB`` (1000 based).

    Raises:
        ValueError: for anything else; the text says what is expected.
    """
    return round(_parse_quantity(text, _SIZE_UNITS, 'a size such as "64MiB"'))


def parse_duration(text: str) -> float:
    """Reads a length of time such as ``250ms``, ``5s``, ``4m``, ``1.5h`` or ``30d``, and returns seconds.

    Raises:
        ValueError: for anything else, a bare number included; the text says what is expected.
    """
    return _parse_quantity(text, _DURATION_UNITS, 'a duration such as "5s" or "4m"')


def _parse_quantity(text: str, units: Mapping[str, float], expected: str) -> float:
    found = _NUMBER_AND_UNIT.fullmatch(text)
    unit = units.get(found[2].lower()) if found else None
    if found is None or unit is None:
        raise ValueError(f"expected {expected}, got {text[:60]!r}")
    # Whole numbers stay exact beyond the 53 bits of a float.
    return float(found[1]) * unit if "." in found[1] else int(found[1]) * unit


Size = Annotated[int, _Quantity(parse_size, "a size")]
"""A number of bytes."""

Duration = Annotated[float, _Quantity(parse_duration, "a duration")]
"""A length of time in seconds."""

Port = Annotated[int, Between(0, 65535)]
"""A port to listen on; 0 lets the system choose."""


def load_config(kind: type[T], path: Path) -> T:
    """Reads a configuration file.

    Args:
        kind: the dataclass to fill.
        path: the TOML file.

    Raises:
        ConfigError: the file cannot be read, or has mistakes; the message has a line for each, with file, line and key.
    """
    try:
        with path.open("rb") as file:
            data = file.read(CONFIG_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"the configuration {path} cannot be read: {error.strerror}") from error
    if len(data) > CONFIG_BYTES_MAX:
        raise ConfigError(f"{path} is no configuration: it is longer than {CONFIG_BYTES_MAX} bytes")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: the file is not UTF-8 text") from error
    return parse_config(kind, text, str(path))


def parse_config(kind: type[T], text: str, name: str) -> T:
    """Reads a configuration from text (see `load_config`).

    Args:
        kind: the dataclass to fill.
        text: the TOML document.
        name: what messages call it.

    Raises:
        ConfigError: the text has mistakes; the message has a line for each, in the order of the text.
    """
    try:
        table = tomllib.loads(text)
    except RecursionError as error:
        raise ConfigError(f"{name}: nested too deeply") from error
    except ValueError as error:  # also what int() says of a number of 5,000 digits, which tomllib lets through
        raise ConfigError(f"{name}: {error}") from error
    reader = _Reader()
    value = reader.table(kind, table, ())
    if reader.mistakes:
        lines = key_lines(text)
        ordered = sorted(reader.mistakes, key=lambda mistake: (not mistake[0], _line(lines, mistake[0])))
        raise ConfigError("\n".join(_located(name, lines, path, reason) for path, reason in ordered))
    return cast("T", value)


def _line(lines: Mapping[KeyPath, int], path: KeyPath) -> int:
    """Where a mistake is; a key that is not there is looked for where its table begins."""
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path, 1)


def _located(name: str, lines: Mapping[KeyPath, int], path: KeyPath, reason: str) -> str:
    return f"{name}:{_line(lines, path)}: {_dotted(path)}: {reason}" if path else f"{name}: {reason}"


def _dotted(path: KeyPath) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


_WRONG: Final = object()
"""Stands for a value whose mistake has been noted."""


class _Reader:
    """Turns parsed TOML into values and collects what is wrong on the way."""

    def __init__(self) -> None:
        self.mistakes: list[tuple[KeyPath, str]] = []

    def table(self, kind: type[Any], table: Mapping[str, Any], path: KeyPath) -> object:
        hints = get_type_hints(kind, include_extras=True)
        known = {each.name: each for each in fields(kind) if each.init}
        before = len(self.mistakes)
        for key in (key for key in table if key not in known):
            self._wrong((*path, key), f"there is no such key{_suggestion(key, known)}")
        values = {key: self.value(hints[key], table[key], (*path, key)) for key in known if key in table}
        for key in _missing(known.values(), values):
            self._wrong((*path, key), "is required")
        if len(self.mistakes) > before:
            return _WRONG
        return self._build(kind, values, path)

    def _build(self, kind: type[Any], values: dict[str, object], path: KeyPath) -> object:
        try:
            return kind(**values)
        except ValueError as error:
            for mistake in error.args:
                key, colon, reason = str(mistake).partition(": ")
                self._wrong((*path, *key.split(".")) if colon else path, reason if colon else key)
            return _WRONG

    def value(self, hint: Any, value: Any, path: KeyPath) -> object:
        origin, arguments = get_origin(hint), get_args(hint)
        if origin is Annotated:
            return self._annotated(arguments[0], arguments[1:], value, path)
        if origin in (Union, UnionType):
            return self._union(arguments, value, path)
        if origin is Literal:
            return self._one_of({choice: choice for choice in arguments}, value, path)
        if origin is tuple:
            return self._array(arguments[0], value, path)
        if origin is dict:
            return self._free_table(arguments[1], value, path)
        if is_dataclass(hint) and isinstance(hint, type):
            if not isinstance(value, dict):
                return self._wrong(path, f"expected a table, got {_kind_of(value)}")
            return self.table(hint, value, path)
        if isinstance(hint, type) and issubclass(hint, Enum):
            return self._one_of({choice.value: choice for choice in hint}, value, path)
        return self._scalar(hint, value, path)

    def _annotated(self, hint: Any, marks: tuple[object, ...], value: Any, path: KeyPath) -> object:
        quantity = next((mark for mark in marks if isinstance(mark, _Quantity)), None)
        result = self._quantity(hint, quantity, value, path) if quantity else self.value(hint, value, path)
        for mark in marks:
            if isinstance(mark, Between) and result is not _WRONG and not mark.holds(cast("float", result)):
                return self._wrong(path, f"must be {mark}, not {value}")
        return result

    def _quantity(self, hint: Any, quantity: _Quantity, value: Any, path: KeyPath) -> object:
        try:
            number = (
                quantity.read(value) if isinstance(value, str) else self._scalar(hint, value, path, quantity.expected)
            )
        except ValueError as error:
            return self._wrong(path, str(error))
        if isinstance(number, int | float) and number < 0:
            return self._wrong(path, f"{quantity.expected} cannot be negative")
        if isinstance(number, int | float) and number > INTEGER_MAX:
            return self._wrong(path, "the number is too large")
        return number

    def _union(self, choices: tuple[Any, ...], value: Any, path: KeyPath) -> object:
        """Reads ``X | None`` (TOML has no null, so a key that is there is an X) and ``str | X``."""
        if str in choices and isinstance(value, str):
            return value
        others = [choice for choice in choices if choice not in (NoneType, str)]
        if str in choices and others and get_origin(others[0]) is tuple and not isinstance(value, list):
            return self._wrong(path, f"expected a string or an array, got {_kind_of(value)}")
        return self.value(others[0] if others else str, value, path)

    def _one_of(self, choices: Mapping[object, object], value: Any, path: KeyPath) -> object:
        if isinstance(value, bool | int | str) and value in choices:
            return choices[value]
        allowed = ", ".join(f'"{choice}"' if isinstance(choice, str) else str(choice) for choice in choices)
        shown = repr(value)[:60] if isinstance(value, bool | int | str) else _kind_of(value)
        hint = _suggestion(value, [str(choice) for choice in choices]) if isinstance(value, str) else ""
        return self._wrong(path, f"must be one of {allowed}, not {shown}{hint}")

    def _array(self, hint: Any, value: Any, path: KeyPath) -> object:
        if not isinstance(value, list):
            is_table = is_dataclass(hint) and isinstance(value, dict)
            advice = f"; write [[{path[-1]}]] in place of [{path[-1]}]" if is_table and len(path) == 1 else ""
            return self._wrong(path, f"expected an array, got {_kind_of(value)}{advice}")
        return tuple(self.value(hint, item, (*path, index)) for index, item in enumerate(value))

    def _free_table(self, hint: Any, value: Any, path: KeyPath) -> object:
        if not isinstance(value, dict):
            return self._wrong(path, f"expected a table, got {_kind_of(value)}")
        return {key: self.value(hint, item, (*path, key)) for key, item in value.items()}

    def _scalar(self, hint: Any, value: Any, path: KeyPath, expected: str = "") -> object:
        if isinstance(value, int) and abs(value) > INTEGER_MAX:
            return self._wrong(path, "the number is too large")
        if hint is float and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
        if hint is Path and isinstance(value, str) and value and "\0" not in value:
            return Path(value)
        if type(value) is hint and hint is not float:
            return value
        return self._wrong(path, f"expected {expected or _KIND_NAMES[hint]}, got {_kind_of(value)}")

    def _wrong(self, path: KeyPath, reason: str) -> object:
        self.mistakes.append((path, reason))
        return _WRONG


_KIND_NAMES: Final[dict[Any, str]] = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a string",
    Path: "a path",
    list: "an array",
    dict: "a table",
}


def _kind_of(value: object) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value == "":
        return "an empty string"
    return _KIND_NAMES.get(type(value), "a date or time")


def _suggestion(key: str, known: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(key, list(known), n=1)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def _missing(known: Iterable[Field[Any]], values: Mapping[str, object]) -> list[str]:
    return [
        each.name
        for each in known
        if each.name not in values and each.default is MISSING and each.default_factory is MISSING
    ]
