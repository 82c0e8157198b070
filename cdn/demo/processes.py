"""The programs that the demonstration starts: each with a log of its own, each ended by its process number."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cdn.demo.report import DemoFailedError

READY_SECONDS: Final = 30.0
STOP_SECONDS: Final = 3.0
_POLL_SECONDS: Final = 0.02
_LOG_TAIL_BYTES: Final = 4000
_TAKEN: Final = ("address already in use", "cannot listen on")
_LIFELINE: Final = str(Path(__file__).with_name("child.py"))
_OURS: Final = str(Path(__file__).resolve().parents[2])


class PortTakenError(DemoFailedError):
    """A server found its port taken: somebody was faster."""


@dataclass(frozen=True, slots=True)
class Program:
    """What to start.

    Args:
        name: what it is called in messages; also its log file's name.
        arguments: what follows ``cdn``, or a whole command if `is_cdn` is false.
        is_ready: tells whether it answers; asked again and again.
        is_cdn: whether it is a ``cdn`` command.
    """

    name: str
    arguments: Sequence[str]
    is_ready: Callable[[], Awaitable[bool]]
    is_cdn: bool = True


class Processes:
    """Starts programs and ends them all.

    Args:
        logs: folder of the logs.
        outlives: whether the programs go on when this process is gone.
    """

    def __init__(self, logs: Path, *, outlives: bool = False) -> None:
        self.logs = logs
        self._outlives = outlives
        self._running: dict[str, asyncio.subprocess.Process] = {}

    @property
    def pids(self) -> dict[str, int]:
        """The process number of each program that runs."""
        return {name: process.pid for name, process in self._running.items() if process.returncode is None}

    async def start(self, program: Program) -> None:
        """Starts a server and waits until it answers.

        Raises:
            PortTakenError: its port is taken.
            DemoFailedError: it ended or did not answer in time.
        """
        command = cdn_command(program.arguments) if program.is_cdn else list(program.arguments)
        with (self.logs / f"{program.name}.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *self._tied(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(),
                start_new_session=True,  # what is typed at the terminal is for the demonstration alone
            )
        self._running[program.name] = process
        await self._until_ready(program, process)

    async def start_together(self, programs: Sequence[Program]) -> None:
        """Starts several servers at the same time; if one fails, all of them are ended.

        Raises:
            PortTakenError, DemoFailedError: as `start`.
        """
        results = await asyncio.gather(*(self.start(program) for program in programs), return_exceptions=True)
        failures = [result for result in results if isinstance(result, BaseException)]
        if failures:
            await self.stop(*(program.name for program in programs))
            raise next((each for each in failures if not isinstance(each, PortTakenError)), failures[0])

    async def converse(self, name: str, module: str, *arguments: str) -> asyncio.subprocess.Process:
        """Starts a module of ours that is talked to through its standard input and output."""
        with (self.logs / f"{name}.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *self._tied([sys.executable, "-m", module, *arguments]),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment(),
                start_new_session=True,
                limit=1 << 24,
            )
        self._running[name] = process
        return process

    async def run(self, name: str, *arguments: str, seconds: float) -> str:
        """Runs a ``cdn`` command to its end and returns what it printed.

        Raises:
            DemoFailedError: it failed or took too long; what it said is in the message.
        """
        with (self.logs / f"{name}.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *self._tied(cdn_command(arguments)),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment(),
                start_new_session=True,
            )
        self._running[name] = process
        try:
            async with asyncio.timeout(seconds):
                output, _ = await process.communicate()
        except TimeoutError:
            raise DemoFailedError(f"`cdn {' '.join(arguments)}` took longer than {seconds:g} s") from None
        finally:
            await self.stop(name)
        if process.returncode:
            raise DemoFailedError(f"`cdn {' '.join(arguments)}` failed: {self.last_words(name)}")
        return output.decode("utf-8", "replace")

    def kill(self, name: str) -> None:
        """Kills a program at once, as a machine that loses power would."""
        process = self._running.pop(name)
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)

    async def stop(self, *names: str) -> None:
        """Ends programs: asks first, then insists."""
        ending = [process for name in names if (process := self._running.pop(name, None)) is not None]
        for process in ending:
            _signal(process, signal.SIGTERM)
        if not ending:
            return
        waiting = [asyncio.ensure_future(process.wait()) for process in ending]
        await asyncio.wait(waiting, timeout=STOP_SECONDS)
        for process in ending:
            _signal(process, signal.SIGKILL)
        await asyncio.wait(waiting)

    async def stop_all(self) -> None:
        """Ends every program that runs."""
        await self.stop(*self._running)

    def last_words(self, name: str) -> str:
        """The last line of a program's log."""
        lines = self._log_tail(name).strip().splitlines()
        return lines[-1].strip() if lines else "it said nothing"

    async def _until_ready(self, program: Program, process: asyncio.subprocess.Process) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + READY_SECONDS
        while not await program.is_ready():
            if process.returncode is not None:
                said = self.last_words(program.name)
                is_taken = any(sign in self._log_tail(program.name).lower() for sign in _TAKEN)
                raise (PortTakenError if is_taken else DemoFailedError)(f"{program.name} did not start: {said}")
            if loop.time() > deadline:
                raise DemoFailedError(f"{program.name} did not answer within {READY_SECONDS:g} s")
            await asyncio.sleep(_POLL_SECONDS)

    def _log_tail(self, name: str) -> str:
        with (self.logs / f"{name}.log").open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _LOG_TAIL_BYTES))
            return log.read().decode("utf-8", "replace")

    def _tied(self, command: list[str]) -> list[str]:
        if self._outlives:
            return command
        return [sys.executable, "-S", "-E", _LIFELINE, str(os.getpid()), *command]


def cdn_command(arguments: Sequence[str]) -> list[str]:
    """A ``cdn`` command of this very installation."""
    return [sys.executable, "-m", "cdn", *arguments]


def environment() -> Mapping[str, str]:
    """The environment of every program: ours, without what a user may have set for `cdn`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CDN_")}
    paths = [_OURS, *filter(None, [kept.get("PYTHONPATH")])]
    return {**kept, "PYTHONPATH": os.pathsep.join(paths), "NO_COLOR": "1"}


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.send_signal(number)


def end_processes(pids: Iterable[int], mark: str) -> int:
    """Ends processes of an earlier demonstration by their numbers, if they are still what they were.

    Args:
        pids: their numbers.
        mark: a text that the command line of each has; numbers are used again, and others' processes are not ours.

    Returns:
        how many there were.
    """
    ours = [pid for pid in pids if mark in _command_line(pid)]
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in ours:
            if mark in _command_line(pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
        deadline = time.monotonic() + STOP_SECONDS
        while time.monotonic() < deadline and any(mark in _command_line(pid) for pid in ours):
            time.sleep(_POLL_SECONDS)
    return len(ours)


def _command_line(pid: int) -> str:
    """The command line of a process, empty if there is none."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:
        if Path("/proc/self").exists():
            return ""
    shown = subprocess.run(["ps", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return shown.stdout
