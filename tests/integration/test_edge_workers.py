"""An edge of several workers as operators run it: real processes, their signals, and their sudden deaths."""

import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from cdn.daemon import send_command
from cdn.errors import UsageError
from cdn.hashing import Algorithm
from edge.cache.disk_room import occupied
from tests.fakes.edge import BASE, REPOSITORY, Client, manifest_bytes, object_of, until
from tests.fakes.edge_process import Process, running, write_config
from tests.fakes.origin import Reply, running_origin
from tests.fakes.repositories import Publication

SMALL = b"small"
LARGE = os.urandom(6_000_000)
MANIFEST = f"{BASE}/.cvmfspublished"
CLIENTS = 200


@pytest.fixture
async def origin():
    async with running_origin() as origin:
        for body in (SMALL, LARGE):
            origin.replies[object_of(body)] = Reply(body)
        yield origin


async def get(edge: Process, target: str, **more):
    async with Client(edge.address) as client:
        return await client.get(target, **more)


async def asked(edge: Process, path: str = "/status") -> dict:
    return json.loads(await asyncio.to_thread(edge.ask, path))


async def value(edge: Process, metric: str) -> float:
    text = await asyncio.to_thread(edge.ask, "/metrics")
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if re.match(metric + r"[{ ]", line))


async def pids(edge: Process) -> list[int]:
    return [worker["pid"] for worker in (await asked(edge))["workers"]]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def is_refused(edge: Process) -> bool:
    try:
        async with Client(edge.address):
            return False
    except ConnectionError:
        return True


def run_to_its_end(path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cdn", "edge", "run", "--config", str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


async def test_clients_of_both_workers_cause_one_fetch_and_then_each_worker_has_its_own_copy(tmp_path, origin):
    gate = asyncio.Event()
    origin.replies[object_of(SMALL)] = Reply(SMALL, gate=gate)
    path = write_config(tmp_path, origin.url, workers=2)
    async with running(path) as edge:
        answers = [asyncio.create_task(get(edge, object_of(SMALL))) for _ in range(CLIENTS)]
        await until(lambda: origin.asked)
        gate.set()
        assert {answer.body for answer in await asyncio.gather(*answers)} == {SMALL}
        assert origin.count(object_of(SMALL)) == 1
        relayed = await value(edge, "edge_relayed_total")
        assert 0 < relayed < CLIENTS
        for _ in range(CLIENTS):
            assert (await get(edge, object_of(SMALL))).body == SMALL
        assert await value(edge, "edge_relayed_total") == relayed
        assert await value(edge, "edge_requests_total") == 2 * CLIENTS
        assert await value(edge, "edge_bytes_served_total") == 2 * CLIENTS * len(SMALL)
        status = await asked(edge)
        assert [worker["ready"] for worker in status["workers"]] == [True, True]
        assert (status["requests"]["all"], status["requests"]["misses"]) == (2 * CLIENTS, 1)
        assert await asyncio.to_thread(edge.ask, "/readyz") == "ready\n"
        second = await asyncio.to_thread(run_to_its_end, path)
        assert (second.returncode, "is used by another edge" in second.stderr) == (2, True)
        assert await asyncio.to_thread(edge.end) == 0
    lines = (tmp_path / "access.log").read_text().splitlines()
    assert len([line for line in lines if f'"GET {object_of(SMALL)} HTTP/1.1" 200 5' in line]) == 2 * CLIENTS
    assert list((tmp_path / "cache").glob("*.sock")) == []


async def test_no_client_sees_an_older_manifest_than_another_one_did_before(tmp_path, origin):
    path = write_config(tmp_path, origin.url, workers=3)
    async with running(path) as edge:
        for revision in range(1, 15):
            origin.replies[MANIFEST] = Reply(manifest_bytes(revision))
            assert (await get(edge, MANIFEST, Cache_Control="no-cache")).body == manifest_bytes(revision)
            seen = await asyncio.gather(*(get(edge, MANIFEST) for _ in range(12)))
            assert {answer.body for answer in seen} == {manifest_bytes(revision)}


async def test_a_worker_killed_under_load_loses_only_its_connections_and_comes_back(tmp_path, origin):
    sizes = [2000 + 10_000 * n for n in range(36)] + 4 * [1_200_000]  # some are not for memory
    bodies = [os.urandom(size) for size in sizes]
    for body in bodies:
        origin.replies[object_of(body)] = Reply(body)
    is_over = False
    wrong, right, lost = [], 0, 0

    async def load(edge: Process, seed: int) -> None:
        nonlocal right, lost
        choice = random.Random(seed)
        while not is_over:
            try:
                async with Client(edge.address) as client:
                    for _ in range(5):
                        body = choice.choice(bodies)
                        answer = await client.get(object_of(body))
                        if answer.is_whole and answer.body != body:
                            wrong.append(answer)
                        right += answer.is_whole
                        lost += not answer.is_whole
                        if not answer.is_whole:
                            break
                        await asyncio.sleep(0.01)  # so that the edge's processes get something of the processor, too
            except (ConnectionError, asyncio.IncompleteReadError):
                lost += 1

    path = write_config(tmp_path, origin.url, workers=2, disk="6MiB")  # too little for all of them
    async with running(path) as edge:
        loads = [asyncio.create_task(load(edge, seed)) for seed in range(12)]
        for death in (1, 2):
            await until(lambda: right > 100 * death)  # noqa: B023 -- awaited at once
            before = [await value(edge, name) for name in ("edge_requests_total", "edge_bytes_served_total")]
            victim = (await pids(edge))[death % 2]
            os.kill(victim, signal.SIGKILL)
            await asyncio.to_thread(edge.wait_for, f'(?s)("pid": {victim}.*edge.worker.replaced)')
            after = [await value(edge, name) for name in ("edge_requests_total", "edge_bytes_served_total")]
            assert all(late >= early for early, late in zip(before, after, strict=True))
        more = right + 200
        await until(lambda: right > more)
        is_over = True
        await asyncio.gather(*loads)
        assert wrong == []
        assert lost <= 2 * 12
        status = await asked(edge)
        assert (status["workers_died"], [worker["ready"] for worker in status["workers"]]) == (2, [True, True])
        assert await asyncio.to_thread(edge.end, signal.SIGKILL) == -signal.SIGKILL
    async with running(path) as edge:
        assert list((tmp_path / "cache" / "tmp").iterdir()) == []
        for body in bodies[:5]:
            assert (await get(edge, object_of(body))).body == body


async def test_what_a_killed_worker_was_writing_is_removed_when_it_comes_back(tmp_path, origin):
    origin.replies[object_of(LARGE)] = Reply(LARGE, gate=asyncio.Event(), gate_after=4_000_000)
    tmp = tmp_path / "cache" / "tmp"
    async with running(write_config(tmp_path, origin.url, workers=2)) as edge, Client(edge.address) as client:
        await client.ask(object_of(LARGE))
        await client.receive_head()
        await until(lambda: list(tmp.iterdir()))
        owner = int(next(tmp.iterdir()).name.partition("-")[0])
        os.kill((await pids(edge))[owner], signal.SIGKILL)
        await asyncio.to_thread(edge.wait_for, "edge.worker.replaced")
        assert list(tmp.iterdir()) == []
        origin.replies[object_of(LARGE)] = Reply(LARGE)
        assert (await get(edge, object_of(LARGE))).body == LARGE


async def test_sigterm_lets_answers_under_way_finish_and_refuses_new_connections(tmp_path, origin):
    gate = asyncio.Event()
    origin.replies[object_of(LARGE)] = Reply(LARGE, gate=gate, gate_after=4_000_000)
    async with running(write_config(tmp_path, origin.url, workers=2)) as edge:
        begun: list[int] = []

        async def body() -> bytes:
            async with Client(edge.address) as client:
                await client.ask(object_of(LARGE))
                status, headers = await client.receive_head()
                begun.append(status)
                return (await client._receive_body(headers))[0]

        answers = [asyncio.create_task(body()) for _ in range(10)]
        await until(lambda: len(begun) == 10)
        ending = asyncio.create_task(asyncio.to_thread(edge.end))
        await asyncio.to_thread(edge.wait_for, "edge.server.stopping")
        while not await is_refused(edge):
            pass
        gate.set()
        assert [answer == LARGE for answer in await asyncio.gather(*answers)] == [True] * 10
        assert await ending == 0


async def command(edge: Process, name: str, **order) -> dict:
    request = urllib.request.Request(
        f"{edge.admin}/{name}", json.dumps(order).encode(), {"Content-Type": "application/json"}
    )
    with await asyncio.to_thread(urllib.request.urlopen, request) as reply:
        return json.loads(reply.read())


async def test_a_drain_is_announced_can_be_undone_and_closes_the_doors_of_all(tmp_path, origin):
    more = '[limits]\ndrain_delay = "20s"\n'
    async with running(write_config(tmp_path, origin.url, more, workers=2)) as edge:
        assert (await command(edge, "drain"))["phase"] == "leaving"
        assert (await asked(edge))["draining"]
        assert {(await get(edge, "/healthz")).status for _ in range(12)} == {503}
        assert (await get(edge, object_of(SMALL))).body == SMALL
        os.kill((await pids(edge))[0], signal.SIGKILL)  # its successor leaves as well
        await asyncio.to_thread(edge.wait_for, "edge.worker.replaced")
        assert {(await get(edge, "/healthz")).status for _ in range(12)} == {503}
        assert (await command(edge, "drain", undo=True))["phase"] == "serving"
        assert {(await get(edge, "/healthz")).status for _ in range(12)} == {200}
    async with running(write_config(tmp_path, origin.url, workers=2)) as edge:
        await command(edge, "drain")
        await asyncio.to_thread(edge.wait_for, r'(?s)"drained".*"drained"')
        while not await is_refused(edge):
            pass
        with pytest.raises(urllib.error.HTTPError) as late:
            await command(edge, "drain", undo=True)
        late.value.close()
        assert (await command(edge, "drain", stop=True))["seconds_max"] == 30
        assert await asyncio.to_thread(edge.process.wait, 30) == 0


async def test_a_reload_reaches_all_workers_or_with_a_mistake_none(tmp_path, origin):
    path = write_config(tmp_path, "http://127.0.0.1:1", workers=2)
    targets = [object_of(b"%d" % number) for number in range(12)]
    for number, target in enumerate(targets):
        origin.replies[target] = Reply(b"%d" % number)
    async with running(path) as edge:
        assert {(await get(edge, target)).status for target in targets} == {502}
        path.write_text("nonsense = 1\n")
        edge.process.send_signal(signal.SIGHUP)
        await asyncio.to_thread(edge.wait_for, "edge.reload.refused")
        assert {(await get(edge, target)).status for target in targets} == {502}
        write_config(tmp_path, origin.url, workers=2)
        edge.process.send_signal(signal.SIGHUP)
        await asyncio.to_thread(edge.wait_for, r"(?s)(edge\.server\.reloaded.*edge\.server\.reloaded)")
        assert {(await get(edge, target)).status for target in targets} == {200}
        victim = (await pids(edge))[1]
        os.kill(victim, signal.SIGKILL)  # its successor knows the new configuration, too
        await asyncio.to_thread(edge.wait_for, "edge.worker.replaced")
        assert {(await get(edge, target, Cache_Control="no-cache")).status for target in targets * 2} == {200}
        assert await value(edge, "edge_reloads_total") == 2


async def test_workers_end_with_their_supervisor_and_the_cache_is_free_again(tmp_path, origin):
    path = write_config(tmp_path, origin.url, workers=2)
    async with running(path) as edge:
        workers = await pids(edge)
        assert (await get(edge, object_of(SMALL))).body == SMALL
        await asyncio.to_thread(edge.end, signal.SIGKILL)
        await until(lambda: not any(map(is_alive, workers)))
    write_config(tmp_path, origin.url, workers=3)  # another number of workers finds what is there
    async with running(path) as edge:
        assert {(await get(edge, object_of(SMALL))).body for _ in range(20)} == {SMALL}
        assert origin.count(object_of(SMALL)) == 1


async def test_the_limit_of_the_disk_holds_for_all_workers_together(tmp_path, origin):
    bodies = [os.urandom(100_000) for _ in range(80)]
    for body in bodies:
        origin.replies[object_of(body)] = Reply(body)
    async with running(write_config(tmp_path, origin.url, workers=2, disk="4MiB")) as edge:
        for body in bodies:
            assert (await get(edge, object_of(body))).body == body
            cache = (await asked(edge))["cache"]
            assert cache["disk_bytes"] <= cache["disk_bytes_max"] == 4 << 20
        while (await asked(edge))["fetches"]:
            pass
        files = [each.stat().st_size for each in (tmp_path / "cache" / "v1").glob("*/*")]
        assert 2 << 20 < sum(map(occupied, files)) <= 4 << 20
        assert await value(edge, r'edge_cache_objects\{tier="disk"\}') == len(files)


async def test_a_purge_reaches_every_worker(tmp_path, origin):
    async with running(write_config(tmp_path, origin.url, workers=2)) as edge:
        for _ in range(20):
            await get(edge, object_of(SMALL))
        purged = await command(edge, "purge", url=object_of(SMALL))
        assert (purged["memory"], purged["disk"]) == (2, 1)
        del origin.replies[object_of(SMALL)]
        assert {(await get(edge, object_of(SMALL))).status for _ in range(20)} == {404}
        with pytest.raises(urllib.error.HTTPError) as refused:
            await command(edge, "purge")
        with refused.value as error:
            assert (error.code, "say what to purge" in error.read().decode()) == (400, True)


async def test_a_revision_is_purged_by_all_workers_though_one_is_first(tmp_path, origin):
    publication = Publication(REPOSITORY, Algorithm.SHA1)
    publication.publish({f"/{number}": publication.file(b"%d" % number) for number in range(20)})
    for path, data in publication.served.items():
        origin.replies[f"{BASE}/{path}"] = Reply(data)
    targets = [target for target in origin.replies if "/data/" in target or target == MANIFEST]
    async with running(write_config(tmp_path, origin.url, workers=2)) as edge:
        for target in targets:
            await get(edge, target)
        while (await asked(edge))["fetches"]:
            pass
        before = len(list((tmp_path / "cache" / "v1").glob("*/*")))
        order = {"repository": REPOSITORY, "revision": 1}
        purged = await asyncio.to_thread(
            send_command, edge.admin, "purge", order, what="an edge", example="http://127.0.0.1:1"
        )
        assert before - len(list((tmp_path / "cache" / "v1").glob("*/*"))) == purged["disk"] == 24
        with pytest.raises(UsageError, match="nothing cached says"):
            await asyncio.to_thread(
                send_command, edge.admin, "purge", order, what="an edge", example="http://127.0.0.1:1"
            )


def test_a_worker_that_cannot_start_ends_everything_with_one_sentence(tmp_path):
    path = write_config(tmp_path, "http://127.0.0.1:1", workers=2)
    path.write_text(path.read_text().replace(f"{tmp_path}/access.log", "/nowhere/access.log"))
    ended = run_to_its_end(path)
    assert ended.returncode == 2
    assert "the access log /nowhere/access.log cannot be opened" in ended.stderr
    assert "Traceback" not in ended.stderr
