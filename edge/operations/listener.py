"""Where operators ask an edge, of one process or of several: how it is, what it counted, and what it shall do."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Mapping

from cdn.daemon import Command, HttpListener, operator_application
from edge.connection.listeners import open_admin


class OperatorListener:
    """The operator's listener.

    Args:
        text: its address; if that is empty, there is none.
        sock: one that listens there, closed with this; opened by itself if None.
    """

    def __init__(self, text: str, sock: socket.socket | None = None) -> None:
        self._text = text
        self.sock = sock
        self.address: tuple[str, int] | None = None
        """Where it listens, once it does."""
        self._http: HttpListener | None = None

    async def start(
        self,
        *,
        status: Callable[[], dict[str, object] | Awaitable[dict[str, object]]],
        metrics: Callable[[], bytes | Awaitable[bytes]],
        why_not_ready: Callable[[], str],
        commands: Mapping[str, Command],
    ) -> None:
        """Begins to answer.

        Args:
            status: describes the edge.
            metrics: what it counted, as text.
            why_not_ready: why new clients are better served elsewhere; empty if they are not.
            commands: what operators can have done, by name.

        Raises:
            UsageError: the address cannot be had.
        """
        if not self._text:
            return
        http = HttpListener(
            operator_application(
                status=status,
                metrics=metrics,
                is_ready=lambda: not why_not_ready(),
                why_not_ready=why_not_ready,
                commands=commands,
            )
        )
        if self.sock is None:
            self.sock = open_admin(self._text)
        await http.start_on(self.sock.dup())
        self._http, self.address = http, http.address

    async def stop(self) -> None:
        """Stops listening."""
        if self.sock is not None:
            self.sock.close()
            self.sock = None
        if self._http is not None:
            http, self._http = self._http, None
            await http.stop()
