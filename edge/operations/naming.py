"""What an edge calls itself, and where it says that it answers."""

from __future__ import annotations

import socket

from edge.connection.listeners import ListeningSocket, bound_address
from edge.settings.listen import ListenSettings, TcpAddress


def own_name(address: tuple[str, int] | None) -> str:
    """What an edge without a name calls itself: its address, or if it listens on all or none, its host's name."""
    if address is None:
        return socket.gethostname()
    host, port = address
    if host in {"0.0.0.0", "::"}:  # noqa: S104 -- compared with, not listened on
        host = socket.gethostname()
    return str(TcpAddress(host, port))


def place_of(listener: ListeningSocket, settings: ListenSettings) -> str:
    """Where a socket listens, as a person says it."""
    bound = bound_address(listener.sock)
    where = f"{bound.host} port {bound.port}" if isinstance(bound, TcpAddress) else listener.text
    return f"{where} with TLS" if settings.tls_of(listener.address) else where
