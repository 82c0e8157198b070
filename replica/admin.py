"""The operator's listener of the daemon: metrics and status over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from cdn.errors import ConfigError, UsageError
from replica.metrics import render_metrics, status_document

if TYPE_CHECKING:
    from aiohttp.web import Request, Response

    from replica.running import ReplicaDaemon


@asynccontextmanager
async def serving(daemon: ReplicaDaemon, listen: str | None) -> AsyncIterator[str | None]:
    """Answers ``/metrics``, ``/status`` and ``/health`` while the block runs.

    Args:
        daemon: told about.
        listen: host:port, None for not at all.

    Yields:
        host:port as it came to be.

    Raises:
        UsageError: this is no host:port.
        ConfigError: it is taken.
    """
    if listen is None:
        yield None
        return
    from aiohttp import web

    async def metrics(_: Request) -> Response:
        return web.Response(
            body=render_metrics(daemon.statistics), headers={"Content-Type": "text/plain; version=0.0.4"}
        )

    async def status(_: Request) -> Response:
        return web.json_response(status_document(daemon.jobs, daemon.statistics))

    async def health(_: Request) -> Response:
        return web.Response(text="ok\n")

    application = web.Application()
    application.add_routes([web.get("/metrics", metrics), web.get("/status", status), web.get("/health", health)])
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        host, port = _address(listen)
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            raise ConfigError(f"cannot listen on {listen}: {error.strerror}") from error
        yield f"{host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def _address(listen: str) -> tuple[str, int]:
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise UsageError(f"{listen!r} is no address to listen on, such as 127.0.0.1:9154")
    return host.strip("[]") or "127.0.0.1", int(port)
