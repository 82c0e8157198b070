"""The access log: lines are made at once and written a second later by a thread, so that a slow disk delays nobody."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

from cdn.errors import UsageError
from cdn.telemetry import event
from edge.config import LogSettings
from edge.http.request import Request
from edge.http.request_id import RequestIds
from edge.watching.statistics import Statistics

LINES_MAX: Final = 50_000
"""How many lines wait at most; more are dropped and counted."""
_FLUSH_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Access:
    """One answered request.

    Args:
        client: its address.
        request: what it asked for, or None if that could not be read.
        status: of the answer.
        size: bytes of body sent.
        result: what the cache did.
        seconds: from the request to the end of the answer.
        at: when, in seconds since the epoch.
        request_id: its ID; empty if it has none, or none was needed so far.
        waited_for: the ID of the request whose fetch it shared.
    """

    client: str
    request: Request | None
    status: int
    size: int
    result: str
    seconds: float
    at: float
    request_id: str = ""
    waited_for: str = ""


class AccessLog:
    """Writes one line for each request.

    Args:
        settings: where to, and how.
        statistics: counts lines that had to be dropped.
    """

    def __init__(self, settings: LogSettings, statistics: Statistics) -> None:
        self._path = settings.access
        self._line = _LINES[settings.format]
        self._sample, self._samples_errors = settings.sample, settings.sample_errors
        self._credit = 1.0
        self._anonymizes = settings.anonymize
        self._statistics = statistics
        self._waiting: list[Access] = []
        self._descriptor = -1
        self._must_reopen = False
        self._task: asyncio.Task[None] | None = None
        self.is_enabled = bool(self._path)
        self.request_ids = request_ids_of(settings)
        """Names requests; None if they have no IDs."""

    def start(self) -> None:
        """Begins to write.

        Raises:
            UsageError: the file cannot be opened.
        """
        if not self.is_enabled:
            return
        try:
            self._descriptor = self._open()
        except OSError as error:
            raise UsageError(f"the access log {self._path} cannot be opened: {error.strerror}") from error
        self._task = asyncio.create_task(self._write_on())

    async def stop(self) -> None:
        """Writes what waits, and ends."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None
            self._write(self._taken())
        self._close()

    def takes(self, status: int) -> bool:
        """Whether the next request, answered so, is one of those that are logged; to be asked once for each."""
        if not self.is_enabled:
            return False
        if self._sample >= 1.0 or (status >= 400 and not self._samples_errors):
            return True
        self._credit += self._sample
        if self._credit < 1.0:
            return False
        self._credit -= 1.0
        return True

    def add(self, access: Access) -> None:
        """Notes one request."""
        if len(self._waiting) >= LINES_MAX:
            self._statistics.log_lines_dropped += 1
        else:
            self._waiting.append(access)

    def reopen(self) -> None:
        """Lets the next line go to a new file of the same name, after the old one was moved away."""
        self._must_reopen = True

    def _close(self) -> None:
        if self._descriptor > 2:
            os.close(self._descriptor)
        self._descriptor = -1

    async def _write_on(self) -> None:
        while True:
            await asyncio.sleep(_FLUSH_SECONDS)
            if self._waiting:
                await asyncio.to_thread(self._write, self._taken())

    def _taken(self) -> list[Access]:
        taken, self._waiting = self._waiting, []
        return taken

    def _write(self, accesses: list[Access]) -> None:
        if self._anonymizes:
            accesses = [replace(access, client=anonymous(access.client)) for access in accesses]
        if self.request_ids is not None:
            accesses = [_identified(access, self.request_ids) for access in accesses]
        data = "".join(self._line(access) + "\n" for access in accesses).encode("utf-8", "replace")
        try:
            if self._must_reopen:
                self._must_reopen = False
                self._close()
            if self._descriptor < 0:
                self._descriptor = self._open()
            os.write(self._descriptor, data)
        except OSError as error:
            self._statistics.log_lines_dropped += len(accesses)
            event("edge.access_log.failed", level="warning", path=self._path, reason=str(error))
            self._close()

    def _open(self) -> int:
        if self._path == "-":
            return sys.stdout.fileno()
        return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)


def request_ids_of(settings: LogSettings) -> RequestIds | None:
    """Names requests as an edge is told."""
    return None if settings.request_id == "off" else RequestIds(os.urandom, accepts=settings.request_id == "accept")


def _identified(access: Access, request_ids: RequestIds) -> Access:
    """The same with an ID: what was answered at once from memory was told to nobody, and so got none before."""
    if access.request_id or access.request is None:
        return access
    return replace(access, request_id=request_ids.of(access.request.headers))


@lru_cache(maxsize=4096)
def anonymous(client: str) -> str:
    """An address without the part that tells one machine from its neighbours; what is no address stays."""
    try:
        address = ipaddress.ip_address(client.partition("%")[0])
    except ValueError:
        return client
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    bits = 24 if address.version == 4 else 48
    return str(ipaddress.ip_network(f"{address}/{bits}", strict=False).network_address)


def combined_line(access: Access) -> str:
    """The combined format of web servers, with the cache's result and the seconds behind it."""
    moment = time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(access.at))
    line, referer, agent = "-", "-", "-"
    if access.request is not None:
        major, minor = access.request.version.value
        line = f"{access.request.method} {access.request.target} HTTP/{major}.{minor}"
        referer = access.request.headers.get("Referer") or "-"
        agent = access.request.headers.get("User-Agent") or "-"
    return (
        f'{access.client} - - [{moment}] "{_quoted(line)}" {access.status} {access.size} '
        f'"{_quoted(referer)}" "{_quoted(agent)}" {access.result} {access.seconds:.6f}'
    )


def combined_id_line(access: Access) -> str:
    """The same with the request's ID at the end."""
    return f"{combined_line(access)} {access.request_id or '-'}"


def json_line(access: Access) -> str:
    """One JSON object."""
    request = access.request
    fields = {
        "at": round(access.at, 6),
        "client": access.client,
        "method": request.method if request else None,
        "target": request.target if request else None,
        "agent": request.headers.get("User-Agent") if request else None,
        "status": access.status,
        "size": access.size,
        "result": access.result,
        "seconds": round(access.seconds, 6),
    }
    if access.request_id:
        fields["request_id"] = access.request_id
    if access.waited_for:
        fields["waited_for"] = access.waited_for
    return json.dumps(fields)


_LINES: Final[Mapping[str, Callable[[Access], str]]] = {
    "combined": combined_line,
    "combined_id": combined_id_line,
    "json": json_line,
}


def _quoted(text: str) -> str:
    """Text that cannot end the quoted field or the line it stands in."""
    if text.isprintable() and '"' not in text and "\\" not in text:
        return text
    return "".join(_escaped(character) for character in text)


def _escaped(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    return character if character.isprintable() else f"\\x{ord(character):02x}"
