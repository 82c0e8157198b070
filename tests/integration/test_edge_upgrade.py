"""A running edge is replaced by a new process: no request is lost, no byte is wrong, and a failure changes nothing."""

import asyncio
import os
import signal
import sys
from contextlib import asynccontextmanager

import pytest

from cdn.errors import UsageError
from edge.alone import LoneEdge
from edge.config import load
from edge.operations.succession import NOTHING, take_inheritance
from tests.fakes.edge import Client, object_of, until
from tests.fakes.edge_process import running, write_config
from tests.fakes.edge_upgrades import Load, is_running, kept_track_of, upgrade
from tests.fakes.origin import Reply, running_origin

BODIES = [os.urandom(size) for size in (100, 5_000, 60_000, 1_200_000, 2_500_000)]
FOLLOWS = "[limits]\ndrain_timeout = 20\n"


@pytest.fixture
async def origin():
    async with running_origin() as origin:
        for body in BODIES:
            origin.replies[object_of(body)] = Reply(body)
        yield origin


async def test_upgrades_in_a_row_under_load_lose_nothing(tmp_path, origin):
    pids: list[int] = []
    async with running(write_config(tmp_path, origin.url, FOLLOWS)) as edge, kept_track_of(pids):
        load = Load(edge.address, 8, BODIES)
        await load.grows(25)
        for _ in range(3):
            pids.append(await upgrade(edge.admin))
            await load.grows(25)
        assert await asyncio.to_thread(edge.process.wait, 30) == 0
        await until(lambda: not is_running(pids[0]))
        await load.grows(25)
        await load.end()
        assert len(set(pids)) == 3
        assert all(origin.count(object_of(body)) == 1 for body in BODIES)
        os.kill(pids[-1], signal.SIGTERM)
        await asyncio.to_thread(edge._reading.join, 30)


async def test_a_signal_upgrades_too_and_an_answer_under_way_is_finished_by_the_old_process(tmp_path, origin):
    pids: list[int] = []
    async with running(write_config(tmp_path, origin.url, FOLLOWS)) as edge, kept_track_of(pids):
        gate = asyncio.Event()
        origin.replies[object_of(BODIES[4])] = Reply(BODIES[4], gate=gate, gate_after=2_000_000)
        async with Client(edge.address) as client:
            await client.ask(object_of(BODIES[4]))
            await client.receive_head()
            edge.process.send_signal(signal.SIGUSR2)
            pids.append(int(await asyncio.to_thread(edge.wait_for, r'"pid": (\d+), "event": "edge.upgrade.succeeded"')))
            async with Client(edge.address) as other:
                assert (await other.get(object_of(BODIES[0]))).body == BODIES[0]
            gate.set()
            assert await client.reader.readexactly(len(BODIES[4])) == BODIES[4]
        assert await asyncio.to_thread(edge.process.wait, 30) == 0
        async with Client(edge.address) as client:
            assert (await client.get(object_of(BODIES[4]))).body == BODIES[4]


async def test_a_successor_with_a_mistake_in_its_configuration_changes_nothing(tmp_path, origin):
    path = write_config(tmp_path, origin.url)
    async with running(path) as edge:
        path.write_text("nonsense = 1\n")
        with pytest.raises(UsageError, match="goes on as before"):
            await upgrade(edge.admin)
        async with Client(edge.address) as client:
            for body in BODIES:
                assert (await client.get(object_of(body))).body == body
        assert await asyncio.to_thread(edge.end) == 0


# ------------------------------------------------------------------------------------------------- the conversation

_TALKS = """
import json, os, signal, socket
talk = socket.socket(fileno=json.loads(os.environ["STRATOCAST_SUCCESSION"])["talk"])
{}
os.kill(os.getpid(), signal.SIGKILL)
"""


@asynccontextmanager
async def upgradable(tmp_path, origin, monkeypatch):
    """An edge in this process, whose successor is a program of the test's."""
    path = write_config(tmp_path, origin.url)
    service = LoneEdge(path, load(path), NOTHING, stop_wanted=lambda: None)
    await service.start()

    async def try_upgrade(program: str) -> None:
        monkeypatch.setattr(sys, "orig_argv", ["python", "-c", _TALKS.format(program)])
        with pytest.raises(UsageError, match="goes on as before"):
            await service.upgrade()

    yield service, try_upgrade
    await service.stop()


@pytest.mark.parametrize(
    "program",
    [
        pytest.param("", id="at once"),
        pytest.param("talk.send(b'P')", id="prepared"),
        pytest.param("talk.send(b'P'); talk.recv(1)", id="with the cache"),
        pytest.param("talk.send(b'nonsense')", id="saying something else"),
    ],
)
async def test_a_successor_that_is_killed_on_the_way_changes_nothing(tmp_path, origin, monkeypatch, program):
    async with upgradable(tmp_path, origin, monkeypatch) as (service, try_upgrade):
        await try_upgrade(program)
        server = service._server
        async with Client(server.address) as client:
            assert (await client.get(object_of(BODIES[1]))).body == BODIES[1]
        await until(lambda: not len(server.parts.flights))
        assert [path for path in (tmp_path / "cache" / "v1").rglob("*") if path.is_file()]
        with pytest.raises(UsageError, match="used by another edge"):
            load_again = LoneEdge(
                tmp_path / "edge.toml", load(tmp_path / "edge.toml"), NOTHING, stop_wanted=lambda: None
            )
            await load_again.start()


async def test_while_a_successor_has_the_cache_nothing_is_stored_and_everything_served(tmp_path, origin, monkeypatch):
    async with upgradable(tmp_path, origin, monkeypatch) as (service, _):
        server = service._server
        async with Client(server.address) as client:
            await client.get(object_of(BODIES[4]))
            await until(lambda: not len(server.parts.flights))
            stored = sorted((tmp_path / "cache" / "v1").rglob("*"))
            await server.retire_cache()
            for body in BODIES:
                for _ in range(2):
                    assert (await client.get(object_of(body))).body == body
            await until(lambda: not len(server.parts.flights))
            assert sorted((tmp_path / "cache" / "v1").rglob("*")) == stored
            assert origin.count(object_of(BODIES[4])) == 1
            await server.resume_cache()
            assert (await client.get(object_of(BODIES[3]))).body == BODIES[3]
            await until(lambda: not len(server.parts.flights))
            assert sorted((tmp_path / "cache" / "v1").rglob("*")) != stored


def test_what_a_stranger_puts_into_the_environment_is_refused():
    with pytest.raises(UsageError, match="not by people"):
        take_inheritance({"STRATOCAST_SUCCESSION": "yes"})
