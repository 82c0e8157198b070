from __future__ import annotations

import pytest

from cdn.client.resolver import Resolver, is_plain
from cdn.errors import PathKindError, PathMissingError, SymlinkLoopError
from tests.fakes.catalogs import directory_entry, file_entry, symlink_entry

NAME = "sw.example.org"
TREE = {
    "": directory_entry(),
    "/a": directory_entry(),
    "/a/file": file_entry(),
    "/a/up": symlink_entry("../b/x"),
    "/a/self": symlink_entry("."),
    "/b": directory_entry(),
    "/b/x": file_entry(),
    "/link": symlink_entry("a"),
    "/absolute": symlink_entry(f"/cvmfs/{NAME}/a/file"),
    "/root": symlink_entry(f"/cvmfs/{NAME}"),
    "/other": symlink_entry(f"/cvmfs/{NAME}2/a"),
    "/outside": symlink_entry("/etc/passwd"),
    "/above": symlink_entry("../../etc"),
    "/dangling": symlink_entry("nowhere"),
    "/loop1": symlink_entry("loop2"),
    "/loop2": symlink_entry("loop1"),
    "/variant": symlink_entry("$(WHERE:-b)/x"),
    "/empty": symlink_entry("$(UNSET)"),
    "/to-file-slash": symlink_entry("a/file/"),
}


def resolver(**variables: str) -> Resolver:
    async def find(path):
        return TREE.get(path)

    return Resolver(find, NAME, variables)


@pytest.mark.parametrize(
    ("path", "real"),
    [
        ("", ""),
        ("/", ""),
        ("//", ""),
        (".", ""),
        ("a/file", "/a/file"),
        ("/a/file", "/a/file"),
        ("/a//file", "/a/file"),
        ("/a/./file", "/a/file"),
        ("/a/../b/x", "/b/x"),
        ("/link/file", "/a/file"),
        ("/link/", "/a"),
        ("/link/../b", "/b"),
        ("/a/up", "/b/x"),
        ("/a/self/self/self/file", "/a/file"),
        ("/absolute", "/a/file"),
        ("/root/a/file", "/a/file"),
        ("/root", ""),
        ("/variant", "/b/x"),
    ],
)
async def test_paths_lead_where_a_kernel_would_lead(path, real):
    assert (await resolver().resolve(path)).path == real


async def test_a_link_at_the_end_is_followed_only_if_wanted():
    assert (await resolver().resolve("/link", follow=False)).path == "/link"
    assert (await resolver().resolve("/link/", follow=False)).path == "/a"
    assert (await resolver().resolve("/link/up", follow=False)).path == "/a/up"


@pytest.mark.parametrize(
    "path",
    [
        "/nowhere",
        "/a/nowhere",
        "/nowhere/x",
        "/dangling",
        "/outside",
        "/other",
        "/above",
        "/..",
        "/a/../..",
        "/empty",
        f"/{'n' * 300}",
        "/a\0b",
    ],
)
async def test_what_is_not_in_the_repository_is_missing(path):
    with pytest.raises(PathMissingError):
        await resolver().resolve(path)


@pytest.mark.parametrize("path", ["/a/file/", "/a/file/x", "/absolute/x", "/b/x/.."])
async def test_a_file_on_the_way_is_no_directory(path):
    with pytest.raises(PathKindError):
        await resolver().resolve(path)


@pytest.mark.parametrize("path", ["/loop1", "/loop1/x", "/loop2/"])
async def test_links_in_a_circle_are_told_apart(path):
    with pytest.raises(SymlinkLoopError):
        await resolver().resolve(path)


async def test_variables_choose_the_target():
    assert (await resolver(WHERE="a/../b").resolve("/variant")).path == "/b/x"
    with pytest.raises(PathMissingError):
        await resolver(WHERE="nowhere").resolve("/variant")


async def test_a_plain_path_costs_one_lookup():
    asked = []

    async def find(path):
        asked.append(path)
        return TREE.get(path)

    await Resolver(find, NAME, {}).resolve("/a/file")
    assert asked == ["/a/file"]


@pytest.mark.parametrize(
    ("path", "plain"), [("", True), ("/a", True), ("a", False), ("/a/", False), ("/a/../b", False), ("/a//b", False)]
)
def test_plain_paths_are_those_that_need_no_resolving(path, plain):
    assert is_plain(path) is plain
