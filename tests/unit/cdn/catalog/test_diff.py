from dataclasses import replace

import pytest

from cdn.catalog.diff import ChangeKind, diff
from cdn.catalog.schema import NestedReference
from cdn.errors import ObjectMissingError
from tests.fakes.catalogs import TIME, CatalogFolder, directory_entry, file_entry, publish, symlink_entry

TREE = {
    "": directory_entry(),
    "/a": directory_entry(),
    "/a/f": file_entry(b"f"),
    "/a/sub": directory_entry(),
    "/a/sub/g": file_entry(b"g"),
    "/b": directory_entry(),
    "/b/h": file_entry(b"h"),
}


@pytest.fixture
def folder(tmp_path):
    return CatalogFolder(tmp_path)


def changes(folder, old, new, **options):
    folder.loaded.clear()
    return [(change.path, change.kind.value) for change in diff(folder, old.digest, new.digest, **options)]


def test_equal_revisions_are_not_even_opened(folder):
    root = publish(folder, TREE)
    assert changes(folder, root, root) == []
    assert folder.loaded == []


def test_added_removed_and_modified_paths_are_told_in_order(folder):
    old = publish(folder, TREE)
    tree = TREE | {
        "/a/f": file_entry(b"new"),
        "/a/sub": directory_entry(uid=3),
        "/c": directory_entry(),
        "/c/x": file_entry(),
    }
    del tree["/b"], tree["/b/h"]
    assert changes(folder, old, publish(folder, tree)) == [
        ("/a/f", "content"),
        ("/a/sub", "metadata"),
        ("/b", "removed"),
        ("/b/h", "removed"),
        ("/c", "added"),
        ("/c/x", "added"),
    ]


def test_a_path_that_becomes_another_kind_of_entry_changes_content(folder):
    old = publish(folder, TREE)
    tree = {path: entry for path, entry in TREE.items() if not path.startswith("/a/")}
    tree |= {"/a": symlink_entry("b"), "/b/h": directory_entry(), "/b/h/x": file_entry()}
    assert changes(folder, old, publish(folder, tree)) == [
        ("/a", "content"),
        ("/a/f", "removed"),
        ("/a/sub", "removed"),
        ("/a/sub/g", "removed"),
        ("/b/h", "content"),
        ("/b/h/x", "added"),
    ]


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"mtime": 5}, "metadata"),
        ({"mtime_ns": 5}, "metadata"),
        ({"mode": 0o100600}, "metadata"),
        ({"xattrs": ((b"k", b"v"),)}, "metadata"),
        ({"is_hidden": True}, "metadata"),
        ({"size": 7, "digest": file_entry(b"other").digest}, "content"),
        ({"is_external": True}, "content"),
        ({"plain_digest": b"p" * 32}, None),
    ],
)
def test_what_counts_as_which_change(folder, change, kind):
    old = publish(folder, TREE)
    new = publish(folder, TREE | {"/a/f": replace(TREE["/a/f"], **change)}, revision=2)
    assert changes(folder, old, new) == ([("/a/f", kind)] if kind else [])


def test_equal_nested_catalogs_stay_closed(folder):
    old = publish(folder, TREE, {"/a", "/b"})
    builder = folder.modify(old.digest)
    builder.insert("/new", file_entry())
    new = folder.keep(builder.finish(revision=2, previous=old.digest, last_modified=TIME), "")
    assert changes(folder, old, new) == [("/new", "added")]
    assert folder.loaded == ["", ""]


def test_a_change_in_a_nested_catalog_is_found(folder):
    old = publish(folder, TREE, {"/a", "/a/sub"})
    new = publish(folder, TREE | {"/a/sub/g": file_entry(b"new")}, {"/a", "/a/sub"}, revision=2)
    assert changes(folder, old, new) == [("/a/sub/g", "content")]


def test_splitting_and_merging_catalogs_is_no_change_but_for_the_markers(folder):
    flat, nested = publish(folder, TREE), publish(folder, TREE, {"/a", "/a/sub"})
    markers = ["/a/.cvmfscatalog", "/a/sub/.cvmfscatalog"]
    assert changes(folder, flat, nested) == [(path, "added") for path in markers]
    assert changes(folder, nested, flat) == [(path, "removed") for path in markers]
    moved = publish(folder, TREE | {"/a/sub/g": file_entry(b"new")}, {"/a/sub"})
    assert changes(folder, nested, moved) == [("/a/.cvmfscatalog", "removed"), ("/a/sub/g", "content")]


def test_a_nested_catalog_that_comes_or_goes_is_told_whole(folder):
    tree = {path: entry for path, entry in TREE.items() if not path.startswith("/a")}
    less, more = publish(folder, tree), publish(folder, TREE, {"/a"})
    paths = ["/a", "/a/.cvmfscatalog", "/a/f", "/a/sub", "/a/sub/g"]
    assert changes(folder, less, more) == [(path, "added") for path in paths]
    assert changes(folder, more, less) == [(path, "removed") for path in paths]


@pytest.mark.parametrize("mounts", [set(), {"/a"}, {"/a", "/a/sub"}])
def test_only_what_is_below_a_path_is_compared(folder, mounts):
    old = publish(folder, TREE, mounts)
    tree = TREE | {"/a/f": file_entry(b"new"), "/a/sub/g": file_entry(b"new"), "/b/h": file_entry(b"new")}
    new = publish(folder, tree, mounts, revision=2)
    assert changes(folder, old, new, below="/a/sub") == [("/a/sub/g", "content")]
    assert changes(folder, old, new, below="/a/sub/g") == [("/a/sub/g", "content")]
    assert changes(folder, old, new, below="/a") == [("/a/f", "content"), ("/a/sub/g", "content")]
    assert changes(folder, old, new, below="/missing") == []


def test_a_subtree_that_is_only_in_one_revision_is_compared_too(folder):
    old = publish(folder, TREE, {"/a"})
    tree = {path: entry for path, entry in TREE.items() if not path.startswith("/a")}
    new = publish(folder, tree, revision=2)
    assert changes(folder, old, new, below="/a/sub") == [("/a/sub", "removed"), ("/a/sub/g", "removed")]
    assert changes(folder, new, old, below="/a/sub") == [("/a/sub", "added"), ("/a/sub/g", "added")]


def test_other_revisions_that_are_mounted_are_not_searched(folder):
    base = publish(folder, TREE)
    roots = []
    for target in (base, publish(folder, TREE, revision=7)):
        builder = folder.modify(base.digest)
        builder.insert("/tag", directory_entry())
        builder.bind(NestedReference("/tag", target.digest, target.size))
        roots.append(folder.keep(builder.finish(revision=9, previous=None, last_modified=TIME), ""))
    assert changes(folder, *roots) == []
    assert changes(folder, base, roots[0]) == [("/tag", "added")]
    assert changes(folder, *roots, below="/tag/a") == []


def test_a_change_has_the_entries_of_both_sides(folder):
    old, new = publish(folder, TREE), publish(folder, TREE | {"/a/f": file_entry(b"new")})
    (change,) = diff(folder, old.digest, new.digest)
    assert change.before.digest == file_entry(b"f").digest
    assert change.after.digest == file_entry(b"new").digest
    assert change.kind is ChangeKind.CONTENT


def test_a_catalog_that_cannot_be_loaded_ends_the_comparison(folder):
    old = publish(folder, TREE, {"/a"})
    new = publish(folder, TREE | {"/a/f": file_entry(b"new")}, {"/a"})
    with folder.load(new.digest) as catalog:
        folder.path_of(catalog.nested_at("/a").digest).unlink()
    with pytest.raises(ObjectMissingError):
        changes(folder, old, new)
