"""`cdn demo` as people run it: a process, what it prints, what it leaves."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

from cdn.demo.places import CLIENTS
from cdn.demo.scenario import STEPS

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 110
FILES = "20"  # the fewest there may be

# Stands for a publisher whose disk rots between the taking of the digests and the publishing. What comes after all have
# read, other than the end, is left out, and so is the second replica: it takes as long again and would change nothing.
SABOTAGE = """
import sys
from pathlib import Path
from cdn.demo import places
places.REPLICAS = places.REPLICAS[:1]  # before anybody has looked
from cdn.cli.main import main
from cdn.demo import running, scenario
from cdn.telemetry import install_fault_hook

def rot(name):
    if name == "demo.tree.copied":
        victim = max(Path(sys.argv[1]).glob("*/tree/lib/**/*.py"), key=lambda path: path.stat().st_size)
        content = bytearray(victim.read_bytes())
        content[len(content) // 2] ^= 1
        victim.write_bytes(content)
        print(f"rotten: {victim.name}", file=sys.stderr)

install_fault_hook(rot)
running.STEPS = scenario.STEPS = scenario.STEPS[:5] + scenario.STEPS[-1:]
sys.exit(main(["demo", "--files", sys.argv[2], "--workdir", sys.argv[1]]))
"""


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def cdn(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "cdn", *arguments],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env=environment(),
        check=False,
    )


def processes_of(folder):
    """The command lines of processes that work in a folder."""
    shown = subprocess.run(["ps", "-A", "-ww", "-o", "args="], capture_output=True, text=True, check=True)
    return [line for line in shown.stdout.splitlines() if f"{folder}{os.sep}stratocast-demo-" in line]


def eventually_none_of(folder):
    """Whether no process is left in a folder, in ten looks one after the other.

    One look may come between the fork and the exec of a child, which then has no command line of its own yet.
    """
    empty_looks = 0
    for _ in range(500):
        empty_looks = 0 if processes_of(folder) else empty_looks + 1
        if empty_looks == 10:
            return True
        time.sleep(0.02)  # until the next look
    return False


@contextmanager
def started(*arguments):
    command = [sys.executable, "-m", "cdn", "demo", *arguments]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(), start_new_session=True
    )
    watchdog = threading.Timer(SECONDS, process.kill)
    watchdog.start()
    try:
        yield process
    finally:
        watchdog.cancel()
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_every_check_holds_and_what_is_kept_goes_on_until_it_is_stopped(tmp_path):
    done = cdn("demo", "--files", FILES, "--workdir", str(tmp_path), "--keep", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    try:
        assert report["ok"]
        assert report["checks_failed"] == 0
        assert [step["title"] for step in report["steps"]] == [title for title, _ in STEPS]
        assert all(check["ok"] for step in report["steps"] for check in step["checks"])
        totals = report["totals"]
        assert totals["files_read"] >= totals["files_published"] * len(CLIENTS)
        assert totals["edge_hits"] > 0
        for name, url in report["urls"].items():
            if url.startswith("http") and "admin" not in name:
                with urllib.request.urlopen(f"{url}/.cvmfspublished", timeout=10) as answer:
                    assert b"\nS3\n" in answer.read(), name
        read = cdn(
            "cat",
            f"{report['urls']['edge-tokyo']}/etc/motd",
            "--key",
            report["public_key_file"],
            "--cache",
            str(tmp_path / "cache"),
        )
        assert read.stdout == "The second revision is here.\n", read.stderr
    finally:
        stopped = cdn("demo", "--stop", report["folder"], "--json")
    assert json.loads(stopped.stdout)["processes_ended"] == 9
    assert not Path(report["folder"]).exists()
    assert processes_of(tmp_path) == []


@pytest.mark.slow
def test_a_file_that_is_not_as_its_source_is_named_and_the_exit_status_says_so(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SABOTAGE, str(tmp_path), FILES],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env=environment(),
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    rotten = re.search(r"rotten: (\S+)", done.stderr)[1]
    for client in CLIENTS:
        assert re.search(rf"FAILED: {client.name} found what the source has: .*{rotten}: its SHA-256 is", done.stdout)
    table = done.stdout[done.stdout.index("step  what") :]
    assert re.search(r"Three clients read every file +[0-9.]+ +FAILED", table)
    assert re.search(r"all of it +[0-9.]+ +FAILED", table.splitlines()[-1])
    logs = Path(re.search(r"the logs are in (\S+)", done.stderr)[1])
    assert (logs / "edge-geneva.log").stat().st_size > 0
    assert [path.name for path in logs.parent.iterdir()] == [logs.name]
    assert "Traceback" not in done.stderr
    assert processes_of(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_whoever_interrupts_it_finds_nothing_left(tmp_path, number):
    with started("--files", FILES, "--workdir", str(tmp_path)) as process:
        for line in process.stdout:
            if line.startswith("[3/"):
                break
        assert processes_of(tmp_path)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.strip() == "cdn: interrupted"
    assert processes_of(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
def test_its_servers_die_with_it_even_if_it_is_killed(tmp_path):
    with started("--files", FILES, "--workdir", str(tmp_path)) as process:
        for line in process.stdout:
            if line.startswith("[3/"):
                break
        assert processes_of(tmp_path)
        process.kill()
        process.wait()
    assert eventually_none_of(tmp_path)


def test_a_folder_that_no_demonstration_left_is_not_touched(tmp_path):
    (tmp_path / "precious").write_text("keep me")
    done = cdn("demo", "--stop", str(tmp_path))
    assert done.returncode == 2
    assert "no folder that `cdn demo --keep` left" in done.stderr
    assert (tmp_path / "precious").exists()
