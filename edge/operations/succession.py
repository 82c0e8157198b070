"""One edge process taking the place of another on the same sockets and the same cache, without a client noticing.

The two talk over a socket pair that the successor inherits with the listening sockets:

    successor: PREPARED   its configuration is good, and it has the sockets
    predecessor: YOURS    it stores nothing any more and let go of the cache
    successor: SERVING    it answers requests; the predecessor takes no new ones, and ends when nobody is left

Until SERVING the predecessor serves as ever. If the successor ends or says nothing for too long, the predecessor takes
the cache back.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from cdn.errors import TransportError, UsageError
from cdn.systemd import successor_environment
from edge.cache.cache_lock import PATIENCE_SECONDS
from edge.connection.listeners import Listeners, ListeningSocket, adopt

VARIABLE: Final = "STRATOCAST_SUCCESSION"
PREPARED: Final = b"P"
YOURS: Final = b"Y"
SERVING: Final = b"S"
START_SECONDS: Final = 60.0
"""How long a successor may take for each step."""
_END_SECONDS: Final = 5.0
_ADMIN: Final = "admin "


class Talk:
    """One side of the conversation.

    Args:
        sock: to the other process.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        sock.setblocking(False)

    def say(self, word: bytes) -> None:
        """Says a word; if nobody listens, that shows when the next one is waited for."""
        with suppress(OSError):
            self._sock.send(word)

    async def hear(self, word: bytes, seconds: float) -> None:
        """Waits for a word.

        Raises:
            TransportError: the other process ended, or says nothing.
        """
        try:
            async with asyncio.timeout(seconds):
                heard = await asyncio.get_running_loop().sock_recv(self._sock, 1)
        except TimeoutError as error:
            raise TransportError("the other process", f"it said nothing for {seconds:g} s") from error
        except OSError as error:
            raise TransportError("the other process", "it ended") from error
        if heard != word:
            raise TransportError("the other process", "it ended; its messages say why")

    def close(self) -> None:
        """Ends the conversation."""
        self._sock.close()


# ------------------------------------------------------------------------------------------------------- predecessor


class Successor:
    """A process that shall take over.

    Args:
        process: the process.
        talk: to it.
    """

    def __init__(self, process: subprocess.Popen[bytes], talk: Talk) -> None:
        self._process = process
        self.talk = talk

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    @classmethod
    def start(cls, listeners: Listeners, admin: socket.socket | None, admin_address: str) -> Successor:
        """Starts this program again, as it was started.

        Raises:
            UsageError: it cannot be started.
        """
        ours, theirs = socket.socketpair()
        sockets = [(each.address, each.sock.fileno()) for each in listeners]
        if admin is not None:
            sockets.append((_ADMIN + admin_address, admin.fileno()))
        environment = successor_environment(os.environ)
        environment[VARIABLE] = json.dumps({"talk": theirs.fileno(), "sockets": sockets})
        try:
            process = subprocess.Popen(
                [sys.executable, *sys.orig_argv[1:]],
                env=environment,
                pass_fds=(theirs.fileno(), *(number for _, number in sockets)),
            )
        except OSError as error:
            ours.close()
            raise UsageError(f"the successor cannot be started: {error.strerror}") from error
        finally:
            theirs.close()
        return cls(process, Talk(ours))

    def end(self) -> int:
        """Makes sure that it is gone; gives its exit status."""
        self.talk.close()
        self._process.terminate()
        try:
            return self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def leave(self) -> None:
        """Lets it live on alone."""
        self.talk.close()
        self._process.returncode = 0  # nobody here waits for it


# --------------------------------------------------------------------------------------------------------- successor


@dataclass(frozen=True, slots=True)
class Inheritance:
    """What a predecessor handed over.

    Args:
        talk: to it; None if systemd handed the sockets over, or nobody did.
        listeners: the listening sockets.
        admin: that of the operator's listener, by address.
    """

    talk: Talk | None = None
    listeners: Listeners = ()
    admin: ListeningSocket | None = None

    @property
    def patience_seconds(self) -> float:
        """How long to wait for the cache, which a predecessor that was killed has until its workers noticed."""
        return 0.0 if self.talk is None else PATIENCE_SECONDS

    def admin_socket(self, address: str) -> socket.socket | None:
        """The operator's socket for an address; one for another is closed."""
        if self.admin is None:
            return None
        if self.admin.address == address:
            return self.admin.sock
        self.admin.sock.close()
        return None

    def close_unused(self, used: Sequence[ListeningSocket]) -> None:
        """Closes the sockets of addresses that are no longer configured."""
        kept = {each.sock for each in used}
        for each in self.listeners:
            if each.sock not in kept:
                each.sock.close()

    async def take_cache(self) -> None:
        """Waits until the predecessor lets go of the cache; if that has ended, it is free as well."""
        if self.talk is None:
            return
        self.talk.say(PREPARED)
        with suppress(TransportError):
            await self.talk.hear(YOURS, START_SECONDS)

    def serve(self) -> None:
        """Says that requests are answered from now on."""
        if self.talk is not None:
            self.talk.say(SERVING)
            self.talk.close()


NOTHING: Final = Inheritance()
"""What a process has that nobody started for this."""


def take_inheritance(environment: Mapping[str, str]) -> Inheritance | None:
    """What was handed over to this process; None if it is nobody's successor.

    Raises:
        UsageError: the variable does not say what it should.
    """
    said = environment.get(VARIABLE)
    if said is None:
        return None
    try:
        document = json.loads(said)
        talk = Talk(socket.socket(fileno=int(document["talk"])))
        sockets = [adopt(str(address), int(number)) for address, number in document["sockets"]]
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UsageError(f"{VARIABLE} is set by an edge for its successor, not by people: unset it") from error
    admin = [
        ListeningSocket(each.address.removeprefix(_ADMIN), each.sock)
        for each in sockets
        if each.address.startswith(_ADMIN)
    ]
    listeners = tuple(each for each in sockets if not each.address.startswith(_ADMIN))
    return Inheritance(talk, listeners, admin[0] if admin else None)
