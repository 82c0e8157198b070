"""nginx, configured as docs/operations/nginx.md says, serves a storage folder as `cdn serve` does."""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from tests.contracts.storage_web import StorageWebContract, fill

DOCUMENT = Path(__file__).resolve().parents[2] / "docs/operations/nginx.md"


def documented_server(folder: Path, port: int) -> str:
    """The configuration of the document, for this folder and port."""
    found = re.search(r"```nginx\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    text = found[1].replace("/var/lib/stratocast/srv", str(folder))
    text, count = re.subn(r"listen 80 reuseport backlog=1024;", f"listen 127.0.0.1:{port};", text)
    assert count == 1
    return text


def whole_configuration(place: Path, server: str) -> str:
    temporary = "".join(
        f"{kind}_temp_path {place}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return (
        f"daemon off; master_process off; pid {place}/pid; error_log {place}/error.log;\n"
        f"events {{ worker_connections 256; }}\nhttp {{ access_log off;\n{temporary}{server}}}\n"
    )


class TestNginx(StorageWebContract):
    @pytest.fixture
    async def url(self, tmp_path: Path):
        nginx = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
        if nginx is None:
            pytest.skip("nginx is not installed")
        folder, place = tmp_path / "srv", tmp_path / "nginx"
        place.mkdir()
        fill(folder)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        (place / "nginx.conf").write_text(whole_configuration(place, documented_server(folder, port)))
        command = [nginx, "-p", str(place), "-c", str(place / "nginx.conf"), "-e", str(place / "error.log")]
        process = await asyncio.create_subprocess_exec(*command, stderr=subprocess.PIPE)
        try:
            await self._wait_until_it_listens(process, port)
            yield f"http://127.0.0.1:{port}"
        finally:
            if process.returncode is None:
                process.terminate()
            await process.communicate()

    async def _wait_until_it_listens(self, process: asyncio.subprocess.Process, port: int) -> None:
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                if process.returncode is not None:
                    _, said = await process.communicate()
                    pytest.fail(f"nginx refuses the documented configuration: {said.decode()}")
                await asyncio.sleep(0.01)
            else:
                writer.close()
                await writer.wait_closed()
                return
