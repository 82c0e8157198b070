"""Where connections come from: sockets that listen, opened here or handed over.

workers = open_listeners(config.listen, count=4)
for listeners in workers: ...   # what one worker accepts from, one or more sockets for each address

A listening socket has the address by which the configuration knows it, so a process that inherits it (a worker, or the
successor in an upgrade) finds out from its own configuration what is spoken there.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cdn.errors import UsageError
from cdn.systemd import handed_descriptors
from edge.settings.checks import listen_address
from edge.settings.listen import ListenAddress, ListenSettings, SystemdName, TcpAddress, UnixAddress, parse_address

ADMIN_BACKLOG: Final = 128
_PROBE_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class ListeningSocket:
    """A socket that listens.

    Args:
        address: as the configuration has it.
        sock: the socket.
    """

    address: str
    sock: socket.socket

    @property
    def text(self) -> str:
        """Where it really listens."""
        return str(bound_address(self.sock) or self.address)


Listeners = tuple[ListeningSocket, ...]


def open_listeners(
    settings: ListenSettings, *, count: int = 1, handed: Sequence[ListeningSocket] = ()
) -> tuple[Listeners, ...]:
    """Opens every address that is configured and was not handed over.

    Args:
        settings: the addresses.
        count: of workers. Each gets its own socket for a TCP address, and the kernel spreads connections among them.
        handed: sockets of a predecessor or of systemd; those of addresses that are no longer configured are left alone.

    Returns:
        for each worker what it accepts from. A socket that several share is in several of them.

    Raises:
        UsageError: an address cannot be had.
    """
    opened: list[ListeningSocket] = []
    workers: list[list[ListeningSocket]] = [[] for _ in range(count)]
    try:
        for address in settings.all_addresses:
            sockets = [each for each in handed if is_for(each, address)]
            if not sockets:
                sockets = _open(address, settings, count)
                opened += sockets
            for index in range(max(count, len(sockets))):
                workers[index % count].append(ListeningSocket(address, sockets[index % len(sockets)].sock))
    except BaseException:
        close_listeners(opened)
        raise
    return tuple(tuple(each) for each in workers)


def close_listeners(listeners: Iterable[ListeningSocket]) -> None:
    """Closes sockets; those that another process has as well go on listening there."""
    for each in listeners:
        each.sock.close()


def is_for(listener: ListeningSocket, address: str) -> bool:
    """Whether a socket that was handed over is the one for a configured address."""
    return listener.address == address or bound_address(listener.sock) == parse_address(address)


def bound_address(sock: socket.socket) -> ListenAddress | None:
    """Where a socket listens; None if that cannot be configured."""
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return UnixAddress(Path(name)) if isinstance(name, str) and name.startswith("/") else None
    return TcpAddress(name[0], name[1])


# ------------------------------------------------------------------------------------------------------- handed over


def systemd_listeners(settings: ListenSettings, environment: Mapping[str, str], pid: int) -> Listeners:
    """The sockets that systemd hands over.

    Args:
        settings: which must name each, as ``systemd:NAME`` or by its address.
        environment: of the process.
        pid: of the process.

    Raises:
        UsageError: one of them is no listening socket, or nobody named it.
    """
    listeners: list[ListeningSocket] = []
    try:
        for descriptor, name in handed_descriptors(environment, pid):
            listeners.append(adopt(f"systemd:{name}", descriptor))
            if not any(is_for(listeners[-1], address) for address in settings.all_addresses):
                address, where = listeners[-1].address, listeners[-1].text
                raise UsageError(f'systemd hands over {where}: put "{address}" into `addresses` of [listen]')
    except BaseException:
        close_listeners(listeners)
        raise
    return tuple(listeners)


def adopt(address: str, descriptor: int) -> ListeningSocket:
    """A listening socket out of an inherited file descriptor.

    Raises:
        UsageError: it is something else.
    """
    os.set_inheritable(descriptor, False)
    try:
        sock = socket.socket(fileno=descriptor)
        is_listening = bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError as error:
        raise UsageError(f"what was handed over for {address} is no socket: {error.strerror}") from error
    if not is_listening or sock.type != socket.SOCK_STREAM:
        sock.close()
        raise UsageError(f"what was handed over for {address} is no listening stream socket")
    sock.setblocking(False)
    return ListeningSocket(address, sock)


# ---------------------------------------------------------------------------------------------------------- opening


def _open(text: str, settings: ListenSettings, count: int) -> list[ListeningSocket]:
    address = parse_address(text)
    if isinstance(address, SystemdName):
        raise UsageError(
            f"no socket came from systemd for {text}: give a socket unit FileDescriptorName={address.name}"
        )
    if isinstance(address, UnixAddress):
        sockets = [_open_unix(address.path, int(settings.unix_mode, 8), settings.backlog)]
    else:
        sockets = open_tcp(address, settings.backlog, count=count)
    return [ListeningSocket(text, each) for each in sockets]


def open_admin(text: str) -> socket.socket:
    """A listening socket for the operator's listener; raises as `open_tcp`."""
    (sock,) = open_tcp(TcpAddress(*listen_address(text)), ADMIN_BACKLOG)
    return sock


def open_tcp(address: TcpAddress, backlog: int, *, count: int = 1) -> list[socket.socket]:
    """As many listening sockets for an address as asked for.

    Raises:
        UsageError: it cannot be had.
    """
    sockets: list[socket.socket] = []
    try:
        for _ in range(count):
            port = sockets[0].getsockname()[1] if sockets else address.port
            sockets.append(_bound(TcpAddress(address.host, port), shares=bool(sockets)))
            if count > 1:
                # Only after the first was bound, so that no other program, our own included, shares it by mistake.
                sockets[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        for sock in sockets:
            sock.listen(backlog)
    except OSError as error:
        for sock in sockets:
            sock.close()
        reason = os.strerror(error.errno or 0)
        raise UsageError(f"cannot listen on {address.host} port {address.port}: {reason}") from error
    return sockets


def _bound(address: TcpAddress, *, shares: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shares:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((address.host, address.port))
    except OSError:
        sock.close()
        raise
    return sock


def _open_unix(path: Path, mode: int, backlog: int) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _clear(path)
        with suppress(OSError):  # where the kernel allows it, the file is never open to more than it should be
            os.fchmod(sock.fileno(), mode)
        sock.bind(str(path))
        path.chmod(mode)
        sock.setblocking(False)
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        raise UsageError(f"cannot listen on unix:{path}: {os.strerror(error.errno or 0)}") from error
    except BaseException:
        sock.close()
        raise
    return sock


def _clear(path: Path) -> None:
    """Removes the socket that a dead process left.

    Raises:
        UsageError: somebody listens there, or it is no socket.
    """
    try:
        facts = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(facts.st_mode):
        raise UsageError(f"cannot listen on unix:{path}: a file that is no socket is there; remove it")
    if is_answered(path):
        raise UsageError(f"cannot listen on unix:{path}: another process does")
    path.unlink(missing_ok=True)


def is_answered(path: Path) -> bool:
    """Whether somebody listens on a Unix socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_SECONDS)
        try:
            probe.connect(str(path))
        except OSError as error:
            return error.errno not in {errno.ECONNREFUSED, errno.ENOENT}
    return True
