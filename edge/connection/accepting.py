"""Accepting connections from listening sockets, in plain text or with TLS."""

from __future__ import annotations

import asyncio
import socket
import ssl
import sys
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from contextlib import suppress
from typing import Any, Final, Protocol

from cdn.clock import Clock
from cdn.errors import UsageError
from cdn.telemetry import event
from edge.connection.listeners import Listeners, ListeningSocket, close_listeners
from edge.connection.tls import Handshakes, certificate_doubts, load_context
from edge.settings.listen import ListenSettings, TlsSettings

_REST_SECONDS: Final = 1.0


class Acceptor:
    """Accepts connections until it is closed.

    Args:
        settings: what is spoken at which address.
        listeners: where; closed with it.
        clock: for which time certificates must hold.
        spare: where other workers accept, by index, in case one of them is gone; closed with it.
    """

    def __init__(
        self,
        settings: ListenSettings,
        listeners: Listeners,
        clock: Clock,
        spare: Mapping[int, Listeners] | None = None,
    ) -> None:
        self._settings = settings
        self.listeners = listeners
        self._clock = clock
        self._spare = dict(spare or {})
        self._doors: list[Door] = []
        self._borrowed: dict[int, list[Door]] = {}
        self._open_door: Callable[[ListeningSocket], Awaitable[Door]] | None = None
        self._welcome: Callable[[str, socket.socket], Coroutine[Any, Any, None]] | None = None
        self._contexts: dict[str, ssl.SSLContext] = {}

    def load_certificates(self) -> None:
        """Reads every certificate.

        Raises:
            UsageError: one is no good.
        """
        for tls in self._settings.tls:
            self._contexts[tls.address] = load_context(tls, self._clock.now())
            for doubt in certificate_doubts(tls, self._clock.now()):
                event("edge.certificate.doubtful", level="warning", reason=doubt)

    def reload_certificates(self, settings: ListenSettings) -> int:
        """Greets new connections with what the files hold now; one that is no good is not taken.

        Args:
            settings: which may name other files for the same addresses.

        Returns:
            how many are no good.
        """
        return sum(not self._reload(tls) for tls in settings.tls if tls.address in self._contexts)

    def _reload(self, tls: TlsSettings) -> bool:
        try:
            self._contexts[tls.address] = load_context(tls, self._clock.now())
        except UsageError as error:
            event("edge.certificate.refused", level="error", address=tls.address, reason=f"{error}; the old one stays")
            return False
        return True

    async def open(self, make: Callable[[], asyncio.BaseProtocol], handshakes: Handshakes) -> None:
        """Begins to accept.

        Args:
            make: the protocol of a connection.
            handshakes: of those with TLS.
        """

        async def open_door(listener: ListeningSocket) -> Door:
            if listener.address not in self._contexts:
                return await _serve(listener.sock, make, self._settings.backlog)
            return SecureDoor(listener.sock, self._greeter(listener.address, make, handshakes), self._settings.backlog)

        async def welcome(address: str, sock: socket.socket) -> None:
            if address in self._contexts:
                handshakes.begin(sock, self._contexts[address], make)
                return
            try:
                await asyncio.get_running_loop().connect_accepted_socket(make, sock)
            except OSError:  # it has gone again
                sock.close()

        self._open_door, self._welcome = open_door, welcome
        for listener in self.listeners:
            self._doors.append(await open_door(listener))

    async def stand_in(self, indices: Collection[int]) -> None:
        """Accepts for these other workers as well, and for no others; with closed doors for nobody."""
        for index in set(self._borrowed) - set(indices):
            for door in self._borrowed.pop(index):
                door.close()
        for index in set(indices) - set(self._borrowed):
            await self._borrow(self._spare.get(index, ()), self._borrowed.setdefault(index, []))

    async def _borrow(self, listeners: Listeners, doors: list[Door]) -> None:
        for listener in listeners:
            if (open_door := self._open_door) is None:
                return
            door = await open_door(listener)
            if open_door is self._open_door:
                doors.append(door)
            else:  # closed meanwhile
                door.close()

    def _greeter(
        self, address: str, make: Callable[[], asyncio.BaseProtocol], handshakes: Handshakes
    ) -> Callable[[socket.socket], None]:
        return lambda sock: handshakes.begin(sock, self._contexts[address], make)

    def close(self) -> None:
        """Stops accepting: what another process accepts from the same sockets goes on."""
        self._close_doors()
        close_listeners(self._all_listeners)
        self.listeners, self._spare = (), {}

    async def close_after_all(self) -> None:
        """Stops accepting once everybody is in who waits, since whoever is in the queue of a closed socket is reset.

        Each process does so for all sockets that it holds, those of other workers too: the last one leaves nobody out.
        """
        self._close_doors()
        greeting: list[asyncio.Future[None]] = []
        for listener in self._all_listeners:
            greeting += self._let_in(listener)
            listener.sock.close()
        self.close()
        await asyncio.gather(*greeting)

    def _close_doors(self) -> None:
        for door in [*self._doors, *(each for doors in self._borrowed.values() for each in doors)]:
            door.close()
        self._doors, self._borrowed, self._open_door = [], {}, None

    @property
    def _all_listeners(self) -> list[ListeningSocket]:
        return [*self.listeners, *(each for listeners in self._spare.values() for each in listeners)]

    def _let_in(self, listener: ListeningSocket) -> list[asyncio.Future[None]]:
        """Accepts who waits at a socket, as many as may wait there; gives what greets them."""
        greeting: list[asyncio.Future[None]] = []
        with suppress(OSError):  # nobody waits, or there are no descriptors left
            while self._welcome is not None and len(greeting) < self._settings.backlog:
                sock, _ = listener.sock.accept()
                sock.setblocking(False)
                greeting.append(asyncio.ensure_future(self._welcome(listener.address, sock)))
        return greeting


class Door(Protocol):
    """Accepts from one socket until it is closed."""

    def close(self) -> None:
        """Accepts no more."""
        ...


class SecureDoor:
    """Accepts connections that begin with a handshake.

    Event loops do not tell of handshakes that fail, nor let another certificate be taken, so this accepts by itself.

    Args:
        sock: where; left open.
        greet: takes each connection.
        turns: how many are accepted at once at most, so that others have their turn.
    """

    def __init__(self, sock: socket.socket, greet: Callable[[socket.socket], None], turns: int) -> None:
        self._sock = sock
        self._greet = greet
        self._turns = turns
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self._watch()

    def _watch(self) -> None:
        self._pause = None
        self._loop.add_reader(self._sock.fileno(), self._accept)

    def _accept(self) -> None:
        for _ in range(self._turns):
            try:
                sock, _ = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._rest(error)
                return
            sock.setblocking(False)
            self._greet(sock)

    def _rest(self, error: OSError) -> None:
        """Waits for file descriptors to become free, rather than trying without end."""
        event("edge.accept.failed", level="error", reason=error.strerror)
        self._loop.remove_reader(self._sock.fileno())
        self._pause = self._loop.call_later(_REST_SECONDS, self._watch)

    def close(self) -> None:
        """Accepts no more."""
        if self._pause is not None:
            self._pause.cancel()
        else:
            self._loop.remove_reader(self._sock.fileno())


async def _serve(sock: socket.socket, factory: Callable[[], Any], backlog: int) -> asyncio.AbstractServer:
    loop, own = asyncio.get_running_loop(), sock.dup()  # the loop closes it with the server
    own.setblocking(False)
    if sock.family != socket.AF_UNIX:
        return await loop.create_server(factory, sock=own, backlog=backlog)
    keep: dict[str, Any] = {}
    if sys.version_info >= (3, 13):
        keep["cleanup_socket"] = False  # a successor may be listening there
    return await loop.create_unix_server(factory, sock=own, backlog=backlog, **keep)
