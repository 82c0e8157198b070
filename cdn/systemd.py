"""What a service and systemd say to one another: readiness, the watchdog, and sockets handed over.

Everything is in the environment that systemd gives a service; without it nothing is sent and nothing was handed over.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from cdn.errors import UsageError

FIRST_DESCRIPTOR: Final = 3
"""Of the sockets that systemd hands over (``SD_LISTEN_FDS_START``)."""
_DESCRIPTORS_MAX: Final = 4096
_UNNAMED: Final = "unknown"
_NOTIFY: Final = "NOTIFY_SOCKET"
_WATCHDOG: Final = "WATCHDOG_USEC"
_WATCHDOG_PID: Final = "WATCHDOG_PID"
_OURS_ALONE: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", _WATCHDOG_PID)
_STATUS_CHARACTERS_MAX: Final = 500


class SystemdNotifier:
    """Tells systemd how a service is; see ``sd_notify(3)``. Without systemd it does nothing.

    Args:
        environment: of the process.
        pid: of the process.
    """

    def __init__(self, environment: Mapping[str, str], pid: int) -> None:
        self._address = _notify_address(environment.get(_NOTIFY, ""))
        self.watchdog_seconds = watchdog_seconds(environment, pid) if self._address else None
        """Systemd kills the service if it is silent for so long; None if it does not look."""

    def ready(self, status: str = "") -> None:
        """It serves, after a start or a reload."""
        self._send("READY=1", *_status(status))

    def reloading(self, monotonic_microseconds: int) -> None:
        """It takes over a new configuration; `ready` ends that.

        Args:
            monotonic_microseconds: of the system's monotonic clock, now.
        """
        self._send("RELOADING=1", f"MONOTONIC_USEC={monotonic_microseconds}")

    def stopping(self, status: str = "") -> None:
        """It begins to stop."""
        self._send("STOPPING=1", *_status(status))

    def status(self, status: str) -> None:
        """Says in one line what it does."""
        self._send(*_status(status))

    def alive(self) -> None:
        """It is well."""
        self._send("WATCHDOG=1")

    def handed_over(self, pid: int) -> None:
        """Another process is the service now, and serves."""
        self._send(f"MAINPID={pid}", "READY=1")

    def _send(self, *lines: str) -> None:
        if self._address is None or not lines:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)  # better unheard than held up
            sock.sendto("\n".join(lines).encode(), self._address)


def _notify_address(text: str) -> str | None:
    if text.startswith("@"):
        return "\0" + text[1:]
    return text if text.startswith("/") else None


def _status(text: str) -> tuple[str, ...]:
    line = " ".join(text.split())[:_STATUS_CHARACTERS_MAX]
    return (f"STATUS={line}",) if line else ()


def watchdog_seconds(environment: Mapping[str, str], pid: int) -> float | None:
    """How long a service may be silent; None if systemd does not look, or looks after another process."""
    said = environment.get(_WATCHDOG, "")
    if environment.get(_WATCHDOG_PID, str(pid)) != str(pid) or not (said.isascii() and said.isdigit()):
        return None
    return int(said) / 1e6 or None


def handed_descriptors(environment: Mapping[str, str], pid: int) -> tuple[tuple[int, str], ...]:
    """The file descriptors that systemd opened for this process, each with its name; see ``sd_listen_fds(3)``.

    Args:
        environment: of the process.
        pid: of the process; what was meant for another one is not taken.

    Raises:
        UsageError: the variables contradict one another.
    """
    if environment.get("LISTEN_PID") != str(pid) or "LISTEN_FDS" not in environment:
        return ()
    said = environment["LISTEN_FDS"]
    if not (said.isascii() and said.isdigit() and int(said) <= _DESCRIPTORS_MAX):
        raise UsageError(f"LISTEN_FDS={said} is no number of sockets from systemd")
    count = int(said)
    names = environment["LISTEN_FDNAMES"].split(":") if "LISTEN_FDNAMES" in environment else [_UNNAMED] * count
    if len(names) != count and count:
        raise UsageError(f"LISTEN_FDNAMES names {len(names)} sockets from systemd, LISTEN_FDS says {count}")
    return tuple((FIRST_DESCRIPTOR + index, names[index]) for index in range(count))


def successor_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment for a process that becomes the service: without what systemd meant for this one alone."""
    return {name: value for name, value in environment.items() if name not in _OURS_ALONE}
