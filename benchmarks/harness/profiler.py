"""Where a running process spends its time, as the tools of this machine tell it."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

_TOP: Final = 40
_SECONDS_MAX: Final = 120


def profile(pid: int, seconds: int, work: Callable[[], object]) -> str:
    """The top of the profile of a process while `work` keeps it busy for some seconds; says so if no tool is here."""
    parts = []
    for tool, record in (("perf", _perf), ("py-spy", _py_spy)):
        if shutil.which(tool) is None:
            parts.append(f"{tool} is not installed")
        else:
            with tempfile.TemporaryDirectory(prefix="stratocast-profile-") as folder:
                parts.append(f"{tool}:\n{record(pid, seconds, work, Path(folder))}")
    return "\n\n".join(parts)


def _perf(pid: int, seconds: int, work: Callable[[], object], folder: Path) -> str:
    data = str(folder / "perf.data")
    command = ["perf", "record", "-q", "-F", "997", "-p", str(pid), "-o", data, "--", "sleep", str(seconds)]
    _beside(command, work)
    shown = subprocess.run(
        ["perf", "report", "-i", data, "--stdio", "--no-children", "--sort", "dso,symbol", "--percent-limit", "0.4"],
        check=False,
        capture_output=True,
        text=True,
        timeout=_SECONDS_MAX,
    )
    lines = [line.rstrip() for line in shown.stdout.splitlines() if line.strip() and not line.startswith("#")]
    return "\n".join(lines[:_TOP]) or shown.stderr.strip()[-500:]


def _py_spy(pid: int, seconds: int, work: Callable[[], object], folder: Path) -> str:
    raw = folder / "stacks"
    command = ["py-spy", "record", "-p", str(pid), "-d", str(seconds), "-f", "raw", "--native", "-o", str(raw)]
    _beside(command, work)
    return self_times(raw.read_text(encoding="utf-8")) if raw.exists() else "it recorded nothing"


def self_times(stacks: str) -> str:
    """The functions at the top of the stacks, by how often they were seen there."""
    counts: dict[str, int] = {}
    for line in stacks.splitlines():
        stack, _, count = line.rpartition(" ")
        leaf = stack.rpartition(";")[2]
        counts[leaf] = counts.get(leaf, 0) + int(count)
    total = sum(counts.values()) or 1
    ranked = sorted(counts.items(), key=lambda item: -item[1])[:_TOP]
    return "\n".join(f"{100 * count / total:6.2f}%  {leaf}" for leaf, count in ranked)


def _beside(command: list[str], work: Callable[[], object]) -> None:
    """Runs a command while `work` is done."""
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as it:
        try:
            work()
            it.wait(_SECONDS_MAX)
        finally:
            if it.poll() is None:
                it.kill()
