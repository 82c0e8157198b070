"""The operator's listener of the daemon: metrics and status over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from cdn.daemon import HttpListener, operator_application
from cdn.errors import UsageError
from replica.metrics import Statistics, render_metrics, status_document
from replica.schedule import Job


class Watched(Protocol):
    """What operators are told about."""

    @property
    def jobs(self) -> list[Job]:
        """Every replica's job."""
        ...

    @property
    def statistics(self) -> Statistics:
        """What happened to all replicas."""
        ...


@asynccontextmanager
async def serving(daemon: Watched, listen: str | None) -> AsyncIterator[str | None]:
    """Answers ``/metrics``, ``/status``, ``/healthz`` and ``/readyz`` while the block runs.

    Args:
        daemon: told about.
        listen: host:port, None for not at all.

    Yields:
        host:port as it came to be.

    Raises:
        UsageError: this is no host:port, or it is taken.
    """
    if listen is None:
        yield None
        return
    application = operator_application(
        status=lambda: status_document(daemon.jobs, daemon.statistics),
        metrics=lambda: render_metrics(daemon.statistics),
        is_ready=lambda: True,
    )
    listener = HttpListener(application)
    host, port = _address(listen)
    await listener.start(host, port)
    try:
        yield f"{host}:{listener.address[1]}"
    finally:
        await listener.stop()


def _address(listen: str) -> tuple[str, int]:
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise UsageError(f"{listen!r} is no address to listen on, such as 127.0.0.1:9154")
    return host.strip("[]") or "127.0.0.1", int(port)
