"""`cdn edge run` as a process of its own."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from contextlib import asynccontextmanager
from pathlib import Path

from tests.fakes import prepared


class Process:
    """A running `cdn edge run`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._lines: list[str] = []
        self._grew = threading.Condition()
        self._reading = threading.Thread(target=self._read)
        self._reading.start()
        self.address = ("127.0.0.1", int(self.wait_for(r"answering on 127\.0\.0\.1 port (\d+)")))
        self.admin = "http://127.0.0.1:" + self.wait_for(r"metrics on 127\.0\.0\.1 port (\d+)")

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr:
            for line in self.process.stderr:
                with self._grew:
                    self._lines.append(line)
                    self._grew.notify_all()

    def wait_for(self, pattern: str) -> str:
        """The first group of the first line that matches, as soon as there is one."""
        with self._grew:
            found = self._grew.wait_for(lambda: re.search(pattern, "".join(self._lines)), timeout=30)
        assert found, "".join(self._lines)
        return found[1] if found.groups() else found[0]

    def count(self, text: str) -> int:
        """How often something was said so far."""
        with self._grew:
            return "".join(self._lines).count(text)

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=30)

    def ask(self, path: str) -> str:
        with urllib.request.urlopen(self.admin + path, timeout=10) as reply:
            return reply.read().decode()


_AS_SYSTEMD = """
import os, sys
os.dup2({}, 3)
os.environ |= {{"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "http"}}
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


@asynccontextmanager
async def running(path: Path, handed: socket.socket | None = None, *, fault: str = "", is_fresh: bool = False):
    """An edge.

    Args:
        path: of its configuration.
        handed: a socket that is handed over as systemd does it, by the name ``http``.
        fault: where it dies.
        is_fresh: whether it starts in an interpreter that has imported nothing yet.
    """
    command = ["-m", "cdn", "edge", "run", "--config", str(path), "--log-format", "json"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"} | ({"CDN_FAULT": fault} if fault else {})
    if handed is None and not is_fresh:
        process = prepared.popen(*command, stderr=subprocess.PIPE, text=True, env=environment)
    else:
        starter = [] if handed is None else ["-c", _AS_SYSTEMD.format(handed.fileno())]
        process = subprocess.Popen(  # noqa: ASYNC220 -- it takes no time worth speaking of
            [sys.executable, *starter, *command],
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            pass_fds=() if handed is None else (handed.fileno(),),
        )
    try:
        yield await asyncio.to_thread(Process, process)
    finally:
        process.kill()
        await asyncio.to_thread(process.wait)


def write_config(directory: Path, url: str, more: str = "", *, workers: int = 1, disk: str = "64MiB") -> Path:
    path = directory / "edge.toml"
    path.write_text(
        f"""
workers = {workers}
[listen]
addresses = ["127.0.0.1:0"]
[admin]
listen = "127.0.0.1:0"
[[upstreams]]
name = "origin"
urls = ["{url}/cvmfs/@fqrn@"]
[cache]
directory = "cache"
disk_bytes = "{disk}"
[manifest]
prefetch = false
[log]
access = "{directory}/access.log"
{more}
"""
    )
    return path
