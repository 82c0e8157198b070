from __future__ import annotations

import io
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import cdn.client
from cdn.clock import ManualClock
from cdn.errors import PathMissingError, UnreachableError
from cdn.keyfiles import write_public_key
from tests.fakes.repositories import Network, Publication, Server
from tests.fakes.signer import NOW

BASE = "http://one/r"
LINES = b"".join(b"line %d\n" % number for number in range(20_000))


@pytest.fixture(scope="module")
def published():
    publication = Publication()
    publication.publish(
        {"/d/lines": publication.chunked(LINES), "/d/small": b"small", **{f"/m/{n}": b"" for n in range(600)}}
    )
    return publication


@pytest.fixture
def repository(published):
    with cdn.client.open(
        published.fqrn,
        servers=BASE,
        keys=published.keys,
        fetcher=Network({BASE: Server(published.served)}),
        clock=ManualClock(NOW + 100),
    ) as opened:
        yield opened


def test_a_file_is_read_like_any_other(repository):
    with repository.open("/d/lines") as file:
        assert file.readline() == b"line 0\n"
        file.seek(-7, io.SEEK_END)
        assert file.read() == LINES[-7:]
        file.seek(100_000)
        assert (file.tell(), file.read(9)) == (100_000, LINES[100_000:100_009])
        file.seek(0)
        assert file.read() == LINES
    with repository.open("/d/lines") as file:
        assert sum(1 for _ in io.TextIOWrapper(file)) == 20_000


def test_listings_and_walks_of_any_length_are_iterators(repository):
    assert [entry.name for entry in repository.listdir("/d")] == ["lines", "small"]
    assert sum(1 for _ in repository.walk("/m")) == 601
    first = next(iter(repository.walk("/m")))
    assert first[0] == "/m"


def test_errors_are_those_of_the_library(repository):
    with pytest.raises(PathMissingError):
        repository.read("/nowhere")
    assert not repository.exists("/nowhere")
    assert repository.stat("/d/small").size == 5


def test_several_threads_share_it(repository):
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(repository.read("/d/lines"))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [LINES] * 5


def test_what_cannot_be_opened_leaves_no_thread(published):
    before = threading.active_count()
    with pytest.raises(UnreachableError):
        cdn.client.open(
            published.fqrn,
            servers=BASE,
            keys=published.keys,
            fetcher=Network({BASE: Server({}, is_dead=True)}),
            clock=ManualClock(NOW),
        )
    assert threading.active_count() == before


def test_the_example_reads_a_repository_in_a_folder(tmp_path):
    import time

    publication = Publication("example.local.org")
    publication.signer.now = int(time.time())
    publication.served[".cvmfswhitelist"] = publication.signer.whitelist()
    publication.publish({"/README": b"hello\n"})
    folder = publication.write_to(tmp_path / "repo")
    write_public_key(tmp_path / "key.pub", publication.signer.master_keys[0])
    example = Path(__file__).resolve().parents[4] / "examples" / "read.py"
    command = [sys.executable, str(example), "example.local.org", str(folder), str(tmp_path / "key.pub"), "/README"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=example.parents[1])
    assert (done.returncode, done.stderr) == (0, "")
    assert "hello" in done.stdout
