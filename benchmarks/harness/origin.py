"""The origin that all caches are put before: serves made-up objects from memory and counts what it is asked for.

    python -m benchmarks.harness.origin INDEX [RATE]

It says on which port it listens, and serves until its standard input ends. `/count` is a JSON document of what it was
asked for so far. With a rate, bodies above a mebibyte are sent that many bytes a second.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import Final, cast

from benchmarks.harness.machine import ROOT
from benchmarks.harness.objects import MEBIBYTE, CachedObject, body_pieces, read_index, write_index
from benchmarks.harness.servers import ended, pinned

_PACE_BYTES: Final = 256 << 10
_HEAD_BYTES_MAX: Final = 16 << 10
_START_SECONDS_MAX: Final = 60


# ------------------------------------------------------------------------------------------------- seen from outside


@dataclass(frozen=True, slots=True)
class Counted:
    """What an origin was asked for."""

    requests: int
    body_bytes: int

    def since(self, before: Counted) -> Counted:
        """What was asked for after `before`."""
        return Counted(self.requests - before.requests, self.body_bytes - before.body_bytes)


@dataclass(frozen=True, slots=True)
class Origin:
    """A running origin."""

    pid: int
    port: int

    def counted(self) -> Counted:
        """What it was asked for since its start."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/count", timeout=30) as answer:
            return Counted(**json.load(answer))


@contextmanager
def origin_of(held: list[CachedObject], folder: Path, core: int | None, rate: int = 0) -> Iterator[Origin]:
    """An origin that has these objects, until the end of the block."""
    index = folder / "origin-index"
    write_index(index, held)
    command = [sys.executable, "-m", "benchmarks.harness.origin", str(index), str(rate)]
    process = subprocess.Popen(
        pinned(command, core), cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield Origin(process.pid, int(process.stdout.readline()))
    finally:
        process.stdin.close()
        process.stdout.close()
        ended(process)
        index.unlink(missing_ok=True)


# ---------------------------------------------------------------------------------------------------------- the program


@dataclass(slots=True)
class _Shop:
    """What all connections share."""

    held: dict[bytes, tuple[int, int]]
    rate: int
    requests: int = 0
    body_bytes: int = 0
    second: int = 0
    date: bytes = b""
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def head(self, size: int) -> bytes:
        """The head of a good answer; its date is made once a second."""
        if (second := int(time.time())) != self.second:
            self.second, self.date = second, formatdate(second, usegmt=True).encode()
        return (
            b"HTTP/1.1 200 OK\r\nServer: origin\r\nDate: %b\r\nContent-Type: application/octet-stream\r\n"
            b"Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\nCache-Control: max-age=259200\r\n"
            b"Content-Length: %d\r\n\r\n" % (self.date, size)
        )


class _Connection(asyncio.Protocol):
    def __init__(self, shop: _Shop) -> None:
        self._shop = shop
        self._unread = b""
        self._writable = asyncio.Event()
        self._writable.set()
        self._is_busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        self._unread += data
        if len(self._unread) > _HEAD_BYTES_MAX:
            self._transport.abort()
            return
        self._answer_all()

    def _answer_all(self) -> None:
        while not self._is_busy and (end := self._unread.find(b"\r\n\r\n")) >= 0:
            method, path, _ = self._unread[:end].split(b" ", 2)
            self._unread = self._unread[end + 4 :]
            self._answer(method, path)

    def _answer(self, method: bytes, path: bytes) -> None:
        shop = self._shop
        found = shop.held.get(path)
        if found is None:
            self._tell(path)
            return
        number, size = found
        shop.requests += 1
        if method == b"HEAD":
            self._transport.write(shop.head(size))
            return
        shop.body_bytes += size
        if shop.rate and size > MEBIBYTE:
            self._is_busy = True
            task = asyncio.get_running_loop().create_task(self._send_slowly(number, size))
            shop.tasks.add(task)
            task.add_done_callback(shop.tasks.discard)
        else:
            self._transport.writelines([shop.head(size), *body_pieces(number, size)])

    def _tell(self, path: bytes) -> None:
        shop = self._shop
        text = json.dumps({"requests": shop.requests, "body_bytes": shop.body_bytes}).encode()
        status = b"200 OK" if path == b"/count" else b"404 Not Found"
        self._transport.write(b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(text), text))

    async def _send_slowly(self, number: int, size: int) -> None:
        self._transport.write(self._shop.head(size))
        for piece in body_pieces(number, size):
            for at in range(0, len(piece), _PACE_BYTES):
                await self._writable.wait()
                if self._transport.is_closing():
                    return
                part = piece[at : at + _PACE_BYTES]
                self._transport.write(part)
                await asyncio.sleep(len(part) / self._shop.rate)
        self._is_busy = False
        self._answer_all()


async def _serve(index: Path, rate: int) -> None:
    loop = asyncio.get_running_loop()
    shop = _Shop(read_index(index), rate)
    server = await loop.create_server(lambda: _Connection(shop), "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.buffer.read)
    server.close()


if __name__ == "__main__":
    import uvloop

    uvloop.run(_serve(Path(sys.argv[1]), int(sys.argv[2])))
