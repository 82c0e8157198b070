"""`cdn geodns` as operators run it: a process, its signals, its exit status."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import dns.message
import dns.query
import pytest

from tests.fakes import prepared

CONFIG = """
[listen]
port = 0

[[zones]]
name = "cdn.example.org"
name_servers = ["ns1"]

[[zones.geo]]
name = "edge"

[[sites]]
name = "here"
latitude = 0
longitude = 0
[[sites.edges]]
name = "h1"
addresses = ["10.0.0.1"]

[[sites]]
name = "there"
latitude = 0
longitude = 90
[[sites.edges]]
name = "t1"
addresses = ["10.0.0.2"]
check = "tcp://127.0.0.1:1"

[geography]
map = "networks.map"

[admin]
listen = "127.0.0.1:0"
"""


@pytest.fixture
def config(tmp_path) -> Path:
    (tmp_path / "networks.map").write_text("127.0.0.0/8 0 1\n")
    path = tmp_path / "geodns.toml"
    path.write_text(CONFIG)
    return path


def cdn(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "cdn", *arguments]


class Running:
    """A server process and what it says."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.port = int(self.wait_for(r"answering on 127\.0\.0\.1 port (\d+)"))

    def wait_for(self, pattern: str) -> str:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            found = re.search(pattern, line)
            if found:
                return found[found.lastindex or 0]
        raise AssertionError(f"the server ended without saying {pattern}")

    def ask(self) -> str:
        reply = dns.query.udp(
            dns.message.make_query("edge.cdn.example.org", "A"), "127.0.0.1", port=self.port, timeout=10
        )
        return str(reply.answer[0][0])


@contextmanager
def running(config: Path):
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    words = ["-m", "cdn", "geodns", "run", "--config", config, "--log-format", "json"]
    process = prepared.popen(*words, stderr=subprocess.PIPE, text=True, env=environment)
    watchdog = threading.Timer(60, process.kill)  # what it never says is then seen as the end of its words
    watchdog.start()
    try:
        yield Running(process)
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def test_a_server_answers_reloads_survives_a_bad_reload_and_stops_when_told(config):
    with running(config) as server:
        assert server.ask() == "10.0.0.1"
        config.with_name("networks.map").write_text("127.0.0.0/8 0 91\n")
        config.write_text(CONFIG.replace('check = "tcp://127.0.0.1:1"', ""))
        server.process.send_signal(signal.SIGHUP)
        server.wait_for("geodns.server.reloaded")
        assert server.ask() == "10.0.0.2"

        config.write_text("not toml at all")
        server.process.send_signal(signal.SIGHUP)
        server.wait_for("geodns.reload.refused")
        config.write_text(CONFIG)
        config.with_name("networks.map").write_text("not a map at all")
        server.process.send_signal(signal.SIGHUP)
        server.wait_for(r"networks\.map:1: .*NETWORK LATITUDE LONGITUDE")
        assert server.ask() == "10.0.0.2"

        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 0


def test_a_port_that_is_taken_is_one_sentence_and_a_status(config):
    with running(config) as server:
        taken = config.with_name("taken.toml")
        taken.write_text(CONFIG.replace("port = 0", f"port = {server.port}"))
        again = subprocess.run(
            cdn("geodns", "run", "--config", str(taken)), capture_output=True, text=True, timeout=60, check=False
        )
    assert again.returncode == 2
    assert f"cannot listen on 127.0.0.1:{server.port}: Address already in use" in again.stderr
    assert "Traceback" not in again.stderr


def test_the_state_of_a_running_server_is_shown(config):
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config.write_text(CONFIG.replace('"127.0.0.1:0"', f'"127.0.0.1:{port}"'))
    with running(config):
        shown = subprocess.run(
            cdn("geodns", "status", "--admin", f"http://127.0.0.1:{port}", "--json"),
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    assert json.loads(shown.stdout)["edges"]["t1"]["state"] == "down"
