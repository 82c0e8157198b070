"""Runs commands and measures what they use: time, processor time and memory of all their processes together.

Processor time is what the kernel accounts to the command and every child it waited for. Memory is sampled: the sum of
the proportional set sizes of all processes of the command, so that a page shared by several counts once. Memory held
for less than a sample's interval can be missed, so the kernel's own record of the largest single process, which misses
nothing before the last sample, is given beside it. (`ru_maxrss` would not do: it begins with the size of whoever
started the command.)
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

SAMPLE_SECONDS: Final = 0.04
_TAIL_CHARACTERS: Final = 2_000


class CommandFailedError(Exception):
    """A measured command did not end well; the message ends with what it said."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a command used.

    Args:
        seconds: from its start to its end.
        user_seconds, system_seconds: processor time of all its processes.
        memory_peak_bytes: the most that all its processes held at one time.
        largest_process_bytes: the most that any one of them held at one time, by resident set size.
    """

    seconds: float = 0.0
    user_seconds: float = 0.0
    system_seconds: float = 0.0
    memory_peak_bytes: int = 0
    largest_process_bytes: int = 0

    @property
    def cpu_seconds(self) -> float:
        """Processor time, in the program and in the kernel for it."""
        return self.user_seconds + self.system_seconds

    def then(self, other: Usage) -> Usage:
        """What this command and one after it used together."""
        return Usage(
            self.seconds + other.seconds,
            self.user_seconds + other.user_seconds,
            self.system_seconds + other.system_seconds,
            max(self.memory_peak_bytes, other.memory_peak_bytes),
            max(self.largest_process_bytes, other.largest_process_bytes),
        )


def measured(
    command: Sequence[str | os.PathLike[str]],
    *,
    environment: Mapping[str, str],
    output: Path,
    accepted: Sequence[int] = (0,),
) -> Usage:
    """Runs a command to its end.

    Args:
        command: its arguments; no shell is involved.
        environment: all of its environment.
        output: the file that gets what it writes to standard output; standard error goes beside it, to ``.err``.
        accepted: exit codes that mean success.

    Raises:
        CommandFailedError: it ended with another exit code.
    """
    errors = output.with_name(output.name + ".err")
    with output.open("wb") as out, errors.open("wb") as err:
        began = time.perf_counter()
        process = subprocess.Popen(
            [os.fspath(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env=dict(environment),
            start_new_session=True,
        )
        try:
            with _MemorySampler(process.pid) as sampler:
                _, status, resources = os.wait4(process.pid, 0)
                seconds = time.perf_counter() - began
        except BaseException:
            _end(process)
            raise
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in accepted:
        raise CommandFailedError(
            f"{' '.join(os.fspath(part) for part in command)} ended with {process.returncode}: {_tail(errors)}"
        )
    return Usage(seconds, resources.ru_utime, resources.ru_stime, sampler.peak_bytes, sampler.largest_bytes)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a command and all it started, which is a session of its own."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        process.wait()


def _tail(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace")[-_TAIL_CHARACTERS:].strip()


class _MemorySampler:
    """Watches the memory of a process and its descendants from a thread; a context manager."""

    def __init__(self, pid: int) -> None:
        self.peak_bytes = 0
        self.largest_bytes = 0
        self._pid = pid
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory-sampler", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            pids = [self._pid, *descendants(self._pid)]
            sizes = [resident_bytes(pid) for pid in pids]
            self.largest_bytes = max(self.largest_bytes, *(most for _, most in sizes))
            # The proportional size takes the kernel a walk over all pages, and can only be a new record if this is one.
            if sum(now for now, _ in sizes) > self.peak_bytes:
                self.peak_bytes = max(self.peak_bytes, sum(map(proportional_bytes, pids)))
            if self._ended.wait(SAMPLE_SECONDS):
                return


def descendants(pid: int) -> list[int]:
    """The processes that a process started and those that they did, as far as they are there."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        parent = waiting.pop()
        with contextlib.suppress(OSError):
            for thread in os.listdir(f"/proc/{parent}/task"):
                children = Path(f"/proc/{parent}/task/{thread}/children")
                with contextlib.suppress(OSError):
                    waiting += (started := [int(child) for child in children.read_text().split()])
                    found += started
    return found


def resident_bytes(pid: int) -> tuple[int, int]:
    """The resident set size of a process now, and the most it has been since the process runs its program."""
    fields = _fields(f"/proc/{pid}/status")
    return fields.get("VmRSS", 0), fields.get("VmHWM", 0)


def processor_seconds(pid: int) -> float:
    """What a process and those that it started have used of the processors so far."""
    nanoseconds = 0
    for each in (pid, *descendants(pid)):
        with contextlib.suppress(OSError):
            for thread in os.listdir(f"/proc/{each}/task"):
                nanoseconds += int(Path(f"/proc/{each}/task/{thread}/schedstat").read_text().split()[0])
    return nanoseconds / 1e9


def proportional_bytes(pid: int) -> int:
    """The memory of a process, of shared pages its share."""
    return _fields(f"/proc/{pid}/smaps_rollup").get("Pss", 0)


def _fields(file: str) -> dict[str, int]:
    """The sizes in a file of /proc, in bytes; none if the process has ended."""
    try:
        lines = [line.split() for line in Path(file).read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError:
        return {}
    return {line[0].rstrip(":"): int(line[1]) * 1024 for line in lines if len(line) == 3 and line[2] == "kB"}
