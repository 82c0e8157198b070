"""Removing a repository."""

from __future__ import annotations

import json

import pytest

from cdn.errors import RepositoryMissingError
from cdn.telemetry import FaultInjected, faults_armed
from stratum0.config import Home
from stratum0.creation import create
from stratum0.removal import remove
from stratum0.repository import Repository
from tests.fakes.publishers import NAME, new_publisher


def test_nothing_of_a_removed_repository_is_left(tmp_path):
    repository = new_publisher(tmp_path)
    with repository.transaction() as transaction:
        transaction.put_file("/a", b"a")
    remove(repository)
    home = Home(tmp_path)
    assert home.names() == []
    assert not repository.settings.storage.exists()
    assert [path.name for path in home.repositories.iterdir()] == [".create.lock"]
    assert json.loads((home.info / "repositories.json").read_text())["repositories"] == []
    with pytest.raises(RepositoryMissingError):
        Repository.open(NAME, home)
    assert create(NAME, home).head().revision == 1


def test_what_is_not_ours_in_the_storage_stays(tmp_path):
    repository = new_publisher(tmp_path)
    (repository.settings.storage / "index.html").write_text("hello")
    remove(repository)
    assert [path.name for path in repository.settings.storage.iterdir()] == ["index.html"]


def test_the_storage_can_be_kept(tmp_path):
    repository = new_publisher(tmp_path)
    before = sorted(path.name for path in repository.settings.storage.rglob("*"))
    remove(repository, keep_storage=True)
    assert sorted(path.name for path in repository.settings.storage.rglob("*")) == before


def test_an_interrupted_removal_leaves_no_half_of_a_repository(tmp_path):
    repository = new_publisher(tmp_path)
    with faults_armed("remove.name.gone:raise"), pytest.raises(FaultInjected):
        remove(repository)
    assert Home(tmp_path).names() == []
