"""The folders of replicas: the lock of each, and the list of what a server has."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cdn.errors import LeaseHeldError
from cdn.keyfiles import write_file
from replica.plan import repositories_json

INFO_PATH: Final = "info/v1/repositories.json"
_LIST_BYTES_MAX: Final = 1 << 20


@contextmanager
def exclusive(folder: Path, fqrn: str) -> Iterator[None]:
    """Holds the lock of a replica: one run at a time.

    Raises:
        LeaseHeldError: somebody else holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
            raise LeaseHeldError(
                f"another run works on the replica of {fqrn} (process {holder or 'unknown'}): wait until it ends"
            ) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(fd)


def note_in_info(served: Path, state: Path, fqrn: str, *, present: bool) -> None:
    """Puts a replica into the list of what a server has, or takes it out (spec §1.2).

    Raises:
        OSError: the list cannot be written.
    """
    path = served / INFO_PATH
    with exclusive_wait(state / "info.lock"):
        before = path.read_bytes()[:_LIST_BYTES_MAX] if path.is_file() else b""
        after = repositories_json(before, fqrn, present=present)
        if after != before:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, after, 0o644, replace=True)


@contextmanager
def exclusive_wait(path: Path) -> Iterator[None]:
    """Holds a lock, waiting for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
