"""Servers that run while they are measured: started on one core, watched through /proc, ended by their ids."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.harness.machine import said_by
from benchmarks.harness.processes import descendants, proportional_bytes

START_SECONDS_MAX: Final = 30.0
STOP_SECONDS_MAX: Final = 15.0
_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")
_TAIL_CHARACTERS: Final = 1_000


class ServerFailedError(Exception):
    """A server did not start or did not serve; the message ends with what it said."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What a cache may use.

    Args:
        memory_bytes, disk_bytes: for bodies; a server that has only one of the two tiers leaves the other.
        object_bytes_max: the largest body that has to be cached.
        objects_max: how many may have to be cached.
        workers: processes that serve.
    """

    memory_bytes: int
    disk_bytes: int
    object_bytes_max: int = 128 << 20
    objects_max: int = 200_000
    workers: int = 1


class CacheServer(ABC):
    """A caching proxy with a folder of its own.

    Args:
        folder: it may do in there what it likes.
        origin_port: the port of the origin at 127.0.0.1.
        budget: what it may use.
        core: which it runs on; any if None.
    """

    name: str
    program: str
    package: str

    def __init__(self, folder: Path, origin_port: int, budget: Budget, core: int | None) -> None:
        self.folder = folder
        self.origin_port = origin_port
        self.budget = budget
        self.port = free_port()
        self._core = core
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    @abstractmethod
    def version(cls) -> str:
        """What the program says it is."""

    @abstractmethod
    def configure(self) -> list[str]:
        """Writes the configuration into the folder; returns the command that serves until it is ended."""

    def start(self) -> None:
        """Starts it, and waits until it takes connections.

        Raises:
            ServerFailedError: it does not.
        """
        self.folder.mkdir(parents=True)
        command = pinned(self.configure(), self._core)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        end = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < end and self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.05)
        self.stop()
        raise ServerFailedError(f"{self.name} did not start: {self.said()}")

    def stop(self) -> None:
        """Ends it and its children."""
        if self._process is not None:
            ended(self._process)
            self._process = None

    def said(self) -> str:
        """The end of what it wrote."""
        return self._log.read_text(encoding="utf-8", errors="replace")[-_TAIL_CHARACTERS:].strip()

    def url(self, path: str) -> str:
        """Where it serves what the origin has at a path."""
        return f"http://127.0.0.1:{self.port}{path}"

    def urls(self, path: str) -> list[str]:
        """The same with each of the settings that suit some sizes and not others; the better one is measured."""
        return [self.url(path)]

    @property
    def pids(self) -> list[int]:
        """Its processes."""
        if self._process is None:
            return []
        return [self._process.pid, *descendants(self._process.pid)]

    def cpu_seconds(self) -> float:
        """Processor time that its processes have used so far."""
        return sum(map(cpu_seconds, self.pids))

    def memory_bytes(self) -> int:
        """The memory of all its processes, shared pages counted once."""
        return sum(map(proportional_bytes, self.pids))

    def stored_bytes(self) -> int:
        """The room that files in its folder take."""
        total = 0
        for folder, _, names in os.walk(self.folder):
            for name in names:
                with contextlib.suppress(OSError):
                    total += os.lstat(os.path.join(folder, name)).st_blocks * 512
        return total

    def described(self) -> dict[str, str]:
        """Its configuration, for the record."""
        return {}

    @property
    def _log(self) -> Path:
        return self.folder / "output.log"


def pinned(command: Sequence[str], core: int | None) -> list[str]:
    """The command, kept on one core; all its threads and children are."""
    return [*command] if core is None else ["taskset", "-c", str(core), *command]


def ended(process: subprocess.Popen[Any]) -> None:
    """Ends a process that leads a session, and what it started; asks first."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS_MAX)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def cpu_seconds(pid: int) -> float:
    """Processor time of a process and of those children it waited for; 0 if it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0.0
    fields = text.rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / _TICKS_PER_SECOND


def free_port() -> int:
    """A port at 127.0.0.1 that nobody listens on now."""
    with socket.socket() as found:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def debian_version(package: str) -> str:
    """The version of an installed Debian package, or nothing."""
    return said_by(["dpkg-query", "-W", "-f", "${Version}", package])
