"""What the software is doing, told from one place: steps, events, progress and fault points.

Four small things that every layer may use, because they cost next to nothing when nobody listens:

- `step` names a piece of work ``package.noun.verb`` and tells that it started, completed or failed.
- `event` tells one fact.
- `Progress` is what a long-running function reports its advance to; whoever calls it decides what is shown.
- `fault_point` names an instant between two durable steps, so that tests can kill the process exactly there.

Steps and events go to the *sink*, a function installed once at the top of a process. Until one is installed they go
nowhere, so a program that uses the packages as a library sees no output it did not ask for. The environment is not
read here: `CDN_FAULT` and the choice of log format are read by the command line, which then calls
`install_fault_hook` and `log_to`. structlog does the formatting; it is imported at the first line that is really
written, since importing it costs more than a whole `cdn --help`.
"""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Literal, Protocol, Self, get_args

from cdn.errors import ConfigError, without_login

Level = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["console", "json"]

LEVELS: Final[tuple[Level, ...]] = get_args(Level)
"""From the most talkative to the quietest."""

Sink = Callable[[Level, str, Mapping[str, object]], None]
"""Takes the level, the name and the fields of one event."""


# ------------------------------------------------------------------------------------------------------------ progress


class Progress(Protocol):
    """Where a long-running function reports how far it is; safe to call from any thread."""

    def start(self, total: int | None, unit: str) -> None:
        """Begins a phase, counted from zero.

        Args:
            total: how many units there are, or None while nobody knows.
            unit: a plural noun; ``bytes`` is shown as sizes.
        """
        ...

    def expect(self, count: int) -> None:
        """Says that `count` more units became known than the total said so far."""
        ...

    def advance(self, count: int = 1) -> None:
        """Says that `count` more units are done."""
        ...

    def message(self, text: str) -> None:
        """Says in a few words what is being done now."""
        ...


class NullProgress:
    """Progress that nobody watches."""

    def start(self, total: int | None, unit: str) -> None:
        pass

    def expect(self, count: int) -> None:
        pass

    def advance(self, count: int = 1) -> None:
        pass

    def message(self, text: str) -> None:
        pass


# ---------------------------------------------------------------------------------------------------- steps and events

_sink: Sink | None = None
_sink_rank = len(LEVELS)  # nothing is listened to until a sink is installed


def install_sink(sink: Sink | None, level: Level = "debug") -> None:
    """Sends every step and event from `level` up to `sink`; None stops that."""
    global _sink, _sink_rank
    _sink = sink
    _sink_rank = len(LEVELS) if sink is None else LEVELS.index(level)


def heard_level() -> Level | None:
    """The quietest level that somebody listens to."""
    return LEVELS[_sink_rank] if _sink is not None else None


def event(name: str, /, *, level: Level = "info", **fields: object) -> None:
    """Tells one fact.

    Args:
        name: ``package.noun.verb``.
        level: how much it matters.
        fields: plain values; never a key, a password or a token.
    """
    if _sink is not None and LEVELS.index(level) >= _sink_rank:
        _sink(level, name, fields)


def step(name: str, /, *, level: Level = "debug", **fields: object) -> Step:
    """Names a piece of work that tells when it started and how it ended.

    Use it as a context manager, also around `await`. The last line carries `seconds`, and after a failure `error`;
    the exception itself passes through untouched, since only the caller knows whether it is worth a warning.

    Args:
        name: ``package.noun.verb``.
        level: how much it matters.
        fields: plain values; never a key, a password or a token.
    """
    return Step(name, level, fields)


class Step:
    """What `step` returns."""

    __slots__ = ("_began", "_fields", "_level", "_name")

    def __init__(self, name: str, level: Level, fields: Mapping[str, object]) -> None:
        self._name = name
        self._level: Level = level
        self._fields = fields
        self._began = 0.0

    def add(self, **fields: object) -> None:
        """Adds what became known on the way to the lines still to come."""
        self._fields = {**self._fields, **fields}

    def __enter__(self) -> Self:
        if _sink is not None:
            self._tell("started", {})
            self._began = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if _sink is None:
            return
        ending: dict[str, object] = {"seconds": round(time.monotonic() - self._began, 6)}
        if error is None:
            self._tell("complete", ending)
        else:
            self._tell("failed", {**ending, "error": f"{type(error).__name__}: {error}"})

    def _tell(self, outcome: str, ending: Mapping[str, object]) -> None:
        event(f"{self._name}.{outcome}", level=self._level, **{**self._fields, **ending})


# -------------------------------------------------------------------------------------------------------- fault points

FaultHook = Callable[[str], None]
"""Takes the name of the fault point being passed; may not return."""

_fault_hook: FaultHook | None = None


class FaultInjected(Exception):  # noqa: N818 -- not an error of ours: it stands for a death, and nothing may handle it as one
    """Raised at a fault point that was armed with ``:raise``; no code but a test may catch it."""


def fault_point(name: str) -> None:
    """Names an instant at which a crash must do no harm; does nothing unless a test armed it."""
    if _fault_hook is not None:
        _fault_hook(name)


def install_fault_hook(hook: FaultHook | None) -> FaultHook | None:
    """Replaces what happens at fault points, and returns what happened there before."""
    global _fault_hook
    before, _fault_hook = _fault_hook, hook
    return before


@dataclass(frozen=True, slots=True)
class Fault:
    """Which fault point to fail at, and how.

    Args:
        name: the fault point.
        occurrence: at which passing it happens, counted from 1.
        kills: whether the process dies by SIGKILL; otherwise `FaultInjected` is raised.
    """

    name: str
    occurrence: int = 1
    kills: bool = True

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads ``NAME[@OCCURRENCE][:raise]``.

        Raises:
            ConfigError: for anything else, so that a misspelt test does not pass by never failing.
        """
        rest, _, action = text.partition(":")
        name, at, count = rest.partition("@")
        if (
            not name
            or action not in ("", "raise")
            or (at and not (count.isascii() and count.isdigit() and int(count) > 0))
        ):
            raise ConfigError(f"{text!r} names no fault point: write NAME, NAME@OCCURRENCE or NAME:raise")
        return cls(name, int(count) if at else 1, kills=action == "")

    def hook(self) -> FaultHook:
        """Returns a hook that counts passings, from any thread, and fails at the chosen one."""
        passings = itertools.count(1)

        def fail(name: str) -> None:
            if name != self.name or next(passings) != self.occurrence:
                return
            if self.kills:
                os.kill(os.getpid(), signal.SIGKILL)
            raise FaultInjected(name)

        return fail


@contextmanager
def faults_armed(text: str) -> Iterator[None]:
    """Arms one fault point for the length of a `with` block (see `Fault.parse`)."""
    before = install_fault_hook(Fault.parse(text).hook())
    try:
        yield
    finally:
        install_fault_hook(before)


@contextmanager
def faults_seen() -> Iterator[list[str]]:
    """Collects the names of the fault points passed in a `with` block, so that a test can then fail at each of them."""
    names: list[str] = []
    before = install_fault_hook(names.append)
    try:
        yield names
    finally:
        install_fault_hook(before)


# ------------------------------------------------------------------------------------------------- the log on a stream

_ESCAPES: Final = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}
"""Control characters, so that a name chosen by a stranger can neither forge a line nor steer a terminal."""


class LogStream(Protocol):
    """Where log lines go."""

    def write(self, text: str, /) -> object: ...

    def flush(self) -> object: ...


def log_to(stream: LogStream, *, level: Level, log_format: LogFormat, colours: bool = False) -> None:
    """Writes steps, events and the standard library's log records from `level` up to `stream`, one line each."""
    install_sink(_StreamSink(stream, log_format, colours=colours), level)
    _bridge_standard_logging(level)


class _StreamSink:
    """Formats with structlog, imported at the first line written."""

    def __init__(self, stream: LogStream, log_format: LogFormat, *, colours: bool) -> None:
        self._stream = stream
        self._format = log_format
        self._colours = colours
        self._lock = threading.Lock()
        self._render: Callable[[Level, dict[str, object]], str] | None = None

    def __call__(self, level: Level, name: str, fields: Mapping[str, object]) -> None:
        with self._lock:
            if self._render is None:
                self._render = _json_renderer() if self._format == "json" else _console_renderer(colours=self._colours)
            line = self._render(level, {**{key: _discreet(value) for key, value in fields.items()}, "event": name})
            # A log that nobody can read any more must not stop the service it tells of.
            with suppress(OSError, ValueError):
                self._stream.write(line + "\n")
                self._stream.flush()


def _discreet(value: object) -> object:
    return without_login(value) if isinstance(value, str) else value


def _json_renderer() -> Callable[[Level, dict[str, object]], str]:
    from structlog.processors import JSONRenderer, TimeStamper

    stamp, render = TimeStamper(fmt="iso", utc=True), JSONRenderer(default=str)

    def line(level: Level, fields: dict[str, object]) -> str:
        return str(render(None, level, stamp(None, level, {**fields, "level": level})))

    return line


def _console_renderer(*, colours: bool) -> Callable[[Level, dict[str, object]], str]:
    from structlog.dev import ConsoleRenderer
    from structlog.processors import TimeStamper

    stamp, render = TimeStamper(fmt="iso", utc=True), ConsoleRenderer(colors=colours, pad_event_to=0)

    def line(level: Level, fields: dict[str, object]) -> str:
        shown = {key: _printable(value) for key, value in fields.items()}
        return str(render(None, level, stamp(None, level, {**shown, "level": level})))

    return line


def _printable(value: object) -> object:
    """Makes text harmless line by line; only a traceback keeps its line ends."""
    if not isinstance(value, str) or value.isprintable():
        return value
    if value.startswith("Traceback "):
        return "\n".join(line.translate(_ESCAPES) for line in value.split("\n"))
    return value.translate(_ESCAPES)


def _bridge_standard_logging(level: Level) -> None:
    """Sends what libraries log through `logging` (asyncio, aiohttp) the same way."""
    import logging

    class Bridge(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            fields: dict[str, object] = {"message": record.getMessage()}
            if record.exc_info:
                fields["error"] = f"{record.exc_info[0].__name__ if record.exc_info[0] else ''}: {record.exc_info[1]}"
                fields["exception"] = logging.Formatter().formatException(record.exc_info)
            event(record.name, level=_level_of(record.levelno), **fields)

    bridge = Bridge()
    bridge.set_name(__name__)
    root = logging.getLogger()
    root.handlers = [*(each for each in root.handlers if each.get_name() != __name__), bridge]
    root.setLevel(level.upper())


def _level_of(number: int) -> Level:
    """The highest of our levels that a level number of `logging` (10, 20, 30, 40, 50) reaches."""
    return LEVELS[max(0, min(number // 10, len(LEVELS)) - 1)]
