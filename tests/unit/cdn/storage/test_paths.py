"""Which paths a store has."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdn.errors import UsageError
from cdn.storage.paths import checked_path, checked_prefix, is_store_path
from tests.contracts.object_store import HOSTILE_PATHS
from tests.strategies import object_names


@given(object_names())
def test_every_object_has_a_path_and_an_alternative_one(name) -> None:
    assert checked_path(name.path) == name.path
    assert checked_path(name.alternative_path) == name.alternative_path


@pytest.mark.parametrize(
    "path", [".cvmfspublished", ".cvmfswhitelist.pkcs7", ".cvmfs_status.json", "info/v1/meta.json"]
)
def test_documents_of_the_layout_have_paths(path) -> None:
    assert is_store_path(path)


@pytest.mark.parametrize("path", HOSTILE_PATHS, ids=lambda path: repr(path[:40]))
def test_other_paths_are_refused(path) -> None:
    assert not is_store_path(path)
    with pytest.raises(UsageError):
        checked_path(path)


@given(st.text())
def test_no_text_at_all_names_a_file_outside(text) -> None:
    if is_store_path(text):
        assert ".." not in text.split("/")
        assert not text.startswith("/")
        assert "\0" not in text


@pytest.mark.parametrize("prefix", ["", "data/", "data/00/", "data/ff/"])
def test_folders_of_the_layout_can_be_listed(prefix) -> None:
    assert checked_prefix(prefix) == prefix
