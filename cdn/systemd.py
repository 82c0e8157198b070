"""What a service and systemd say to one another: readiness, the watchdog, and sockets handed over.

Everything is in the environment that systemd gives a service; without it nothing is sent and nothing was handed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cdn.errors import UsageError

FIRST_DESCRIPTOR: Final = 3
"""Of the sockets that systemd hands over (``SD_LISTEN_FDS_START``)."""
_DESCRIPTORS_MAX: Final = 4096
_UNNAMED: Final = "unknown"
_SOCKET_VARIABLES: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
_NOTIFY: Final = "NOTIFY_SOCKET"
_WATCHDOG_MICROSECONDS: Final = "WATCHDOG_USEC"
_WATCHDOG_PID: Final = "WATCHDOG_PID"


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
    count, names = int(said), environment.get("LISTEN_FDNAMES", "").split(":")
    if "LISTEN_FDNAMES" not in environment:
        names = [_UNNAMED] * count
    if len(names) != count and count:
        raise UsageError(f"LISTEN_FDNAMES names {len(names)} sockets from systemd, LISTEN_FDS says {count}")
    return tuple((FIRST_DESCRIPTOR + index, names[index]) for index in range(count))


def without_handed_descriptors(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment for other processes: what was handed to this one is not theirs."""
    return {name: value for name, value in environment.items() if name not in _SOCKET_VARIABLES}
