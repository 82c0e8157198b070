"""An edge as a process."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

from cdn import daemon
from edge.cache.descriptors import take_all_descriptors
from edge.config import EdgeConfig
from edge.connection.listeners import systemd_listeners
from edge.operations.succession import VARIABLE, Inheritance, take_inheritance


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
        from edge.workers.supervisor import Supervisor

        daemon.run_until_stopped(
            lambda: Supervisor(config_path, config, _inherited(config), stop_wanted=_end_ourselves), on_ready
        )
    else:
        from edge.alone import LoneEdge

        daemon.run_until_stopped(
            lambda: LoneEdge(config_path, config, _inherited(config), stop_wanted=_end_ourselves), on_ready
        )


def _inherited(config: EdgeConfig) -> Inheritance:
    """What a predecessor or systemd handed over to this process."""
    inheritance = take_inheritance(os.environ)
    os.environ.pop(VARIABLE, None)
    return inheritance or Inheritance(listeners=systemd_listeners(config.listen, os.environ, os.getpid()))


def _end_ourselves() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
