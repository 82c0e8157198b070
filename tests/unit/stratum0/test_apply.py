"""Net changes become catalogs: what is rewritten, where catalogs begin, and what the tree is afterwards."""

from __future__ import annotations

import random
import stat
from dataclasses import replace

import pytest

from cdn.catalog.entries import Entry
from cdn.catalog.nesting import AUTO_MARKER, CATALOG_MARKER
from cdn.errors import DocumentError, PathKindError
from cdn.telemetry import install_sink
from stratum0 import balance
from stratum0.changes import Change, ChangeKind
from tests.fakes.publishers import new_publisher, published

TIME = 1_600_000_000


@pytest.fixture
def repository(tmp_path):
    with new_publisher(tmp_path, auto_tag=False) as repository:
        yield repository


class Tree:
    """Stages whole trees the way a scan does."""

    def __init__(self, repository):
        self.repository = repository
        self.changes: list[Change] = []
        self.found: list[str] = []

    def file(self, path, content=b"", **fields):
        stored = self.repository.content.store_bytes(content)
        entry = Entry("", stat.S_IFREG | 0o644, mtime=TIME, **stored.entry_fields)
        self.found += stored.found
        self.changes.append(Change(path, ChangeKind.PUT, replace(entry, **fields)))
        return self

    def folder(self, path, kind=ChangeKind.PUT, **fields):
        entry = Entry("", stat.S_IFDIR | 0o755, 4096, TIME, link_count=2)
        self.changes.append(Change(path, kind, replace(entry, **fields)))
        return self

    def clear(self, path, **fields):
        return self.folder(path, ChangeKind.CLEAR, **fields)

    def remove(self, *paths):
        self.changes += [Change(path, ChangeKind.REMOVE) for path in paths]
        return self

    def files(self, folder, count, content=b""):
        self.folder(folder)
        for number in range(count):
            self.file(f"{folder}/f{number:05}", content)
        return self

    def publish(self):
        with self.repository.transaction(ephemeral=True) as transaction:
            transaction.stage(self.changes, self.found)
            revision = transaction.commit()
        self.changes, self.found = [], []
        return revision


@pytest.fixture
def tree(repository):
    return Tree(repository)


def rewritten(before, after):
    """Paths of the catalogs that are others than before, new and gone ones included."""
    paths = before.catalogs.keys() | after.catalogs.keys()
    return {path for path in paths if before.catalogs.get(path) != after.catalogs.get(path)}


# ------------------------------------------------------------------------------------------------------------ the tree


def test_publishing_the_same_again_is_no_new_revision(repository, tree):
    def stage():
        return (
            tree.clear("/a")
            .file("/a/f", b"f")
            .file("/a/h1", b"h", hardlink_group=4)
            .file("/a/h2", b"h", hardlink_group=4)
        )

    assert stage().publish().number == 2
    assert stage().publish() is None
    assert repository.head().revision == 2


def test_a_cleared_directory_holds_only_what_was_put_into_it(repository, tree):
    tree.folder("/a").folder("/a/gone").file("/a/gone/f").file("/a/old").folder("/a/kept").file("/a/kept/g").file(
        "/b"
    ).publish()
    tree.clear("/a").file("/a/new").clear("/a/kept").file("/a/kept/h").publish()
    assert published(repository).paths == ["", "/a", "/a/kept", "/a/kept/h", "/a/new", "/b"]


def test_a_directory_below_a_cleared_one_is_cleared_with_it(repository, tree):
    tree.folder("/a").folder("/a/b").file("/a/b/old").publish()
    tree.clear("/a").folder("/a/b").file("/a/b/new").publish()
    assert published(repository).paths == ["", "/a", "/a/b", "/a/b/new"]


def test_a_directory_that_is_only_put_keeps_what_is_in_it(repository, tree):
    tree.folder("/a").file("/a/f").publish()
    tree.folder("/a", mode=stat.S_IFDIR | 0o700).publish()
    seen = published(repository)
    assert seen.paths == ["", "/a", "/a/f"]
    assert seen.tree["/a"].mode == stat.S_IFDIR | 0o700


def test_the_root_can_be_cleared_and_gets_the_mode_and_time_it_is_given(repository, tree):
    tree.file("/old").folder("/n").file(f"/n/{CATALOG_MARKER}").publish()
    tree.clear("", mode=stat.S_IFDIR | 0o711, mtime=5).file("/new").publish()
    seen = published(repository)
    assert seen.paths == ["", "/new"]
    assert (seen.tree[""].mode, seen.tree[""].mtime) == (stat.S_IFDIR | 0o711, 5)


def test_everything_can_be_removed(repository, tree):
    tree.files("/a", 3).files("/b", 3).publish()
    tree.remove("/a", "/b").publish()
    assert published(repository).paths == [""]


def test_directories_above_that_nobody_described_are_made_for_the_owner_of_what_is_above_them(repository, tree):
    tree.folder("/a", uid=7, gid=8).publish()
    tree.file("/a/b/c/f").publish()
    made = published(repository).tree["/a/b/c"]
    assert (made.mode, made.uid, made.gid) == (stat.S_IFDIR | 0o755, 7, 8)


def test_directories_above_a_change_keep_their_time_and_mode(repository, tree):
    tree.folder("/a", mtime=17, mode=stat.S_IFDIR | 0o701).publish()
    before = published(repository).tree["/a"]
    tree.file("/a/f").publish()
    assert published(repository).tree["/a"] == before


@pytest.mark.parametrize(
    "kinds", [("file", "folder"), ("folder", "file"), ("link", "folder"), ("folder", "link"), ("link", "file")]
)
def test_a_path_can_become_another_kind_of_entry(repository, tree, kinds):
    def put(kind):
        if kind == "file":
            tree.file("/x/p", b"content")
        elif kind == "folder":
            tree.clear("/x/p").file("/x/p/below").clear("/x/p/deeper").file("/x/p/deeper/f")
        else:
            tree.changes.append(
                Change("/x/p", ChangeKind.PUT, Entry("", stat.S_IFLNK | 0o777, symlink="to", mtime=TIME))
            )

    put(kinds[0])
    tree.publish()
    put(kinds[1])
    tree.publish()
    seen = published(repository)
    assert ("/x/p/deeper/f" in seen.tree) == (kinds[1] == "folder")


def test_nothing_can_be_put_into_a_file(repository, tree):
    tree.file("/f").publish()
    with pytest.raises(PathKindError, match="it is no directory that anything could be put into: /f"):
        tree.file("/f/below").publish()
    assert published(repository).paths == ["", "/f"]


def test_special_files_xattrs_and_large_numbers_survive(repository, tree):
    device = Entry("", stat.S_IFCHR | 0o600, device=0x0501, mtime=-5, mtime_ns=999_999_999, uid=2**32 - 1)
    tree.changes.append(Change("/tty", ChangeKind.PUT, device))
    tree.changes.append(Change("/fifo", ChangeKind.PUT, Entry("", stat.S_IFIFO | 0o600)))
    tree.file("/f", random.Random(1).randbytes(9_000_000), xattrs=((b"user.a", b"1"),)).publish()
    seen = published(repository).tree
    assert (seen["/tty"].device, seen["/tty"].mtime, seen["/tty"].mtime_ns, seen["/tty"].uid) == (
        0x0501,
        -5,
        999_999_999,
        2**32 - 1,
    )
    assert seen["/f"].xattrs == ((b"user.a", b"1"),)
    assert len(seen["/f"].chunks) > 1


# ----------------------------------------------------------------------------------------------------------- hard links


def links(repository, *paths):
    return [(entry.hardlink_group, entry.link_count) for entry in map(published(repository).tree.get, paths)]


def test_groups_of_hard_links_are_numbered_apart_in_each_folder(repository, tree):
    tree.folder("/a").folder("/b")
    for folder in ("/a", "/b"):
        tree.file(f"{folder}/1", b"same", hardlink_group=1).file(f"{folder}/2", b"same", hardlink_group=1)
    tree.publish()
    (one, count), (two, _), (three, _), (four, _) = links(repository, "/a/1", "/a/2", "/b/1", "/b/2")
    assert count == 2
    assert one == two != three == four


def test_a_group_of_one_is_no_group(repository, tree):
    tree.file("/f", b"f", hardlink_group=3).publish()
    assert links(repository, "/f") == [(0, 1)]
    assert tree.file("/f", b"f", hardlink_group=9).publish() is None


def test_a_group_that_loses_or_gains_members_counts_the_rest(repository, tree):
    for name in "abc":
        tree.file(f"/{name}", b"x", hardlink_group=1)
    tree.publish()
    tree.remove("/a").publish()
    assert [count for _, count in links(repository, "/b", "/c")] == [2, 2]
    for name in "bcd":
        tree.file(f"/{name}", b"x", hardlink_group=1)
    tree.publish()
    (one, count), (two, _), (three, _) = links(repository, "/b", "/c", "/d")
    assert one == two == three != 0
    assert count == 3


def test_members_that_swap_groups_are_told_apart(repository, tree):
    def stage(groups):
        for name, group in groups.items():
            tree.file(f"/{name}", b"same", hardlink_group=group)
        return tree

    stage({"a": 1, "b": 1, "c": 2, "d": 2}).publish()
    stage({"a": 1, "b": 2, "c": 1, "d": 2}).publish()
    (a, _), (b, _), (c, _), (d, _) = links(repository, "/a", "/b", "/c", "/d")
    assert a == c != b == d


# ------------------------------------------------------------------------------------------------------ nested catalogs


def nested(tree):
    tree.folder("/a").folder("/a/n").file(f"/a/n/{CATALOG_MARKER}").file("/a/n/f").folder("/a/n/m")
    return tree.file(f"/a/n/m/{CATALOG_MARKER}").file("/a/n/m/g").folder("/z").file(f"/z/{CATALOG_MARKER}")


def test_a_marker_makes_a_catalog_wherever_it_is(repository, tree):
    nested(tree).publish()
    assert set(published(repository).catalogs) == {"", "/a/n", "/a/n/m", "/z"}


def test_only_catalogs_on_changed_paths_are_rewritten(repository, tree):
    nested(tree).publish()
    before = published(repository)
    tree.file("/a/n/new").publish()
    after = published(repository)
    assert rewritten(before, after) == {"", "/a/n"}
    tree.file("/top").publish()
    assert rewritten(after, published(repository)) == {""}


def test_a_change_that_changes_nothing_rewrites_nothing(repository, tree):
    nested(tree).publish()
    before = published(repository)
    tree.file("/a/n/f").file("/z/new").publish()
    assert rewritten(before, published(repository)) == {"", "/z"}


def test_a_marker_added_to_a_directory_splits_it_off_with_deeper_catalogs(repository, tree):
    nested(tree).publish()
    tree.file(f"/a/{CATALOG_MARKER}").publish()
    seen = published(repository)
    assert set(seen.catalogs) == {"", "/a", "/a/n", "/a/n/m", "/z"}


def test_a_marker_removed_merges_a_catalog_back(repository, tree):
    nested(tree).publish()
    tree.remove(f"/a/n/{CATALOG_MARKER}").publish()
    seen = published(repository)
    assert set(seen.catalogs) == {"", "/a/n/m", "/z"}
    assert "/a/n/f" in seen.tree
    assert f"/a/n/{CATALOG_MARKER}" not in seen.tree


def test_clearing_a_directory_without_its_marker_merges_its_catalog_back(repository, tree):
    nested(tree).publish()
    tree.clear("/a/n").file("/a/n/f").publish()
    assert set(published(repository).catalogs) == {"", "/z"}


def test_a_catalog_can_be_removed_replaced_by_a_file_and_come_again(repository, tree):
    nested(tree).publish()
    tree.remove("/z").file("/a/n/m", b"a file now").publish()
    assert set(published(repository).catalogs) == {"", "/a/n"}
    tree.clear("/a/n/m").file(f"/a/n/m/{CATALOG_MARKER}").file("/a/n/m/x").publish()
    assert set(published(repository).catalogs) == {"", "/a/n", "/a/n/m"}


def test_the_metadata_of_a_directory_with_a_catalog_of_its_own_is_the_same_on_both_sides(repository, tree):
    nested(tree).publish()
    tree.folder("/a/n", mode=stat.S_IFDIR | 0o500, mtime=3, uid=9).publish()
    assert published(repository).tree["/a/n"].mtime == 3  # reading compares both rows


def test_a_marker_in_a_marked_directory_may_be_replaced_without_a_split(repository, tree):
    nested(tree).publish()
    tree.file(f"/a/n/{CATALOG_MARKER}", b"with content").publish()
    assert set(published(repository).catalogs) == {"", "/a/n", "/a/n/m", "/z"}


# --------------------------------------------------------------------------------------------------------------- dirtab


def test_the_dirtab_makes_catalogs_of_new_directories_with_a_marker(repository, tree):
    tree.file("/.cvmfsdirtab", b"# comment\n/sw/*\n! */tmp\n").folder("/sw").folder("/sw/gcc").file("/sw/gcc/f").folder(
        "/sw/tmp"
    )
    tree.publish()
    seen = published(repository)
    assert set(seen.catalogs) == {"", "/sw/gcc"}
    assert f"/sw/gcc/{CATALOG_MARKER}" in seen.tree


def test_a_changed_dirtab_makes_catalogs_of_directories_that_were_there(repository, tree):
    tree.folder("/sw").folder("/sw/gcc", uid=5).file("/sw/gcc/f").folder("/sw/git").publish()
    tree.file("/.cvmfsdirtab", b"/sw/*\n").folder("/sw/new").publish()
    seen = published(repository)
    assert set(seen.catalogs) == {"", "/sw/gcc", "/sw/git", "/sw/new"}
    assert seen.tree[f"/sw/gcc/{CATALOG_MARKER}"].uid == 5


def test_a_source_without_the_markers_that_the_dirtab_made_does_not_take_them_away(repository, tree):
    tree.file("/.cvmfsdirtab", b"/sw/*\n").folder("/sw").folder("/sw/gcc").file("/sw/gcc/f").publish()
    assert tree.clear("/sw").folder("/sw/gcc").file("/sw/gcc/f").publish() is None
    assert tree.remove(f"/sw/gcc/{CATALOG_MARKER}").publish() is None
    assert set(published(repository).catalogs) == {"", "/sw/gcc"}


def test_a_catalog_is_merged_when_its_rule_and_its_marker_are_gone(repository, tree):
    tree.file("/.cvmfsdirtab", b"/sw/*\n").folder("/sw").folder("/sw/gcc").publish()
    tree.remove("/.cvmfsdirtab", f"/sw/gcc/{CATALOG_MARKER}").publish()
    assert set(published(repository).catalogs) == {""}


def test_a_dirtab_with_a_mistake_stops_the_commit_and_names_the_line(repository, tree):
    with pytest.raises(DocumentError, match="line 2"):
        tree.file("/.cvmfsdirtab", b"/ok\nrelative\n").publish()
    assert repository.head().revision == 1


# ------------------------------------------------------------------------------------------------------------ balancing


@pytest.fixture
def balanced(tmp_path):
    with new_publisher(tmp_path, auto_tag=False, catalog_entries_min=20, catalog_entries_max=100) as repository:
        yield Tree(repository)


def entries(repository, seen):
    """How many entries each catalog has."""
    count = dict.fromkeys(seen.catalogs, 0)
    for path in seen.tree:
        home = max((each for each in count if path == each or path.startswith(f"{each}/")), key=len)
        count[home] += 1
        if path == home and path:
            count[max((each for each in count if each != home and path.startswith(f"{each}/")), key=len)] += 1
    return count


@pytest.mark.parametrize("at_once", [True, False])
def test_catalogs_that_get_too_large_are_split_into_ones_of_a_good_size(balanced, at_once):
    balanced.folder("/sw")
    for number in range(12):
        balanced.files(f"/sw/d{number}", 30)
        if not at_once:
            balanced.publish()
    if at_once:
        balanced.publish()
    seen = published(balanced.repository)
    sizes = entries(balanced.repository, seen)
    assert len(sizes) > 1
    assert max(sizes.values()) <= 102  # two marker files
    assert min(size for path, size in sizes.items() if path) >= 20
    for path in sizes:
        assert not path or seen.tree[f"{path}/{AUTO_MARKER}"].size == 0


def test_a_source_without_the_markers_of_balancing_changes_nothing(balanced):
    def stage():
        balanced.clear("/sw")
        for number in range(12):
            balanced.files(f"/sw/d{number}", 30)
        return balanced

    stage().publish()
    before = published(balanced.repository)
    assert stage().publish() is None
    markers = [path for path in before.tree if path.endswith((CATALOG_MARKER, AUTO_MARKER))]
    assert markers
    assert balanced.remove(*markers).publish() is None
    assert stage().file("/sw/d3/new").publish() is not None
    assert before.catalogs.keys() == published(balanced.repository).catalogs.keys()


def test_catalogs_made_by_balancing_that_shrink_are_merged_back_without_their_markers(balanced):
    for number in range(5):
        balanced.files(f"/d{number}", 30)
    balanced.publish()
    before = published(balanced.repository)
    shrinking = next(path for path in before.catalogs if path)
    balanced.clear(shrinking).file(f"{shrinking}/only").publish()
    seen = published(balanced.repository)
    assert shrinking not in seen.catalogs
    assert [path for path in seen.tree if path.startswith(f"{shrinking}/")] == [f"{shrinking}/only"]


def test_a_catalog_the_publisher_asked_for_stays_however_small(balanced):
    for number in range(5):
        balanced.files(f"/d{number}", 30)
    balanced.publish()
    seen = published(balanced.repository)
    automatic = next(path for path in seen.catalogs if path)
    balanced.file(f"{automatic}/{CATALOG_MARKER}", b"mine").publish()
    assert f"{automatic}/{AUTO_MARKER}" not in published(balanced.repository).tree
    balanced.clear(automatic).file(f"{automatic}/{CATALOG_MARKER}", b"mine").publish()
    assert automatic in published(balanced.repository).catalogs


def test_a_directory_too_large_by_itself_is_published_with_a_warning(balanced, monkeypatch):
    monkeypatch.setattr(balance, "ENTRIES_LIMIT", 100)
    told = []
    install_sink(lambda level, name, fields: told.append((level, name)), "warning")
    try:
        revision = balanced.files("/huge", 150).publish()
    finally:
        install_sink(None)
    assert len(revision.warnings) == 1
    assert "/huge" in revision.warnings[0] or "/" in revision.warnings[0]
    assert ("warning", "stratum0.catalog.oversize") in told
    published(balanced.repository)


def test_many_small_directories_are_split_off_when_a_catalog_would_be_too_large_otherwise(balanced, monkeypatch):
    monkeypatch.setattr(balance, "ENTRIES_LIMIT", 120)
    balanced.folder("/many")
    for number in range(12):
        balanced.files(f"/many/d{number}", 17)
    assert balanced.publish().warnings == ()
    assert max(entries(balanced.repository, published(balanced.repository)).values()) <= 122


def test_balancing_can_be_switched_off(tmp_path):
    with new_publisher(tmp_path, catalog_entries_max=0) as repository:
        tree = Tree(repository)
        for number in range(5):
            tree.files(f"/d{number}", 30)
        tree.publish()
        assert set(published(repository).catalogs) == {""}


def test_planned_weights_are_those_of_the_finished_catalog(balanced):
    """Splits planned from what is staged are the ones that the catalog itself would have asked for."""
    balanced.files("/a", 40).files("/a/b", 50).files("/a/b/c", 60).file("/x/y/z/f")
    with balanced.repository.transaction(ephemeral=True) as transaction:
        transaction.stage(balanced.changes, balanced.found)
        weights = {
            path: (count, children) for path, count, children in balance.staged_weights(transaction.staging.keys())
        }
    assert weights == {
        "/a/b/c": (61, 60),
        "/a/b": (112, 51),
        "/a": (153, 41),
        "/x/y/z": (2, 1),
        "/x/y": (3, 1),
        "/x": (4, 1),
        "": (158, 2),
    }
