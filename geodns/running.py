"""A GeoDNS server as a process, and asking one how it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path

from cdn import daemon
from cdn.errors import CdnError
from cdn.telemetry import event
from geodns.config import GeoDnsConfig, load
from geodns.server import GeoDnsServer


def run_until_stopped(config_path: Path, config: GeoDnsConfig, on_ready: Callable[[str], None]) -> None:
    """Serves until SIGTERM or SIGINT; SIGHUP reloads.

    Args:
        config_path: what to read again at a reload.
        config: what is served first.
        on_ready: told one sentence once queries are answered.

    Raises:
        CdnError: the server cannot start.
    """
    daemon.run_until_stopped(lambda: _GeoDnsService(config_path, config), on_ready)


class _GeoDnsService:
    """A `daemon.Service`."""

    def __init__(self, config_path: Path, config: GeoDnsConfig) -> None:
        self._config_path = config_path
        self._server = GeoDnsServer(config)

    async def start(self) -> Iterable[str]:
        await self._server.start()
        return ["answering on " + ", ".join(f"{host} port {port}" for host, port in self._server.addresses)]

    async def reload(self) -> None:
        try:
            config = await asyncio.to_thread(load, self._config_path)
        except CdnError as error:
            self._server.note_failed_reload()
            event("geodns.reload.refused", level="error", reason=str(error))
            return
        try:
            await self._server.reload(config)
        except CdnError as error:
            event("geodns.reload.refused", level="error", reason=str(error))

    def is_healthy(self) -> bool:
        return True  # that its loop turns is all there is to it

    async def stop(self) -> None:
        await self._server.stop()
        event("geodns.server.stopped")


def fetch_status(admin_url: str) -> dict[str, object]:
    """Asks a running server how it is; see `daemon.ask_status`."""
    return daemon.ask_status(admin_url, what="a GeoDNS server", example="http://127.0.0.1:9153", has="zones")
