"""What is a second request worth, where the first one's server stumbles, and what does it cost?

An edge with nothing in its cache stands before two equal origins, some of whose answers come late. It is asked for
objects at a steady rate, once with `fetch.hedge_share` as it is by default and once with none, in turn; what counts is
how long clients wait, and how often the origins are asked.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.harness.machine import ROOT, machine, revision
from benchmarks.harness.report import Spread, table, tell
from benchmarks.harness.servers import cpu_seconds, ended, free_port
from benchmarks.harness.stumbling import Pair, objects, pair_of

PERCENTILES: Final = (50.0, 95.0, 99.0, 99.9)
STUMBLE: Final = {"one of two stumbles": (False, True), "both stumble": (True, True)}
HEDGE_SHARES: Final = {"hedging": 0.05, "none": 0.0}
WARM_UP: Final = 500
"""So many requests come first and do not count: the edge has to see what is usual."""
CONNECTIONS: Final = 64
START_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Run:
    """What one edge did.

    Args:
        milliseconds: that clients waited, by percentile.
        asked: requests to the origins for each of the clients'.
        processor_milliseconds: of the edge for each request.
    """

    milliseconds: dict[str, float]
    asked: float
    processor_milliseconds: float


def run_of(pair: Pair, hedge_share: float, chosen: argparse.Namespace) -> Run:
    """Runs an edge once."""
    folder = Path(tempfile.mkdtemp(prefix="edge-hedging-", dir=chosen.workdir))
    port = free_port()
    try:
        process = subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-m",
                "cdn",
                "edge",
                "run",
                "--config",
                str(_config(folder, pair, port, hedge_share)),
            ],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            _await_start(process, port)
            return asyncio.run(_measured(process.pid, port, pair, chosen))
        finally:
            process.send_signal(signal.SIGTERM)
            ended(process)
    finally:
        shutil.rmtree(folder)


def _config(folder: Path, pair: Pair, port: int, hedge_share: float) -> Path:
    urls = "|".join(f"http://127.0.0.1:{each}/cvmfs/@fqrn@" for each in pair.ports)
    config = folder / "edge.toml"
    config.write_text(
        f'[listen]\naddresses = ["127.0.0.1:{port}"]\n[admin]\nlisten = ""\n'
        f'[[upstreams]]\nname = "pair"\nurls = "{urls}"\n'
        f"[fetch]\nhedge_share = {hedge_share}\n"
        f'[cache]\ndirectory = "{folder / "cache"}"\ndisk_bytes = "1GiB"\nscrub_bytes_per_second = 0\n'
    )
    return config


def _await_start(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise SystemExit("the edge did not start")


async def _measured(pid: int, port: int, pair: Pair, chosen: argparse.Namespace) -> Run:
    held = objects(WARM_UP + chosen.requests)
    paths = list(held)
    free: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    for _ in range(CONNECTIONS):
        free.put_nowait(await asyncio.open_connection("127.0.0.1", port))

    async def ask(path: str, due: float) -> float:
        reader, writer = await free.get()
        writer.write(f"GET {path} HTTP/1.1\r\nHost: edge\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.readexactly(len(held[path]))
        waited = asyncio.get_running_loop().time() - due
        if not head.startswith(b"HTTP/1.1 200 ") or body != held[path]:
            raise SystemExit(f"a wrong answer: {head[:200]!r}")
        free.put_nowait((reader, writer))
        return waited

    async def ask_all(paths: Sequence[str]) -> list[float]:
        loop = asyncio.get_running_loop()
        began, asking = loop.time(), []
        for number, path in enumerate(paths):
            due = began + number / chosen.rate
            await asyncio.sleep(max(0.0, due - loop.time()))
            asking.append(asyncio.create_task(ask(path, due)))
        return await asyncio.gather(*asking)

    await ask_all(paths[:WARM_UP])
    asked, used = sum(await asyncio.to_thread(pair.counted)), cpu_seconds(pid)
    waited = sorted(await ask_all(paths[WARM_UP:]))
    used = cpu_seconds(pid) - used
    asked = sum(await asyncio.to_thread(pair.counted)) - asked
    for _ in range(CONNECTIONS):
        _, writer = free.get_nowait()
        writer.close()
        await writer.wait_closed()
    return Run(
        {f"{each:g}": 1000 * waited[min(len(waited) - 1, int(len(waited) * each / 100))] for each in PERCENTILES},
        asked / chosen.requests,
        1000 * used / chosen.requests,
    )


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=4000, help="of each run")
    parser.add_argument("--rate", type=float, default=400.0, help="requests a second")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--late", type=float, default=0.2, metavar="SECONDS", help="how late a late answer is")
    parser.add_argument("--share", type=float, default=0.03, help="how many answers of one that stumbles are late")
    parser.add_argument("--workdir", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--no-results", action="store_true")
    chosen = parser.parse_args(arguments)
    document: dict[str, Any] = {
        "machine": machine() | {"load_before": round(os.getloadavg()[0], 1)},
        "revision": revision(),
        "options": {name: getattr(chosen, name) for name in ("requests", "rate", "rounds", "late", "share")},
    }
    runs = {name: _rounds([chosen.share * each for each in who], chosen) for name, who in STUMBLE.items()}
    document["machine"]["load_after"] = round(os.getloadavg()[0], 1)
    document["runs"] = {
        name: {arm: list(map(asdict, each)) for arm, each in arms.items()} for name, arms in runs.items()
    }
    tell("hedging", document, _text(document, runs), None if chosen.no_results else ROOT / "benchmarks" / "results")
    return 0


def _rounds(shares: Sequence[float], chosen: argparse.Namespace) -> dict[str, list[Run]]:
    runs: dict[str, list[Run]] = {arm: [] for arm in HEDGE_SHARES}
    for number in range(chosen.rounds):
        for arm in list(HEDGE_SHARES)[:: -1 if number % 2 else 1]:
            with pair_of(WARM_UP + chosen.requests, chosen.late, shares) as pair:
                runs[arm].append(run_of(pair, HEDGE_SHARES[arm], chosen))
    return runs


def _text(document: dict[str, Any], runs: dict[str, dict[str, list[Run]]]) -> str:
    options = document["options"]
    lines = ["# Hedging: what clients wait, and what origins are asked", "", f"Revision {document['revision']}.", ""]
    lines += [f"- {name.replace('_', ' ')}: {value}" for name, value in document["machine"].items()]
    lines += ["", _setting(options)]
    for name, arms in runs.items():
        lines += ["", f"## {name.capitalize()}", "", table(["", *arms, "hedging : none"], _rows(arms))]
    return "\n".join([*lines, ""])


def _setting(options: dict[str, Any]) -> str:
    return (
        f"Misses of 1 to 3 KB, {options['requests']:,} in each of {options['rounds']} rounds, {options['rate']:g} a "
        f"second; {options['share']:.0%} of the answers of an origin that stumbles come {options['late']:g} s late. "
        "Each ratio is that of one round."
    )


def _rows(arms: dict[str, list[Run]]) -> list[list[str]]:
    figures = {
        f"p{each:g}, ms": [[run.milliseconds[f"{each:g}"] for run in runs] for runs in arms.values()]
        for each in PERCENTILES
    }
    figures["origin requests for one of a client's"] = [[run.asked for run in runs] for runs in arms.values()]
    figures["processor time of the edge, ms"] = [[run.processor_milliseconds for run in runs] for runs in arms.values()]
    rows = []
    for name, (hedging, none) in figures.items():
        ratio = Spread.of(ours / theirs for ours, theirs in zip(hedging, none, strict=True))
        rows.append([name, Spread.of(hedging).text(), Spread.of(none).text(), ratio.text()])
    return rows


if __name__ == "__main__":
    sys.exit(main())
