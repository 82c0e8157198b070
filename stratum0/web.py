"""The web server of `cdn serve`: a folder of repositories, as clients, replicas and caches expect it (spec §8.2).

What it serves is decided by `locate`, a pure function over the names of the layout. Everything else is 404: there are
no listings, and nothing of ``data/txn``. Any static web server does the same from the same folder
(docs/operations/nginx.md).
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
import signal
import stat
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from aiohttp import web

import cdn
from cdn.daemon import web_logger
from cdn.errors import UsageError
from cdn.objects import LAST_SNAPSHOT_PATH, MANIFEST_PATH
from cdn.storage.paths import is_store_path
from cdn.telemetry import event

SHORT_SECONDS: Final = 61
"""How long what changes may be cached; 61 because Squid by default keeps nothing for 60 s or less (spec §8.2)."""
LONG_SECONDS: Final = 259_200
"""How long objects may be cached: 3 days."""
ABSENT_SECONDS: Final = 5
"""How long an absence may be cached: it must not outlive the publishing of what was absent."""

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_REPOSITORY: Final = re.compile(r"/cvmfs/([A-Za-z0-9][A-Za-z0-9._-]{0,59})/(.+)", re.ASCII)
_INFORMATION: Final = {"/cvmfs/info/v1/repositories.json": "repositories", "/cvmfs/info/v1/meta.json": "meta"}
_CONDITIONS: Final = ("Range", "If-None-Match", "If-Match", "If-Modified-Since", "If-Unmodified-Since", "If-Range")
_READ: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
_ABSENT: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP})
_KIND: Final = web.RequestKey("kind", str)
_STARTED: Final = web.RequestKey("started", float)
_AT_ONCE_BYTES: Final = 128 << 10
_PIECE_BYTES: Final = 256 << 10
_LISTED_MAX: Final = 10_000
_SWEEP_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class WebSettings:
    """How the server is reached and how patient it is.

    Args:
        host: the address to listen on.
        port: the port; 0 takes a free one.
        metrics_port: where ``/metrics`` is served on the same address; None for nowhere.
        access_log: whether each request is told as an event.
        head_timeout_seconds: how long a new connection may take to send its first request.
        keepalive_seconds: how long a connection may stay unused between requests.
        stop_timeout_seconds: how long answers under way may take when the server stops.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    metrics_port: int | None = None
    access_log: bool = False
    head_timeout_seconds: float = 30.0
    keepalive_seconds: float = 75.0
    stop_timeout_seconds: float = 10.0


@dataclass(frozen=True, slots=True)
class Location:
    """What a URL path means: a path in the storage of a repository, and how it is labelled."""

    repository: str
    path: str

    @property
    def kind(self) -> str:
        """``object`` or ``document``, for the metrics."""
        return "object" if self.path.startswith("data/") else "document"

    @property
    def headers(self) -> dict[str, str]:
        """Content-Type and Cache-Control, by the name alone (spec §8.2)."""
        if self.kind == "object":
            return _labels("application/octet-stream", LONG_SECONDS)
        if self.path.endswith(".json"):
            return _labels("application/json", SHORT_SECONDS)
        if self.path.startswith(".cvmfs"):
            return _labels("application/x-cvmfs", SHORT_SECONDS)
        return _labels("application/octet-stream", SHORT_SECONDS)


def locate(url_path: str) -> Location | None:
    """What a decoded URL path names, or None where it names nothing that is served."""
    match = _REPOSITORY.fullmatch(url_path)
    if match is None:
        return None
    repository, path = match.groups()
    if ".." in repository or path.startswith("info/") or not is_store_path(path):
        return None
    return Location(repository, path)


class StorageServer:
    """Serves a folder of repositories under ``/cvmfs/``.

    Args:
        folder: has one folder for each repository, or a symbolic link to one, and perhaps ``info/v1/``.
        settings: where to listen and how patient to be.
        elsewhere: storage folders of repositories that are not in the folder, by name.
        more_metrics: gives further metrics as text, such as when what expires; called in a thread.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        settings: WebSettings | None = None,
        *,
        elsewhere: Mapping[str, str | os.PathLike[str]] | None = None,
        more_metrics: Callable[[], str] = str,
    ) -> None:
        self._folder = os.path.abspath(os.fspath(folder))
        self._settings = settings or WebSettings()
        self._elsewhere = {name: os.path.abspath(os.fspath(path)) for name, path in (elsewhere or {}).items()}
        self._more_metrics = more_metrics
        self._runners: list[web.AppRunner] = []
        self._sweeper: asyncio.Task[None] | None = None
        self._proven: set[web.RequestHandler] = set()
        self.requests: Counter[tuple[str, int]] = Counter()
        """How many answers there were, by kind of resource and status."""
        self.bytes_sent = 0
        """How many bytes of bodies they had."""

    # -------------------------------------------------------------------------------------------- starting and stopping

    async def start(self) -> None:
        """Begins to serve.

        Raises:
            UsageError: the folder does not exist, or the address cannot be listened on.
        """
        if not await asyncio.to_thread(os.path.isdir, self._folder):
            raise UsageError(f"there is no folder {self._folder} to serve")
        try:
            await self._listen(self._handle, self._settings.port)
            if self._settings.metrics_port is not None:
                await self._listen(self._handle_metrics, self._settings.metrics_port)
        except BaseException:
            await self.stop()
            raise
        self._sweeper = asyncio.create_task(self._sweep_idle(), name="close connections that ask nothing")
        event("stratum0.server.started", url=self.url, folder=self._folder)

    async def stop(self) -> None:
        """Stops listening, lets answers under way finish, and closes all connections."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._sweeper
            self._sweeper = None
            event("stratum0.server.stopped", folder=self._folder)
        while self._runners:
            await self._runners.pop().cleanup()

    async def run_forever(self, started: Callable[[], None] = lambda: None) -> None:
        """Serves until the process gets SIGTERM or SIGINT, then stops in good order.

        Args:
            started: called when requests are answered, and signals are heeded.

        Raises:
            UsageError: as `start`.
        """
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        signals = (signal.SIGTERM, signal.SIGINT)
        for number in signals:
            loop.add_signal_handler(number, stop.set)
        try:
            if not self._runners:
                await self.start()
            started()
            await stop.wait()
        finally:
            for number in signals:
                loop.remove_signal_handler(number)
            await self.stop()

    @property
    def url(self) -> str:
        """The base of all URLs, without a slash at its end; a repository is at ``URL/cvmfs/NAME``."""
        return _url(self._runners[0])

    @property
    def metrics_url(self) -> str | None:
        """Where the metrics are, if anywhere."""
        return f"{_url(self._runners[1])}/metrics" if len(self._runners) > 1 else None

    async def _listen(self, handler: _Handler, port: int) -> None:
        application = web.Application()
        application.router.add_route("*", "/{path:(?s:.*)}", handler)  # line breaks too
        application.on_response_prepare.append(self._note)
        runner = web.AppRunner(
            application,
            access_log=None,
            logger=web_logger(),
            keepalive_timeout=self._settings.keepalive_seconds,
            shutdown_timeout=self._settings.stop_timeout_seconds,
        )
        await runner.setup()
        self._runners.append(runner)
        try:
            await web.TCPSite(runner, self._settings.host, port, backlog=1024).start()
        except OSError as error:
            raise UsageError(f"cannot listen on {self._settings.host} port {port}: {error.strerror}") from error

    async def _sweep_idle(self) -> None:
        """Closes connections that never send a whole request; the library only limits the time between requests."""
        first_seen: dict[web.RequestHandler, float] = {}
        limit = self._settings.head_timeout_seconds
        while True:
            await asyncio.sleep(min(_SWEEP_SECONDS, limit / 4))
            now = time.monotonic()
            open_now = set(self._connections())
            self._proven &= open_now
            first_seen = {connection: first_seen.get(connection, now) for connection in open_now - self._proven}
            for connection, seen in first_seen.items():
                if now - seen >= limit:
                    connection.force_close()

    def _connections(self) -> list[web.RequestHandler]:
        server = self._runners[0].server if self._runners else None
        return server.connections if server is not None else []

    # -------------------------------------------------------------------------------------------------------- answering

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self._proven.add(request.protocol)
        request[_STARTED] = time.monotonic()
        location = locate(request.path)
        request[_KIND] = location.kind if location is not None else "other"
        try:
            return await self._answer(request, location)
        except OSError as error:
            event("stratum0.request.failed", level="error", path=request.path[:300], reason=str(error))
            return _refusal(500, "the server cannot read this file")

    async def _note(self, request: web.Request, response: web.StreamResponse) -> None:
        """Counts an answer and tells of it, at the moment its head is ready."""
        kind = request.get(_KIND)
        if kind is None:
            return
        if response.status == 416:
            response.headers["Cache-Control"] = "no-store"  # it is about that request, not about the object
        size = 0 if request.method == "HEAD" or response.status == 304 else response.content_length or 0
        self.requests[kind, response.status] += 1
        self.bytes_sent += size
        if self._settings.access_log:
            event(
                "stratum0.request.answered",
                client=request.remote,
                method=request.method,
                path=request.raw_path[:300],
                status=response.status,
                bytes=size,
                seconds=round(time.monotonic() - request[_STARTED], 6),
                agent=request.headers.get("User-Agent", "")[:200],
            )

    async def _answer(self, request: web.Request, location: Location | None) -> web.StreamResponse:
        if request.method not in {"GET", "HEAD"}:
            return _refusal(405, "only GET and HEAD", {"Allow": "GET, HEAD"})
        if (information := _INFORMATION.get(request.path)) is not None:
            return await self._answer_information(request, information)
        if location is None:
            return _not_found()
        storage = self._elsewhere.get(location.repository, f"{self._folder}/{location.repository}")
        return await _answer_file(request, storage, location.path, location.headers)

    async def _answer_information(self, request: web.Request, name: str) -> web.StreamResponse:
        headers = _labels("application/json", SHORT_SECONDS)
        response = await _answer_file(request, self._folder, f"info/v1/{name}.json", headers)
        if response.status != 404:
            return response
        document = await asyncio.to_thread(self._information) if name == "repositories" else _NO_META
        return web.Response(body=(json.dumps(document, indent=2) + "\n").encode(), headers=headers)

    def _information(self) -> dict[str, object]:
        """What ``repositories.json`` says where nobody wrote one (schema 1, spec §1.2)."""
        folders = {**{name: f"{self._folder}/{name}" for name in _names_in(self._folder)}, **self._elsewhere}
        entries: dict[str, list[dict[str, str]]] = {"repositories": [], "replicas": []}
        for name, folder in sorted(folders.items()):
            if os.path.isfile(f"{folder}/{MANIFEST_PATH}"):
                kind = "replicas" if os.path.exists(f"{folder}/{LAST_SNAPSHOT_PATH}") else "repositories"
                entries[kind].append({"name": name, "url": f"/cvmfs/{name}"})
        return {"schema": 1, **entries}

    async def _handle_metrics(self, request: web.Request) -> web.StreamResponse:
        if request.path != "/metrics" or request.method not in {"GET", "HEAD"}:
            return _not_found()
        connections = len(self._connections())
        more = (await asyncio.to_thread(self._more_metrics)).encode()
        return web.Response(
            body=_metrics_text(self.requests, self.bytes_sent, connections) + more,
            headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
        )


def _metrics_text(requests: Mapping[tuple[str, int], int], bytes_sent: int, connections: int) -> bytes:
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector

    class Counted(Collector):
        def collect(self) -> Iterable[Metric]:
            answers = CounterMetricFamily("stratum0_web_requests", "Requests answered.", labels=["kind", "status"])
            for (kind, status), number in requests.items():
                answers.add_metric([kind, str(status)], number)
            yield answers
            yield CounterMetricFamily("stratum0_web_sent_bytes", "Bytes of bodies sent.", bytes_sent)
            yield GaugeMetricFamily("stratum0_web_connections", "Connections open now.", connections)

    registry = CollectorRegistry()
    registry.register(Counted())
    return generate_latest(registry)


_NO_META: Final = {"administrator": "", "email": "", "organisation": "", "custom": {}}


async def _answer_file(request: web.Request, storage: str, path: str, headers: dict[str, str]) -> web.StreamResponse:
    """The file as an answer, or 404; never a file outside of the storage folder."""
    try:
        real = _inside(storage, path)
        fd = os.open(real, _READ)
    except OSError as error:
        if error.errno in _ABSENT:
            return _not_found()
        raise
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            return _not_found()
        headers = {**headers, "Accept-Ranges": "bytes"}
        at_once = request.method == "GET" and status.st_size <= _AT_ONCE_BYTES
        if not at_once or any(name in request.headers for name in _CONDITIONS):
            return web.FileResponse(real, chunk_size=_PIECE_BYTES, headers=headers)
        response = web.Response(body=await _read(fd, status.st_size), headers=headers)
        response.last_modified = status.st_mtime
        response.etag = f"{status.st_mtime_ns:x}-{status.st_size:x}"  # as FileResponse has it
        return response
    finally:
        os.close(fd)


def _inside(storage: str, path: str) -> str:
    """Where a file really is.

    Raises:
        OSError: nowhere, or outside of the storage folder, where a symbolic link must not lead.
    """
    place = storage
    for name in path.split("/"):
        place = f"{place}/{name}"
        if stat.S_ISLNK(os.lstat(place).st_mode):
            break
    else:
        return place  # no link on the way: the rule, and five times cheaper than to resolve the whole path
    root = os.path.realpath(storage)
    real = os.path.realpath(f"{root}/{path}")
    if not real.startswith(f"{root}/"):
        raise FileNotFoundError(errno.ENOENT, "outside of the storage folder", path)
    return real


async def _read(fd: int, size: int) -> bytes:
    """A small file's content: at once if it is in memory, else in a thread, so that a disk delays nobody else."""
    if hasattr(os, "RWF_NOWAIT"):
        with suppress(OSError):
            buffer = bytearray(size)
            if os.preadv(fd, [buffer], 0, os.RWF_NOWAIT) == size:
                return bytes(buffer)
    return await asyncio.to_thread(os.pread, fd, size, 0)


def _names_in(folder: str) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for _, entry in zip(range(_LISTED_MAX), entries, strict=False) if entry.is_dir()]


def _labels(content_type: str, seconds: int) -> dict[str, str]:
    return {"Content-Type": content_type, "Cache-Control": f"max-age={seconds}", "Server": _SERVER}


def _not_found() -> web.Response:
    return _refusal(404, "not found", {"Cache-Control": f"max-age={ABSENT_SECONDS}"})


def _refusal(status: int, text: str, headers: Mapping[str, str] | None = None) -> web.Response:
    labels = {"Cache-Control": "no-store", "Server": _SERVER, **(headers or {})}
    return web.Response(status=status, text=f"{text}\n", headers=labels)


_SERVER: Final = f"stratocast/{cdn.__version__}"


def _url(runner: web.AppRunner) -> str:
    host, port = runner.addresses[0][:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
