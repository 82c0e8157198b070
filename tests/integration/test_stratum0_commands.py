"""The commands of stratum 0 as a publisher runs them: real processes, files and sockets."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import pytest

from cdn.cli.main import main
from stratum0.config import Home
from stratum0.repository import Repository
from tests.fakes import prepared
from tests.fakes.publishers import NAME, new_publisher, published


def run_fresh(*arguments: object, **options) -> subprocess.CompletedProcess:
    """In an interpreter that has imported nothing yet."""
    return subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, check=False, **options)


class Command:
    """`cdn` with a root folder of its own."""

    def __init__(self, root: Path, run=prepared.run) -> None:
        self.root = root
        self._run = run

    def run(self, *words: object, code: int = 0, stdin: bytes = b"", **environment: str) -> subprocess.CompletedProcess:
        environment = {**os.environ, "CDN_ROOT": str(self.root), "COLUMNS": "200", **environment}
        done = self._run("-m", "cdn", *words, env=environment, input=stdin)
        assert done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
        assert b"Traceback" not in done.stderr
        return done

    def json(self, *words: object, code: int = 0, **options) -> dict:
        return json.loads(self.run(*words, "--json", code=code, **options).stdout)

    def fails(self, *words: object, code: int) -> str:
        """What it says on standard error, in one sentence."""
        done = self.run(*words, code=code)
        said = done.stderr.decode()
        last = said.strip().splitlines()[-1 if not said.rstrip().endswith("--help`.") else -2]
        assert last.startswith("cdn: ")
        return last

    @property
    def repository(self) -> Repository:
        return Repository.peek(NAME, Home(self.root))


@pytest.fixture
def cdn(tmp_path):
    """With a repository of one empty revision."""
    new_publisher(tmp_path / "root").close()
    return Command(tmp_path / "root")


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "file").write_text("one")
    (folder / "link").symlink_to("sub/file")
    return folder


def test_from_nothing_to_a_checked_repository(tmp_path, source):
    cdn = Command(tmp_path / "root", run_fresh)
    said = cdn.run("repo", "create", NAME, "--hash", "sha1", "--ttl", "60", "--description", "software").stdout.decode()
    assert "next:" in said
    assert f"{NAME}.pub" in said
    first = cdn.json("publish", NAME, source, "--tag", "v1", "--message", "first")
    assert first["revision"] == 2
    assert "v1" in first["tags"]
    assert cdn.json("publish", NAME, source) | {"seconds": 0} == {
        **cdn.json("publish", NAME, source),
        "changed": False,
        "revision": 2,
        "seconds": 0,
    }
    (source / "sub" / "file").write_text("two, longer")
    assert cdn.json("publish", NAME, source)["revision"] == 3
    listed = cdn.json("repo", "list")["repositories"]
    assert [(each["repository"], each["revision"]) for each in listed] == [(NAME, 3)]
    information = cdn.json("repo", "info", NAME, "--sizes")
    assert (information["hash"], information["ttl_seconds"], information["counters"]["files"]) == ("sha1", 60, 1)
    assert information["stored_objects"] > 0
    assert cdn.json("check", NAME)["findings"] == []
    assert published(cdn.repository).paths == ["", "/link", "/sub", "/sub/file"]


def test_tags_differences_and_going_back(cdn, source):
    cdn.run("publish", NAME, source, "--tag", "v1")
    (source / "sub" / "file").write_text("two, longer")
    (source / "new").mkdir()
    cdn.run("publish", NAME, source, "--to", "/")
    cdn.run("tag", "add", NAME, "v2", "--message", "second")
    tags = {tag["tag"]: tag["revision"] for tag in cdn.json("tag", "list", NAME)["tags"]}
    assert (tags["v1"], tags["v2"], tags["trunk"], tags["trunk-previous"]) == (2, 3, 3, 2)
    document = cdn.json("diff", NAME, "v1", "v2", "--below", "/sub")
    assert [(change["path"], change["kind"]) for change in document["changes"]] == [("/sub/file", "content")]
    assert document["changes"][0]["before"]["size"] == 3
    assert document["summary"]["content"] == 1
    tree = cdn.run("diff", NAME).stdout.decode().splitlines()
    assert "  sub/" in tree
    assert any(line.startswith("M   file") for line in tree)
    assert "+ new/" in tree
    flat = cdn.run("diff", NAME, "2", "trunk", "--flat").stdout.decode().splitlines()
    assert "+ /new/" in flat
    assert cdn.json("rollback", NAME, "--to", "v1") == {
        "repository": NAME,
        "target": 2,
        "before": 3,
        "revision": 4,
        "removed_tags": [tag for tag in tags if tags[tag] == 3 and tag != "trunk"],
    }
    assert published(cdn.repository).tree["/sub/file"].size == 3
    cdn.run("tag", "rm", NAME, "v1")
    assert "v1" not in {tag["tag"] for tag in cdn.json("tag", "list", NAME)["tags"]}


def test_a_tarball_from_a_file_and_from_standard_input(cdn, source, tmp_path):
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        archive.add(source, "top")
    cdn.run("ingest", NAME, tmp_path / "a.tar.gz", "--to", "/soft", "--strip-components", "1")
    assert "/soft/sub/file" in published(cdn.repository).paths
    cdn.run("ingest", NAME, "-", "--to", "again", stdin=(tmp_path / "a.tar.gz").read_bytes())
    assert "/again/top/sub/file" in published(cdn.repository).paths


def test_a_transaction_survives_between_processes_and_becomes_one_revision(cdn, source):
    begun = cdn.json("transaction", "begin", NAME, "/tools")
    cdn.run("transaction", "mkdir", NAME, "/tools")
    cdn.run("transaction", "put", NAME, source / "sub" / "file", "/tools/")
    cdn.run("transaction", "put", NAME, "-", "/tools/typed", "--mode", "600", stdin=b"typed in")
    cdn.run("transaction", "put", "-r", NAME, source, "/tools/tree")
    cdn.run("transaction", "mv", NAME, "/tools/file", "/tools/tree/")
    cdn.run("transaction", "symlink", NAME, "tree", "/tools/link")
    cdn.run("transaction", "chmod", NAME, "640", "/tools/tree/sub/file")
    cdn.run("transaction", "rm", NAME, "/tools/tree/link")
    status = cdn.json("transaction", "status", NAME)
    assert (status["id"], status["subtree"], status["state"]) == (begun["id"], "/tools", "open")
    changes = {change["path"]: change["kind"] for change in cdn.json("transaction", "diff", NAME)["changes"]}
    assert changes["/tools/tree/file"] == "added"
    assert cdn.json("repo", "info", NAME)["revision"] == 1
    assert [each["id"] for each in cdn.json("transaction", "list", NAME)["transactions"]] == [begun["id"]]
    assert cdn.json("transaction", "commit", NAME, "--tag", "v1")["revision"] == 2
    tree = published(cdn.repository).tree
    assert sorted(tree) == [
        "", "/tools", "/tools/link", "/tools/tree", "/tools/tree/file", "/tools/tree/sub", "/tools/tree/sub/file",
        "/tools/typed",
    ]  # fmt: skip
    assert tree["/tools/tree/sub/file"].mode & 0o777 == 0o640
    assert tree["/tools/typed"].mode & 0o777 == 0o600
    assert cdn.json("transaction", "list", NAME)["transactions"] == []


def test_transactions_on_disjoint_subtrees_go_together_and_overlapping_ones_do_not(cdn):
    first = cdn.json("transaction", "begin", NAME, "/a")["id"]
    second = cdn.json("transaction", "begin", NAME, "/b")["id"]
    assert "/a" in cdn.fails("transaction", "begin", NAME, "/a/below", code=8)
    assert "2 open transactions" in cdn.fails("transaction", "status", NAME, code=7)
    cdn.run("transaction", "mkdir", NAME, "/a", "--id", first)
    cdn.run("transaction", "mkdir", NAME, "/b", CDN_TRANSACTION=second)
    cdn.run("transaction", "commit", NAME, "--id", second)
    cdn.run("transaction", "commit", NAME)
    assert published(cdn.repository).paths == ["", "/a", "/b"]
    cdn.run("transaction", "begin", NAME, "/a")
    assert cdn.json("transaction", "abort", NAME)["aborted"]
    assert "has no open transaction" in cdn.fails("transaction", "status", NAME, code=7)


def test_garbage_is_collected_and_what_was_collected_is_gone(cdn, source):
    cdn.run("repo", "settings", NAME, "auto_tag=false")
    for content in ("one", "two, longer", "three, longer still"):
        (source / "sub" / "file").write_text(content)
        cdn.run("publish", NAME, source)
    kept = cdn.json("gc", NAME)
    assert kept["objects_removed"] == 0
    foretold = cdn.json("gc", NAME, "--dry-run", "--all-untagged")
    done = cdn.json("gc", NAME, "--all-untagged")
    assert done["objects_removed"] == foretold["objects_removed"] > 0
    assert done["bytes_freed"] > 0
    assert "not kept any more" in cdn.fails("rollback", NAME, "--to", "2", code=7)
    assert cdn.json("check", NAME)["outcome"] == "succeeded"
    assert cdn.json("repo", "info", NAME)["status"]["last_gc"]
    assert "leave out" in cdn.fails("gc", NAME, "--all-untagged", "--keep-days", "3", code=2)


def test_damage_is_found_and_repaired_over_http(cdn, source, tmp_path):
    cdn.run("publish", NAME, source)
    storage = cdn.repository.settings.storage
    subprocess.run(["cp", "-r", storage, tmp_path / "srv"], check=True)
    server = Server(cdn, "--storage", tmp_path / "copies")
    (tmp_path / "copies").mkdir()
    (tmp_path / "srv").rename(tmp_path / "copies" / NAME)
    entry = published(cdn.repository).tree["/sub/file"]
    file = storage / f"data/{entry.digest.text[:2]}/{entry.digest.text[2:]}"
    file.write_bytes(b"rotten")
    said = cdn.run("check", NAME, code=10)
    assert entry.digest.text[2:] in said.stdout.decode()
    assert "--repair-from" in said.stderr.decode()
    with server:
        repaired = cdn.json("check", NAME, "--repair-from", f"{server.url}/{NAME}")
    assert [(finding["rule"], finding["repaired"]) for finding in repaired["findings"]] == [("damaged", True)]
    assert cdn.json("check", NAME)["findings"] == []


def test_keys_are_looked_after(cdn, tmp_path):
    status = cdn.json("repo", "keys", "status", NAME)
    assert status["master_key_is_here"]
    assert status["certificate"]["listed"]
    rotated = cdn.json("repo", "keys", "rotate", NAME)
    assert rotated["complete"]
    assert rotated["certificate"] != status["certificate"]["fingerprint"]
    assert [each["outcome"] for each in cdn.json("repo", "keys", "resign", "--all", "--if-due")["whitelists"]] == [
        "not due"
    ]
    assert [each["outcome"] for each in cdn.json("repo", "keys", "resign", NAME, "--days", "5")["whitelists"]] == [
        "signed"
    ]
    done = cdn.run("repo", "info", NAME)
    assert b"the whitelist of sw.example.org expires in 4 d" in done.stderr
    assert b"cdn repo keys resign" in done.stderr
    cdn.repository.keys.master_key_file.rename(tmp_path / "masterkey")
    request = tmp_path / "request"
    cdn.run("repo", "keys", "export", NAME, request, "--days", "40")
    assert "not signed yet" in cdn.fails("repo", "keys", "import", NAME, request, code=7)
    cdn.run("repo", "keys", "sign", request, "--masterkey", tmp_path / "masterkey")
    cdn.run("repo", "keys", "import", NAME, request)
    assert b"warning" not in cdn.run("repo", "info", NAME).stderr.lower()
    elsewhere = cdn.json("repo", "keys", "resign", "--all")["whitelists"]
    assert [each["outcome"] for each in elsewhere] == ["master key elsewhere"]


def test_a_repository_with_an_offline_master_key(tmp_path, source):
    from cdn.keyfiles import write_private_key, write_public_key
    from tests.fakes.signer import key

    write_private_key(tmp_path / "masterkey", key("master"))
    write_public_key(tmp_path / "master.pub", key("master").public_key())
    cdn = Command(tmp_path / "root")
    cdn.run("repo", "create", NAME, "--master-pub", tmp_path / "master.pub")
    assert "has no whitelist yet" in cdn.fails("publish", NAME, source, code=7)
    cdn.run("repo", "keys", "export", NAME, tmp_path / "request")
    cdn.run("repo", "keys", "sign", tmp_path / "request", "--masterkey", tmp_path / "masterkey")
    cdn.run("repo", "keys", "import", NAME, tmp_path / "request")
    assert cdn.json("publish", NAME, source)["revision"] == 2
    assert cdn.json("check", NAME)["findings"] == []


def test_settings_and_descriptions_are_shown_and_changed(cdn):
    assert cdn.json("repo", "settings", NAME)["ttl_seconds"] == 240
    cdn.run("repo", "settings", NAME, "ttl_seconds=90", "garbage_collectable=false")
    assert cdn.json("repo", "settings", NAME)["ttl_seconds"] == 90
    assert not cdn.json("repo", "info", NAME)["garbage_collectable"]
    assert "did you mean" in cdn.fails("repo", "settings", NAME, "tl_seconds=90", code=2)
    assert "KEY=VALUE" in cdn.fails("repo", "settings", NAME, "ttl_seconds", code=2)
    described = cdn.json(
        "repo", "describe", NAME, "--email", "a@b.c", "--stratum1", "http://one", "--stratum1", "http://two"
    )
    assert described["recommended-stratum1s"] == ["http://one", "http://two"]
    assert cdn.json("repo", "describe", NAME)["email"] == "a@b.c"
    assert b"stratum0_revision" in cdn.run("repo", "metrics").stdout


def test_a_repository_is_removed_only_if_that_is_meant(cdn):
    assert "say --yes" in cdn.fails("repo", "remove", NAME, code=2)
    cdn.run("repo", "remove", NAME, "--yes")
    assert cdn.json("repo", "list")["repositories"] == []
    assert "cdn repo create" in cdn.fails("publish", NAME, "/tmp", code=7)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("repo", "info", "sw.exmaple.org"), 7, f"did you mean {NAME}?"),
        (("repo", "create", NAME), 7, "already"),
        (("repo", "create", "a/b"), 2, "is no repository name"),
        (("repo", "create", "x" * 61), 2, "at most 60"),
        (("repo", "create", "new.org", "--ttl", "0"), 2, "TTL of 0 s"),
        (("repo", "create", "new.org", "--owner", "nobody-of-this-name"), 2, "names no owner"),
        (("repo", "create", "new.org", "--hash", "md5"), 2, "md5"),
        (("repo", "create", "new.org", "--master-pub", "/nowhere"), 1, "/nowhere"),
        (("publish", NAME, "/nowhere/at/all"), 2, "is not a folder"),
        (("publish", NAME, "/", "--to", "/a/../b"), 2, "without . and .."),
        (("ingest", NAME, "/nowhere.tar"), 2, "/nowhere.tar"),
        (("tag", "add", NAME, "a b"), 2, "no tag name"),
        (("tag", "add", NAME, "v1", "99"), 7, "no revision 99"),
        (("tag", "rm", NAME, "v1"), 7, "no revision or tag"),
        (("rollback", NAME), 7, "no revision to go back to"),
        (("diff", NAME, "1", "2"), 7, "is at revision 1"),
        (("check", NAME, "--repair-from", "nonsense"), 2, "no URL"),
        (("transaction", "commit", NAME), 7, "no open transaction"),
        (("transaction", "status", NAME, "--id", "nonsense"), 7, "no transaction"),
        (("serve", "--storage", "/nowhere"), 2, "/nowhere"),
    ],
)
def test_every_mistake_is_one_clear_sentence_and_changes_nothing(cdn, monkeypatch, capfd, words, code, said):
    before = cdn.repository.head()
    monkeypatch.setenv("CDN_ROOT", str(cdn.root))
    assert main(list(words)) == code
    printed = capfd.readouterr()
    assert printed.err.startswith("cdn: ")
    assert said in printed.err
    assert len([line for line in printed.err.splitlines() if not line.startswith("Try ")]) == 1
    assert cdn.repository.head() == before


def test_keys_that_are_gone_or_open_to_others_are_named(cdn, source):
    keys = cdn.repository.keys
    keys.key_file.chmod(0o644)
    assert "chmod 600" in cdn.fails("publish", NAME, source, code=2)
    keys.key_file.unlink()
    assert f"{NAME}.key is missing" in cdn.fails("publish", NAME, source, code=7)
    assert cdn.repository.head().revision == 1


def test_a_process_killed_at_any_step_of_a_command_leaves_a_repository_that_works(cdn, source):
    cdn.run("publish", NAME, source)
    for point in ("rotate.whitelist.published", "rotate.manifest.published"):
        cdn.run("repo", "keys", "rotate", NAME, code=-signal.SIGKILL, CDN_FAULT=point)
        assert published(cdn.repository).manifest.revision == 2
    for revision, point in enumerate(("gc.batch.before", "gc.batch.after"), start=3):
        (source / "sub" / "file").write_text(point)
        cdn.run("publish", NAME, source)
        cdn.run("gc", NAME, "--all-untagged", code=-signal.SIGKILL, CDN_FAULT=point)
        assert published(cdn.repository).manifest.revision == revision
    cdn.run("gc", NAME, "--all-untagged")
    assert cdn.json("check", NAME)["findings"] == []


class Server:
    """`cdn serve` on a free port."""

    def __init__(self, cdn: Command, *options: object) -> None:
        self._words = ["-m", "cdn", "serve", "--port", "0", "--json", *options]
        self._environment = {**os.environ, "CDN_ROOT": str(cdn.root)}
        self.url = ""
        self.metrics_url = ""

    def __enter__(self) -> Self:
        self._process = prepared.popen(
            *self._words, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        document = json.loads(self._process.stdout.readline())
        self.url, self.metrics_url = document["url"], document["metrics_url"]
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        assert self._process.wait(30) == 0
        self._process.stdout.close()


def get(url: str) -> tuple[bytes, dict[str, str]]:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return answer.read(), dict(answer.headers)


def test_what_is_published_is_served_with_expiries_as_metrics(cdn, source):
    with Server(cdn, "--metrics-port", "0") as server:
        cdn.run("publish", NAME, source)
        manifest, headers = get(f"{server.url}/{NAME}/.cvmfspublished")
        assert manifest == (cdn.repository.settings.storage / ".cvmfspublished").read_bytes()
        assert headers["Cache-Control"] == "max-age=61"
        listed = json.loads(get(f"{server.url}/info/v1/repositories.json")[0])
        assert [each["name"] for each in listed["repositories"]] == [NAME]
        metrics = get(server.metrics_url)[0].decode()
        assert f'stratum0_revision{{repository="{NAME}"}} 2' in metrics
        assert "stratum0_whitelist_expires_timestamp_seconds" in metrics


def test_the_storage_of_one_repository_is_served_under_its_name(cdn):
    storage = cdn.repository.settings.storage
    with Server(cdn, "--storage", storage) as server:
        assert get(f"{server.url}/{NAME}/.cvmfspublished")[0] == (storage / ".cvmfspublished").read_bytes()


def test_a_port_that_is_taken_is_said_to_be(cdn):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert str(port) in cdn.fails("serve", "--port", str(port), code=2)


def test_readers_never_miss_an_object_while_garbage_is_collected_and_revisions_are_published(cdn, source):
    """A reader follows the manifest to every object while publishers and collectors run as fast as they can."""
    (source / "sub" / "more").mkdir()
    for number in range(20):
        (source / "sub" / "more" / str(number)).write_text(f"content {number}")
    cdn.run("repo", "settings", NAME, "auto_tag=false")
    cdn.run("publish", NAME, source)

    def publish() -> None:
        for content in ("1", "2"):
            (source / "sub" / "more" / "1").write_text(content)
            (source / "sub" / "more" / "2").unlink()
            cdn.run("publish", "-q", NAME, source)
            (source / "sub" / "more" / "2").write_text("2")
            cdn.run("publish", "-q", NAME, source)

    def collect() -> None:
        for _ in range(2):
            cdn.run("gc", "-q", "--all-untagged", NAME)

    looks = 0
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(publish), pool.submit(collect)]
        while not all(each.done() for each in running):
            before = cdn.repository.head().root
            try:
                published(cdn.repository)
            except FileNotFoundError:
                # Only if what it followed is still current: an old revision may go while it is being read.
                assert cdn.repository.head().root != before
            looks += 1
        for each in running:
            each.result()
    assert looks > 0
    assert cdn.json("check", NAME)["findings"] == []


def test_the_metrics_are_told_to_programs_too(cdn):
    named = {each["name"]: each for each in cdn.json("repo", "metrics")["metrics"]}
    assert named["stratum0_revision"] == {"name": "stratum0_revision", "repository": NAME, "value": 1}
    assert named.keys() == {each["name"] for each in cdn.json("repo", "metrics", NAME)["metrics"]}


def test_what_cannot_be_done_is_told_with_the_name_of_the_thing(cdn, tmp_path):
    (tmp_path / "no.tar").write_bytes(b"x")
    assert f"tarball {tmp_path}/no.tar is damaged" in cdn.fails("ingest", NAME, tmp_path / "no.tar", code=3)
    assert "no revision before the current one" in cdn.fails("diff", NAME, code=7)
    assert cdn.fails("repo", "keys", "export", NAME, tmp_path / "no" / "file", code=1) == (
        f"cdn: {tmp_path}/no/file: No such file or directory"
    )
    missing = tmp_path / "no" / "folder"
    assert f"{missing} cannot be worked in" in cdn.fails("demo", "--workdir", missing, code=2)
    assert not missing.parent.exists()
