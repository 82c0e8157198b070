"""What we publish, looked at by the tools of CernVM-FS, where the environment says which folder they are in.

`CVMFS_TOOLS` names a folder with `cvmfs_swissknife`; its libraries are looked for in ``../lib``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cdn.clock import ManualClock
from stratum0 import keys
from stratum0.garbage import Retention, collect
from stratum0.publish import publish_tree
from stratum0.rollback import rollback
from stratum0.tags import add_tag, remove_tags
from tests.fakes.publishers import NAME, TODAY, new_publisher

TOOLS = os.environ.get("CVMFS_TOOLS", "")
PROGRAM = shutil.which("cvmfs_swissknife", path=TOOLS) if TOOLS else None

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="CVMFS_TOOLS names no folder with cvmfs_swissknife")


@pytest.fixture
def served(tmp_path):
    """A repository with several revisions, and where it is served."""
    repository = new_publisher(tmp_path / "root", ManualClock(TODAY))
    source = tmp_path / "source"
    (source / "a" / "b").mkdir(parents=True)
    (source / "a" / ".cvmfscatalog").touch()
    for number in range(3):
        (source / "a" / "b" / "file").write_text(f"content {number}")
        (source / f"large{number}").write_bytes(os.urandom(5 << 20))
        publish_tree(repository, source)
        add_tag(repository, f"v{number}")
    server = subprocess.Popen(
        [sys.executable, "-m", "cdn", "serve", "--port", "0", "--json"],
        env={**os.environ, "CDN_ROOT": str(tmp_path / "root")},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    import json

    url = json.loads(server.stdout.readline())["url"]
    yield repository, f"{url}/{NAME}"
    server.terminate()
    server.wait(30)
    server.stdout.close()


def tool(*words, code=0):
    libraries = str(Path(PROGRAM).parent.parent / "lib")
    environment = {**os.environ, "LD_LIBRARY_PATH": libraries, "CVMFS_LIBRARY_PATH": libraries}
    done = subprocess.run([PROGRAM, *map(str, words)], env=environment, capture_output=True, check=False)
    assert done.returncode == code, (done.stdout, done.stderr)


def check(served, tmp_path, *words):
    repository, url = served
    (tmp_path / "scratch").mkdir(exist_ok=True)
    tool(
        "check", "-r", url, "-k", repository.keys.public_key_file, "-N", NAME, "-c", "-t", tmp_path / "scratch", *words
    )


def test_what_was_published_tagged_rolled_back_collected_and_rotated_passes_their_check(served, tmp_path):
    repository, _ = served
    check(served, tmp_path)
    check(served, tmp_path, "-n", "v1")
    rollback(repository, "v1")
    check(served, tmp_path)
    remove_tags(repository, ["v0"])
    assert collect(repository, Retention()).objects_removed > 0
    check(served, tmp_path)
    keys.rotate(repository)
    check(served, tmp_path)
    keys.rotate(repository, revoke_old=True)
    collect(repository, Retention())
    check(served, tmp_path)
    repository.store.sweep_staging(older_than=float("inf"))  # scrub takes a writer's folder for damage
    tool("scrub", "-r", f"{repository.settings.storage}/data")


def test_their_replication_copies_it_whole(served, tmp_path):
    repository, url = served
    target = tmp_path / "replica"
    for number in range(256):
        (target / "data" / f"{number:02x}").mkdir(parents=True)
    (target / "data" / "txn").mkdir()
    (tmp_path / "scratch").mkdir()
    spooler = f"local,{target}/data/txn,{target}"
    tool(
        "pull", "-m", NAME, "-u", url, "-w", "http://127.0.0.1:9/unused", "-r", spooler, "-x", tmp_path / "scratch",
        "-k", repository.keys.public_key_file, "-n", "4", "-t", "10", "-a", "2", "-R", tmp_path / "chksum", "-i",
    )  # fmt: skip
    for name in (".cvmfspublished", ".cvmfswhitelist"):
        assert (target / name).read_bytes() == (repository.settings.storage / name).read_bytes()
