"""Programs of ours, each a process of its own, without the third of a second in which each would import what it needs.

One process for each process of tests imports everything once; whatever is started here is forked from it, with the
arguments, environment, folder and descriptors that a fresh interpreter would have. From then on it is a process as any
other: it is killed, it writes to its pipes, it ends with a status. What is the same for all of them is what only a
fresh interpreter shows: that imports succeed in the order in which a command asks for them, and options of Python
itself. Tests of that, and one test of each program, start it with `subprocess`.

Where the kernel has no descriptors of processes (`os.pidfd_open`), everything here is `subprocess`.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import json
import os
import pkgutil
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

IS_POSSIBLE = hasattr(os, "pidfd_open")
_ROOT = Path(__file__).resolve().parents[2]
_MESSAGE_BYTES_MAX = 1 << 20
_DESCRIPTORS_MAX = 250


class _Prepared(subprocess.Popen):  # type: ignore[type-arg]  # of bytes or of text
    """As `subprocess.Popen` of ``[sys.executable, *arguments]``, where arguments name a module or a program."""

    def _execute_child(self, args: Sequence[Any], executable: Any, preexec_fn: Any, close_fds: bool, pass_fds: Any,
                       cwd: Any, env: Any, startupinfo: Any, creationflags: Any, shell: bool,
                       p2cread: int, p2cwrite: int, c2pread: int, c2pwrite: int, errread: int, errwrite: int,
                       restore_signals: bool, gid: Any, gids: Any, uid: Any, umask: int, start_new_session: bool,
                       *others: Any) -> None:  # fmt: skip
        given = [0 if p2cread == -1 else p2cread, 1 if c2pwrite == -1 else c2pwrite, 2 if errwrite == -1 else errwrite]
        request = {
            "arguments": [os.fsdecode(each) for each in args],
            "environment": dict(os.environ if env is None else env),
            "folder": os.fspath(cwd or os.getcwd()),
            "passed": list(pass_fds),
            "is_new_session": start_new_session,
        }
        self._told, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with _asking():
                message = json.dumps(request).encode()
                socket.send_fds(_server(), [message], [theirs.fileno(), *given, *pass_fds])
        finally:
            theirs.close()
            self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)
        self.pid = int(self._told.recv(100))
        self._child_created = True

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        return self._heard(0)

    def _wait(self, timeout: float | None) -> int:
        if self._heard(timeout) is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        assert self.returncode is not None
        return self.returncode

    def _heard(self, timeout: float | None) -> int | None:
        if self.returncode is None:
            self._told.settimeout(timeout)
            with suppress(TimeoutError, BlockingIOError):
                self.returncode = int(self._told.recv(100) or b"-9")
                self._told.close()
        return self.returncode


def popen(*arguments: object, **options: Any) -> subprocess.Popen[Any]:
    """Starts Python with these arguments: ``-m``, a module and its words, or a file and its words.

    Args:
        arguments: what comes after ``python``.
        options: of `subprocess.Popen`, but those about users, signals and shells.
    """
    words = [os.fspath(each) if isinstance(each, os.PathLike) else str(each) for each in arguments]
    return (_Prepared if IS_POSSIBLE else subprocess.Popen)([sys.executable, *words], **options)


def run(*arguments: object, input: Any = None, timeout: float | None = None, **options: Any) -> Any:  # noqa: A002 -- as there
    """As `subprocess.run`, with output captured."""
    streams = {"stdin": subprocess.DEVNULL if input is None else subprocess.PIPE}
    with popen(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **streams, **options) as process:
        try:
            said, errors = process.communicate(input, timeout=timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, said, errors)


# ------------------------------------------------------------------------------------------------ the one that is ready


@functools.cache
def _asking() -> threading.Lock:
    """Held while the connection to the server is used: tests start programs in threads, too."""
    return threading.Lock()


@functools.cache
def _server() -> socket.socket:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.fakes.prepared", str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            cwd=_ROOT,
            env={**os.environ, "PYTHONPATH": str(_ROOT)},
            pass_fds=[theirs.fileno()],
        )
    atexit.register(_end, process, ours)
    return ours


def _end(process: subprocess.Popen[bytes], ours: socket.socket) -> None:
    ours.close()
    process.wait()


def _serve(asked: socket.socket) -> dict[str, Any] | None:
    """Forks until nobody can ask any more; returns, in each process that was forked, what it shall be."""
    running: dict[int, tuple[int, socket.socket]] = {}
    with selectors.DefaultSelector() as ready:
        ready.register(asked, selectors.EVENT_READ)
        while True:
            for key, _ in ready.select():
                if key.fd != asked.fileno():
                    _tell_end(ready, key.fd, *running.pop(key.fd))
                    continue
                message, descriptors, _, _ = socket.recv_fds(asked, _MESSAGE_BYTES_MAX, _DESCRIPTORS_MAX)
                if not message:
                    return None
                if (pid := os.fork()) == 0:
                    for descriptor, (_, told) in running.items():
                        os.close(descriptor)
                        told.close()
                    return {**json.loads(message), "descriptors": descriptors, "asked": asked}
                told = socket.socket(fileno=descriptors[0])
                for descriptor in descriptors[1:]:
                    os.close(descriptor)
                told.send(b"%d" % pid)
                end = os.pidfd_open(pid)
                running[end] = (pid, told)
                ready.register(end, selectors.EVENT_READ)


def _tell_end(ready: selectors.BaseSelector, descriptor: int, pid: int, told: socket.socket) -> None:
    ready.unregister(descriptor)
    os.close(descriptor)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with told, suppress(OSError):
        told.send(b"%d" % status)


def _become(what: dict[str, Any]) -> None:
    """Makes this process what a fresh interpreter would be when it begins with the program."""
    what["asked"].close()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _place(what["descriptors"], what["passed"])
    if what["is_new_session"]:
        os.setsid()
    os.chdir(what["folder"])
    os.environ.clear()
    os.environ.update(what["environment"])
    is_buffered = not os.environ.get("PYTHONUNBUFFERED")
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 -- until the end
    sys.stdout = open(1, "w", closefd=False, buffering=-1 if is_buffered else 1)  # noqa: SIM115 -- likewise
    sys.stderr = open(2, "w", closefd=False, buffering=1, errors="backslashreplace")  # noqa: SIM115 -- likewise
    sys.orig_argv[:] = what["arguments"]


def _place(descriptors: list[int], passed: list[int]) -> None:
    """Gives each descriptor the number that it had with whoever asked."""
    wanted = [0, 1, 2, *passed]
    above = max([*wanted, *descriptors]) + 1
    import fcntl

    held = [fcntl.fcntl(each, fcntl.F_DUPFD, above) for each in descriptors[1:]]
    for each in descriptors:
        os.close(each)
    for each, number in zip(held, wanted, strict=True):
        os.dup2(each, number)
        os.close(each)


def _run(arguments: list[str]) -> None:
    first, *rest = arguments
    if first == "-m":
        sys.path[0] = os.getcwd()
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = os.path.dirname(first)
        sys.argv = arguments
        runpy.run_path(first, run_name="__main__")


def _ended(arguments: list[str]) -> int:
    """Runs a program; gives its status, as Python itself would."""
    try:
        _run(arguments)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:  # noqa: BLE001 -- Python itself reports any
        traceback.print_exc()
        return 1
    return 0


def _import_everything() -> None:
    for top in ("cdn", "stratum0", "replica", "edge", "geodns"):
        for module in pkgutil.walk_packages(importlib.import_module(top).__path__, f"{top}."):
            if not module.name.endswith("__main__"):
                with suppress(ImportError):  # of what may be absent
                    importlib.import_module(module.name)


def main() -> None:
    _import_everything()
    gc.collect()
    gc.freeze()  # for good: whoever is forked need not look at it either, and shares the memory
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the end of the tests is its end
    what = _serve(socket.socket(fileno=int(sys.argv[1])))
    if what is None:
        return
    _become(what)
    status = _ended(what["arguments"][1:])
    threading._shutdown()  # type: ignore[attr-defined]  # what Python itself calls at its end
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)  # what is left is to forget a thousand modules one by one


if __name__ == "__main__":
    main()
