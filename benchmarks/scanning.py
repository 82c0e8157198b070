"""Does one scan of cold files, larger than the whole cache, empty it of what is used often?

A real edge with a disk cache and hardly any memory: often-used objects are asked for, and again when the edge notes
uses anew; then come cold objects of three times the disk's room, each once, as `cp -r` asks for them; then those
often used again. Beside it, the same with objects that were asked for only once before the scan.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.harness.machine import ROOT, machine, revision
from benchmarks.harness.report import table, tell
from benchmarks.harness.servers import ended, free_port
from benchmarks.harness.stumbling import Pair, objects, pair_of
from edge.cache.disk_places import BLOCK_BYTES
from edge.cache.disk_room import TOUCH_SECONDS

TIMES: Final = 3
"""How large the scan is, by the room on disk."""
START_SECONDS: Final = 60.0


class Client:
    """One connection to an edge.

    Args:
        port: of the edge.
    """

    def __init__(self, port: int) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self._socket = socket.create_connection(("127.0.0.1", port))
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise SystemExit("the edge did not start") from None
                time.sleep(0.05)
        self._reader = self._socket.makefile("rb")

    def hits(self, held: dict[str, bytes], paths: Iterable[str]) -> float:
        """Asks for these one after another; which part of them the cache had."""
        hits = asked = 0
        for path in paths:
            self._socket.sendall(f"GET {path} HTTP/1.1\r\nHost: edge\r\n\r\n".encode())
            head = b"".join(iter(self._reader.readline, b"\r\n"))
            if self._reader.read(len(held[path])) != held[path]:
                raise SystemExit(f"a wrong answer: {head[:200]!r}")
            asked += 1
            hits += b"; hit" in head
        return hits / asked

    def close(self) -> None:
        """Hangs up."""
        self._reader.close()
        self._socket.close()


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=4096, help="that the disk has room for")
    parser.add_argument("--often", type=int, default=1000, help="objects that are used often")
    parser.add_argument("--pause", type=float, default=TOUCH_SECONDS + 1, metavar="SECONDS", help="until used again")
    parser.add_argument("--workdir", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--no-results", action="store_true")
    chosen = parser.parse_args(arguments)
    count = 2 * chosen.often + TIMES * chosen.files
    folder = Path(tempfile.mkdtemp(prefix="edge-scanning-", dir=chosen.workdir))
    try:
        with pair_of(count, 0.0, (0.0, 0.0)) as pair:
            found = _run(chosen, folder, pair, objects(count))
    finally:
        shutil.rmtree(folder)
    document: dict[str, Any] = {
        "machine": machine(),
        "revision": revision(),
        "options": {"files": chosen.files, "often": chosen.often, "pause": chosen.pause},
        "hits": found,
    }
    tell("scanning", document, _text(document), None if chosen.no_results else ROOT / "benchmarks" / "results")
    return 0


def _run(chosen: argparse.Namespace, folder: Path, pair: Pair, held: dict[str, bytes]) -> dict[str, dict[str, float]]:
    port = free_port()
    config = folder / "edge.toml"
    config.write_text(
        f'[listen]\naddresses = ["127.0.0.1:{port}"]\n[admin]\nlisten = ""\n'
        f'[[upstreams]]\nname = "objects"\nurls = ["http://127.0.0.1:{pair.ports[0]}/cvmfs/@fqrn@"]\n'
        f'[cache]\ndirectory = "{folder / "cache"}"\ndisk_bytes = {chosen.files * BLOCK_BYTES}\nmemory_bytes = 65536\n'
        "memory_object_bytes = 512\nscrub_bytes_per_second = 0\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "cdn", "edge", "run", "--config", str(config)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        client = Client(port)
        found = _measured(client, held, chosen)
        client.close()
        return found
    finally:
        process.send_signal(signal.SIGTERM)
        ended(process)


def _measured(client: Client, held: dict[str, bytes], chosen: argparse.Namespace) -> dict[str, dict[str, float]]:
    paths = list(held)
    often, once, cold = paths[: chosen.often], paths[chosen.often : 2 * chosen.often], paths[2 * chosen.often :]
    client.hits(held, often)
    for _ in range(2):
        time.sleep(chosen.pause)
        before = client.hits(held, often)
    client.hits(held, once)
    scan = client.hits(held, cold)
    return {
        "used three times": {"before": before, "after": client.hits(held, often)},
        "used once": {"before": 1.0, "after": client.hits(held, once)},
        "the scan itself": {"before": 0.0, "after": scan},
    }


def _text(document: dict[str, Any]) -> str:
    options = document["options"]
    lines = ["# A scan of cold files before a real disk cache", "", f"Revision {document['revision']}.", ""]
    lines += [f"- {name.replace('_', ' ')}: {value}" for name, value in document["machine"].items()]
    setting = (
        f"Room for {options['files']:,} files of one block, {options['often']:,} of them used three times, "
        f"{options['pause']:g} s apart, as many once; then {TIMES * options['files']:,} others, each once. "
        "An order of last use would keep none."
    )
    rows = [[name, f"{each['before']:.1%}", f"{each['after']:.1%}"] for name, each in document["hits"].items()]
    return "\n".join([*lines, "", setting, "", table(["", "hits before", "hits after the scan"], rows), ""])


if __name__ == "__main__":
    sys.exit(main())
