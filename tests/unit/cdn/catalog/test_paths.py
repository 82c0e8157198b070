import pytest

from cdn.catalog.paths import (
    check_path,
    is_at_or_below,
    is_name,
    is_path,
    moved,
    name_of,
    order_key,
    parent_of,
    prefixes,
)
from cdn.errors import DocumentError


def test_parent_and_name_take_a_path_apart():
    assert (parent_of("/a/b"), name_of("/a/b")) == ("/a", "b")
    assert (parent_of("/a"), name_of("/a")) == ("", "a")
    assert (parent_of(""), name_of("")) == ("", "")


def test_prefixes_go_from_the_path_to_the_root():
    assert list(prefixes("/a/b")) == ["/a/b", "/a", ""]
    assert list(prefixes("")) == [""]


def test_below_ends_at_a_slash():
    assert is_at_or_below("/a/b", "/a")
    assert is_at_or_below("/a", "/a")
    assert is_at_or_below("/a", "")
    assert not is_at_or_below("/ab", "/a")
    assert not is_at_or_below("/a", "/a/b")


def test_siblings_sort_by_bytes_and_parents_come_first():
    paths = ["/a-b", "/a/b", "/a", "/\U00010000", "/\udcff", ""]
    assert sorted(paths, key=order_key) == ["", "/a", "/a/b", "/a-b", "/\U00010000", "/\udcff"]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0b", "a" * 256, "ü" * 128])
def test_what_a_directory_cannot_hold_is_no_name(name):
    assert not is_name(name)


@pytest.mark.parametrize("name", ["a", "...", " ", "ü" * 127, "a" * 255, "\udcff", ".cvmfscatalog"])
def test_what_a_directory_can_hold_is_a_name(name):
    assert is_name(name)


@pytest.mark.parametrize(
    "path", ["a", "/", "/a/", "//a", "/a//b", "/a/../b", "/.", "/a\0", "/" + "/".join(["a" * 200] * 21)]
)
def test_what_could_lead_elsewhere_is_no_path(path):
    assert not is_path(path)
    with pytest.raises(DocumentError, match="thing"):
        check_path(path, "thing")


def test_paths_move_with_what_they_lie_in():
    assert moved("/.cvmfs/snapshots/v1/a", "/.cvmfs/snapshots/v1", "") == "/a"
    assert moved("/a", "/a", "/b/c") == "/b/c"
    with pytest.raises(ValueError, match="not below"):
        moved("/ab", "/a", "")
