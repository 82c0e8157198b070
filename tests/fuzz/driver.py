"""One small driver for every fuzz target: mutate seeds, run the parser, insist on its one documented error.

A target module calls `main(name, seeds, check)` and is run as ``python -m tests.fuzz.fuzz_manifest SECONDS [--seed
N]``, or with ``--input FILE`` to run one saved input again. The invariant: `check` returns, or raises one of the
documented errors, within the time and memory allowed. Anything else, a crash of the interpreter included, ends with
status 1 and the input in a file.

The inputs run in a child process that writes each one to shared memory first, so that even an input which kills it is
kept. An input whose outcome was not seen before joins the seeds: no coverage is measured, but error messages tell paths
apart well enough.
"""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import mmap
import os
import random
import re
import resource
import signal
import struct
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from cdn.errors import DocumentError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

INPUT_BYTES_MAX: Final = 1 << 20
INPUT_SECONDS_MAX: Final = 5.0
"""Far more than any input needs, so that a busy machine is no violation; the alarm finds hangs, not slowness."""
MEMORY_BYTES_MAX: Final = 512 << 20
_CORPUS_MAX: Final = 400
_LOOK_SECONDS: Final = 0.05
_HEAD: Final = struct.Struct("<QI")
"""Which input this is, and its length."""
_FOUND: Final = Path(".fuzz")
_VARYING: Final = re.compile(r"""[0-9]+|'.*'|".*\"""")


class _TooSlowError(BaseException):
    """Not an `Exception`, so that no parser swallows it."""


def main(
    name: str,
    seeds: Callable[[], Sequence[bytes]],
    check: Callable[[bytes], object],
    *,
    allowed: tuple[type[Exception], ...] = (DocumentError,),
    tokens: Sequence[bytes] = (),
) -> NoReturn:
    """Runs a target for the seconds given on the command line and leaves with status 0 or 1.

    Args:
        name: what the target is called in messages and file names.
        seeds: makes the well-formed inputs to begin with.
        check: the parser, and assertions about what it returns.
        allowed: the documented errors.
        tokens: bytes that mean something in this format; mutations insert them.
    """
    parser = argparse.ArgumentParser(prog=name, description=f"Fuzz {name}.")
    parser.add_argument(
        "seconds",
        type=float,
        nargs="?",
        default=10.0,
        help="how long to run (default: 10)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=None,
        help="of the random numbers (default: from the clock)",
    )
    parser.add_argument(
        "--input",
        type=Path,
        default=None,
        help="run this one saved input and say what happens",
    )
    options = parser.parse_args()
    if options.input:
        _replay(options.input.read_bytes(), check, allowed)
    seed = options.seed if options.seed is not None else time.time_ns() & 0xFFFFFFFF
    current = mmap.mmap(-1, _HEAD.size + INPUT_BYTES_MAX)
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        _run_child(name, seeds, check, allowed, tokens, options.seconds, seed, current)
    code = _watch(child, current)
    if code == 0:
        sys.exit(0)
    _report(name, current, code, seed)


def _watch(child: int, current: mmap.mmap) -> int:
    """Waits for the child; kills it when C code that never looks at signals holds it at one input."""
    last, patience = -1, 0.0
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        count, _ = _HEAD.unpack(current[: _HEAD.size])
        patience = patience + _LOOK_SECONDS if count == last else 0.0
        last = count
        if patience > 2 * INPUT_SECONDS_MAX:
            os.kill(child, signal.SIGABRT)
        time.sleep(_LOOK_SECONDS)


def _run_child(
    name: str,
    seeds: Callable[[], Sequence[bytes]],
    check: Callable[[bytes], object],
    allowed: tuple[type[Exception], ...],
    tokens: Sequence[bytes],
    seconds: float,
    seed: int,
    current: mmap.mmap,
) -> NoReturn:
    code = 1
    try:
        corpus = [data[:INPUT_BYTES_MAX] for data in seeds()]
        mutate = Mutator(random.Random(seed), tokens)
        _limit_memory()
        faulthandler.enable()
        signal.signal(signal.SIGALRM, _too_slow)
        count, outcomes = 0, set[str]()
        stop = time.monotonic() + seconds
        while time.monotonic() < stop:
            data = corpus[count] if count < len(corpus) else mutate(corpus)
            current[: _HEAD.size + len(data)] = _HEAD.pack(count, len(data)) + data
            outcome = _outcome(data, check, allowed)
            count += 1
            if outcome not in outcomes and len(corpus) < _CORPUS_MAX:
                corpus.append(data)
            outcomes.add(outcome)
        summary = f"{count} executions in {seconds:g} s (seed {seed}), {len(outcomes)} kinds of outcome, no violation"
        print(f"{name}: {summary}", flush=True)
        code = 0
    except BaseException:  # noqa: BLE001  # the outermost edge of this process
        traceback.print_exc()
    os._exit(code)


def _outcome(data: bytes, check: Callable[[bytes], object], allowed: tuple[type[Exception], ...]) -> str:
    """Runs one input; what happened, in a form that is equal for equal paths through the parser."""
    signal.setitimer(signal.ITIMER_REAL, INPUT_SECONDS_MAX)
    try:
        check(data)
    except allowed as error:
        return f"{type(error).__name__} {_VARYING.sub('', str(error))[:200]}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return "accepted"


def _too_slow(_number: int, _frame: FrameType | None) -> None:
    raise _TooSlowError(f"one input took more than {INPUT_SECONDS_MAX} s")


def _limit_memory() -> None:
    pages = (
        int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) if Path("/proc/self/statm").exists() else 0
    )
    limit = pages * resource.getpagesize() + MEMORY_BYTES_MAX
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _report(name: str, current: mmap.mmap, code: int, seed: int) -> NoReturn:
    _, size = _HEAD.unpack(current[: _HEAD.size])
    data = current[_HEAD.size : _HEAD.size + size]
    _FOUND.mkdir(exist_ok=True)
    found = _FOUND / f"{name}-{hashlib.sha256(data).hexdigest()[:16]}"
    found.write_bytes(data)
    how = f"was killed by signal {-code}" if code < 0 else "broke the invariant"
    print(
        f"{name}: an input {how} (seed {seed}); run it again with: python -m tests.fuzz.{name} --input {found}",
        flush=True,
    )
    sys.exit(1)


def _replay(data: bytes, check: Callable[[bytes], object], allowed: tuple[type[Exception], ...]) -> NoReturn:
    signal.signal(signal.SIGALRM, _too_slow)
    print(_outcome(data, check, allowed))
    sys.exit(0)


class Mutator:
    """Makes new inputs out of old ones.

    Args:
        random_numbers: where every choice comes from, so that a seed repeats a run.
        tokens: bytes that mean something in the format.
    """

    def __init__(self, random_numbers: random.Random, tokens: Sequence[bytes] = ()) -> None:
        self._random = random_numbers
        self._tokens = [
            *tokens,
            b"\n",
            b"\0",
            b"--\n",
            b"0" * 40,
            b"9" * 400,
            b"-1",
            b"\xff\xfe",
            b"\r\n",
        ]
        self._steps = (
            self._flip_bit,
            self._set_byte,
            self._set_number,
            self._insert_token,
            self._delete_slice,
            self._repeat_slice,
            self._move_slice,
            self._truncate,
            self._lengthen_digits,
        )

    def __call__(self, corpus: Sequence[bytes]) -> bytes:
        data = bytearray(self._random.choice(corpus))
        if self._random.random() < 0.1:
            data = self._splice(data, self._random.choice(corpus))
        for _ in range(self._random.choice((1, 1, 1, 2, 3, 5, 8))):
            self._random.choice(self._steps)(data)
        return bytes(data[:INPUT_BYTES_MAX])

    def _position(self, data: bytearray) -> int:
        return self._random.randrange(len(data) + 1)

    def _slice(self, data: bytearray) -> slice:
        start = self._position(data)
        return slice(start, start + self._random.choice((1, 2, 4, 8, 40, 100, 1000)))

    def _splice(self, data: bytearray, other: bytes) -> bytearray:
        return data[: self._position(data)] + other[self._random.randrange(len(other) + 1) :]

    def _flip_bit(self, data: bytearray) -> None:
        if data:
            data[self._random.randrange(len(data))] ^= 1 << self._random.randrange(8)

    def _set_byte(self, data: bytearray) -> None:
        if data:
            data[self._random.randrange(len(data))] = self._random.choice((0, 1, 10, 32, 45, 48, 57, 127, 128, 255))

    def _set_number(self, data: bytearray) -> None:
        """What a length field dislikes: zero, one, the largest, and those next to powers of two."""
        size = self._random.choice((1, 2, 4, 8))
        number = self._random.choice(
            (
                0,
                1,
                (1 << (8 * size)) - 1,
                1 << (8 * size - 1),
                (1 << (8 * size - 1)) - 1,
            )
        )
        start = self._position(data)
        data[start : start + size] = number.to_bytes(size, self._random.choice(("big", "little")))

    def _insert_token(self, data: bytearray) -> None:
        start = self._position(data)
        data[start:start] = self._random.choice(self._tokens)

    def _delete_slice(self, data: bytearray) -> None:
        del data[self._slice(data)]

    def _repeat_slice(self, data: bytearray) -> None:
        piece = data[self._slice(data)]
        start = self._position(data)
        data[start:start] = piece * self._random.choice((1, 1, 2, 50))

    def _move_slice(self, data: bytearray) -> None:
        cut = self._slice(data)
        piece = data[cut]
        del data[cut]
        start = self._position(data)
        data[start:start] = piece

    def _truncate(self, data: bytearray) -> None:
        del data[self._position(data) :]

    def _lengthen_digits(self, data: bytearray) -> None:
        """A number with more digits than anybody should convert."""
        found = list(re.finditer(rb"[0-9]+", bytes(data[:10_000])))
        if found:
            digits = self._random.choice(found)
            data[digits.start() : digits.end()] = b"9" * self._random.choice((10, 19, 20, 21, 400, 5000))
