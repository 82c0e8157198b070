"""TLS in front: certificates that can be looked at and replaced, and the handshake before a connection's first request.

A handshake that fails or takes too long is counted and costs nothing else; one under way counts as a connection.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cdn.errors import UsageError
from edge.settings.listen import TlsSettings
from edge.watching.statistics import Statistics

_SHUTDOWN_SECONDS: Final = 2.0
"""How long a client may take to say goodbye."""
_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_BYTES_MAX: Final = 1 << 20
_SOON_SECONDS: Final = 14 * 86400
_OTHERS_MAY_READ: Final = 0o004


# ------------------------------------------------------------------------------------------------------ certificates


def load_context(settings: TlsSettings, now: float) -> ssl.SSLContext:
    """What connections speak TLS with.

    Args:
        settings: the certificate and key.
        now: for which they must hold.

    Raises:
        UsageError: one cannot be read, they do not belong together, or the certificate has expired.
    """
    _check_validity(settings, now)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[settings.minimum]
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(settings.certificate, settings.key, password=_no_password)
    except ssl.SSLError as error:
        raise UsageError(_reason(settings, error)) from error
    except OSError as error:
        raise UsageError(f"the key {settings.key} cannot be read: {error.strerror}") from error
    return context


def certificate_doubts(settings: TlsSettings, now: float) -> list[str]:
    """What about a certificate and key is allowed but seldom meant.

    Raises:
        UsageError: as `load_context`.
    """
    load_context(settings, now)
    doubts = []
    _, until = _validity(settings.certificate)
    if until - now < _SOON_SECONDS:
        doubts.append(f"the certificate {settings.certificate} expires on {_day(until)}")
    if settings.key.stat().st_mode & _OTHERS_MAY_READ:
        doubts.append(f"everybody on this machine may read the key {settings.key}: chmod o-r")
    return doubts


def _no_password() -> str:
    raise UsageError("keys that ask for a password cannot be used")  # pragma: no cover -- OpenSSL hides it


def _reason(settings: TlsSettings, error: ssl.SSLError) -> str:
    if error.reason in {"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"}:
        return f"the key {settings.key} is not that of the certificate {settings.certificate}"
    return f"the key {settings.key} is no PEM file with a private key that needs no password"


def _check_validity(settings: TlsSettings, now: float) -> None:
    since, until = _validity(settings.certificate)
    if now > until:
        raise UsageError(f"the certificate {settings.certificate} expired on {_day(until)}: renew it")
    if now < since:
        raise UsageError(f"the certificate {settings.certificate} holds only from {_day(since)} on")


def _validity(path: Path) -> tuple[float, float]:
    """From when until when a certificate holds."""
    from cryptography import x509

    try:
        with path.open("rb") as file:
            certificate = x509.load_pem_x509_certificate(file.read(_BYTES_MAX))
    except OSError as error:
        raise UsageError(f"the certificate {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{path} is no PEM file with a certificate") from error
    return certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()


def _day(timestamp: float) -> str:
    return datetime.fromtimestamp(timestamp, UTC).date().isoformat()


# -------------------------------------------------------------------------------------------------------- handshakes


class Handshakes:
    """All handshakes under way.

    Args:
        statistics: counts those that fail.
        timeout_seconds: how long one may take.
        has_room: whether one connection more is allowed; asked with the number of handshakes under way.
    """

    def __init__(self, statistics: Statistics, timeout_seconds: float, has_room: Callable[[int], bool]) -> None:
        self._statistics = statistics
        self._timeout_seconds = timeout_seconds
        self._has_room = has_room
        self._under_way: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._under_way)

    def begin(self, sock: socket.socket, context: ssl.SSLContext, make: Callable[[], asyncio.BaseProtocol]) -> None:
        """Greets a client.

        Args:
            sock: its connection, which is closed if there are too many.
            context: the certificate of now; a later one does not touch this connection.
            make: the protocol for after the handshake.
        """
        if not self._has_room(len(self._under_way)):
            self._statistics.connections += 1
            self._statistics.connections_refused += 1
            sock.close()
            return
        task = asyncio.get_running_loop().create_task(self._greet(sock, context, make))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _greet(
        self, sock: socket.socket, context: ssl.SSLContext, make: Callable[[], asyncio.BaseProtocol]
    ) -> None:
        """One handshake; the outermost edge of its task."""
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                make,
                sock,
                ssl=context,
                ssl_handshake_timeout=self._timeout_seconds,
                ssl_shutdown_timeout=_SHUTDOWN_SECONDS,
            )
        except OSError:
            self._statistics.handshakes_failed += 1

    async def abort(self) -> None:
        """Breaks off all of them."""
        tasks = list(self._under_way)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
