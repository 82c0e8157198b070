"""Two origins that serve the same small objects and pages, and stumble: some answers of theirs come late.

    python -m benchmarks.harness.stumbling OBJECTS SECONDS SHARE SHARE

It says on which two ports it listens, and serves until its standard input ends. `/count` gives how many objects each
was asked for. Which answers are late is drawn from a seed, so that all who are compared meet equally many.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, cast

from benchmarks.harness.machine import ROOT
from benchmarks.harness.servers import ended
from cdn.hashing import Algorithm, digest_of

REPOSITORY: Final = "bench.example.org"
_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nCache-Control: max-age=3600\r\n"
    b"Content-Length: %d\r\n\r\n"
)


def objects(count: int) -> dict[str, bytes]:
    """Objects of 1 to 3 KB by their paths."""
    made = {}
    for number in range(count):
        body = hashlib.sha256(b"%d" % number).digest() * (32 + number % 64)
        text = digest_of(Algorithm.SHA1, body).text
        made[f"/cvmfs/{REPOSITORY}/data/{text[:2]}/{text[2:]}"] = body
    return made


def pages(count: int) -> dict[str, bytes]:
    """Pages of an ordinary site, as large as the objects, by their paths."""
    return {f"/page/{number}": body for number, body in enumerate(objects(count).values())}


@dataclass(frozen=True, slots=True)
class Pair:
    """Two origins that run."""

    ports: tuple[int, int]

    def counted(self) -> list[int]:
        """How many objects each was asked for since the start."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[0]}/count", timeout=30) as answer:
            return [int(each) for each in json.load(answer)]


@contextmanager
def pair_of(objects_count: int, late_seconds: float, shares: Sequence[float]) -> Iterator[Pair]:
    """A pair, until the end of the block.

    Args:
        objects_count: how many objects they have.
        late_seconds: how late a late answer is.
        shares: how many of the answers of each are late.
    """
    command = [sys.executable, "-m", "benchmarks.harness.stumbling", str(objects_count), str(late_seconds)]
    process = subprocess.Popen(
        [*command, *map(str, shares)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        first, second = map(int, process.stdout.readline().split())
        yield Pair((first, second))
    finally:
        process.stdin.close()
        process.stdout.close()
        ended(process)


# ---------------------------------------------------------------------------------------------------------- the program


class _Server:
    def __init__(self, held: dict[bytes, bytes], late_seconds: float, share: float, seed: int) -> None:
        self.held = held
        self.late_seconds = late_seconds
        self.share = share
        self.dice = random.Random(seed)
        self.requests = 0

    def delay(self) -> float:
        """How late the next answer is."""
        self.requests += 1
        return self.late_seconds if self.dice.random() < self.share else 0.0


class _Connection(asyncio.Protocol):
    """One that serves a client who waits for each answer before he asks again."""

    def __init__(self, server: _Server, servers: list[_Server]) -> None:
        self._server = server
        self._servers = servers
        self._unread = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._unread += data
        while b"\r\n\r\n" in self._unread:
            head, _, self._unread = self._unread.partition(b"\r\n\r\n")
            target = head.split(b" ", 2)[1]
            if target == b"/count":
                body = json.dumps([server.requests for server in self._servers]).encode()
                self._transport.write(_HEAD % len(body) + body)
                self._transport.close()
            elif target in self._server.held:
                self._answer(self._server.held[target])
            else:
                self._transport.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

    def _answer(self, body: bytes) -> None:
        asyncio.get_running_loop().call_later(self._server.delay(), self._send, _HEAD % len(body) + body)

    def _send(self, answer: bytes) -> None:
        if not self._transport.is_closing():  # who hedged has hung up
            self._transport.write(answer)


async def _serve(count: int, late_seconds: float, shares: Sequence[float]) -> None:
    held = {path.encode(): body for path, body in [*objects(count).items(), *pages(count).items()]}
    loop = asyncio.get_running_loop()
    servers = [_Server(held, late_seconds, share, seed) for seed, share in enumerate(shares)]
    listening = [
        await loop.create_server(lambda server=server: _Connection(server, servers), "127.0.0.1", 0, backlog=1024)
        for server in servers
    ]
    print(*(each.sockets[0].getsockname()[1] for each in listening), flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    import uvloop

    _count, _late, *_shares = sys.argv[1:]
    uvloop.run(_serve(int(_count), float(_late), [float(each) for each in _shares]))
