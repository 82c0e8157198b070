"""Names, folders and settings of repositories."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdn.compression import Compression
from cdn.errors import ConfigError, UsageError
from cdn.hashing import Algorithm
from stratum0.config import Home, RepositorySettings, changed, checked_name, owner_from_option

NAME = "sw.example.org"


@pytest.mark.parametrize("name", [NAME, "a", "A-b_c.d", "x" * 60, "0.0"])
def test_a_name_of_the_allowed_characters_is_taken(name):
    assert checked_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "x" * 61, ".hidden", "a/b", "a b", "ä.org", "a\n", "..", "a..b", "a.", "-a", "info", "data"]
)
def test_any_other_name_is_refused(name):
    with pytest.raises(UsageError, match=r"name|characters|called"):
        checked_name(name)


def test_the_home_is_the_folder_that_the_environment_names(monkeypatch, tmp_path):
    monkeypatch.setenv("CDN_ROOT", str(tmp_path / "root"))
    assert Home.default() == Home(tmp_path / "root")
    assert Home.at(None) == Home(tmp_path / "root")
    assert Home.at(tmp_path / "x").folder_of(NAME) == tmp_path / "x" / "repositories" / NAME


def test_a_home_that_is_not_there_has_no_repositories(tmp_path):
    assert Home(tmp_path / "nowhere").names() == []


def test_settings_come_back_as_they_were_saved(tmp_path):
    odd = tmp_path / 'a "quoted" \\ näme'
    settings = RepositorySettings(
        NAME, odd, hash="rmd160", compress="none", owner="5:6", ttl_seconds=7, gc_keep_days=0.5
    )
    settings.save(tmp_path)
    assert RepositorySettings.load(tmp_path) == settings
    assert settings.algorithm is Algorithm.RMD160
    assert settings.compression is Compression.NONE
    assert settings.owner_ids == (5, 6)


def test_a_storage_folder_that_is_no_text_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="UTF-8"):
        RepositorySettings(NAME, tmp_path / "\udcff").to_toml()


def test_contradicting_settings_are_refused_with_the_key_that_is_wrong(tmp_path):
    text = RepositorySettings(NAME, tmp_path).to_toml()
    (tmp_path / "repository.toml").write_text(text.replace("catalog_entries_max = 50000", "catalog_entries_max = 1500"))
    with pytest.raises(ConfigError, match="catalog_entries_max: must be at least twice"):
        RepositorySettings.load(tmp_path)


def test_changing_settings_changes_only_those(tmp_path):
    before = RepositorySettings(NAME, tmp_path)
    after = changed(before, {"ttl_seconds": "60", "auto_tag": "false", "compress": "none", "owner": "0:0"})
    assert (after.ttl_seconds, after.auto_tag, after.compress, after.owner) == (60, False, "none", "0:0")
    assert (after.fqrn, after.storage, after.hash) == (before.fqrn, before.storage, before.hash)


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ({"ttl_second": "1"}, "did you mean ttl_seconds"),
        ({"hash": "sha1"}, "fixed when a repository is created"),
        ({"storage": "/x"}, "fixed"),
        ({"ttl_seconds": "0"}, "^ttl_seconds: must be from 1 to 2592000, not 0$"),
        ({"ttl_seconds": "soon"}, "^'soon' is no value of ttl_seconds, which is 240 now$"),
        ({"auto_tag": "maybe"}, "^'maybe' is no value of auto_tag, which is true now$"),
        ({"compress": "zstd"}, "^compress: must be one of"),
        ({"ttl_seconds": "60", "gc_keep_days": "-1"}, "^gc_keep_days: "),
    ],
)
def test_a_setting_that_cannot_be_is_refused(tmp_path, assignment, said):
    with pytest.raises(UsageError, match=said):
        changed(RepositorySettings(NAME, tmp_path), assignment)


def test_an_owner_may_be_a_number_a_name_or_both():
    assert owner_from_option("12:34") == "12:34"
    assert owner_from_option("root") == "0:0"
    assert owner_from_option("root:7") == "0:7"


@pytest.mark.parametrize("text", ["nobody-has-this-name", "1:no-such-group", ":", "-1:0", "99999999999:1"])
def test_an_owner_that_is_none_is_refused(text):
    with pytest.raises(UsageError, match="names no owner"):
        owner_from_option(text)


def test_the_names_are_those_that_have_settings(tmp_path):
    home = Home(tmp_path)
    for name in ("b.org", "a.org", ".creating-c.org", "empty"):
        home.folder_of(name).mkdir(parents=True)
    for name in ("b.org", "a.org", ".creating-c.org"):
        RepositorySettings("x", Path("/x")).save(home.folder_of(name))
    assert home.names() == ["a.org", "b.org"]
