"""An edge as a process, and asking one how it is."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from cdn import daemon
from cdn.errors import CdnError, TransportError, UsageError
from cdn.telemetry import event
from edge.config import EdgeConfig, load
from edge.descriptors import take_all_descriptors
from edge.garbage import settle
from edge.listeners import open_listeners, systemd_listeners
from edge.server import EdgeServer
from edge.succession import (
    PREPARED,
    SERVING,
    START_SECONDS,
    VARIABLE,
    YOURS,
    Inheritance,
    Successor,
    take_inheritance,
)

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
    take_all_descriptors(config.limits.connections_max)
    if config.workers > 1:
        from edge.supervisor import Supervisor

        daemon.run_until_stopped(lambda: Supervisor(config_path, config, stop_wanted=_end_ourselves), on_ready)
    else:
        daemon.run_until_stopped(lambda: _EdgeService(config_path, config), on_ready)


def _end_ourselves() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


class _EdgeService:
    """A `daemon.Service`, and `daemon.Upgradable`."""

    def __init__(self, config_path: Path, config: EdgeConfig) -> None:
        self._config_path = config_path
        self._config = config
        self.successor: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._upgrading = asyncio.Lock()
        self._inheritance = take_inheritance(os.environ)
        os.environ.pop(VARIABLE, None)
        self._server = self._make_server(self._inheritance)

    def _make_server(self, inheritance: Inheritance | None) -> EdgeServer:
        listen, admin = self._config.listen, self._config.admin.listen
        handed = systemd_listeners(listen, os.environ, os.getpid()) if inheritance is None else inheritance.listeners
        (listeners,) = open_listeners(listen, handed=handed)
        if inheritance is not None:
            inheritance.close_unused(listeners)
        return EdgeServer(
            self._config,
            listeners=listeners,
            admin_socket=None if inheritance is None else inheritance.admin_socket(admin),
            before_cache=None if inheritance is None else inheritance.take_cache,
            stop_wanted=lambda: os.kill(os.getpid(), signal.SIGTERM),
            more_commands={"upgrade": self._upgrade_command},
        )

    async def start(self) -> Iterable[str]:
        server = self._server
        await server.start()
        settle()
        if self._inheritance is not None:
            self._inheritance.serve()
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

    async def upgrade(self) -> None:
        """Has a successor take over.

        Raises:
            UsageError: that did not succeed; this process goes on as before.
        """
        if self._upgrading.locked() or self.successor.done() or self._server.is_draining:
            raise UsageError("the edge is being upgraded or drained already")
        async with self._upgrading:
            server = self._server
            event("edge.upgrade.started")
            successor = await asyncio.to_thread(
                Successor.start, server.sockets, server.admin_socket, self._config.admin.listen
            )
            await self._hand_over(successor)
            server.has_successor = True
            event("edge.upgrade.succeeded", pid=successor.pid)
            successor.leave()
            self.successor.set_result(successor.pid)

    async def _hand_over(self, successor: Successor) -> None:
        try:
            await successor.talk.hear(PREPARED, START_SECONDS)
            await asyncio.to_thread(self._server.retire_cache)
            successor.talk.say(YOURS)
            await successor.talk.hear(SERVING, START_SECONDS)
        except BaseException as error:
            status = await asyncio.to_thread(successor.end)
            await asyncio.to_thread(self._server.resume_cache)
            if not isinstance(error, TransportError):
                raise
            raise UsageError(
                f"the successor did not take over (exit status {status}, {error}); this edge goes on as before"
            ) from error

    async def _upgrade_command(self, _document: dict[str, object]) -> dict[str, object]:
        await self.upgrade()
        return {"pid": self.successor.result()}

    def is_healthy(self) -> bool:
        return self._server.is_healthy

    async def stop(self) -> None:
        event("edge.server.stopping")
        await self._server.stop()
        event("edge.server.stopped")


def fetch_status(admin_url: str) -> dict[str, object]:
    """Asks a running edge how it is; see `daemon.ask_status`."""
    return daemon.ask_status(admin_url, what=KIND_OF_SERVICE, example=ADMIN_EXAMPLE, has="upstreams")
