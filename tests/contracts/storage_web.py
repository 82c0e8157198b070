"""What every web server for a storage folder must do: ours, and others configured as the documentation says."""

from __future__ import annotations

import asyncio
import json
import os
import random
from pathlib import Path

import aiohttp
import pytest

from cdn.hashing import Algorithm, digest_of
from cdn.objects import Kind, ObjectName
from cdn.storage.local import LocalStore

NAME = "sw.example.org"
SMALL = b"a small object"
LARGE = random.Random(1).randbytes(1 << 16) * 8 + b"end"  # its digest is part of test names, the same in every process
SMALL_NAME = ObjectName(digest_of(Algorithm.SHAKE128, SMALL))
LARGE_NAME = ObjectName(digest_of(Algorithm.SHA1, LARGE), Kind.CATALOG)
MANIFEST = b"C0123\n--\nmanifest \xff\x00"


def fill(folder: Path) -> None:
    """Makes a repository, and things beside it that must not be served."""
    store = LocalStore(folder / NAME)
    store.put(SMALL_NAME.path, SMALL)
    store.put(LARGE_NAME.path, LARGE)
    store.replace(".cvmfspublished", MANIFEST)
    store.replace(".cvmfs_master_replica", b"")
    store.replace(".cvmfs_status.json", b"{}")
    store.replace("stats/stats.db", b"SQLite")
    (folder / NAME / "data/txn/staged").write_bytes(b"not finished")
    (folder / NAME / "secret").write_bytes(b"secret")
    (folder / NAME / SMALL_NAME.path[:7] / "README").write_bytes(b"secret")
    (folder / "secret.key").write_bytes(b"secret")
    (folder / "info/v1").mkdir(parents=True)
    (folder / "info/v1/repositories.json").write_text('{"schema": 1}')
    (folder / "info/v1/meta.json").write_text("{}")
    alternative = ObjectName(digest_of(Algorithm.SHAKE128, SMALL)).alternative_path
    os.symlink(SMALL_NAME.path, folder / NAME / alternative)


async def talk(url: str, raw: bytes) -> bytes:
    """Sends bytes as they are and gives everything that comes back until the server closes."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(raw)
        async with asyncio.timeout(30):
            return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


class StorageWebContract:
    """The tests; `url` is the base of a server for a folder that `fill` has filled."""

    @pytest.fixture
    async def url(self) -> str:
        raise NotImplementedError

    @pytest.fixture
    async def session(self):
        async with aiohttp.ClientSession(auto_decompress=False) as session:
            yield session

    @pytest.mark.parametrize(
        ("path", "body", "content_type", "max_age"),
        [
            (SMALL_NAME.path, SMALL, "application/octet-stream", 259200),
            (LARGE_NAME.path, LARGE, "application/octet-stream", 259200),
            (".cvmfspublished", MANIFEST, "application/x-cvmfs", 61),
            (".cvmfs_master_replica", b"", "application/x-cvmfs", 61),
            (".cvmfs_status.json", b"{}", "application/json", 61),
            (SMALL_NAME.alternative_path, SMALL, "application/x-cvmfs", 61),
            ("stats/stats.db", b"SQLite", "application/octet-stream", 61),
        ],
    )
    async def test_files_are_served_with_their_labels(self, url, session, path, body, content_type, max_age) -> None:
        for method in ("GET", "HEAD"):
            async with session.request(method, f"{url}/cvmfs/{NAME}/{path}") as response:
                assert response.status == 200
                assert await response.read() == (body if method == "GET" else b"")
                assert response.headers["Content-Length"] == str(len(body))
                assert response.headers["Content-Type"] == content_type
                assert response.headers["Cache-Control"] == f"max-age={max_age}"
                assert "Content-Encoding" not in response.headers
                assert "Transfer-Encoding" not in response.headers

    async def test_server_wide_documents_are_json(self, url, session) -> None:
        for name in ("repositories", "meta"):
            async with session.get(f"{url}/cvmfs/info/v1/{name}.json") as response:
                assert response.status == 200
                assert response.headers["Content-Type"] == "application/json"
                assert response.headers["Cache-Control"] == "max-age=61"
                assert isinstance(json.loads(await response.read()), dict)

    async def test_nothing_is_compressed_on_the_way(self, url, session) -> None:
        asking = {"Accept-Encoding": "gzip, br, zstd"}
        for path in (".cvmfspublished", ".cvmfs_status.json", LARGE_NAME.path):
            async with session.get(f"{url}/cvmfs/{NAME}/{path}", headers=asking) as response:
                assert "Content-Encoding" not in response.headers

    @pytest.mark.parametrize(
        "path",
        [
            "/",
            "/cvmfs",
            "/cvmfs/",
            f"/cvmfs/{NAME}",
            f"/cvmfs/{NAME}/",
            f"/cvmfs/{NAME}/data",
            f"/cvmfs/{NAME}/data/",
            f"/cvmfs/{NAME}/{SMALL_NAME.path[:8]}",
            f"/cvmfs/{NAME}/{SMALL_NAME.path}P",
            f"/cvmfs/{NAME}/{SMALL_NAME.path}/",
            f"/cvmfs/{NAME}/data/00/{'0' * 38}",
            f"/cvmfs/{NAME}/data/txn/",
            f"/cvmfs/{NAME}/data/txn/staged",
            f"/cvmfs/{NAME}/secret",
            f"/cvmfs/{NAME}/{SMALL_NAME.path[:7]}/README",
            f"/cvmfs/{NAME}/.cvmfswhitelist",
            "/cvmfs/secret.key",
            "/cvmfs/absent.example.org/.cvmfspublished",
            "/cvmfs/info/v1/",
            "/cvmfs/info/v1/other.json",
            "/cvmfs/info/.cvmfspublished",
            "/cvmfs/../secret.key",
            f"/cvmfs/{NAME}/../secret.key",
            f"/cvmfs/{NAME}/%2e%2e/secret.key",
            f"/cvmfs/{NAME}/..%2fsecret.key",
            f"/cvmfs/{NAME}/.cvmfspublished%2f..%2f..%2fsecret.key",
            f"/cvmfs/..%2f{NAME}/.cvmfspublished",
            f"/cvmfs/{NAME}/.cvmfspublished%0a",
            f"/cvmfs/{NAME}/.cvmfs%ff",
            "//etc/passwd",
            "/secret.key",
        ],
    )
    async def test_everything_else_is_absent_and_soon_asked_for_again(self, url, path) -> None:
        raw = await talk(url, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        head, _, body = raw.partition(b"\r\n\r\n")
        assert head.split(b" ")[1] in {b"404", b"400"}
        assert b"secret" not in body
        assert len(body) < 1000
        if head.split(b" ")[1] == b"404":
            assert b"cache-control: max-age=5\r\n" in head.lower() + b"\r\n"

    async def test_a_nul_in_a_path_is_refused(self, url) -> None:
        raw = await talk(
            url, f"GET /cvmfs/{NAME}/.cvmfspublished%00 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
        )
        assert raw.split(b" ")[1] in {b"404", b"400"}

    @pytest.mark.parametrize("path", [SMALL_NAME.path, LARGE_NAME.path])
    async def test_a_part_can_be_asked_for(self, url, session, path) -> None:
        data = SMALL if path == SMALL_NAME.path else LARGE
        async with session.get(f"{url}/cvmfs/{NAME}/{path}", headers={"Range": "bytes=2-5"}) as response:
            assert response.status == 206
            assert response.headers["Content-Range"] == f"bytes 2-5/{len(data)}"
            assert await response.read() == data[2:6]
        async with session.get(f"{url}/cvmfs/{NAME}/{path}", headers={"Range": "bytes=9999999-"}) as response:
            assert response.status == 416

    @pytest.mark.parametrize("path", [SMALL_NAME.path, LARGE_NAME.path, ".cvmfspublished"])
    async def test_what_has_not_changed_need_not_be_sent_again(self, url, session, path) -> None:
        async with session.get(f"{url}/cvmfs/{NAME}/{path}") as response:
            etag, modified = response.headers["ETag"], response.headers["Last-Modified"]
        for condition in ({"If-None-Match": etag}, {"If-Modified-Since": modified}):
            async with session.get(f"{url}/cvmfs/{NAME}/{path}", headers=condition) as response:
                assert response.status == 304
                assert await response.read() == b""

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
    async def test_only_reading_is_allowed(self, url, session, method) -> None:
        async with session.request(method, f"{url}/cvmfs/{NAME}/.cvmfspublished", data=b"x") as response:
            assert response.status in {403, 405}
        async with session.get(f"{url}/cvmfs/{NAME}/.cvmfspublished") as response:
            assert await response.read() == MANIFEST

    async def test_a_connection_serves_many_requests(self, url) -> None:
        request = f"GET /cvmfs/{NAME}/{SMALL_NAME.path} HTTP/1.1\r\nHost: x\r\n"
        absent = f"GET /cvmfs/{NAME}/absent HTTP/1.1\r\nHost: x\r\n\r\n"
        raw = await talk(url, f"{request}\r\n{absent}{request}Connection: close\r\n\r\n".encode())
        assert raw.count(b"HTTP/1.1 200 OK\r\n") == 2
        assert raw.count(b"HTTP/1.1 404 ") == 1
        assert raw.endswith(SMALL)
