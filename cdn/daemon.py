"""What the services have in common as processes: signals, the operator's listener, and asking one how it is."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

from cdn.errors import CdnError, TransportError, UnreachableError, UsageError
from cdn.systemd import SystemdNotifier
from cdn.telemetry import event
from cdn.transport.loop import run

if TYPE_CHECKING:
    import urllib.error

    from aiohttp import web

STATUS_BYTES_MAX: Final = 16 << 20
STATUS_SECONDS: Final = 10.0
COMMAND_BYTES_MAX: Final = 64 << 10
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

    def is_healthy(self) -> bool:
        """Whether it works; systemd's watchdog restarts it if not."""
        ...


@runtime_checkable
class Upgradable(Protocol):
    """A service whose place another process can take without a client noticing."""

    successor: asyncio.Future[int]
    """The process that has taken its place, once there is one; the service is then stopped."""

    async def upgrade(self) -> None:
        """Starts a successor and has it take over; if that fails, says why and goes on as before."""
        ...


def run_until_stopped(service: Callable[[], Service], on_ready: Callable[[str], None]) -> None:
    """Runs a service until SIGTERM or SIGINT; SIGHUP reloads, and SIGUSR2 upgrades one that can be.

    Systemd is told when it serves, reloads and stops, and that it is alive.

    Args:
        service: makes it, inside the event loop.
        on_ready: told some sentences once it serves.

    Raises:
        CdnError: it cannot start.
    """
    run(_serve(service, on_ready))


async def _serve(make: Callable[[], Service], on_ready: Callable[[str], None]) -> None:
    loop, notifier = asyncio.get_running_loop(), SystemdNotifier(os.environ, os.getpid())
    stopped, hung_up, upgraded = asyncio.Event(), asyncio.Event(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    loop.add_signal_handler(signal.SIGHUP, hung_up.set)
    service = make()
    sentences = list(await service.start())
    tasks = [asyncio.create_task(_reload_on(hung_up, service, notifier))]
    try:
        loop.add_signal_handler(signal.SIGUSR2, upgraded.set)
        tasks.append(asyncio.create_task(_upgrade_on(upgraded, service)))
        if isinstance(service, Upgradable):
            service.successor.add_done_callback(lambda _: stopped.set())
        for sentence in sentences:
            on_ready(sentence)
        tasks.append(asyncio.create_task(show_life(notifier, service.is_healthy)))
        notifier.ready("; ".join(sentences))
        await stopped.wait()
    finally:
        _tell_end(service, notifier)
        await _end(tasks)
        await service.stop()


async def _reload_on(hung_up: asyncio.Event, service: Service, notifier: SystemdNotifier) -> None:
    while True:
        await hung_up.wait()
        hung_up.clear()
        notifier.reloading(time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000)
        try:
            await service.reload()
        except Exception as error:  # noqa: BLE001 -- a mistake in one reload must not silently end all later ones
            event("daemon.reload.crashed", level="error", error=f"{type(error).__name__}: {error}")
        notifier.ready()


async def _upgrade_on(asked: asyncio.Event, service: Service) -> None:
    while True:
        await asked.wait()
        asked.clear()
        try:
            if not isinstance(service, Upgradable):
                raise UsageError("this service cannot be upgraded while it runs: restart it")
            await service.upgrade()
        except CdnError as error:
            event("daemon.upgrade.refused", level="error", reason=str(error))
        except Exception as error:  # noqa: BLE001 -- as with a reload
            event("daemon.upgrade.crashed", level="error", error=f"{type(error).__name__}: {error}")


async def show_life(notifier: SystemdNotifier, is_healthy: Callable[[], bool]) -> None:
    """Tells systemd, if it looks, that the loop turns and the service works, twice in the time it allows."""
    while notifier.watchdog_seconds:
        if is_healthy():
            notifier.alive()
        await asyncio.sleep(notifier.watchdog_seconds / 2)


def _tell_end(service: Service, notifier: SystemdNotifier) -> None:
    if isinstance(service, Upgradable) and service.successor.done() and not service.successor.cancelled():
        notifier.handed_over(service.successor.result())
    else:
        notifier.stopping()


async def _end(tasks: Iterable[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


# ------------------------------------------------------------------------------------------------- the operator's side


def web_logger() -> Any:
    """The web library's logger, without its traceback for each request that is no HTTP: 400 says it all."""
    from aiohttp.log import server_logger

    logger = server_logger.getChild("stratocast")
    logger.addFilter(_is_worth_a_line)  # which counts once, however often it is added
    return logger


def _is_worth_a_line(record: Any) -> bool:
    from aiohttp.http_exceptions import HttpProcessingError

    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


class HttpListener:
    """Serves one application on one address.

    Args:
        application: what answers.
    """

    def __init__(self, application: web.Application) -> None:
        from aiohttp.web import AppRunner

        self._runner = AppRunner(application, access_log=None, logger=web_logger(), shutdown_timeout=STOP_SECONDS)
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
        self._note_address()

    async def start_on(self, sock: socket.socket) -> None:
        """Begins to answer on a socket that listens, and is closed with this; `address` then says where."""
        from aiohttp.web import SockSite

        await self._runner.setup()
        await SockSite(self._runner, sock).start()
        self._note_address()

    def _note_address(self) -> None:
        bound = self._runner.addresses[0]
        self.address = (bound[0], bound[1])

    async def stop(self) -> None:
        """Stops listening and ends what is open."""
        await self._runner.cleanup()


Command = Callable[[dict[str, object]], Awaitable[dict[str, object]]]
"""Carries out an order; takes and gives plain values. A `UsageError` says what is wrong with the order."""


def operator_application(
    *,
    status: Callable[[], dict[str, object] | Awaitable[dict[str, object]]],
    metrics: Callable[[], bytes | Awaitable[bytes]],
    is_ready: Callable[[], bool],
    why_not_ready: Callable[[], str] = lambda: "stopping",
    commands: Mapping[str, Command] | None = None,
) -> web.Application:
    """The operator's application: ``/healthz``, ``/readyz``, ``/status``, ``/metrics``, and commands.

    Args:
        status: describes the service for people and scripts.
        metrics: all metrics in the text format of Prometheus.
        is_ready: whether new clients are welcome.
        why_not_ready: says why they are not.
        commands: by name; ``POST /NAME`` with a JSON object carries one out. Not for browsers: see `_check_sender`.
    """
    from aiohttp import web

    async def healthz(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_request: web.Request) -> web.Response:
        return web.Response(text="ready\n") if is_ready() else web.Response(status=503, text=f"{why_not_ready()}\n")

    async def give_status(_request: web.Request) -> web.Response:
        given = status()
        return web.json_response(given if isinstance(given, dict) else await given)

    async def give_metrics(_request: web.Request) -> web.Response:
        given = metrics()
        body = given if isinstance(given, bytes) else await given
        return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    application = web.Application(client_max_size=COMMAND_BYTES_MAX)
    for name, command in (commands or {}).items():
        application.router.add_post(f"/{name}", _handler_of(command))
    application.add_routes(
        [
            web.get("/healthz", healthz),
            web.get("/readyz", readyz),
            web.get("/status", give_status),
            web.get("/metrics", give_metrics),
        ]
    )
    return application


def _handler_of(command: Command) -> Callable[[web.Request], Awaitable[web.Response]]:
    from aiohttp import web

    async def handle(request: web.Request) -> web.Response:
        try:
            _check_sender(request)
            return web.json_response(await command(await _document_of(request)))
        except _RefusedError as error:
            return web.json_response({"error": str(error)}, status=error.status)
        except UsageError as error:
            return web.json_response({"error": str(error)}, status=400)
        except CdnError as error:
            return web.json_response({"error": str(error)}, status=503)

    return handle


class _RefusedError(Exception):
    """A request that is no operator's."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def _check_sender(request: web.Request) -> None:
    """Lets no web page that an operator happens to look at give commands.

    A page of another site cannot send this type of content without being asked first, and browsers say whence they
    come. A name that an attacker makes lead to this address (DNS rebinding) shows in `Host`.

    Raises:
        _RefusedError: a browser sent it, or it was meant for another host.
    """
    if request.content_type != "application/json":
        raise _RefusedError(415, "a command is sent with Content-Type: application/json")
    if "Origin" in request.headers or request.headers.get("Sec-Fetch-Site", "none") != "none":
        raise _RefusedError(403, "a command comes from no web page")
    host = request.headers.get("Host", "")
    if not _is_this_host(host.rpartition(":")[0] if _has_port(host) else host):
        raise _RefusedError(403, f"{host[:100]!r} is no address of this machine, nor its name")


def _has_port(host: str) -> bool:
    return host.rpartition(":")[2].isdigit() and not (host.count(":") > 1 and not host.startswith("["))


def _is_this_host(name: str) -> bool:
    bare = name.lower().removeprefix("[").removesuffix("]").removesuffix(".")
    try:
        ipaddress.ip_address(bare)
    except ValueError:
        own = socket.gethostname().lower()
        return bare in {"localhost", own, own.partition(".")[0]}
    return True


async def _document_of(request: web.Request) -> dict[str, object]:
    from aiohttp import web

    try:
        document = await request.json()
    except web.HTTPRequestEntityTooLarge:
        raise _RefusedError(413, f"a command has at most {COMMAND_BYTES_MAX} bytes") from None
    except (ValueError, RecursionError):
        raise _RefusedError(400, "a command is a JSON object") from None
    if not isinstance(document, dict):
        raise _RefusedError(400, "a command is a JSON object")
    return document


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
    document = _ask(admin_url, "status", None, what=what, example=example)
    if has not in document:
        raise TransportError(f"{admin_url}/status", f"this is not the operator's listener of {what}")
    return document


def send_command(
    admin_url: str,
    name: str,
    document: Mapping[str, object],
    *,
    what: str,
    example: str,
    seconds: float = STATUS_SECONDS,
) -> dict[str, object]:
    """Has a running service carry out a command, within a time; the other arguments are those of `ask_status`.

    Raises:
        UsageError: this is no http URL, or the service refuses the order.
        TransportError: it does not answer, or something else does.
    """
    return _ask(admin_url, name, json.dumps(document).encode(), what=what, example=example, seconds=seconds)


def _ask(
    admin_url: str, name: str, body: bytes | None, *, what: str, example: str, seconds: float = STATUS_SECONDS
) -> dict[str, object]:
    import urllib.error
    import urllib.request

    url = f"{admin_url.rstrip('/')}/{name}"
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"{admin_url!r} is no URL such as {example}")
    fields = {} if body is None else {"Content-Type": "application/json"}
    request = urllib.request.Request(url, body, fields)  # noqa: S310 -- the scheme was checked
    try:
        with urllib.request.urlopen(request, timeout=seconds) as reply:  # noqa: S310 -- the scheme was checked
            document = json.loads(reply.read(STATUS_BYTES_MAX))
    except urllib.error.HTTPError as error:
        with error:
            raise _refusal(url, error) from error
    except OSError as error:
        cause = getattr(error, "reason", error)
        said = (cause.strerror if isinstance(cause, OSError) else None) or cause
        raise UnreachableError(url, f"{said}; is it running, and is this what `[admin] listen` says?") from error
    except ValueError as error:
        raise TransportError(url, f"this is not the operator's listener of {what}") from error
    if not isinstance(document, dict):
        raise TransportError(url, f"this is not the operator's listener of {what}")
    return document


def _refusal(url: str, error: urllib.error.HTTPError) -> CdnError:
    try:
        document = json.loads(error.read(COMMAND_BYTES_MAX))
    except (ValueError, OSError):
        document = None
    reason = document.get("error") if isinstance(document, dict) else None
    if error.code == HTTPStatus.BAD_REQUEST and reason:
        return UsageError(str(reason))
    return TransportError(url, str(reason) if reason else f"the server answered {error.code}")
