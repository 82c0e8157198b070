"""Clients that take more than their share, over real sockets: each attack costs the attacker, and nobody else."""

import asyncio
import json
import os
import signal
import socket
from contextlib import AsyncExitStack, suppress

import pytest

from edge.serving.service import DESTINATIONS_BYTES_MAX
from edge.settings.limits import LimitSettings
from edge.settings.upstreams import FetchSettings, UpstreamSettings
from tests.fakes.edge import BASE, Client, edge_world, object_of, until
from tests.fakes.edge_process import Process, running, write_config
from tests.fakes.origin import Reply, running_origin


class ClientFrom(Client):
    """A client with an address of its own, and small buffers if asked for."""

    def __init__(self, address, own="127.0.0.1", buffer_bytes=None):
        super().__init__(address)
        self._own, self._buffer_bytes = own, buffer_bytes

    async def __aenter__(self):
        sock = socket.socket()
        if self._buffer_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._buffer_bytes)
        sock.bind((self._own, 0))
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, self._address)
        self.reader, self.writer = await asyncio.open_connection(sock=sock, limit=65536)
        return self


def limited(tmp_path, **limits):
    return edge_world(tmp_path, limits=LimitSettings(**limits))


async def test_one_address_cannot_take_all_connections(tmp_path):
    async with limited(tmp_path, connections_per_address=3) as world, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(ClientFrom(world.edge.address)) for _ in range(3)]
        for client in clients:
            assert (await client.get("/healthz")).status == 200
        async with ClientFrom(world.edge.address) as fourth:
            assert await fourth.is_closed()
        async with ClientFrom(world.edge.address, "127.0.0.2") as other:
            assert (await other.get("/healthz")).status == 200
        clients[0].writer.close()
        await until(lambda: world.edge.statistics.connections_open == 2)
        async with ClientFrom(world.edge.address) as again:
            assert (await again.get("/healthz")).status == 200
        assert world.edge.statistics.connections_refused == 1


async def test_networks_that_are_exempt_have_no_limit(tmp_path):
    async with (
        limited(
            tmp_path,
            connections_per_address=1,
            requests_per_second_per_address=1.0,
            requests_burst=1,
            addresses_exempt=("127.0.0.0/30",),
        ) as world,
        AsyncExitStack() as stack,
    ):
        for _ in range(4):
            client = await stack.enter_async_context(ClientFrom(world.edge.address, "127.0.0.2"))
            assert [(await client.get("/healthz")).status for _ in range(3)] == [200] * 3
        await stack.enter_async_context(ClientFrom(world.edge.address, "127.0.0.9"))
        async with ClientFrom(world.edge.address, "127.0.0.9") as second:
            assert await second.is_closed()


@pytest.mark.parametrize("is_cached", [True, False])
async def test_too_many_requests_of_one_address_are_told_when_to_come_again(tmp_path, is_cached):
    async with limited(tmp_path, requests_per_second_per_address=0.5, requests_burst=5) as world:
        target, stored = world.publish(b"hello")
        if is_cached:
            async with ClientFrom(world.edge.address, "127.0.0.3") as other:
                assert (await other.get(target)).body == stored
        for count in (6, 1):
            async with ClientFrom(world.edge.address) as client:
                await client.send(f"GET {target} HTTP/1.1\r\nHost: e\r\n\r\n".encode() * 7)
                answers = [await client.receive() for _ in range(count)]
                assert [answer.status for answer in answers[:-1]] == [200] * (len(answers) - 1)
                assert (answers[-1].status, answers[-1].headers["retry-after"]) == (429, "2")
                assert await client.is_closed()
        world.advance(2)
        async with ClientFrom(world.edge.address) as client:
            assert (await client.get(target)).body == stored
        async with ClientFrom(world.edge.address, "127.0.0.2") as other:
            assert (await other.get(target)).body == stored
        assert world.edge.statistics.requests_limited == 2


async def test_slow_readers_of_many_objects_hold_a_bounded_amount_of_memory(tmp_path):
    """Each asks for another object from memory and takes nothing: without the limit all of them would be held."""
    limit, count, size = 4_000_000, 24, 700_000
    async with limited(tmp_path, unsent_bytes_max=limit) as world, AsyncExitStack() as stack:
        bodies = [os.urandom(size) for _ in range(count)]
        for body in bodies:
            world.origin.replies[object_of(body)] = Reply(body)
            await world.get(object_of(body))
        shared, clients = world.edge.parts.shared, []
        for body in bodies:
            client = await stack.enter_async_context(ClientFrom(world.edge.address, buffer_bytes=4096))
            clients.append(client)
            client.writer.write(f"GET {object_of(body)} HTTP/1.1\r\nHost: e\r\n\r\n".encode() * 8)
        await until(lambda: world.edge.statistics.slow_readers_cut > count // 2)
        world.edge.check_connections()
        await until(lambda: world.edge.statistics.connections_open == count - world.edge.statistics.slow_readers_cut)
        waiting = sum(each._transport.get_write_buffer_size() for each in shared.connections)
        assert waiting <= limit
        assert shared.slow_readers.waiting_bytes == waiting
        answer = await world.get(object_of(bodies[0]))
        assert answer.body == bodies[0], "whoever takes its answer is served as before"


async def test_what_was_waiting_and_was_taken_does_not_count_any_more(tmp_path):
    async with limited(tmp_path, unsent_bytes_max=50_000_000) as world:
        body = os.urandom(900_000)
        world.origin.replies[object_of(body)] = Reply(body)
        await world.get(object_of(body))
        async with ClientFrom(world.edge.address, buffer_bytes=4096) as client:
            client.writer.write(f"GET {object_of(body)} HTTP/1.1\r\nHost: e\r\n\r\n".encode() * 8)
            await until(lambda: world.edge.parts.shared.slow_readers.waiting_bytes)
            assert [(await client.receive()).body == body for _ in range(8)] == [True] * 8
            await until(lambda: not world.edge.parts.shared.slow_readers.waiting_bytes)
        assert world.edge.statistics.slow_readers_cut == 0


async def test_one_client_that_asks_for_very_much_at_once_leaves_others_their_turn(tmp_path):
    """The second client is answered before the first has all of its answers."""
    async with limited(tmp_path, pipelined_max=4) as world:
        target, stored = world.publish(b"x" * 100)
        await world.get(target)
        request = f"GET {target} HTTP/1.1\r\nHost: e\r\n\r\n".encode()
        turns = []
        hit = world.edge.parts.service.hit

        def noting(asked, now):
            turns.append(asked.headers.get("X-Who"))
            return hit(asked, now)

        world.edge.parts.service.hit = noting
        async with world.client() as greedy, world.client() as modest:
            greedy.writer.write(request.replace(b"Host", b"X-Who: greedy\r\nHost") * 400)
            modest.writer.write(request.replace(b"Host", b"X-Who: modest\r\nHost"))
            assert (await modest.receive()).body == stored
            assert turns.index("modest") < 100
            assert [(await greedy.receive()).body for _ in range(400)] == [stored] * 400


async def test_a_body_that_comes_too_slowly_costs_only_its_own_connection(tmp_path):
    async with limited(tmp_path, head_timeout=10.0) as world, AsyncExitStack() as stack:
        slow = [await stack.enter_async_context(world.client()) for _ in range(20)]
        for client in slow:
            await client.send(b"GET /healthz HTTP/1.1\r\nX: ")
        await until(lambda: sum(each._head_since is not None for each in world.edge.parts.shared.connections) == 20)
        for _ in range(3):
            world.advance(4)
            world.edge.check_connections()
            for client in slow:
                client.writer.write(b"x")
            assert (await world.get("/healthz")).status == 200
        for client in slow:
            assert (await client.receive()).status == 408
            assert await client.is_closed()


async def test_targets_as_long_as_they_may_be_do_not_fill_the_memory(tmp_path):
    async with edge_world(tmp_path) as world, world.client() as client:
        longest = world.edge.config.limits.target_bytes_max
        count = DESTINATIONS_BYTES_MAX // longest + 20
        for number in range(count):
            target = f"{BASE}/{number:05}".ljust(longest, "x")
            assert (await client.get(target)).status == 404
        known = world.edge.parts.service._destinations
        assert 0 < len(known) < count
        assert sum(map(len, known)) <= DESTINATIONS_BYTES_MAX + longest


async def test_clients_that_send_bodies_slowly_leave_others_a_way_to_the_server(tmp_path):
    async with running_origin() as site, AsyncExitStack() as stack:
        site.replies = {"/read": Reply(b"read"), "/slow": Reply(b"done")}
        settings = UpstreamSettings("site", (site.url,), path="/", connections=4)
        world = await stack.enter_async_context(
            edge_world(tmp_path, upstreams=(settings,), fetch=FetchSettings(queue_timeout=0.2))
        )
        slow = [await stack.enter_async_context(world.client()) for _ in range(6)]
        for client in slow:
            await client.send(b"POST /slow HTTP/1.1\r\nHost: e\r\nContent-Length: 5\r\n\r\nab")
        answers = {asyncio.create_task(client.receive()): client for client in slow}
        await until(lambda: sum(answer.done() for answer in answers) >= 4)
        assert [answer.result().status for answer in answers if answer.done()] == [504] * 4
        assert (await world.get("/read")).body == b"read"
        for answer in [answer for answer in answers if not answer.done()]:
            await answers[answer].send(b"cde")
            assert (await answer).body == b"done"


async def test_a_body_on_get_is_refused_before_it_is_read(tmp_path):
    async with limited(tmp_path) as world, world.client() as client:
        await client.send(f"GET {BASE}/x HTTP/1.1\r\nHost: e\r\nContent-Length: 1000000000\r\n\r\n".encode())
        assert (await client.receive()).status == 400
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            for _ in range(2000):
                client.writer.write(b"x" * 65536)
                world.advance(1)
                world.edge.check_connections()
                await client.writer.drain()
            await client.reader.readexactly(1)


def test_uvloop_keeps_to_them_too(tmp_path):
    """The loop that an edge really runs in has transports of its own."""
    uvloop = pytest.importorskip("uvloop")

    async def everything() -> None:
        for number, attack in enumerate(
            (
                test_one_address_cannot_take_all_connections,
                test_slow_readers_of_many_objects_hold_a_bounded_amount_of_memory,
                test_what_was_waiting_and_was_taken_does_not_count_any_more,
                test_one_client_that_asks_for_very_much_at_once_leaves_others_their_turn,
            )
        ):
            await attack(tmp_path / str(number))

    uvloop.run(everything())


# ----------------------------------------------------------------------------------------------------- several workers


async def let_in(edge: Process, stack: AsyncExitStack, own: str, count: int) -> list[Client]:
    """Those of many clients from one address that are let in."""
    clients = [await stack.enter_async_context(ClientFrom(edge.address, own)) for _ in range(count)]
    admitted = []
    for client in clients:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            if (await client.get("/healthz")).status == 200:
                admitted.append(client)
    return admitted


async def workers_of(edge: Process) -> list[int]:
    status = json.loads(await asyncio.to_thread(edge.ask, "/status"))
    return [worker["pid"] for worker in status["workers"]]


async def open_connections(edge: Process) -> int:
    return json.loads(await asyncio.to_thread(edge.ask, "/status"))["connections"]


async def test_an_address_has_its_connections_from_all_workers_together_and_is_counted_once(tmp_path):
    limits = "[limits]\nconnections_per_address = 7\n"
    path = write_config(tmp_path, "http://127.0.0.1:1", limits, workers=2)
    async with running(path) as edge, AsyncExitStack() as stack:
        admitted = await let_in(edge, stack, "127.0.0.2", 60)
        assert len(admitted) == 7
        assert len(await let_in(edge, stack, "127.0.0.3", 7)) == 7
        for client in admitted[:3]:
            client.writer.close()
        while await open_connections(edge) != 11:
            pass
        assert len(await let_in(edge, stack, "127.0.0.2", 30)) == 3
        os.kill((await workers_of(edge))[0], signal.SIGKILL)  # the connections that it had are free again
        await asyncio.to_thread(edge.wait_for, "edge.worker.replaced")
        left = await open_connections(edge)
        again = [await let_in(edge, stack, own, 60) for own in ("127.0.0.2", "127.0.0.3")]
        assert left + sum(map(len, again)) == 14
        assert "\nedge_clients 2.0\n" in await asyncio.to_thread(edge.ask, "/metrics")


async def test_an_address_makes_its_requests_at_all_workers_together(tmp_path):
    limits = "[limits]\nrequests_per_second_per_address = 0.001\nrequests_burst = 12\n"
    async with running(write_config(tmp_path, "http://127.0.0.1:1", limits, workers=2)) as edge:

        async def ask(own: str) -> int:
            async with ClientFrom(edge.address, own) as client:
                return (await client.get("/healthz")).status

        for own in ("127.0.0.2", "127.0.0.3"):
            statuses = await asyncio.gather(*(ask(own) for _ in range(40)))
            assert sorted(statuses) == [200] * 12 + [429] * 28
