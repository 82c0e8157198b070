from __future__ import annotations

import json
import time

import pytest
from click.testing import CliRunner

from cdn.cli.main import cdn
from cdn.errors import CheckFailedError, ConfigError, RepositoryError, RepositoryMissingError, UsageError
from cdn.keyfiles import write_public_key
from replica.config import ReplicaConfig, ReplicaHome, config_text
from tests.fakes.repositories import Publication

NAME = "sw.example.org"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    publication = Publication(NAME)
    publication.signer.now = int(time.time())
    publication.served[".cvmfswhitelist"] = publication.signer.whitelist()
    publication.publish({"/a/file": b"content", "/n/file": b"nested"}, ["/n"], tag="v1")
    folder = publication.write_to(tmp_path_factory.mktemp("source") / NAME)
    write_public_key(folder.parent / "key.pub", publication.signer.master_keys[0])
    return folder


@pytest.fixture
def root(tmp_path):
    return tmp_path / "root"


def run(root, *words: str, code: int = 0):
    done = CliRunner().invoke(cdn, ["replica", *words, "--root", str(root)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == code, done.output
    return done.output


def add(root, source, *words: str):
    return run(root, "add", NAME, "--server", str(source), "--key", str(source.parent / "key.pub"), *words)


def test_the_life_of_a_replica(root, source):
    assert "cdn replica sync" in add(root, source)
    report = json.loads(run(root, "sync", "--json"))["replicas"][0]
    assert (report["revision"], report["revision_before"], report["catalogs"]) == (1, None, 2)
    assert "current at revision 1" in run(root, "sync", NAME)
    status = json.loads(run(root, "status", "--json"))["replicas"][0]
    assert (status["revision"], status["state"]) == (1, "current as of the last run")
    assert (root / "srv" / NAME / ".cvmfspublished").read_bytes() == (source / ".cvmfspublished").read_bytes()
    checked = json.loads(run(root, "check", NAME, "--json"))
    assert (checked["ok"], checked["problems"], checked["revisions"]) == (True, [], 1)
    assert json.loads(run(root, "status", "--json"))["replicas"][0]["check_status"] == "succeeded"
    assert NAME in (root / "srv/info/v1/repositories.json").read_text()
    run(root, "remove", NAME, "--yes")
    assert not (root / "srv" / NAME).exists()
    assert NAME not in (root / "srv/info/v1/repositories.json").read_text()
    with pytest.raises(RepositoryMissingError):
        run(root, "sync")


def test_a_check_tells_damage_and_repairs_it(root, source):
    add(root, source)
    run(root, "sync")
    victim = next(
        path for path in (root / "srv" / NAME / "data").rglob("*") if path.is_file() and path.name.endswith("C")
    )
    victim.write_bytes(victim.read_bytes()[:-1] + b"x")
    with pytest.raises(CheckFailedError, match="--repair"):
        run(root, "check", NAME)
    assert json.loads(run(root, "status", "--json"))["replicas"][0]["check_status"] == "failed"
    assert "(repaired)" in run(root, "check", NAME, "--repair")
    run(root, "check", NAME, "--quick")


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"last_snapshot": []}', b"[" * 100_000])
def test_a_damaged_status_file_is_no_failure(root, source, damage):
    add(root, source)
    run(root, "sync")
    (root / "srv" / NAME / ".cvmfs_status.json").write_bytes(damage)
    status = json.loads(run(root, "status", "--json"))["replicas"][0]
    assert (status["revision"], status["last_snapshot"]) == (1, None)
    assert "never" in run(root, "status")


def test_a_damaged_manifest_is_told_in_the_status(root, source):
    add(root, source)
    run(root, "sync")
    (root / "srv" / NAME / ".cvmfspublished").write_bytes(b"nonsense")
    status = json.loads(run(root, "status", "--json"))["replicas"][0]
    assert (status["revision"], status["state"]) == (None, "damaged")


def test_removing_may_keep_the_data(root, source):
    add(root, source)
    run(root, "sync")
    run(root, "remove", NAME, "--keep-data")
    assert (root / "srv" / NAME / ".cvmfspublished").exists()
    assert not (root / "replicas" / NAME).exists()


def test_adding_twice_or_with_nonsense_changes_nothing(root, source, tmp_path):
    add(root, source)
    before = (root / "replicas" / NAME / "replica.toml").read_text()
    with pytest.raises(RepositoryError, match="already"):
        add(root, source)
    assert (root / "replicas" / NAME / "replica.toml").read_text() == before
    (tmp_path / "bad.pub").write_text("no key")
    for words in (
        ("other.example.org", "--server", "ftp://x", "--key", str(source.parent / "key.pub")),
        ("../evil", "--server", "http://x", "--key", str(source.parent / "key.pub")),
        ("other.example.org", "--server", "http://x", "--key", str(tmp_path / "bad.pub")),
        ("other.example.org", "--server", "http://x", "--key", str(source.parent / "key.pub"), "--interval", "soon"),
    ):
        with pytest.raises(Exception, match=r"server|name|key|^--interval: "):
            run(root, "add", *words)
    assert not (root / "replicas" / "other.example.org" / "replica.toml").exists()


def test_what_is_not_replicated_says_how_to_begin(root):
    for words in (["sync", NAME], ["check", NAME], ["remove", NAME, "--yes"], ["sync"]):
        with pytest.raises(RepositoryMissingError, match="cdn replica add"):
            run(root, *words)
    assert json.loads(run(root, "status", "--json")) == {"replicas": []}
    assert "cdn replica add" in run(root, "status")


def test_removing_is_not_done_unasked(root, source):
    add(root, source)
    with pytest.raises(UsageError, match="--yes"):
        run(root, "remove", NAME)
    assert (root / "replicas" / NAME / "replica.toml").exists()


def test_a_configuration_survives_being_written(tmp_path):
    home = ReplicaHome(tmp_path)
    config = ReplicaConfig(
        "http://a/r;http://b/r", "p:1|q:2;DIRECT", workers=3, interval=90.0, check_master_replica=False, tags=False
    )
    home.folder(NAME).mkdir(parents=True)
    (home.folder(NAME) / "replica.toml").write_text(config_text(config))
    assert home.config(NAME) == config
    assert home.names() == [NAME]


def test_a_configuration_with_mistakes_tells_each(tmp_path):
    home = ReplicaHome(tmp_path)
    home.folder(NAME).mkdir(parents=True)
    (home.folder(NAME) / "replica.toml").write_text('servers = "ftp://x"\ninterval = "1ms"\n')
    with pytest.raises(ConfigError) as caught:
        home.config(NAME)
    assert "servers" in str(caught.value)
    assert "interval" in str(caught.value)


@pytest.mark.parametrize("name", ["../x", "", "a/b", ".hidden"])
def test_names_cannot_lead_elsewhere(tmp_path, name):
    with pytest.raises(UsageError):
        ReplicaHome(tmp_path).folder(name)
