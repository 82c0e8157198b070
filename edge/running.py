"""An edge as a process, and asking one how it is."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from cdn import daemon
from cdn.errors import CdnError
from cdn.telemetry import event
from edge.config import EdgeConfig, load
from edge.garbage import settle
from edge.server import EdgeServer

KIND_OF_SERVICE: Final = "an edge"
ADMIN_EXAMPLE: Final = "http://127.0.0.1:9154"


def run_until_stopped(config_path: Path, config: EdgeConfig, on_ready: Callable[[str], None]) -> None:
    """Serves until SIGTERM or SIGINT; SIGHUP reloads and opens the access log again.

    Args:
        config_path: what to read again at a reload.
        config: what is served first.
        on_ready: told some sentences once requests are answered.

    Raises:
        CdnError: the edge cannot start.
    """
    if config.workers > 1:
        from edge.supervisor import Supervisor

        daemon.run_until_stopped(lambda: Supervisor(config_path, config), on_ready)
    else:
        daemon.run_until_stopped(lambda: _EdgeService(config_path, config), on_ready)


class _EdgeService:
    """A `daemon.Service`."""

    def __init__(self, config_path: Path, config: EdgeConfig) -> None:
        self._config_path = config_path
        self._server = EdgeServer(config, stop_wanted=lambda: os.kill(os.getpid(), signal.SIGTERM))

    async def start(self) -> Iterable[str]:
        server = self._server
        await server.start()
        settle()
        sentences = ["answering on " + ", ".join(server.places)]
        if server.admin_address is not None:
            sentences.append("status and metrics on {} port {}".format(*server.admin_address))
        return sentences

    async def reload(self) -> None:
        self._server.reopen_log()
        try:
            self._server.reload(await asyncio.to_thread(load, self._config_path))
        except CdnError as error:
            self._server.statistics.reloads_failed += 1
            event("edge.reload.refused", level="error", reason=str(error))

    def is_healthy(self) -> bool:
        return self._server.is_healthy

    async def stop(self) -> None:
        event("edge.server.stopping")
        await self._server.stop()
        event("edge.server.stopped")


def fetch_status(admin_url: str) -> dict[str, object]:
    """Asks a running edge how it is; see `daemon.ask_status`."""
    return daemon.ask_status(admin_url, what=KIND_OF_SERVICE, example=ADMIN_EXAMPLE, has="upstreams")
