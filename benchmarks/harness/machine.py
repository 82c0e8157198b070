"""What a figure was measured on: machine, file system, versions, and the revision of this source tree."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
_GIBIBYTE: Final = 1 << 30


def machine() -> dict[str, Any]:
    """The machine: processor, cores, memory, kernel, interpreter."""
    return {
        "name": re.sub(r"[^A-Za-z0-9-]+", "-", platform.node()) or "unnamed",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GIBIBYTE, 1),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "congestion_control": _said_in("/proc/sys/net/ipv4/tcp_congestion_control"),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }


def file_system(folder: Path) -> str:
    """The kind of file system that a folder is on, and the device."""
    wanted = os.stat(folder).st_dev
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        before, _, after = line.partition(" - ")
        major, _, minor = before.split()[2].partition(":")
        if os.makedev(int(major), int(minor)) == wanted:
            kind, device, *_ = after.split()
            return f"{kind} on {device}"
    return "unknown"


def revision() -> str:
    """The commit of this source tree, with a word where files differ from it; ``unknown`` outside a clone."""
    commit = said_by(["git", "-C", str(ROOT), "rev-parse", "HEAD"])
    if not commit:
        return "unknown"
    changed = said_by(["git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no"])
    return f"{commit[:12]} with uncommitted changes" if changed else commit[:12]


def said_by(command: Sequence[str], pattern: str = "") -> str:
    """The first line of what a command says, or its first line that matches; empty if there is none."""
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    lines = [line.strip() for line in (done.stdout or done.stderr).splitlines()]
    return next((line for line in lines if line and re.search(pattern, line)), "") if not done.returncode else ""


def _said_in(file: str) -> str:
    try:
        return Path(file).read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def kernel_socket_bytes() -> int:
    """What the kernel holds for TCP sockets, in their buffers."""
    for line in Path("/proc/net/sockstat").read_text(encoding="ascii").splitlines():
        if line.startswith("TCP:"):
            return int(line.split()[-1]) * os.sysconf("SC_PAGE_SIZE")
    return 0
