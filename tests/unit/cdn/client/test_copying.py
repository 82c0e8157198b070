from __future__ import annotations

import os
import resource
import stat
import subprocess
import sys

import pytest

from cdn.client.copying import DIRECTORIES_OPEN_MAX, copy_out
from cdn.client.repository import open_repository
from cdn.clock import ManualClock
from cdn.errors import PathKindError, StorageError
from cdn.objects import ObjectName
from tests.fakes.catalogs import TIME, directory_entry, symlink_entry
from tests.fakes.reporting import RecordingProgress
from tests.fakes.repositories import Network, Publication, Server, flipped
from tests.fakes.signer import NOW

BASE = "http://one/r"


@pytest.fixture(scope="module")
def published():
    publication = Publication()
    publication.publish(
        {
            "/top": b"top",
            "/d": directory_entry(mode=stat.S_IFDIR | 0o750, mtime=TIME + 5),
            "/d/script": publication.file(b"#!/bin/sh", mode=stat.S_IFREG | 0o755, mtime=TIME + 9, mtime_ns=123),
            "/d/suid": publication.file(b"suid", mode=stat.S_IFREG | 0o6755),
            "/d/secret": publication.file(b"secret", mode=stat.S_IFREG | 0o600),
            "/d/link": symlink_entry("../top"),
            "/d/out": symlink_entry("/etc/passwd"),
            "/d/empty": symlink_entry("$(UNSET)"),
            "/d/fifo": directory_entry(mode=stat.S_IFIFO | 0o644, size=0, link_count=1),
            "/d/readonly": directory_entry(mode=stat.S_IFDIR | 0o555),
            "/d/readonly/file": b"in a directory nobody may write",
            "/n/deep/file": b"nested",
            "/big": publication.chunked(os.urandom(200_000)),
        },
        ["/n"],
    )
    return publication


@pytest.fixture
def server(published):
    return Server(published.served)


@pytest.fixture
async def files(published, server):
    async with await open_repository(
        published.fqrn, servers=BASE, keys=published.keys, fetcher=Network({BASE: server}), clock=ManualClock(NOW + 9)
    ) as repository:
        yield repository.files


@pytest.fixture
def deep_target(tmp_path):
    """Where a deep tree may go while few files may be open; it is removed without recursion."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/dev/fd"))) + 80, hard))
    yield tmp_path / "copy"
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    subprocess.run(["rm", "-rf", tmp_path / "copy"], check=True)


async def test_a_tree_is_copied_with_modes_times_and_links(files, tmp_path):
    said: list[str] = []
    progress = RecordingProgress()
    target = tmp_path / "copy"
    report = await copy_out(files, "/", str(target), recursive=True, progress=progress, complain=said.append)
    assert (target / "n/deep/file").read_bytes() == b"nested"
    assert (target / "big").stat().st_size == 200_000
    script = (target / "d/script").stat()
    assert (stat.S_IMODE(script.st_mode), script.st_mtime_ns) == (0o755, (TIME + 9) * 10**9 + 123)
    folder = (target / "d").stat()
    assert (stat.S_IMODE(folder.st_mode), folder.st_mtime) == (0o750, TIME + 5)
    assert stat.S_IMODE((target / "d/readonly").stat().st_mode) == 0o555
    assert os.readlink(target / "d/link") == "../top"
    assert os.readlink(target / "d/out") == "/etc/passwd"
    assert (report.files, report.symlinks, report.skipped, report.failed) == (8, 2, 2, 0), "the marker counts"
    assert len(said) == 2
    assert progress.done == progress.expected == report.bytes


async def test_bits_that_lend_rights_are_not_copied(files, tmp_path):
    await copy_out(files, "/d/suid", str(tmp_path / "suid"))
    assert stat.S_IMODE((tmp_path / "suid").stat().st_mode) == 0o755


async def test_a_link_that_is_named_is_followed_unless_trees_are_copied(files, tmp_path):
    await copy_out(files, "/d/link", str(tmp_path / "content"))
    await copy_out(files, "/d/link", str(tmp_path / "link"), recursive=True)
    assert (tmp_path / "content").read_bytes() == b"top"
    assert os.readlink(tmp_path / "link") == "../top"


async def test_a_directory_needs_to_be_asked_for(files, tmp_path):
    with pytest.raises(PathKindError, match="-r"):
        await copy_out(files, "/d", str(tmp_path / "d"))
    assert list(tmp_path.iterdir()) == []


async def test_links_in_the_target_are_not_written_through(files, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    target = tmp_path / "copy"
    target.mkdir()
    (target / "d").symlink_to(outside)
    with pytest.raises(StorageError, match="in the way"):
        await copy_out(files, "/", str(target), recursive=True)
    assert list(outside.iterdir()) == []


async def test_a_file_link_in_the_target_is_replaced_not_written_through(files, tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    (tmp_path / "top").symlink_to(victim)
    await copy_out(files, "/top", str(tmp_path / "top"))
    assert victim.read_bytes() == b"mine"
    assert (tmp_path / "top").read_bytes() == b"top"


async def test_a_file_that_cannot_be_verified_is_left_out_and_the_old_one_stays(files, server, tmp_path):
    entry = await files.stat("/d/script")
    server.lie(ObjectName(entry.digest).path, flipped)
    (tmp_path / "d").mkdir()
    (tmp_path / "d/script").write_bytes(b"old")
    said: list[str] = []
    report = await copy_out(files, "/d", str(tmp_path / "d"), recursive=True, complain=said.append)
    assert report.failed == 1
    assert (tmp_path / "d/script").read_bytes() == b"old"
    assert (tmp_path / "d/secret").read_bytes() == b"secret"
    assert any("every source failed" in line for line in said)
    assert not [name for name in os.listdir(tmp_path / "d") if name.startswith(".cdn-")]


async def test_a_directory_where_a_file_must_be_is_reported(files, tmp_path):
    (tmp_path / "d" / "script").mkdir(parents=True)
    said: list[str] = []
    report = await copy_out(files, "/d", str(tmp_path / "d"), recursive=True, complain=said.append)
    assert report.failed == 1
    assert any("/d/script" in line for line in said)


async def test_a_target_whose_folder_is_not_there_is_told(files, tmp_path):
    with pytest.raises(StorageError, match="cannot write"):
        await copy_out(files, "/top", str(tmp_path / "no/such/folder"))


async def test_a_tree_deeper_than_calls_may_nest_is_copied(deep_target):
    depth = sys.getrecursionlimit() + 10
    publication = Publication()
    publication.publish({f"{'/d' * depth}/file": b"deep"})
    reach = {"servers": BASE, "keys": publication.keys, "fetcher": Network({BASE: Server(publication.served)})}
    async with await open_repository(publication.fqrn, **reach, clock=ManualClock(NOW + 9)) as repository:
        report = await copy_out(repository.files, "/", str(deep_target), recursive=True)
    assert (report.files, report.directories) == (1, depth + 1)


@pytest.mark.parametrize("kind", ["a link", "another directory", "nothing"])
async def test_a_directory_replaced_while_it_is_filled_is_not_written_into(tmp_path, kind):
    target, outside = tmp_path / "copy", tmp_path / "outside"
    outside.mkdir()
    deep = "/a" + "/d" * (DIRECTORIES_OPEN_MAX + 5)
    pipes = {
        f"{deep}/pipe{number}": directory_entry(mode=stat.S_IFIFO | 0o644, size=0, link_count=1) for number in range(20)
    }

    def replace_it(_: str) -> None:  # the first pipe is complained about before the walk is through
        if not (tmp_path / "aside").exists():
            (target / "a").rename(tmp_path / "aside")
            if kind == "a link":
                (target / "a").symlink_to(outside)
            elif kind == "another directory":
                outside.rename(target / "a")

    publication = Publication()
    publication.publish({**pipes, "/a/z": b"last"})
    reach = {"servers": BASE, "keys": publication.keys, "fetcher": Network({BASE: Server(publication.served)})}
    async with await open_repository(publication.fqrn, **reach, clock=ManualClock(NOW + 9)) as repository:
        with pytest.raises(StorageError, match="taken away or replaced"):
            await copy_out(repository.files, "/", str(target), recursive=True, complain=replace_it)
    assert not list(tmp_path.rglob("z"))
