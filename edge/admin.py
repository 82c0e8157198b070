"""The operator's listener: health, readiness, status and metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from aiohttp import web

from cdn.errors import UsageError

STOP_SECONDS: Final = 1.0


class AdminListener:
    """Serves ``/healthz``, ``/readyz``, ``/status`` and ``/metrics``.

    Args:
        status: describes the edge for people and scripts.
        metrics: all metrics as text.
        is_ready: whether new clients are welcome.
    """

    def __init__(
        self, status: Callable[[], dict[str, object]], metrics: Callable[[], bytes], is_ready: Callable[[], bool]
    ) -> None:
        self._status = status
        self._metrics = metrics
        self._is_ready = is_ready
        application = web.Application()
        application.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/status", self._serve_status),
                web.get("/metrics", self._serve_metrics),
            ]
        )
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=STOP_SECONDS)
        self.address = ("", 0)

    async def start(self, host: str, port: int) -> None:
        """Begins to listen; `address` then says where.

        Raises:
            UsageError: the address cannot be had.
        """
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port, reuse_address=True).start()
        except OSError as error:
            await self._runner.cleanup()
            raise UsageError(f"cannot listen on {host} port {port}: {error.strerror or error}") from error
        bound = self._runner.addresses[0]
        self.address = (bound[0], bound[1])

    async def stop(self) -> None:
        """Stops listening and ends what is open."""
        await self._runner.cleanup()

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _request: web.Request) -> web.Response:
        if self._is_ready():
            return web.Response(text="ready\n")
        return web.Response(status=503, text="stopping\n")

    async def _serve_status(self, _request: web.Request) -> web.Response:
        return web.json_response(self._status())

    async def _serve_metrics(self, _request: web.Request) -> web.Response:
        headers = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        return web.Response(body=self._metrics(), headers=headers)
