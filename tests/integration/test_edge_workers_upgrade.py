"""An edge of several workers is replaced by another one, and goes on without some of its workers."""

import asyncio
import json
import os
import re
import signal
import socket
from pathlib import Path

import pytest

from cdn.errors import UsageError
from tests.fakes.edge import Client, object_of, until
from tests.fakes.edge_process import Process, running, write_config
from tests.fakes.edge_upgrades import Load, is_running, kept_track_of, upgrade
from tests.fakes.origin import Reply, running_origin

BODIES = [os.urandom(size) for size in (100, 5_000, 60_000, 1_200_000, 2_500_000)]
CLIENTS = 24
FOLLOWS = """
[limits]
drain_timeout = 20
[fetch]
answer_timeout = 60
idle_timeout = 60
"""


@pytest.fixture
async def origin():
    async with running_origin() as origin:
        for body in BODIES:
            origin.replies[object_of(body)] = Reply(body)
        yield origin


async def workers_of(edge: Process) -> list[dict]:
    return json.loads(await asyncio.to_thread(edge.ask, "/status"))["workers"]


def children(pid: int) -> list[int]:
    """The processes that a process started."""
    return [int(child) for task in Path(f"/proc/{pid}/task").glob("*/children") for child in task.read_text().split()]


def sockets_in(directory: Path) -> list[str]:
    return sorted(path.name for path in (directory / "cache").glob("*.sock"))


async def get(address: tuple[str, int], target: str):
    async with asyncio.timeout(20), Client(address) as client:
        return await client.get(target)


async def test_upgrades_in_a_row_under_load_lose_nothing(tmp_path, origin, monkeypatch):
    pids: list[int] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        async with running(write_config(tmp_path, origin.url, FOLLOWS, workers=2)) as edge, kept_track_of(pids):
            load = Load(edge.address, CLIENTS, BODIES)
            await load.grows(50)
            processes = [worker["pid"] for worker in await workers_of(edge)]
            for _ in range(2):
                pids.append(await upgrade(edge.admin))
                await load.grows(100)
            assert await asyncio.to_thread(edge.process.wait, 30) == 0
            await until(lambda: not any(map(is_running, [*processes, pids[0]])))
            await load.grows(50)
            await load.end()
            assert load.connections >= 2 * CLIENTS
            assert [len(children(pid)) for pid in pids[1:]] == [2]
            assert sockets_in(tmp_path) == [f"worker{index}-{pids[1]:x}.sock" for index in range(2)]
            os.kill(pids[1], signal.SIGTERM)
            await asyncio.to_thread(edge._reading.join, 30)
            assert sockets_in(tmp_path) == []
        systemd.setblocking(False)
        told = b""
        while b"STOPPING" not in told:
            told += systemd.recv(4096) + b"\n"
        assert re.findall(rb"MAINPID=(\d+)", told) == [b"%d" % pid for pid in pids]


async def test_upgrades_that_fail_change_nothing(tmp_path, origin):
    path = write_config(tmp_path, origin.url, FOLLOWS, workers=2)
    async with running(path) as edge:
        load = Load(edge.address, CLIENTS, BODIES)
        await load.grows(50)
        good = path.read_text()
        path.write_text("nonsense = 1\n")
        with pytest.raises(UsageError, match="goes on as before"):
            await upgrade(edge.admin)
        path.write_text(good)
        own = set(children(edge.process.pid))
        upgrading = asyncio.create_task(upgrade(edge.admin))
        await until(lambda: set(children(edge.process.pid)) - own)
        (successor,) = set(children(edge.process.pid)) - own
        await until(lambda: children(successor))  # it has the cache, and so have they
        os.kill(successor, signal.SIGKILL)
        with pytest.raises(UsageError, match="goes on as before"):
            await upgrading
        await load.grows(50)
        await load.end()
        assert {worker["pid"] for worker in await workers_of(edge)} == own
        for body in (os.urandom(1000 + number) for number in range(8)):  # of both owners
            origin.replies[object_of(body)] = Reply(body)
            for _ in range(4):
                assert (await get(edge.address, object_of(body))).body == body
            await until(lambda body=body: any(body in file.read_bytes() for file in tmp_path.glob("cache/v1/*/*")))
            assert origin.count(object_of(body)) == 1
        assert await asyncio.to_thread(edge.end) == 0
        assert sockets_in(tmp_path) == []


async def test_workers_share_a_socket_of_systemd_and_hand_it_on(tmp_path, origin):
    path = write_config(tmp_path, origin.url, FOLLOWS, workers=2)
    path.write_text(path.read_text().replace('"127.0.0.1:0"]', '"systemd:http"]'))
    pids: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as handed:
        async with running(path, handed) as edge, kept_track_of(pids):
            assert edge.address == handed.getsockname()
            assert len(await workers_of(edge)) == 2
            waiting = [asyncio.create_task(get(edge.address, object_of(body))) for body in BODIES * 4]
            assert {answer.body for answer in await asyncio.gather(*waiting)} == set(BODIES)
            path.write_text(path.read_text().replace("workers = 2", "workers = 1"))
            pids.append(await upgrade(edge.admin))
            assert await asyncio.to_thread(edge.process.wait, 30) == 0
            for body in BODIES:
                assert (await get(edge.address, object_of(body))).body == body
                assert origin.count(object_of(body)) == 1


async def test_nobody_waits_for_a_worker_that_does_not_come_back(tmp_path, origin):
    log = tmp_path / "access.log"
    async with running(write_config(tmp_path, origin.url, workers=2)) as edge:
        os.replace(log, tmp_path / "moved")
        log.mkdir()  # so that no worker can start
        os.kill((await workers_of(edge))[0]["pid"], signal.SIGKILL)
        await asyncio.to_thread(edge.wait_for, r"edge\.worker\.stands_in")
        await asyncio.to_thread(edge.wait_for, r"(?s)edge\.worker\.failed.*edge\.worker\.failed")
        answers = await asyncio.gather(*(get(edge.address, object_of(body)) for body in BODIES * 8))
        assert {answer.body for answer in answers} == set(BODIES)
        assert [worker["ready"] for worker in await workers_of(edge)] == [False, True]
        log.rmdir()
        await asyncio.to_thread(edge.wait_for, r"(?s)edge\.worker\.replaced.*edge\.worker\.stands_in")
        answers = await asyncio.gather(*(get(edge.address, object_of(body)) for body in BODIES * 8))
        assert {answer.body for answer in answers} == set(BODIES)
        assert await asyncio.to_thread(edge.end) == 0
