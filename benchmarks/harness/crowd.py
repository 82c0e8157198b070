"""Many clients that ask one server for the same object at the same time, on one event loop.

    python -m benchmarks.harness.crowd PORT PATH DIGEST CLIENTS READERS FIRST_BYTES SECONDS_MAX

All connect and ask as fast as they can. Each reads the head and the first bytes of the body and then stops reading, as
slow clients do, while it stays connected; `READERS` of them read everything and verify it. What was seen is printed as
JSON. Clients come from addresses of 127.0.0.0/8, fifty from each, with the segment size of Ethernet, and those that
stop reading with small receive buffers: otherwise the kernel would hold megabytes for each of them, and come to its
limit for all sockets (`net.ipv4.tcp_mem`) before any server comes to its own.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Final, cast

from benchmarks.harness.machine import ROOT
from benchmarks.harness.servers import ended, pinned

_CLIENTS_PER_ADDRESS: Final = 50
_CONNECTING_MAX: Final = 256
_SEGMENT_BYTES: Final = 1448
_RECEIVE_BYTES: Final = 16 << 10
_HEAD_BYTES_MAX: Final = 16 << 10
_BIND_ADDRESS_NO_PORT: Final = 24  # IP_BIND_ADDRESS_NO_PORT, which `socket` does not name


class CrowdFailedError(Exception):
    """The clients themselves failed."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the clients saw.

    Args:
        clients: how many there were.
        asked: how many connected and sent their request.
        answered: how many got a head with status 200 and the first bytes.
        readers: how many were to read everything.
        verified: how many did, and got the right bytes.
        failed: how many were refused, cut off or got another status.
        asked_seconds: until the last of them had asked.
        first_seconds: until the last of them had the first bytes.
        whole_seconds: until the last reader had everything.
    """

    clients: int
    asked: int
    answered: int
    readers: int
    verified: int
    failed: int
    asked_seconds: float
    first_seconds: float
    whole_seconds: float


def crowd_before(
    port: int,
    path: str,
    digest: str,
    *,
    clients: int,
    readers: int,
    first_bytes: int,
    seconds_max: int,
    core: int | None,
    while_waiting: Callable[[], None],
) -> Seen:
    """Lets a crowd loose on the server at a port; calls `while_waiting` about five times a second.

    Raises:
        CrowdFailedError: nothing can be told of it.
    """
    numbers = [str(number) for number in (clients, readers, first_bytes, seconds_max)]
    command = [sys.executable, "-m", "benchmarks.harness.crowd", str(port), path, digest, *numbers]
    process = subprocess.Popen(
        pinned(command, core), cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    try:
        end = time.monotonic() + seconds_max + 60
        while process.poll() is None and time.monotonic() < end:
            while_waiting()
            time.sleep(0.2)
        if process.poll() != 0:
            raise CrowdFailedError("the clients did not come to an end")
        return Seen(**json.loads(process.stdout.readline()))
    finally:
        process.stdout.close()
        ended(process)


# ---------------------------------------------------------------------------------------------------------- the program


@dataclass(slots=True)
class _Crowd:
    """What all clients share."""

    request: bytes
    digest: str
    first_bytes: int
    began: float = field(default_factory=time.monotonic)
    asked: int = 0
    asked_at: float = 0.0
    answered: int = 0
    first_at: float = 0.0
    verified: int = 0
    whole_at: float = 0.0
    failed: int = 0
    connected: list[_Client] = field(default_factory=list)
    """Kept, since a connection that nobody reads from and nobody refers to is closed as garbage."""

    def seconds(self) -> float:
        return time.monotonic() - self.began


class _Client(asyncio.Protocol):
    """One client; `done` is set when it has what it came for, or never will."""

    def __init__(self, crowd: _Crowd, *, reads_all: bool) -> None:
        self._crowd = crowd
        self._hashing = hashlib.sha1(usedforsecurity=False) if reads_all else None
        self._head = b""
        self._left = -1
        self._got = 0
        self._is_answered = False
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._crowd.request)
        self._crowd.connected.append(self)
        self._crowd.asked += 1
        self._crowd.asked_at = self._crowd.seconds()

    def data_received(self, data: bytes) -> None:
        if self._left < 0:
            data = self._body_after_head(data)
        if not data or self.done.done():
            return
        self._got += len(data)
        self._left -= len(data)
        if not self._is_answered and self._got >= self._crowd.first_bytes:
            self._answered()
        if self._hashing is not None:
            self._hashing.update(data)
            if self._left == 0:
                self._finished(self._hashing.hexdigest() == self._crowd.digest)

    def _body_after_head(self, data: bytes) -> bytes:
        self._head += data
        head, end, body = self._head.partition(b"\r\n\r\n")
        if not end:
            if len(self._head) > _HEAD_BYTES_MAX:
                self._fail()
            return b""
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        if not head.startswith(b"HTTP/1.1 200 ") or b"content-length" not in fields:
            self._fail()
            return b""
        self._left = int(fields[b"content-length"])
        return body

    def _answered(self) -> None:
        self._is_answered = True
        self._crowd.answered += 1
        self._crowd.first_at = self._crowd.seconds()
        if self._hashing is None:
            self._transport.pause_reading()
            self.done.set_result(None)

    def _finished(self, is_right: bool) -> None:  # noqa: FBT001 -- the one thing it is about
        self._crowd.whole_at = self._crowd.seconds()
        self._crowd.verified += is_right
        self._crowd.failed += not is_right
        self.done.set_result(None)

    def _fail(self) -> None:
        if not self.done.done():
            self._crowd.failed += 1
            self.done.set_result(None)
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail()


async def _visit(number: int, port: int, crowd: _Crowd, gate: asyncio.Semaphore, *, reads_all: bool) -> None:
    loop = asyncio.get_running_loop()
    address = number // _CLIENTS_PER_ADDRESS
    sock = socket.socket()
    sock.setblocking(False)
    if not reads_all:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, _SEGMENT_BYTES)
    sock.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
    sock.bind((f"127.1.{address // 250}.{address % 250 + 1}", 0))
    try:
        async with gate:
            await loop.sock_connect(sock, ("127.0.0.1", port))
            _, client = await loop.create_connection(lambda: _Client(crowd, reads_all=reads_all), sock=sock)
    except OSError:
        crowd.failed += 1
        sock.close()
        return
    await client.done


async def _visit_all(port: int, crowd: _Crowd, clients: int, readers: int, seconds_max: float) -> None:
    gate = asyncio.Semaphore(_CONNECTING_MAX)
    spacing = max(1, clients // readers)
    visits = [
        _visit(number, port, crowd, gate, reads_all=number % spacing == 0 and number // spacing < readers)
        for number in range(clients)
    ]
    with suppress(TimeoutError):
        await asyncio.wait_for(asyncio.gather(*visits), seconds_max)


def _main(port: int, path: str, digest: str, clients: int, readers: int, first_bytes: int, seconds_max: int) -> None:
    import uvloop

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
    crowd = _Crowd(request, digest, first_bytes)
    uvloop.run(_visit_all(port, crowd, clients, readers, seconds_max))
    seen = Seen(
        clients, crowd.asked, crowd.answered, readers, crowd.verified, crowd.failed,
        crowd.asked_at, crowd.first_at, crowd.whole_at,
    )  # fmt: skip
    print(json.dumps(asdict(seen)), flush=True)


if __name__ == "__main__":
    _main(int(sys.argv[1]), sys.argv[2], sys.argv[3], *map(int, sys.argv[4:8]))
