"""What the services have in common as processes: signals, the operator's listener, and asking one how it is."""

from __future__ import annotations

import asyncio
import json
import signal
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, Protocol

from cdn.errors import TransportError, UnreachableError, UsageError
from cdn.transport.loop import run

if TYPE_CHECKING:
    from aiohttp import web

STATUS_BYTES_MAX: Final = 16 << 20
STATUS_SECONDS: Final = 10.0
STOP_SECONDS: Final = 1.0
"""How long answers under way of an operator's listener may take when it stops."""


class Service(Protocol):
    """Something that serves until it is told to stop."""

    async def start(self) -> Iterable[str]:
        """Begins to serve; gives sentences that say where.

        Raises:
            CdnError: it cannot.
        """
        ...

    async def reload(self) -> None:
        """Takes over what changed in its configuration; with a mistake in it, says so and goes on as before."""
        ...

    async def stop(self) -> None:
        """Lets what is under way finish, and stops."""
        ...


def run_until_stopped(service: Callable[[], Service], on_ready: Callable[[str], None]) -> None:
    """Runs a service until SIGTERM or SIGINT; SIGHUP reloads.

    Args:
        service: makes it, inside the event loop.
        on_ready: told some sentences once it serves.

    Raises:
        CdnError: it cannot start.
    """
    run(_serve(service, on_ready))


async def _serve(make: Callable[[], Service], on_ready: Callable[[str], None]) -> None:
    loop = asyncio.get_running_loop()
    stopped, hung_up = asyncio.Event(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    loop.add_signal_handler(signal.SIGHUP, hung_up.set)
    service = make()
    for sentence in await service.start():
        on_ready(sentence)
    reloads = asyncio.create_task(_reload_on(hung_up, service))
    try:
        await stopped.wait()
    finally:
        reloads.cancel()
        await asyncio.gather(reloads, return_exceptions=True)
        await service.stop()


async def _reload_on(hung_up: asyncio.Event, service: Service) -> None:
    while True:
        await hung_up.wait()
        hung_up.clear()
        await service.reload()


# ------------------------------------------------------------------------------------------------- the operator's side


class HttpListener:
    """Serves one application on one address.

    Args:
        application: what answers.
    """

    def __init__(self, application: web.Application) -> None:
        from aiohttp.web import AppRunner

        self._runner = AppRunner(application, access_log=None, shutdown_timeout=STOP_SECONDS)
        self.address = ("", 0)

    async def start(self, host: str, port: int) -> None:
        """Begins to listen; `address` then says where.

        Raises:
            UsageError: the address cannot be had.
        """
        from aiohttp.web import TCPSite

        await self._runner.setup()
        try:
            await TCPSite(self._runner, host, port, reuse_address=True).start()
        except OSError as error:
            await self._runner.cleanup()
            raise UsageError(f"cannot listen on {host} port {port}: {error.strerror or error}") from error
        bound = self._runner.addresses[0]
        self.address = (bound[0], bound[1])

    async def stop(self) -> None:
        """Stops listening and ends what is open."""
        await self._runner.cleanup()


def operator_application(
    *, status: Callable[[], dict[str, object]], metrics: Callable[[], bytes], is_ready: Callable[[], bool]
) -> web.Application:
    """The operator's application: ``/healthz``, ``/readyz``, ``/status`` and ``/metrics``.

    Args:
        status: describes the service for people and scripts.
        metrics: all metrics in the text format of Prometheus.
        is_ready: whether new clients are welcome.
    """
    from aiohttp import web

    async def healthz(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_request: web.Request) -> web.Response:
        return web.Response(text="ready\n") if is_ready() else web.Response(status=503, text="stopping\n")

    async def give_status(_request: web.Request) -> web.Response:
        return web.json_response(status())

    async def give_metrics(_request: web.Request) -> web.Response:
        return web.Response(body=metrics(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    application = web.Application()
    application.add_routes(
        [
            web.get("/healthz", healthz),
            web.get("/readyz", readyz),
            web.get("/status", give_status),
            web.get("/metrics", give_metrics),
        ]
    )
    return application


def ask_status(admin_url: str, *, what: str, example: str, has: str) -> dict[str, object]:
    """Asks a running service how it is.

    Args:
        admin_url: its operator's listener.
        what: the kind of service, for messages.
        example: of such a URL.
        has: a key that the answer of this kind of service has.

    Raises:
        UsageError: this is no http URL.
        TransportError: it does not answer, or something else does.
    """
    url = admin_url.rstrip("/") + "/status"
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"{admin_url!r} is no URL such as {example}")
    try:
        with urllib.request.urlopen(url, timeout=STATUS_SECONDS) as reply:  # noqa: S310 -- the scheme was checked
            document = json.loads(reply.read(STATUS_BYTES_MAX))
    except urllib.error.HTTPError as error:
        error.close()
        raise TransportError(url, f"the server answered {error.code}") from error
    except OSError as error:
        cause = getattr(error, "reason", error)
        said = (cause.strerror if isinstance(cause, OSError) else None) or cause
        raise UnreachableError(url, f"{said}; is it running, and is this what `[admin] listen` says?") from error
    except ValueError as error:
        raise TransportError(url, f"this is not the operator's listener of {what}") from error
    if not isinstance(document, dict) or has not in document:
        raise TransportError(url, f"this is not the operator's listener of {what}")
    return document
