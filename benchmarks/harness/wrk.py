"""Runs `wrk` against a server and reads what it measured."""

from __future__ import annotations

import array
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.harness.objects import CachedObject
from benchmarks.harness.servers import cpu_seconds, debian_version, ended, pinned

SCRIPT: Final = Path(__file__).with_name("load.lua")
WALK_SECONDS_MAX: Final = 300
_TIMEOUT_SECONDS: Final = 60
_GRACE_SECONDS: Final = 60
_MARK: Final = "measured "


class LoadFailedError(Exception):
    """`wrk` did not measure anything; the message ends with what it said."""


@dataclass(frozen=True, slots=True)
class Load:
    """What one run of `wrk` saw.

    Args:
        seconds: how long it ran.
        requests: answers that came whole.
        bytes_read: all that arrived, heads and unfinished answers included.
        p50_us, p99_us: microseconds from a request to the end of its answer, for half and for 99 % of the requests.
        errors: connections, reads, writes and answers that failed or came too late.
        client_cpu_seconds: processor time of `wrk` itself.
    """

    seconds: float
    requests: int
    bytes_read: int
    p50_us: float
    p99_us: float
    errors: int
    client_cpu_seconds: float


@dataclass(frozen=True, slots=True)
class Walk:
    """Objects in an order, as files that `wrk` reads.

    Args:
        paths: what is asked for, a line each.
        sequence: the order.
    """

    paths: Path
    sequence: Path

    @classmethod
    def written(cls, folder: Path, held: Iterable[CachedObject], order: Sequence[int]) -> Walk:
        """Writes the files."""
        walk = cls(folder / "paths", folder / "sequence")
        walk.paths.write_text("".join(f"{each.path}\n" for each in held), encoding="ascii")
        walk.sequence.write_bytes(array.array("I", order).tobytes())
        return walk


def is_here() -> bool:
    """Whether `wrk` is installed."""
    return shutil.which("wrk") is not None


def version() -> str:
    """Which one it is."""
    return f"wrk {debian_version('wrk')}".strip()


def repeat(url: str, connections: int, seconds: int, core: int | None) -> Load:
    """Asks for one URL for some seconds."""
    return _run(["-c", str(connections), "-d", str(seconds), "-s", str(SCRIPT), url], seconds, core)


def walk(url: str, steps: Walk, first: int, count: int, connections: int, core: int | None) -> Load:
    """Asks for `count` objects of a walk from the one at `first` on.

    Raises:
        LoadFailedError: as for any load, or because it did not come to the end in time.
    """
    chosen = [str(steps.paths), str(steps.sequence), str(first), str(count)]
    command = ["-c", str(connections), "-d", str(WALK_SECONDS_MAX), "-s", str(SCRIPT), url, "--", *chosen]
    seen = _run(command, WALK_SECONDS_MAX, core)
    if seen.seconds >= WALK_SECONDS_MAX:
        raise LoadFailedError(f"only {seen.requests} of {count} requests were answered in {WALK_SECONDS_MAX} s")
    return seen


def _run(arguments: list[str], seconds: int, core: int | None) -> Load:
    command = pinned(["wrk", "-t", "1", "--timeout", str(_TIMEOUT_SECONDS), *arguments], core)
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        said, used = _awaited(process, seconds + _GRACE_SECONDS)
    finally:
        ended(process)
    line = next((line for line in said.splitlines() if line.startswith(_MARK)), "")
    if not line:
        raise LoadFailedError(f"wrk measured nothing: {said.strip()[-500:]}")
    return Load(**json.loads(line.removeprefix(_MARK)), client_cpu_seconds=used)


def _awaited(process: subprocess.Popen[bytes], seconds: float) -> tuple[str, float]:
    """What a process says until it ends, and the processor time it took, read while it can still be seen."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(0.01)
    used = cpu_seconds(process.pid)
    process.kill()
    assert process.stdout is not None
    with process.stdout:
        return process.stdout.read().decode(errors="replace"), used
