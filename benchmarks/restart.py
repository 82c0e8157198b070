"""How soon does an edge serve after a restart, however much is cached, and does the order of eviction survive it?

A cache of many small objects is made as an edge would leave it; then `cdn edge run` is started over it, again and
again, and asked for one of the objects until it answers, its upstream being dead.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.harness.machine import ROOT, file_system, machine, revision
from benchmarks.harness.processes import processor_seconds, resident_bytes
from benchmarks.harness.report import Spread, table, tell
from cdn.hashing import Algorithm, digest_of
from edge.cache.cache_file import FileFacts
from edge.cache.disk_cache import DiskCache
from edge.cache.shards import SHARDS, file_name
from edge.http.caching import StoredHead
from edge.http.headers import Headers
from edge.watching.statistics import Statistics

REPOSITORY: Final = "bench.example.org"
HEAD: Final = StoredHead(200, Headers((("Content-Type", "application/octet-stream"), ("ETag", '"1"'))), 1.7e9, 1.7e9)
DEADLINE_SECONDS: Final = 120.0


@dataclass(frozen=True, slots=True)
class Start:
    """What it took from the start of an edge to its first hit.

    Args:
        seconds: that passed.
        processor_seconds: of all its processes.
        megabytes: that its first process holds then.
    """

    seconds: float
    processor_seconds: float
    megabytes: float


def stored_object(number: int) -> tuple[str, bytes]:
    """The path within the repository and the bytes of an object of 1 to 3 KB."""
    body = hashlib.sha256(b"%d" % number).digest() * (32 + number % 64)
    text = digest_of(Algorithm.SHA1, body).text
    return f"data/{text[:2]}/{text[2:]}", body


def fill(directory: Path, count: int) -> None:
    """Makes the files of a cache, each used at another time."""
    for shard in range(SHARDS):
        (directory / "v1" / f"{shard:02x}").mkdir(parents=True, exist_ok=True)
    (directory / "tmp").mkdir(exist_ok=True)
    began = time.time() - count
    for number in range(count):
        path, body = stored_object(number)
        key = f"object:{REPOSITORY}/{path}"
        name = file_name(key)
        data = body + FileFacts(key, HEAD, len(body)).to_bytes()
        descriptor = os.open(directory / "v1" / name[:2] / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.write(descriptor, data)
        os.utime(descriptor, ns=(0, int(began + number) * 1_000_000_000))
        os.close(descriptor)


def first_hit(directory: Path, number: int, workers: int) -> Start:
    """Starts an edge and asks it for an object until it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = Path(tempfile.gettempdir()) / f"edge-restart-{port}.toml"
    config.write_text(
        f'workers = {workers}\n[listen]\naddresses = ["127.0.0.1:{port}"]\n[admin]\nlisten = ""\n'
        f'[[upstreams]]\nname = "dead"\nurls = ["http://127.0.0.1:9/cvmfs/@fqrn@"]\n'
        f'[cache]\ndirectory = "{directory}"\ndisk_bytes = "16GiB"\nscrub_bytes_per_second = 0\n'
    )
    path, body = stored_object(number)
    began = time.perf_counter()
    command = [sys.executable, "-P", "-m", "cdn", "edge", "run", "--config", str(config)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while (answer := _asked(port, path)) is None:
            if process.poll() is not None or time.perf_counter() - began > DEADLINE_SECONDS:
                raise SystemExit("the edge did not start")
            time.sleep(0.005)
        seconds = time.perf_counter() - began
        if not answer.endswith(body) or b"; hit" not in answer:
            raise SystemExit("the first answer was no hit")
        return Start(seconds, processor_seconds(process.pid), resident_bytes(process.pid)[0] / 1e6)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        config.unlink()


def _asked(port: int, path: str) -> bytes | None:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_SECONDS) as connection:
            request = f"GET /cvmfs/{REPOSITORY}/{path} HTTP/1.1\r\nHost: e\r\nConnection: close\r\n\r\n"
            connection.sendall(request.encode())
            return b"".join(iter(lambda: connection.recv(65536), b""))
    except ConnectionRefusedError:
        return None


def drop_dentries() -> bool:
    """Lets the kernel forget names and inodes; whether it is ours to do."""
    try:
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("2\n")
    except OSError:
        return False
    return True


def counted(directory: Path) -> dict[str, Any]:
    """How long counting takes, and what order of eviction a new process finds."""
    cache = DiskCache(directory, bytes_max=16 << 30, memory_body_max=1 << 20, verify_seconds=1, statistics=Statistics())
    before = resident_bytes(os.getpid())[0]
    cache.open()
    began = time.perf_counter()
    cache.count()
    seconds = time.perf_counter() - began
    files = cache.room.listed(0)
    cache.close()
    order = [file.name for file in sorted(files, key=lambda file: file.place)]
    megabytes = (resident_bytes(os.getpid())[0] - before) / 1e6
    return {"seconds": seconds, "used_bytes": cache.used_bytes, "order": order, "megabytes": megabytes}


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--workdir", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--cache", type=Path, help="a folder to make the cache in and keep, or one made before")
    parser.add_argument("--cold", action="store_true", help="also after the kernel forgot all names and inodes (root)")
    parser.add_argument("--no-results", action="store_true")
    chosen = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="edge-restart-", dir=chosen.workdir))
    try:
        return _measure(chosen, folder)
    finally:
        shutil.rmtree(folder)


def _measure(chosen: argparse.Namespace, folder: Path) -> int:
    directory = chosen.cache or folder / "cache"
    if not (directory / "v1").exists():
        fill(directory, chosen.objects)
    picks = random.Random(1)
    figures: dict[str, list[Start]] = {"warm": [], "cold": [], "one object": []}
    fill(folder / "single", 1)
    for _ in range(chosen.rounds):
        figures["one object"].append(first_hit(folder / "single", 0, chosen.workers))
        for state in ("warm", "cold"):
            if state == "cold" and not (chosen.cold and drop_dentries()):
                continue
            figures[state].append(first_hit(directory, picks.randrange(chosen.objects), chosen.workers))
    count = counted(directory)
    keeps_order = count.pop("order") == counted(directory)["order"]
    document = {
        "machine": machine() | {"file_system": file_system(directory), "load_before": os.getloadavg()[0]},
        "revision": revision(),
        "objects": chosen.objects,
        "workers": chosen.workers,
        "first_hit": {state: [asdict(start) for start in measured] for state, measured in figures.items()},
        "count": count,
        "keeps_order": keeps_order,
    }
    tell("restart", document, _text(document, figures), None if chosen.no_results else ROOT / "benchmarks" / "results")
    return 0


def _text(document: dict[str, Any], figures: dict[str, list[Start]]) -> str:
    rows = [
        [
            state if state == "one object" else f"names and inodes {state}",
            Spread.of(start.seconds for start in measured).text(),
            Spread.of(start.processor_seconds for start in measured).text(),
            Spread.of(start.megabytes for start in measured).text(),
        ]
        for state, measured in figures.items()
        if measured
    ]
    lines = [f"- {name.replace('_', ' ')}: {value}" for name, value in document["machine"].items()]
    count = document["count"]
    return "\n".join(
        [
            f"# Restart of an edge over {document['objects']:,} cached objects",
            "",
            f"Revision {document['revision']}, workers: {document['workers']}.",
            "",
            *lines,
            "",
            table(["", "start to first hit, s", "of processors, s", "resident, MB"], rows),
            "",
            f"Counting all files took {count['seconds']:.1f} s and {count['megabytes']:.0f} MB more at its end.",
            f"They occupy {count['used_bytes'] / 1e9:.2f} GB.",
            f"The order of eviction was {'the same' if document['keeps_order'] else 'ANOTHER'} after a restart.",
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
