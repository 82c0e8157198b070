"""The web server of `cdn serve`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdn.errors import UsageError
from cdn.storage.local import LocalStore
from cdn.telemetry import install_sink
from stratum0.web import Location, StorageServer, WebSettings, locate
from tests.contracts.storage_web import LARGE, LARGE_NAME, NAME, SMALL, SMALL_NAME, StorageWebContract, fill, talk
from tests.strategies import object_names

PROJECT = Path(__file__).resolve().parents[3]
ANY_PORT = WebSettings(port=0, stop_timeout_seconds=1)


@asynccontextmanager
async def serving(folder: Path, settings: WebSettings = ANY_PORT, **more):
    server = StorageServer(folder, settings, **more)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@asynccontextmanager
async def asking(url: str, method: str = "GET", **more):
    async with aiohttp.ClientSession() as session, session.request(method, url, **more) as response:
        yield response


class TestStorageServer(StorageWebContract):
    @pytest.fixture
    async def url(self, tmp_path):
        fill(tmp_path)
        async with serving(tmp_path) as server:
            yield server.url


# ----------------------------------------------------------------------------------------------------- what URLs mean


@given(object_names())
def test_every_object_has_a_url(name) -> None:
    assert locate(f"/cvmfs/sw.example.org/{name.path}") == Location("sw.example.org", name.path)


@given(st.text())
def test_no_url_names_a_file_outside(text) -> None:
    for path in (text, f"/cvmfs/{text}", f"/cvmfs/r/{text}", f"/cvmfs/{text}/.cvmfspublished"):
        location = locate(path)
        if location is not None:
            assert ".." not in location.repository
            assert "/" not in location.repository
            assert ".." not in location.path.split("/")


# -------------------------------------------------------------------------------------------------------- odd contents


@pytest.mark.parametrize("path", [".cvmfspublished", f"data/00/{'0' * 38}"])
async def test_a_symbolic_link_does_not_lead_outside(tmp_path, path) -> None:
    LocalStore(tmp_path / "srv" / NAME).prepare()
    (tmp_path / "secret").write_bytes(b"secret")
    os.symlink(tmp_path / "secret", tmp_path / "srv" / NAME / path)
    async with serving(tmp_path / "srv") as server, asking(f"{server.url}/cvmfs/{NAME}/{path}") as response:
        assert response.status == 404


async def test_a_linked_folder_does_not_lead_outside(tmp_path) -> None:
    fill(tmp_path / "other")
    (tmp_path / "srv" / NAME).mkdir(parents=True)
    os.symlink(tmp_path / "other" / NAME / "data", tmp_path / "srv" / NAME / "data")
    async with serving(tmp_path / "srv") as server, asking(f"{server.url}/cvmfs/{NAME}/{SMALL_NAME.path}") as response:
        assert response.status == 404


async def test_a_repository_itself_may_be_a_link_or_lie_elsewhere(tmp_path) -> None:
    fill(tmp_path / "other")
    (tmp_path / "srv").mkdir()
    os.symlink(tmp_path / "other" / NAME, tmp_path / "srv" / "linked.example.org")
    elsewhere = {"named.example.org": tmp_path / "other" / NAME}
    async with serving(tmp_path / "srv", elsewhere=elsewhere) as server:
        for name in ("linked.example.org", "named.example.org"):
            async with asking(f"{server.url}/cvmfs/{name}/{SMALL_NAME.path}") as response:
                assert await response.read() == SMALL


async def test_folders_and_fifos_are_absent_and_hang_nobody(tmp_path) -> None:
    LocalStore(tmp_path / NAME).prepare()
    os.mkfifo(tmp_path / NAME / ".cvmfspublished")
    (tmp_path / NAME / ".cvmfswhitelist").mkdir()
    async with serving(tmp_path) as server:
        for path in (".cvmfspublished", ".cvmfswhitelist"):
            async with asking(f"{server.url}/cvmfs/{NAME}/{path}") as response:
                assert response.status == 404


async def test_a_replaced_document_is_served_at_once(tmp_path) -> None:
    store = LocalStore(tmp_path / NAME)
    async with serving(tmp_path) as server:
        for version in (b"one", b"two"):
            store.replace(".cvmfspublished", version)
            async with asking(f"{server.url}/cvmfs/{NAME}/.cvmfspublished") as response:
                assert await response.read() == version


async def test_a_file_deleted_while_it_is_sent_arrives_whole(tmp_path) -> None:
    fill(tmp_path)
    async with serving(tmp_path) as server, asking(f"{server.url}/cvmfs/{NAME}/{LARGE_NAME.path}") as response:
        LocalStore(tmp_path / NAME).delete(LARGE_NAME.path)
        assert await response.read() == LARGE


# ----------------------------------------------------------------------------------------------- what the server tells


async def test_the_list_of_repositories_is_made_where_nobody_wrote_one(tmp_path) -> None:
    for name in ("b.example.org", "a.example.org", "replica.example.org"):
        LocalStore(tmp_path / name).replace(".cvmfspublished", b"x")
    LocalStore(tmp_path / "replica.example.org").replace(".cvmfs_last_snapshot", b"x")
    (tmp_path / "no-repository").mkdir()
    async with serving(tmp_path) as server:
        async with asking(f"{server.url}/cvmfs/info/v1/repositories.json") as response:
            assert response.headers["Content-Type"] == "application/json"
            assert json.loads(await response.read()) == {
                "schema": 1,
                "repositories": [
                    {"name": "a.example.org", "url": "/cvmfs/a.example.org"},
                    {"name": "b.example.org", "url": "/cvmfs/b.example.org"},
                ],
                "replicas": [{"name": "replica.example.org", "url": "/cvmfs/replica.example.org"}],
            }
        async with asking(f"{server.url}/cvmfs/info/v1/meta.json") as response:
            assert set(json.loads(await response.read())) == {"administrator", "email", "organisation", "custom"}
        async with asking(f"{server.url}/cvmfs/info/v1/meta.json", "HEAD") as response:
            assert response.status == 200
            assert int(response.headers["Content-Length"]) > 0


async def test_requests_are_counted_for_the_monitoring(tmp_path) -> None:
    fill(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with serving(tmp_path, WebSettings(port=0, metrics_port=port)) as server:
        for path in (SMALL_NAME.path, SMALL_NAME.path, LARGE_NAME.path, ".cvmfspublished", "absent"):
            async with asking(f"{server.url}/cvmfs/{NAME}/{path}") as response:
                await response.read()
        async with asking(server.metrics_url) as response:
            text = await response.text()
        async with asking(server.metrics_url.replace("/metrics", "/")) as response:
            assert response.status == 404
    assert 'stratum0_web_requests_total{kind="object",status="200"} 3.0' in text
    assert 'stratum0_web_requests_total{kind="document",status="200"} 1.0' in text
    assert 'stratum0_web_requests_total{kind="other",status="404"} 1.0' in text
    assert server.bytes_sent >= 2 * len(SMALL) + len(LARGE)


async def test_the_access_log_names_who_asked_for_what(tmp_path) -> None:
    fill(tmp_path)
    told = []
    install_sink(lambda level, name, fields: told.append((name, dict(fields))))
    try:
        async with (
            serving(tmp_path, WebSettings(port=0, access_log=True)) as server,
            asking(f"{server.url}/cvmfs/{NAME}/{SMALL_NAME.path}", headers={"User-Agent": "cvmfs"}) as response,
        ):
            await response.read()
    finally:
        install_sink(None)
    answered = next(fields for name, fields in told if name == "stratum0.request.answered")
    assert answered["client"] == "127.0.0.1"
    assert answered["agent"] == "cvmfs"
    assert answered["path"] == f"/cvmfs/{NAME}/{SMALL_NAME.path}"
    assert (answered["status"], answered["bytes"]) == (200, len(SMALL))


# -------------------------------------------------------------------------------------------- starting and stopping


async def test_a_taken_port_is_reported_in_one_sentence(tmp_path) -> None:
    async with serving(tmp_path) as server:
        port = int(server.url.rpartition(":")[2])
        with pytest.raises(UsageError, match=f"cannot listen on 127.0.0.1 port {port}: .*in use"):
            await StorageServer(tmp_path, WebSettings(port=port)).start()


async def test_a_missing_folder_is_reported_in_one_sentence(tmp_path) -> None:
    with pytest.raises(UsageError, match="there is no folder"):
        await StorageServer(tmp_path / "absent", ANY_PORT).start()


@pytest.mark.parametrize("raw", [b"GET / HTTP/9.9", b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000, b"\0\1"])
async def test_a_request_that_is_no_http_is_refused_without_a_traceback(tmp_path, caplog, raw) -> None:
    fill(tmp_path)
    async with serving(tmp_path) as server:
        assert b" 400 " in (await talk(server.url, raw + b"\r\n\r\n")).split(b"\r\n")[0]
        async with asking(f"{server.url}/cvmfs/{NAME}/{SMALL_NAME.path}") as response:
            assert await response.read() == SMALL
    assert [record for record in caplog.records if record.exc_info] == []


async def test_that_a_range_cannot_be_had_is_not_cached(tmp_path) -> None:
    fill(tmp_path)
    async with serving(tmp_path) as server:
        url = f"{server.url}/cvmfs/{NAME}/{SMALL_NAME.path}"
        async with asking(url, headers={"Range": "bytes=99999999-"}) as response:
            assert (response.status, response.headers["Cache-Control"]) == (416, "no-store")


async def test_a_connection_that_never_asks_is_closed(tmp_path) -> None:
    fill(tmp_path)
    async with serving(tmp_path, WebSettings(port=0, head_timeout_seconds=0.2)) as server:
        for raw in (b"", f"GET /cvmfs/{NAME}/.cvmfspublished HTTP/1.1\r\nHost:".encode()):
            assert await talk(server.url, raw) == b""


async def test_a_connection_in_use_is_not_closed(tmp_path) -> None:
    fill(tmp_path)
    async with serving(tmp_path, WebSettings(port=0, head_timeout_seconds=0.1)) as server:
        async with aiohttp.ClientSession() as session:
            for _ in range(4):
                async with session.get(f"{server.url}/cvmfs/{NAME}/{SMALL_NAME.path}") as response:
                    assert await response.read() == SMALL
                await asyncio.sleep(0.1)
        assert server.requests["object", 200] == 4


async def test_answers_under_way_are_finished_when_the_server_stops(tmp_path) -> None:
    huge = b"x" * (32 << 20)
    LocalStore(tmp_path / NAME).put(SMALL_NAME.path, huge)
    server = StorageServer(tmp_path, WebSettings(port=0, stop_timeout_seconds=30))
    await server.start()
    async with asking(f"{server.url}/cvmfs/{NAME}/{SMALL_NAME.path}") as response:
        stopping = asyncio.create_task(server.stop())
        body = await response.read()
        await stopping
    assert len(body) == len(huge)


def test_sigterm_ends_the_server_in_good_order(tmp_path) -> None:
    program = (
        "import asyncio, sys; from stratum0.web import *\n"
        "async def main():\n"
        "    server = StorageServer(sys.argv[1], WebSettings(port=0))\n"
        "    await server.run_forever(lambda: print(server.url, flush=True))\n"
        "    print('stopped')\n"
        "asyncio.run(main())\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], cwd=PROJECT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline().startswith(b"http://127.0.0.1:")
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert output == b"stopped\n"
    assert process.returncode == 0
