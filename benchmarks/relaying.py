"""What does a request cost that another worker of the edge has to answer?

An edge of two workers is asked, over connections that one of them accepted, for what that one owns and for what the
other one owns, in turn. What counts is processor time of both workers, for each request.
"""

from __future__ import annotations

import argparse
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.harness.machine import ROOT, machine, revision
from benchmarks.harness.processes import descendants, processor_seconds
from benchmarks.harness.report import Spread, table, tell
from benchmarks.harness.servers import ended, free_port
from benchmarks.harness.stumbling import Pair, objects, pages, pair_of
from edge.cache.shards import Share

WORKERS: Final = 2
CONNECTIONS: Final = 8
START_SECONDS: Final = 60.0
_READY: Final = "answering on"


class Asker:
    """Some connections, all of them accepted by one worker.

    Args:
        port: of the edge.
    """

    def __init__(self, port: int, pid: int) -> None:
        self.connections: list[socket.socket] = []
        deadline = time.monotonic() + START_SECONDS
        while len(self.connections) < CONNECTIONS and time.monotonic() < deadline:
            connection = socket.create_connection(("127.0.0.1", port))
            connection.sendall(b"GET /nothing HTTP/1.1\r\nHost: edge\r\n\r\n")  # now it is accepted
            connection.recv(65536)
            if _is_held(connection, port, pid):
                self.connections.append(connection)
            else:
                connection.close()
        if len(self.connections) < CONNECTIONS:
            raise SystemExit("the worker accepts nothing")

    def ask(self, held: dict[str, bytes], paths: Sequence[str]) -> None:
        """Asks for all of these, one on each connection at a time."""
        waiting = list(reversed(paths))
        under_way: dict[socket.socket, tuple[bytes, bytes]] = {}
        for connection in self.connections:
            _send(connection, waiting, held, under_way)
        while under_way:
            for connection in select.select(list(under_way), [], [], START_SECONDS)[0]:
                body, so_far = under_way[connection]
                so_far += connection.recv(65536)
                under_way[connection] = body, so_far
                head, _, rest = so_far.partition(b"\r\n\r\n")
                if len(rest) >= len(body):
                    if rest != body or not head.startswith(b"HTTP/1.1 200 "):
                        raise SystemExit(f"a wrong answer: {head[:200]!r}")
                    del under_way[connection]
                    _send(connection, waiting, held, under_way)

    def close(self) -> None:
        """Hangs up."""
        for connection in self.connections:
            connection.close()


def _send(
    connection: socket.socket,
    waiting: list[str],
    held: dict[str, bytes],
    under_way: dict[socket.socket, tuple[bytes, bytes]],
) -> None:
    if waiting:
        path = waiting.pop()
        under_way[connection] = held[path], b""
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: edge\r\n\r\n".encode())


def _is_held(connection: socket.socket, port: int, pid: int) -> bool:
    """Whether a process has the other end of a connection to this machine."""
    wanted = f":{port:04X} ", f":{connection.getsockname()[1]:04X} "
    for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines():
        if all(each in line for each in wanted) and line.index(wanted[0]) < line.index(wanted[1]):
            return f"socket:[{line.split()[9]}]" in map(_target, Path(f"/proc/{pid}/fd").iterdir())
    return False


def _target(link: Path) -> str:
    try:
        return os.readlink(link)
    except OSError:  # closed meanwhile
        return ""


def _config(folder: Path, pair: Pair, port: int) -> Path:
    origin = f"http://127.0.0.1:{pair.ports[0]}"
    config = folder / "edge.toml"
    config.write_text(
        f'workers = {WORKERS}\n[listen]\naddresses = ["127.0.0.1:{port}"]\n[admin]\nlisten = ""\n'
        f'[[upstreams]]\nname = "objects"\nurls = ["{origin}/cvmfs/@fqrn@"]\n'
        f'[[upstreams]]\nname = "pages"\npath = "/page/"\nurls = ["{origin}/page/"]\n'
        f'[cache]\ndirectory = "{folder / "cache"}"\ndisk_bytes = "1GiB"\nscrub_bytes_per_second = 0\n'
    )
    return config


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2000, help="of each kind in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workdir", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--no-results", action="store_true")
    chosen = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="edge-relaying-", dir=chosen.workdir))
    load = os.getloadavg()[0]
    try:
        with pair_of(2 * chosen.requests * chosen.rounds + 1000, 0.0, (0.0, 0.0)) as pair:
            figures = _run(chosen, folder, pair)
    finally:
        shutil.rmtree(folder)
    document: dict[str, Any] = {
        "machine": machine() | {"load_before": round(load, 1), "load_after": round(os.getloadavg()[0], 1)},
        "revision": revision(),
        "options": {"requests": chosen.requests, "rounds": chosen.rounds},
        "microseconds": figures,
    }
    tell("relaying", document, _text(document), None if chosen.no_results else ROOT / "benchmarks" / "results")
    return 0


def _run(chosen: argparse.Namespace, folder: Path, pair: Pair) -> dict[str, dict[str, list[float]]]:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "cdn", "edge", "run", "--config", str(_config(folder, pair, port))],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    try:
        if not any(_READY in line for line in iter(process.stderr.readline, "")):
            raise SystemExit("the edge did not start")
        workers = [pid for pid in descendants(process.pid) if "edge.workers.worker" in _command(pid)]
        return _measured(chosen, process.pid, workers, port)
    finally:
        process.send_signal(signal.SIGTERM)
        ended(process)
        process.stderr.close()


def _command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace")


def _measured(chosen: argparse.Namespace, pid: int, workers: list[int], port: int) -> dict[str, dict[str, list[float]]]:
    """Microseconds of processor time for each request, by what is asked for and by who owns that."""
    count = 2 * chosen.requests * chosen.rounds + 1000
    share = Share(0, WORKERS)
    held = objects(count) | pages(count)
    misses: list[list[str]] = [[], []]
    hits: list[list[str]] = [[], []]
    for path in objects(count):
        misses[share.owner_of(f"object:{path.removeprefix('/cvmfs/')}")].append(path)
    for path in pages(200):
        hits[share.owner_of(f"site:{path}")].append(path)
    asker = Asker(port, min(workers))
    asker.ask(held, [*hits[0], *hits[1], *misses[0][:100], *misses[1][:100]])  # what is asked first costs more
    del misses[0][:100], misses[1][:100]
    figures: dict[str, dict[str, list[float]]] = {"page, cached": {}, "object, cached": {}, "object, not cached": {}}
    for number in range(chosen.rounds):
        for owner in (0, 1) if number % 2 else (1, 0):
            fresh = [misses[owner].pop() for _ in range(chosen.requests)]
            pages_of = (hits[owner] * (chosen.requests // len(hits[owner]) + 1))[: chosen.requests]
            for name, paths in (("page, cached", pages_of), ("object, not cached", fresh), ("object, cached", fresh)):
                before = processor_seconds(pid)
                asker.ask(held, paths)
                used = processor_seconds(pid) - before
                figures[name].setdefault("own" if owner == 0 else "the other's", []).append(1e6 * used / len(paths))
    asker.close()
    return figures


def _text(document: dict[str, Any]) -> str:
    options = document["options"]
    lines = [
        "# Relaying: what a request costs that another worker answers",
        "",
        f"Revision {document['revision']}.",
        "",
    ]
    lines += [f"- {name.replace('_', ' ')}: {value}" for name, value in document["machine"].items()]
    rows = []
    for name, (one, other) in ((name, sorted(each.items())) for name, each in document["microseconds"].items()):
        own, others = one[1], other[1]
        more = Spread.of(theirs - ours for ours, theirs in zip(own, others, strict=True))
        rows.append([name, Spread.of(own).text(), Spread.of(others).text(), more.text()])
    setting = (
        f"Bodies of 1 to 3 KB, {CONNECTIONS} connections to one of {WORKERS} workers, {options['requests']:,} requests "
        f"of each kind in each of {options['rounds']} rounds. Microseconds of processor time of all processes of the "
        "edge for each request; an object that the other worker owns is cached in both after it was asked for."
    )
    header = ["", "own, us", "the other worker's, us", "difference, us"]
    return "\n".join([*lines, "", setting, "", table(header, rows), ""])


if __name__ == "__main__":
    sys.exit(main())
