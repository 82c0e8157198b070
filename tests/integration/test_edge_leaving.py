"""An edge that is taken out of service: announced first, then closed, with every answer finished."""

import asyncio
import os

import pytest
from click.testing import CliRunner

from cdn.errors import UsageError
from edge.cli import edge as edge_command
from edge.operations.draining import Phase
from edge.settings.limits import LimitSettings
from tests.fakes.edge import Client, edge_world, until
from tests.fakes.edge_process import Process, running, write_config
from tests.fakes.reporting import RecordingOutput

LATER = LimitSettings(drain_delay=60.0)


def admin_of(world) -> str:
    return "http://{}:{}".format(*world.edge.admin_address)


async def ask_admin(world, path: str) -> int:
    async with Client(world.edge.admin_address) as client:
        return (await client.get(path)).status


async def command(*arguments: str) -> RecordingOutput:
    out = RecordingOutput()
    await asyncio.to_thread(CliRunner().invoke, edge_command, arguments, obj=out, catch_exceptions=False)
    return out


async def test_it_says_so_before_it_closes_and_serves_meanwhile(tmp_path):
    async with edge_world(tmp_path, limits=LATER) as world:
        target, stored = world.publish(b"content")
        assert (await world.get("/healthz")).status == 200
        out = await command("drain", "--no-wait", "--admin", admin_of(world))
        assert out.document["phase"] == "leaving"
        assert (await world.get("/healthz")).status == 503
        assert (await ask_admin(world, "/readyz"), await ask_admin(world, "/healthz")) == (503, 200)
        async with world.client() as client:
            for _ in range(2):
                answer = await client.get(target)
                assert (answer.body, answer.headers.get("connection")) == (stored, None)


async def test_it_can_be_undone_while_nothing_has_closed(tmp_path):
    async with edge_world(tmp_path, limits=LATER) as world:
        for _ in range(2):
            await command("drain", "--no-wait", "--admin", admin_of(world))
        out = await command("drain", "--undo", "--admin", admin_of(world))
        assert out.document["phase"] == "serving"
        assert (await world.get("/healthz")).status == 200
        assert await ask_admin(world, "/readyz") == 200


async def test_an_answer_under_way_is_finished_and_then_nobody_is_left(tmp_path):
    async with edge_world(tmp_path) as world:
        gate = asyncio.Event()
        target, stored = world.publish(os.urandom(3_000_000), gate=gate, gate_after=1_500_000)
        async with world.client() as client, world.client() as idle:
            await idle.get("/healthz")
            await client.ask(target)
            status, headers = await client.receive_head()
            assert (status, headers.get("connection")) == (200, None)
            draining = asyncio.create_task(command("drain", "--admin", admin_of(world)))
            await until(lambda: world.edge.phase is Phase.CLOSED)
            assert await idle.is_closed()
            with pytest.raises(ConnectionRefusedError):
                await world.get("/healthz")
            gate.set()
            assert await client.reader.readexactly(len(stored)) == stored
            assert (await draining).document == {"phase": "drained", "connections": 0}
        with pytest.raises(UsageError, match="drained cannot undo"):
            await world.edge.drain({"undo": True})
        assert (await command("status", "--admin", admin_of(world))).document["phase"] == "drained"


async def test_stopping_joins_a_drain_that_has_begun(tmp_path):
    async with edge_world(tmp_path) as world:
        gate = asyncio.Event()
        target, stored = world.publish(b"content", gate=gate)
        async with world.client() as client:
            await client.ask(target)
            await until(lambda: world.origin.asked)
            await world.edge.drain({})
            stopping = asyncio.create_task(world.edge.stop())
            await until(lambda: world.edge.phase is Phase.CLOSED)
            with pytest.raises(UsageError, match="is stopping"):
                await world.edge.drain({"undo": True})
            gate.set()
            answer = await client.receive()
            assert (answer.body, answer.headers["connection"]) == (stored, "close")
            await stopping


async def test_a_process_that_is_drained_with_stop_ends(tmp_path):
    async with running(write_config(tmp_path, "http://127.0.0.1:1")) as process:
        out = await command("drain", "--stop", "--admin", process.admin)
        assert out.document == {"phase": "stopped", "connections": 0}
        assert await asyncio.to_thread(process.process.wait, 30) == 0


@pytest.mark.parametrize("workers", [1, 2])
async def test_whoever_gets_in_while_it_stops_is_answered_and_nobody_is_reset(tmp_path, workers):
    answered, at_the_door, broken, is_refused = 0, 0, [], False

    async def visit(edge: Process) -> None:
        nonlocal answered, at_the_door, is_refused
        while not is_refused:
            try:
                client = await Client(edge.address).__aenter__()
            except ConnectionRefusedError:
                is_refused = True
                return
            except ConnectionResetError:  # before it had a connection: it came between the last look and the closing
                at_the_door += 1
                continue
            try:
                assert (await client.get("/healthz")).status in {200, 503}
                answered += 1
            except (ConnectionError, asyncio.IncompleteReadError) as error:
                broken.append(error)
            finally:
                client.writer.transport.abort()

    async with running(write_config(tmp_path, "http://127.0.0.1:1", workers=workers)) as edge:
        visits = [asyncio.create_task(visit(edge)) for _ in range(64)]
        await until(lambda: answered > 500)
        ending = asyncio.create_task(asyncio.to_thread(edge.end))
        await asyncio.gather(*visits)
        assert broken == []
        assert at_the_door <= 2 * workers
        assert await ending == 0
