"""An HTTP server that answers as a test tells it to: late, cut short, wrong, or well; on a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field


@dataclass
class Reply:
    """One answer.

    Args:
        body: what is sent.
        status: the status code.
        headers: besides the framing.
        size: the Content-Length said; that of the body if None.
        is_chunked: sent in chunks, without Content-Length.
        cut_after: the connection breaks after so many bytes of body.
        gate: waited for after `gate_after` bytes of body (before the head if negative).
        interim: heads sent before it.
    """

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    size: int | None = None
    is_chunked: bool = False
    cut_after: int | None = None
    gate: asyncio.Event | None = None
    gate_after: int = -1
    interim: tuple[str, ...] = ()


@dataclass
class Asked:
    """One request that arrived."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes = b""


Script = Reply | Callable[[Asked], Reply]


class Origin:
    """The server. `replies` maps request targets to what is answered; anything else gets 404."""

    def __init__(self) -> None:
        self.replies: dict[str, Script] = {}
        self.asked: list[Asked] = []
        self.is_dead = False
        self.body_gate: asyncio.Event | None = None
        """Waited for before bodies of requests are read."""
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"http://{host}:{port}"

    def count(self, target: str) -> int:
        """How often a target was asked for."""
        return sum(asked.target == target for asked in self.asked)

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                while await self._serve_one(reader, writer):
                    pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *fields = head.rstrip("\r\n").split("\r\n")
        method, target, _ = line.split(" ")
        asked = Asked(
            method, target, {name.lower(): value.strip() for name, _, value in (f.partition(":") for f in fields)}
        )
        if self.body_gate is not None:
            await self.body_gate.wait()
        asked.body = await _body(reader, asked.headers)
        self.asked.append(asked)
        if self.is_dead:
            writer.transport.abort()
            return False
        script = self.replies.get(target, Reply(b"no such thing\n", 404))
        reply = script if isinstance(script, Reply) else script(asked)
        return await self._send(writer, reply, has_body=method != "HEAD")

    async def _send(self, writer: asyncio.StreamWriter, reply: Reply, *, has_body: bool) -> bool:
        if reply.gate is not None and reply.gate_after < 0:
            await reply.gate.wait()
        for head in reply.interim:
            writer.write(head.encode("latin-1"))
        lines = [f"HTTP/1.1 {reply.status} Whatever", *(f"{name}: {value}" for name, value in reply.headers.items())]
        if reply.is_chunked:
            lines.append("Transfer-Encoding: chunked")
        elif reply.status not in {204, 304}:
            lines.append(f"Content-Length: {len(reply.body) if reply.size is None else reply.size}")
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
        if not has_body:
            await writer.drain()
            return True
        body = reply.body if reply.cut_after is None else reply.body[: reply.cut_after]
        position = 0
        for end in sorted({min(max(reply.gate_after, 0), len(body)), len(body)}):
            piece, position = body[position:end], end
            if piece:
                writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if reply.is_chunked else piece)
            await writer.drain()
            if reply.gate is not None and 0 <= reply.gate_after == end:
                await reply.gate.wait()
        if reply.cut_after is not None:
            return False
        if reply.is_chunked:
            writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    """The body of a request."""
    if "transfer-encoding" not in headers:
        return await reader.readexactly(int(headers.get("content-length", "0")))
    body = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readexactly(2)
    return body


@asynccontextmanager
async def running_origin() -> AsyncIterator[Origin]:
    """An origin for the length of a block."""
    origin = Origin()
    await origin.start()
    try:
        yield origin
    finally:
        await origin.stop()
