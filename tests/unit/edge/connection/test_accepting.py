"""Doors that close while clients wait in the queues behind them, over real sockets."""

import asyncio
import socket

import pytest
import uvloop

from cdn.clock import SystemClock
from edge.connection.accepting import Acceptor
from edge.connection.listeners import ListeningSocket, open_listeners
from edge.connection.tls import Handshakes
from edge.settings.listen import ListenSettings
from edge.watching.statistics import Statistics

WAITING = 50


class Greeting(asyncio.Protocol):
    """Says something to whoever is let in."""

    def connection_made(self, transport) -> None:
        transport.write(b"hello")
        transport.close()


def connected(place) -> socket.socket:
    """A client of whom the event loop knows nothing yet."""
    client = socket.socket(socket.AF_UNIX if isinstance(place, str) else socket.AF_INET)
    try:
        client.settimeout(10)
        client.connect(place)
    except OSError:
        client.close()
        raise
    return client


async def greeting_of(client: socket.socket) -> bytes:
    with client:
        client.setblocking(False)
        return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 100), 10)


async def leave(directory, *, holders: int) -> None:
    addresses = ("127.0.0.1:0", f"unix:{directory}/socket")
    settings = ListenSettings(addresses=addresses)
    workers = open_listeners(settings, count=2)
    places = [each.sock.getsockname() for each in workers[0]]
    acceptors = []
    for index in range(holders):  # each by descriptors of its own, as in another process
        own, spare = ([ListeningSocket(each.address, each.sock.dup()) for each in part] for part in workers)
        acceptors.append(Acceptor(settings, tuple(own), SystemClock(), {1 - index: tuple(spare)}))
        await acceptors[-1].open(Greeting, Handshakes(Statistics(), 1.0, lambda _: True))
    for each in {each.sock: each for part in workers for each in part}.values():
        each.sock.close()
    for acceptor in acceptors:
        clients = [connected(place) for place in places for _ in range(WAITING)]
        await acceptor.close_after_all()
        assert [await greeting_of(client) for client in clients] == [b"hello"] * len(clients)
    for place in places:
        with pytest.raises(ConnectionRefusedError):
            connected(place)


@pytest.mark.parametrize("holders", [1, 2])
@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_who_waits_at_the_door_when_it_closes_is_let_in_whoever_closes_it_last(tmp_path, new_loop, holders):
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(leave(tmp_path, holders=holders))
