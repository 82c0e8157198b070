"""The example that publishes from Python does what it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from stratum0.config import Home
from stratum0.repository import Repository
from tests.fakes.publishers import NAME, published

ROOT = Path(__file__).resolve().parents[2]


def test_the_example_publishes_tags_and_goes_back(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_text("content")
    words = [sys.executable, ROOT / "examples" / "publish.py", tmp_path / "root", source]
    done = subprocess.run(words, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, check=True)
    assert done.stdout.decode().splitlines() == [
        "revision 2: 1 files",
        "revision 3: notes",
        "revision 4: the tree of revision 2 again",
    ]
    assert published(Repository.peek(NAME, Home(tmp_path / "root"))).paths == ["", "/software", "/software/file"]


def test_the_package_offers_what_the_documents_name():
    import stratum0

    for name in stratum0.__all__:
        assert getattr(stratum0, name).__name__ == name


def test_the_timer_runs_a_command_that_exists(tmp_path):
    unit = (ROOT / "packaging" / "systemd" / "stratocast-resign.service").read_text()
    (command,) = [line.partition("env ")[2] for line in unit.splitlines() if line.startswith("ExecStart=")]
    words = [sys.executable, "-m", *command.split()]
    subprocess.run(words, cwd=ROOT, env={"PYTHONPATH": str(ROOT), "CDN_ROOT": str(tmp_path)}, check=True)
