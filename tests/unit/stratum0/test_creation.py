"""Making a repository: all of it or nothing."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from dataclasses import replace

import pytest

from cdn.errors import CdnError, RepositoryError, StorageError, UsageError
from cdn.hashing import Algorithm
from cdn.keyfiles import write_public_key
from cdn.objects import MASTER_REPLICA_PATH, REFLOG_PATH, WHITELIST_PATH, Kind
from cdn.reflog import Reflog, checksum
from cdn.telemetry import FaultInjected, faults_armed, faults_seen
from cdn.trust import TrustedRepository, certificate_named_by
from stratum0.config import Home, RepositorySettings
from stratum0.creation import MasterKeys, create
from stratum0.documents import kept_reflog_checksum
from stratum0.repository import Repository
from tests.fakes.publishers import published
from tests.fakes.signer import key

NAME = "sw.example.org"
MASTER = MasterKeys(key("master").public_key(), key("master"))


def files_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("algorithm", ["shake128", "sha1", "rmd160"])
def test_a_new_repository_passes_the_whole_chain_of_trust(tmp_path, algorithm):
    settings = RepositorySettings(NAME, tmp_path, hash=algorithm)
    repository = create(NAME, Home(tmp_path), settings=settings, master=MASTER)
    store, now = repository.store, repository.clock.now()
    trusted = TrustedRepository(NAME, [repository.keys.public_key()], now=now)
    trusted.load_whitelist(store.read(WHITELIST_PATH, size_max=1 << 20))
    manifest = store.read(".cvmfspublished", size_max=1 << 20)
    trusted.load_certificate(store.read(certificate_named_by(manifest).path, size_max=1 << 20))
    assert trusted.load_manifest(manifest).revision == 1
    state = published(repository)
    assert state.paths == [""]
    assert state.manifest.root_catalog.algorithm is Algorithm.from_option(algorithm)
    assert [tag.name for tag in state.history.tags] == ["trunk"]


def test_keys_are_for_their_owner_alone(tmp_path):
    keys = create(NAME, Home(tmp_path)).keys
    assert stat.S_IMODE(keys.folder.stat().st_mode) == 0o700
    for file in (keys.master_key_file, keys.key_file):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert keys.master_key().key_size == 2048
    assert keys.signer().key.key_size == 2048


def test_the_reflog_lists_what_is_published_and_its_checksum_is_kept(tmp_path):
    repository = create(NAME, Home(tmp_path), master=MASTER)
    file = repository.settings.storage / REFLOG_PATH
    reflog, manifest = Reflog.read(file), repository.head().manifest
    assert all(name in reflog for name in manifest.objects)
    assert {name.kind for name in manifest.objects} == {Kind.CATALOG, Kind.CERTIFICATE, Kind.HISTORY, Kind.METAINFO}
    assert manifest.reflog == kept_reflog_checksum(repository) == checksum(file, Algorithm.SHAKE128)


def test_replicas_and_the_server_find_what_they_look_for(tmp_path):
    home = Home(tmp_path)
    repository = create(NAME, home, master=MASTER)
    assert repository.store.exists(MASTER_REPLICA_PATH)
    listed = json.loads((home.info / "repositories.json").read_text())
    assert listed == {"schema": 1, "repositories": [{"name": NAME, "url": f"/cvmfs/{NAME}"}], "replicas": []}
    assert json.loads((home.info / "meta.json").read_text())["custom"] == {}


def test_a_whitelist_is_valid_for_thirty_days(tmp_path):
    repository = create(NAME, Home(tmp_path), master=MASTER)
    whitelist = repository.whitelist()
    assert whitelist is not None
    assert whitelist.expires - whitelist.created_at == 30 * 86_400


def test_an_owner_gets_the_root_directory(tmp_path):
    repository = create(
        NAME, Home(tmp_path), settings=RepositorySettings(NAME, tmp_path, owner="1000:1001"), master=MASTER
    )
    root = published(repository).tree[""]
    assert (root.uid, root.gid) == (1000, 1001)
    if os.geteuid() == 0:
        owners = {(path.stat().st_uid, path.stat().st_gid) for path in repository.folder.rglob("*")}
        owners |= {(path.stat().st_uid, path.stat().st_gid) for path in repository.settings.storage.rglob("*")}
        assert owners == {(1000, 1001)}


def test_a_repository_can_be_served_from_elsewhere(tmp_path):
    (tmp_path / "disk").mkdir()
    repository = create(NAME, Home(tmp_path / "root"), storage=tmp_path / "disk", master=MASTER)
    assert (tmp_path / "disk" / ".cvmfspublished").exists()
    assert Repository.peek(NAME, Home(tmp_path / "root")).head().root == repository.head().root


def test_an_offline_master_key_signs_nothing_here(tmp_path):
    write_public_key(tmp_path / "master.pub", key("master").public_key())
    repository = create(NAME, Home(tmp_path / "root"), master=MasterKeys.from_files(public=tmp_path / "master.pub"))
    assert not repository.keys.has_master_key
    assert repository.whitelist() is None
    assert repository.head().revision == 1


def test_a_second_repository_of_the_name_is_refused_and_harms_nothing(tmp_path):
    first = create(NAME, Home(tmp_path), master=MASTER)
    before = files_below(tmp_path)
    with pytest.raises(RepositoryError, match=f"there is a repository {NAME} already"):
        create(NAME, Home(tmp_path), master=MASTER)
    assert files_below(tmp_path) == before
    assert first.head().revision == 1


def test_a_storage_folder_with_something_in_it_is_refused(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "precious").write_text("mine")
    with pytest.raises(RepositoryError, match="not empty"):
        create(NAME, Home(tmp_path / "root"), storage=tmp_path / "disk", master=MASTER)
    assert files_below(tmp_path / "disk") == ["precious"]
    assert Home(tmp_path / "root").names() == []


@pytest.mark.parametrize("place", [".", "repositories", "srv", "repositories/other"])
def test_a_storage_folder_that_would_serve_keys_or_other_repositories_is_refused(tmp_path, place):
    with pytest.raises(UsageError, match="cannot be the storage"):
        create(NAME, Home(tmp_path), storage=tmp_path / place, master=MASTER)


def test_where_nothing_can_be_written_one_sentence_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="could not be created"):
        create(NAME, Home(tmp_path / "file"), master=MASTER)


POINTS = ["create.keys.stored", "create.storage.stored"]


def test_the_fault_points_are_those_that_are_tried(tmp_path):
    with faults_seen() as seen:
        create(NAME, Home(tmp_path), master=MASTER)
    assert seen == [*POINTS, "create.repository.named"]


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("had_folder", [False, True])
def test_a_failed_creation_leaves_nothing(tmp_path, point, had_folder):
    home, storage = Home(tmp_path / "root"), tmp_path / "disk"
    if had_folder:
        storage.mkdir()
    with faults_armed(f"{point}:raise"), pytest.raises(FaultInjected):
        create(NAME, home, storage=storage, master=MASTER)
    assert files_below(tmp_path / "root") == ["repositories", "repositories/.create.lock"]
    assert storage.exists() == had_folder
    assert not had_folder or files_below(storage) == []


@pytest.mark.parametrize("point", [*POINTS, "create.repository.named"])
def test_a_killed_creation_is_cleaned_up_by_the_next(tmp_path, point):
    command = [sys.executable, "-m", "cdn", "repo", "create", NAME, "--root", str(tmp_path), "-q"]
    killed = subprocess.run(command, env={**os.environ, "CDN_FAULT": point}, check=False)
    assert killed.returncode == -9
    home = Home(tmp_path)
    if point == "create.repository.named":
        assert published(Repository.peek(NAME, home)).paths == [""]
        return
    assert home.names() == []
    repository = create(NAME, home, master=MASTER)
    assert published(repository).paths == [""]
    assert sorted(path.name for path in home.repositories.iterdir()) == [".create.lock", NAME]


def test_master_keys_are_read_from_files_of_which_only_one_may_be_given(tmp_path):
    create(NAME, Home(tmp_path), master=MASTER)
    keys = Repository.peek(NAME, Home(tmp_path)).keys
    again = MasterKeys.from_files(private=keys.master_key_file)
    assert again.private is not None
    other = create("other.example.org", Home(tmp_path), master=again)
    assert other.keys.public_key() == keys.public_key()
    with pytest.raises(UsageError, match="not both"):
        MasterKeys.from_files(private=keys.master_key_file, public=keys.public_key_file)
    with pytest.raises(CdnError):
        MasterKeys.from_files(private=keys.public_key_file)


def test_settings_given_with_another_name_get_the_right_one(tmp_path):
    settings = replace(RepositorySettings("other", tmp_path), ttl_seconds=77)
    repository = create(NAME, Home(tmp_path), settings=settings, master=MASTER)
    assert (repository.name, repository.head().manifest.ttl_seconds) == (NAME, 77)
