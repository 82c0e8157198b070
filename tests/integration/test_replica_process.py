"""Replicas as real processes: killed at any step, run twice at once, stopped while they serve a schedule."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from cdn.cli.main import cdn as cdn_command
from cdn.keyfiles import write_public_key
from tests.fakes import prepared
from tests.fakes.repositories import Publication

NAME = "sw.example.org"
FIRST = {"/a/file": b"content", "/n/file": b"nested", "/n/deep/file": b"deep"}
SECOND = {**FIRST, "/a/new": b"new", "/n/new": b"new nested", "/n/deep/new": b"new deep", "/x/y": b"y"}
FAULTS = [
    "replica.object.stored",
    "replica.object.stored@3",
    "replica.objects.flushed",
    "replica.catalog.stored",
    "replica.catalog.stored@3",
    "replica.reflog.stored",
    "replica.manifest.stored",
]


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The same repository in its first and in its second revision."""
    top = tmp_path_factory.mktemp("sources")
    publication = Publication(NAME)
    publication.signer.now = int(time.time())
    publication.served[".cvmfswhitelist"] = publication.signer.whitelist()
    publication.publish(FIRST, ["/n", "/n/deep"], tag="v1")
    publication.write_to(top / "first")
    publication.publish(SECOND, ["/n", "/n/deep", "/x"], tag="v2")
    publication.write_to(top / "second")
    write_public_key(top / "key.pub", publication.signer.master_keys[0])
    return top


def cdn(*words: object) -> str:
    """What a command says that ends well."""
    done = CliRunner().invoke(cdn_command, [*map(str, words)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def die(fault: str, *words: object) -> None:
    """Runs a command in a process that dies by SIGKILL at a fault point."""
    environment = {**os.environ, "CDN_FAULT": fault}
    done = prepared.run("-m", "cdn", *words, env=environment, timeout=100)
    assert done.returncode == -signal.SIGKILL, done.stderr


def point_at(root: Path, source: Path) -> None:
    """What an operator does who moves a replica to another source."""
    path = root / "replicas" / NAME / "replica.toml"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([f"servers = {json.dumps(str(source))}", *lines[1:]]) + "\n")


@pytest.mark.parametrize("fault", FAULTS)
def test_killed_at_any_step_the_old_revision_is_whole_and_the_next_run_goes_on(sources, tmp_path, fault):
    cdn("replica", "add", NAME, "--server", sources / "first", "--key", sources / "key.pub", "--root", tmp_path)
    cdn("replica", "sync", "--root", tmp_path)
    point_at(tmp_path, sources / "second")
    die(fault, "replica", "sync", "--root", tmp_path)

    checked = json.loads(cdn("replica", "check", NAME, "--json", "--root", tmp_path))
    assert checked["ok"]
    revision = json.loads(cdn("replica", "status", "--json", "--root", tmp_path))["replicas"][0]["revision"]
    assert revision == (2 if fault == "replica.manifest.stored" else 1)
    assert cdn("cat", f"{NAME}:/n/deep/file", "--root", tmp_path) == "deep"

    report = json.loads(cdn("replica", "sync", "--json", "--root", tmp_path))["replicas"][0]
    assert report["revision"] == 2
    assert cdn("cat", f"{NAME}:/n/deep/new", "--root", tmp_path) == "new deep"
    assert json.loads(cdn("replica", "check", NAME, "--json", "--root", tmp_path))["ok"]
    assert not (tmp_path / "srv" / NAME / ".cvmfs_is_snapshotting").exists()


def test_the_daemon_copies_and_stops_when_told(sources, tmp_path):
    cdn("replica", "add", NAME, "--server", sources / "first", "--key", sources / "key.pub", "--root", tmp_path)
    command = [sys.executable, "-m", "cdn", "replica", "run", "--root", str(tmp_path), "--metrics", "127.0.0.1:0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as daemon:
        assert daemon.stderr is not None
        said = iter(daemon.stderr.readline, "")
        assert any("keeping 1 replica(s) current; metrics on http://127.0.0.1:" in line for line in said)
        assert any("replica.revision.published" in line for line in said)
        daemon.send_signal(signal.SIGTERM)
        daemon.stderr.read()
        assert daemon.wait(60) == 0
    assert cdn("cat", f"{NAME}:/a/file", "--root", tmp_path) == "content"
