"""A small world for tests of the edge: an edge on real sockets before scripted origins, and clients that see bytes."""

from __future__ import annotations

import asyncio
import socket
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from cdn.clock import Clock, ManualClock
from cdn.hashing import Algorithm, digest_of
from cdn.manifest import Manifest
from cdn.objects import Kind, ObjectName
from edge.config import AdminSettings, CacheSettings, EdgeConfig, LifetimeSettings, ListenSettings
from edge.server import EdgeServer
from edge.settings.manifests import ManifestSettings
from edge.settings.upstreams import UpstreamSettings
from tests.fakes.origin import Origin, Reply

REPOSITORY = "sw.example.org"
BASE = f"/cvmfs/{REPOSITORY}"


def stored_object(content: bytes, kind: Kind = Kind.FILE) -> tuple[str, bytes]:
    """The path under the server and the stored bytes of an object; random content stays as large as it is."""
    stored = zlib.compress(content, 1)
    return f"{BASE}/{ObjectName(digest_of(Algorithm.SHA1, stored), kind).path}", stored


def object_of(stored: bytes) -> str:
    """The path under the server of an object with these stored bytes."""
    return f"{BASE}/{ObjectName(digest_of(Algorithm.SHA1, stored)).path}"


def manifest_bytes(revision: int, timestamp: int = 1_600_000_000, fqrn: str = REPOSITORY) -> bytes:
    """A manifest with a signature that only looks like one."""
    root = digest_of(Algorithm.SHA1, b"catalog %d" % revision)
    body = Manifest(root, revision, fqrn=fqrn, timestamp=timestamp).to_body()
    return body + b"--\n" + digest_of(Algorithm.SHA1, body).text.encode() + b"\n" + bytes(range(256))


def edge_config(directory: Path, *urls: str, between: str = ";", **changes: Any) -> EdgeConfig:
    """A configuration on loopback with any free ports, and these servers as upstreams of every repository."""
    bases = tuple(f"{url}/cvmfs/@fqrn@" for url in urls)
    config = EdgeConfig(
        upstreams=(UpstreamSettings("all", bases if between == ";" else between.join(bases)),),
        name="edge.test",
        listen=ListenSettings(("127.0.0.1:0",)),
        admin=AdminSettings("127.0.0.1:0"),
        lifetimes=LifetimeSettings(stale_while_revalidate=0),
        manifest=ManifestSettings(prefetch=False),  # most manifests here name objects that no origin has
        cache=CacheSettings(directory, disk_bytes=64 << 20, memory_bytes=16 << 20, scrub_bytes_per_second=0),
    )
    return replace(config, **changes)


async def until(condition: Callable[[], object]) -> None:
    """Waits for something that nobody announces."""
    while not condition():  # noqa: ASYNC110 -- there is no event for it
        await asyncio.sleep(0.005)


@dataclass
class Received:
    """An answer as a client saw it.

    Args:
        status: the status code.
        headers: names in lower case; of repeated ones the last.
        body: what arrived.
        is_whole: whether it ended as HTTP says it ends.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    is_whole: bool


class Client:
    """One connection to an edge, byte by byte."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter

    async def __aenter__(self) -> Self:
        self.reader, self.writer = await asyncio.open_connection(*self._address, limit=1 << 20)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.transport.abort()

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def ask(self, target: str, *, method: str = "GET", version: str = "1.1", **headers: str) -> None:
        """Sends a request; underscores in names of fields stand for dashes."""
        lines = [f"{method} {target} HTTP/{version}", "Host: edge"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        await self.send(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))

    async def get(self, target: str, *, method: str = "GET", version: str = "1.1", **headers: str) -> Received:
        await self.ask(target, method=method, version=version, **headers)
        return await self.receive(has_body=method != "HEAD")

    async def receive_head(self) -> tuple[int, dict[str, str]]:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *fields = head.rstrip("\r\n").split("\r\n")
        return int(line.split(" ")[1]), {
            name.lower(): value.strip() for name, _, value in (each.partition(":") for each in fields)
        }

    async def receive(self, *, has_body: bool = True) -> Received:
        status, headers = await self.receive_head()
        if not has_body or status in {204, 304}:
            return Received(status, headers, b"", is_whole=True)
        body, is_whole = await self._receive_body(headers)
        return Received(status, headers, body, is_whole)

    async def _receive_body(self, headers: dict[str, str]) -> tuple[bytes, bool]:
        if "chunked" in headers.get("transfer-encoding", ""):
            return await self._receive_chunks()
        size = headers.get("content-length")
        try:
            if size is None:
                return await self.reader.read(), True
            return await self.reader.readexactly(int(size)), True
        except asyncio.IncompleteReadError as error:
            return error.partial, False
        except ConnectionError:
            return b"", False

    async def _receive_chunks(self) -> tuple[bytes, bool]:
        body = b""
        try:
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                body += await self.reader.readexactly(size)
                await self.reader.readexactly(2)
            await self.reader.readexactly(2)
        except (asyncio.IncompleteReadError, ConnectionError):
            return body, False
        return body, True

    async def is_closed(self) -> bool:
        """Waits for the other side to close; anything still sent is an error."""
        try:
            return await self.reader.read() == b""
        except ConnectionError:
            return True


class SlowClient(Client):
    """A client whose buffers are small, so that most of an answer waits on the other side."""

    async def __aenter__(self) -> Self:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, self._address)
        self.reader, self.writer = await asyncio.open_connection(sock=sock, limit=16384)
        return self


@dataclass
class World:
    """An edge, its origins, its clock and its directory."""

    edge: EdgeServer
    origins: list[Origin]
    clock: Clock
    directory: Path

    @property
    def origin(self) -> Origin:
        return self.origins[0]

    def publish(self, content: bytes, **reply: Any) -> tuple[str, bytes]:
        """Puts an object on every origin; returns its target and its bytes."""
        target, stored = stored_object(content)
        for origin in self.origins:
            origin.replies[target] = Reply(stored, **reply)
        return target, stored

    async def get(self, target: str, *, method: str = "GET", version: str = "1.1", **headers: str) -> Received:
        """One request on a connection of its own."""
        async with Client(self.edge.address) as client:
            return await client.get(target, method=method, version=version, **headers)

    def client(self) -> Client:
        return Client(self.edge.address)

    def advance(self, seconds: float) -> None:
        assert isinstance(self.clock, ManualClock)
        self.clock.advance(seconds)

    def cached_files(self) -> list[Path]:
        """Every file in the disk cache that has a name."""
        return sorted(path for path in (self.directory / "v1").rglob("*") if path.is_file())

    async def settled(self) -> None:
        """Waits until nothing is being fetched or stored."""
        await until(lambda: not len(self.edge.parts.flights))


@asynccontextmanager
async def edge_world(directory: Path, *, origins: int = 1, **changes: Any) -> AsyncIterator[World]:
    """An edge before so many origins; `changes` replace fields of its configuration."""
    async with AsyncExitStack() as stack:
        servers = []
        for _ in range(origins):
            origin = Origin()
            await origin.start()
            stack.push_async_callback(origin.stop)
            servers.append(origin)
        clock = ManualClock()
        config = edge_config(directory / "cache", *(origin.url for origin in servers), **changes)
        edge = EdgeServer(config, clock=clock)
        await edge.start()
        stack.push_async_callback(edge.stop, drain_seconds=0)
        yield World(edge, servers, clock, directory / "cache")
