"""`cdn edge` as operators run it: a process, its signals, its exit status, and its sudden death."""

import asyncio
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
from contextlib import suppress

import pytest

from edge.cache.disk_places import occupied
from tests.fakes.edge import Client, object_of, until
from tests.fakes.edge_process import running, write_config
from tests.fakes.origin import Reply, running_origin

LARGE = os.urandom(6_000_000)
LARGE_TARGET = object_of(LARGE)
SMALL_TARGET = object_of(b"small")


@pytest.fixture
async def origin():
    async with running_origin() as origin:
        origin.replies[LARGE_TARGET] = Reply(LARGE)
        yield origin


async def test_it_serves_tells_how_it_is_and_stops_when_told(tmp_path, origin):
    async with running(write_config(tmp_path, origin.url), is_fresh=True) as edge:
        origin.replies[SMALL_TARGET] = Reply(b"small")
        async with Client(edge.address) as client:
            for _ in range(2):
                assert (await client.get(SMALL_TARGET)).body == b"small"
        status = json.loads(await asyncio.to_thread(edge.ask, "/status"))
        assert (status["requests"]["hits"], status["requests"]["misses"]) == (1, 1)
        metrics = await asyncio.to_thread(edge.ask, "/metrics")
        assert 'edge_requests_total{kind="file",result="miss"} 1.0' in metrics
        assert await asyncio.to_thread(edge.ask, "/readyz") == "ready\n"
        assert await asyncio.to_thread(edge.end) == 0
        lines = (tmp_path / "access.log").read_text().splitlines()
        assert [re.search(r'" 200 5 .* (\w+) [0-9.]+$', line)[1] for line in lines] == ["miss", "hit"]


async def test_sighup_reloads_reopens_the_log_and_keeps_the_old_configuration_over_a_mistake(tmp_path, origin):
    path = write_config(tmp_path, "http://127.0.0.1:1")
    async with running(path) as edge:
        async with Client(edge.address) as client:
            assert (await client.get(LARGE_TARGET)).status == 502
            path.write_text("nonsense = 1\n")
            edge.process.send_signal(signal.SIGHUP)
            await asyncio.to_thread(edge.wait_for, "edge.reload.refused")
            (tmp_path / "access.log").rename(tmp_path / "access.log.1")
            write_config(tmp_path, origin.url)
            edge.process.send_signal(signal.SIGHUP)
            await asyncio.to_thread(edge.wait_for, "edge.server.reloaded")
            assert (await client.get(LARGE_TARGET)).body == LARGE
        assert await asyncio.to_thread(edge.end) == 0
        assert " 200 " in (tmp_path / "access.log").read_text()


async def test_killed_in_the_middle_it_starts_again_with_nothing_wrong(tmp_path, origin):
    path = write_config(tmp_path, origin.url)
    origin.replies[SMALL_TARGET] = Reply(b"small")
    async with running(path) as edge, Client(edge.address) as client:
        await client.get(SMALL_TARGET)
        await until(lambda: list(tmp_path.glob("cache/v1/*/*")))  # written after it was given
        origin.replies[LARGE_TARGET] = Reply(LARGE, gate=asyncio.Event(), gate_after=4_000_000)
        await client.ask(LARGE_TARGET)
        await client.receive_head()
        await client.reader.readexactly(3_000_000)
        assert await asyncio.to_thread(edge.end, signal.SIGKILL) == -signal.SIGKILL
    assert list((tmp_path / "cache" / "tmp").iterdir())
    async with running(path) as edge:
        assert list((tmp_path / "cache" / "tmp").iterdir()) == []
        origin.replies[LARGE_TARGET] = Reply(LARGE)
        async with Client(edge.address) as client:
            assert (await client.get(LARGE_TARGET)).body == LARGE
            assert (await client.get(SMALL_TARGET)).body == b"small"
        assert origin.count(SMALL_TARGET) == 1


async def test_killed_again_and_again_under_load_it_gives_no_wrong_byte_and_keeps_its_limit(tmp_path, origin):
    """A full cache, so that each answer also evicts; the clients ask for what the kills may have damaged."""
    limit = 4 << 20
    path = write_config(tmp_path, origin.url, disk=str(limit))
    dice = random.Random(7)
    bodies = {object_of(body): body for body in (dice.randbytes(dice.randint(1000, 400_000)) for _ in range(40))}
    origin.replies.update({target: Reply(body) for target, body in bodies.items()})
    cache = tmp_path / "cache"

    async def ask(address, answers: list[str]) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            async with Client(address) as client:
                while True:
                    target = dice.choice(list(bodies))
                    answer = await client.get(target)
                    if not answer.is_whole:
                        return
                    assert answer.body == bodies[target]
                    answers.append(target)

    for _ in range(3):
        async with running(path) as edge:
            assert list((cache / "tmp").iterdir()) == []
            answers: list[str] = []
            clients = [asyncio.create_task(ask(edge.address, answers)) for _ in range(6)]
            wanted = dice.randint(40, 80)
            await until(lambda answers=answers, wanted=wanted: len(answers) >= wanted)
            await asyncio.to_thread(edge.end, signal.SIGKILL)
            await asyncio.gather(*clients)
        assert sum(occupied(each.stat().st_size) for each in cache.rglob("*/*") if each.is_file()) <= limit
    async with running(path) as edge, Client(edge.address) as client:
        for target, body in bodies.items():
            assert (await client.get(target)).body == body
        metrics = await asyncio.to_thread(edge.ask, "/metrics")
        assert "edge_disk_failures_total 0.0" in metrics


def test_a_port_that_is_taken_ends_it_with_one_sentence(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        path = write_config(tmp_path, "http://127.0.0.1:1")
        path.write_text(path.read_text().replace('addresses = ["127.0.0.1:0"]', f'addresses = ["127.0.0.1:{port}"]'))
        command = [sys.executable, "-m", "cdn", "edge", "run", "--config", str(path)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert f"cannot listen on 127.0.0.1 port {port}" in ended.stderr
    assert "Traceback" not in ended.stderr
