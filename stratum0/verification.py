"""Verifying stored objects on all cores: is each there, and does it have the digest its name says?

The work is cut by folders of the store. Hashing small objects is mostly the interpreter's own work, which only
processes do in parallel, so each core gets one: ``python -m stratum0.verification ROOT LEVEL`` reads names of mark
files (`stratum0.marks`) line by line and answers each with a line of JSON. It ends when its input does.
"""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cdn.errors import StorageError
from cdn.hashing import Hasher
from cdn.objects import ObjectName
from stratum0.marks import RECORD_BYTES, name_of_record, records_in

IN_PROCESS_BYTES_MAX: Final = RECORD_BYTES * 2_000
"""Fewer objects than this are verified at once, since starting processes would take longer."""
_PIECE_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class DamagedObject:
    """An object that is not what it must be.

    Args:
        name: which one.
        is_missing: whether it is not there at all.
        reason: what is wrong, without a final stop.
    """

    name: ObjectName
    is_missing: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Verified:
    """What verifying the objects of one mark file came to."""

    number: int
    objects: int
    bytes: int
    damaged: tuple[DamagedObject, ...]


def verify_object(root: str, name: ObjectName, *, content: bool) -> tuple[int, DamagedObject | None]:
    """Looks at one object.

    Args:
        root: the store's folder.
        name: which object.
        content: whether to hash it; otherwise only its presence is looked at.

    Returns:
        Its size, and what is wrong with it if something is.
    """
    path = f"{root}/{name.path}"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return 0, DamagedObject(name, is_missing=True, reason="it is missing")
    except OSError as error:
        return 0, DamagedObject(name, is_missing=False, reason=f"it cannot be opened: {error.strerror}")
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return 0, DamagedObject(name, is_missing=False, reason="it is no file")
        size = status.st_size
        actual = _digest_text(descriptor, name) if content or size == 0 else name.digest.text
    except OSError as error:
        return 0, DamagedObject(name, is_missing=False, reason=f"it cannot be read: {error.strerror}")
    finally:
        os.close(descriptor)
    if actual != name.digest.text:
        return size, DamagedObject(name, is_missing=False, reason=f"its {size} bytes have the digest {actual}")
    return size, None


def verify_marks(root: str, file: Path, number: int, *, content: bool) -> Verified:
    """Looks at every object of a mark file."""
    objects = size = 0
    damaged = []
    for record in records_in(file):
        length, damage = verify_object(root, name_of_record(record), content=content)
        objects += 1
        size += length
        if damage is not None:
            damaged.append(damage)
    return Verified(number, objects, size, tuple(damaged))


def verify_all(
    root: str, files: Sequence[tuple[int, Path]], *, content: bool, workers: int | None = None
) -> Iterator[Verified]:
    """Looks at every object of many mark files, on all cores.

    Args:
        root: the store's folder.
        files: the files by number; those that are not there hold nothing.
        content: as for `verify_object`.
        workers: processes to use; None for as many as there are cores.

    Raises:
        StorageError: a worker died.
    """
    there = [(number, file) for number, file in files if file.exists()]
    if sum(file.stat().st_size for _, file in there) <= IN_PROCESS_BYTES_MAX:
        for number, file in there:
            yield verify_marks(root, file, number, content=content)
        return
    from stratum0.pipeline import cores

    processes = [_Worker(root, content=content) for _ in range(workers or cores())]
    try:
        with ThreadPoolExecutor(len(processes)) as threads:
            yield from _distributed(threads, processes, there)
    finally:
        for process in processes:
            process.close()


def _distributed(
    threads: ThreadPoolExecutor, processes: list[_Worker], files: list[tuple[int, Path]]
) -> Iterator[Verified]:
    """Gives each process one file at a time."""
    waiting = iter(files)
    running: dict[Future[Verified], _Worker] = {}

    def start(process: _Worker) -> None:
        following = next(waiting, None)
        if following is not None:
            running[threads.submit(process.verify, *following)] = process

    for process in processes:
        start(process)
    try:
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                process = running.pop(future)
                start(process)
                yield future.result()
    finally:
        for process in processes:
            process.close()  # what still waits for an answer hears that none comes


class _Worker:
    """One process."""

    def __init__(self, root: str, *, content: bool) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "stratum0.verification", root, "content" if content else "presence"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )

    def verify(self, number: int, file: Path) -> Verified:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(f"{number} {file}\n".encode("utf-8", "surrogateescape"))
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except (OSError, ValueError):
            answer = b""
        if not answer:
            raise StorageError("a worker process died while verifying objects: check that memory is not short")
        document = json.loads(answer)
        damaged = tuple(
            DamagedObject(ObjectName.parse(path), is_missing, reason)
            for path, is_missing, reason in document["damaged"]
        )
        return Verified(document["number"], document["objects"], document["bytes"], damaged)

    def close(self) -> None:
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except OSError:
                    continue
        self._process.wait()


def _digest_text(descriptor: int, name: ObjectName) -> str:
    hasher = Hasher(name.digest.algorithm)
    while piece := os.read(descriptor, _PIECE_BYTES):
        hasher.update(piece)
    return hasher.digest().text


def main() -> None:
    """Runs a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    root, level = sys.argv[1:3]
    for line in sys.stdin.buffer:
        number, _, file = line.rstrip(b"\n").partition(b" ")
        result = verify_marks(root, Path(os.fsdecode(file)), int(number), content=level == "content")
        damaged = [(each.name.path, each.is_missing, each.reason) for each in result.damaged]
        document = {"number": result.number, "objects": result.objects, "bytes": result.bytes, "damaged": damaged}
        sys.stdout.write(json.dumps(document) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
