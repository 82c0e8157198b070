"""An edge as a process: signals, reloads, and asking one how it is."""

from __future__ import annotations

import asyncio
import json
import signal
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cdn.errors import CdnError, TransportError, UnreachableError, UsageError
from cdn.telemetry import event
from edge.config import EdgeConfig, load
from edge.server import EdgeServer

STATUS_BYTES_MAX: Final = 16 << 20
STATUS_SECONDS: Final = 10.0


def run_until_stopped(config_path: Path, config: EdgeConfig, on_ready: Callable[[str], None]) -> None:
    """Serves until SIGTERM or SIGINT; SIGHUP reloads and opens the access log again.

    Args:
        config_path: what to read again at a reload.
        config: what is served first.
        on_ready: told one sentence once requests are answered.

    Raises:
        CdnError: the edge cannot start.
    """
    try:
        import uvloop
    except ImportError:  # slower, but the same
        asyncio.run(_serve(config_path, config, on_ready))
    else:
        uvloop.run(_serve(config_path, config, on_ready))


async def _serve(config_path: Path, config: EdgeConfig, on_ready: Callable[[str], None]) -> None:
    loop = asyncio.get_running_loop()
    stopped, hung_up = asyncio.Event(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    loop.add_signal_handler(signal.SIGHUP, hung_up.set)
    server = EdgeServer(config)
    await server.start()
    on_ready("answering on " + ", ".join(f"{host} port {port}" for host, port in server.addresses))
    if server.admin_address is not None:
        on_ready("status and metrics on {} port {}".format(*server.admin_address))
    reloads = asyncio.create_task(_reload_on(hung_up, server, config_path))
    try:
        await stopped.wait()
    finally:
        reloads.cancel()
        await asyncio.gather(reloads, return_exceptions=True)
        event("edge.server.stopping")
        await server.stop()
        event("edge.server.stopped")


async def _reload_on(hung_up: asyncio.Event, server: EdgeServer, config_path: Path) -> None:
    while True:
        await hung_up.wait()
        hung_up.clear()
        server.reopen_log()
        try:
            server.reload(await asyncio.to_thread(load, config_path))
        except CdnError as error:
            server.statistics.reloads_failed += 1
            event("edge.reload.refused", level="error", reason=str(error))


def fetch_status(admin_url: str) -> dict[str, object]:
    """Asks a running edge how it is.

    Args:
        admin_url: its operator's listener.

    Raises:
        UsageError: this is no http URL.
        TransportError: it does not answer, or something else does.
    """
    url = admin_url.rstrip("/") + "/status"
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"{admin_url!r} is no URL such as http://127.0.0.1:9154")
    try:
        with urllib.request.urlopen(url, timeout=STATUS_SECONDS) as reply:  # noqa: S310 -- the scheme was checked
            document = json.loads(reply.read(STATUS_BYTES_MAX))
    except urllib.error.HTTPError as error:
        error.close()
        raise TransportError(url, f"the server answered {error.code}") from error
    except OSError as error:
        raise UnreachableError(url, str(getattr(error, "reason", error))) from error
    except ValueError as error:
        raise TransportError(url, "this is not the operator's listener of an edge") from error
    if not isinstance(document, dict) or "upstreams" not in document:
        raise TransportError(url, "this is not the operator's listener of an edge")
    return document
