"""An edge of one process as a service."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from cdn.telemetry import event
from edge.config import EdgeConfig
from edge.connection.listeners import open_listeners
from edge.operations.garbage import settle
from edge.operations.reloading import read_again
from edge.operations.succession import Inheritance
from edge.operations.upgrading import Upgrade
from edge.server import EdgeServer


class LoneEdge:
    """A `daemon.Service`, and `daemon.Upgradable`, of one process.

    Args:
        config_path: what to read again at a reload.
        config: what it is told first.
        inheritance: what was handed over.
        stop_wanted: called when an operator wants the service to end.
    """

    def __init__(
        self, config_path: Path, config: EdgeConfig, inheritance: Inheritance, *, stop_wanted: Callable[[], None]
    ) -> None:
        self._config_path = config_path
        self._config = config
        self._inheritance = inheritance
        self._stop_wanted = stop_wanted
        self._server = self._make_server(inheritance)
        self._upgrade = Upgrade(self._server, config.admin.listen)
        self.successor = self._upgrade.successor

    def _make_server(self, inheritance: Inheritance) -> EdgeServer:
        (listeners,) = open_listeners(self._config.listen, handed=inheritance.listeners)
        inheritance.close_unused(listeners)
        return EdgeServer(
            self._config,
            listeners=listeners,
            admin_socket=inheritance.admin_socket(self._config.admin.listen),
            before_cache=inheritance.take_cache,
            cache_patience_seconds=inheritance.patience_seconds,
            stop_wanted=self._stop_wanted,
            more_commands={"upgrade": self._upgrade_command},
        )

    async def start(self) -> Iterable[str]:
        server = self._server
        await server.start()
        settle()
        self._inheritance.serve()
        sentences = ["answering on " + ", ".join(server.places)]
        if server.admin_address is not None:
            sentences.append("status and metrics on {} port {}".format(*server.admin_address))
        return sentences

    async def reload(self) -> None:
        self._server.reopen_log()
        config = await read_again(self._config_path)
        if config is None:
            self._server.statistics.reloads_failed += 1
        else:
            self._server.reload(config)

    async def upgrade(self) -> None:
        """Has a successor take over; raises as `Upgrade.run`."""
        await self._upgrade.run()

    async def _upgrade_command(self, order: dict[str, object]) -> dict[str, object]:
        return await self._upgrade.command(order)

    def is_healthy(self) -> bool:
        return self._server.is_healthy

    async def stop(self) -> None:
        event("edge.server.stopping")
        await self._server.stop()
        event("edge.server.stopped")
