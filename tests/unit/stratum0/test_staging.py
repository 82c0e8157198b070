"""Net changes: one row for each path, whatever was done before."""

from __future__ import annotations

import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdn.catalog.entries import Chunk, Entry
from cdn.errors import StorageError, UsageError
from cdn.hashing import Algorithm, Digest
from cdn.objects import Kind, ObjectName
from stratum0.changes import Change, ChangeKind, sort_key
from stratum0.staging import Staging, key_of, path_of
from tests.fakes.catalogs import directory_entry, file_entry, plain, symlink_entry
from tests.strategies import entries, names

CLEAR, PUT, REMOVE = ChangeKind.CLEAR, ChangeKind.PUT, ChangeKind.REMOVE


@pytest.fixture
def staging(tmp_path):
    with Staging(tmp_path / "changes.sqlite") as staging:
        yield staging


def put(path, entry=None):
    return Change(path, PUT, entry or file_entry())


def folder(path, kind=PUT):
    return Change(path, kind, directory_entry())


def staged(staging, path=""):
    return [(change.path, change.kind) for change in staging.changes(path)]


@given(st.lists(names(), max_size=4), st.lists(names(), max_size=4))
def test_keys_sort_like_paths_by_components_and_lead_back(one, other):
    paths = ["".join(f"/{name}" for name in each) for each in (one, other)]
    assert [path_of(key_of(path)) for path in paths] == paths
    assert sorted(paths, key=key_of) == sorted(paths, key=sort_key)


@given(entries(), names())
def test_every_entry_survives(entry, name):
    with Staging(":memory:") as staging:
        staging.record([Change(f"/a/{name}", PUT, entry)])
        found = next(staging.changes()).entry
    assert found.name == name
    assert plain(found) == plain(Entry(**{**{field: getattr(entry, field) for field in entry.__slots__}, "name": name}))
    assert found.hardlink_group == entry.hardlink_group


def test_what_the_format_cannot_hold_is_refused_and_nothing_is_recorded(staging):
    with pytest.raises(UsageError, match="cannot be stored"):
        staging.record([put("/a"), put("/b", symlink_entry(""))])
    assert staged(staging) == []


def test_changes_come_in_the_order_of_the_tree_whatever_order_they_were_recorded_in(staging):
    staging.record([put("/a.b"), put("/a/b"), put("/a-b"), folder("/a"), put("/a/\udcff"), put("/a/b c")])
    assert [path for path, _ in staged(staging)] == ["/a", "/a/b", "/a/b c", "/a/\udcff", "/a-b", "/a.b"]
    assert [path for path, _ in staged(staging, "/a")] == ["/a", "/a/b", "/a/b c", "/a/\udcff"]


def test_a_later_change_of_a_path_takes_the_place_of_the_earlier_one(staging):
    staging.record([put("/f", file_entry(b"old"))])
    staging.record([put("/f", file_entry(b"newer"))])
    assert [change.entry.size for change in staging.changes()] == [5]


@pytest.mark.parametrize("change", [Change("/d", REMOVE), put("/d"), put("/d", symlink_entry())])
def test_what_was_staged_below_goes_with_the_directory(staging, change):
    staging.record([folder("/d"), put("/d/f"), folder("/d/e"), put("/d/e/g"), put("/d.f"), put("/d\x01")])
    staging.record([change])
    assert [path for path, _ in staged(staging)] == ["/d", "/d\x01", "/d.f"]


@pytest.mark.parametrize("kind", [PUT, CLEAR])
def test_what_was_staged_below_a_directory_that_is_put_stays(staging, kind):
    staging.record([put("/d/f")])
    staging.record([folder("/d", kind)])
    assert staged(staging) == [("/d", kind), ("/d/f", PUT)]


@pytest.mark.parametrize("before", [Change("/d", REMOVE), put("/d"), folder("/d", CLEAR)])
def test_a_directory_made_where_something_else_was_staged_is_a_new_one(staging, before):
    """What the base has below the path must not come back."""
    staging.record([before])
    staging.record([folder("/d")])
    assert staged(staging) == [("/d", CLEAR)]


def test_children_are_only_what_lies_directly_in_a_directory(staging):
    staging.record([folder("/d"), folder("/d/e"), put("/d/e/deep"), put("/d/x/deep"), put("/d/z"), put("/dd")])
    staging.record([put(f"/d/e/{number}") for number in range(200)])
    staging.record([put(f"/d/m{number}") for number in range(200)])
    found = [change.path for change in staging.children("/d")]
    assert found == sorted(["/d/e", "/d/z", *(f"/d/m{number}" for number in range(200))])
    assert [change.path for change in staging.children("")] == ["/d", "/dd"]
    assert [*staging.children("/absent")] == []


@pytest.mark.parametrize(
    ("change", "is_hidden"),
    [(folder("/d"), False), (folder("/d", CLEAR), True), (Change("/d", REMOVE), True), (put("/d"), True)],
)
def test_a_base_is_hidden_below_what_is_no_longer_the_same_directory(staging, change, is_hidden):
    staging.record([change])
    assert staging.hides("/d/x/y") == is_hidden
    assert not staging.hides("/d")
    assert not staging.hides("/other")


def test_lone_members_of_groups_of_hard_links_become_ordinary_files(staging):
    def linked(path, group):
        return put(path, file_entry(hardlink_group=group, link_count=2))

    staging.record([linked("/a/1", 1), linked("/a/2", 1), linked("/a/3", 2), linked("/b/1", 1), put("/b/2")])
    staging.dissolve_lone_members()
    groups = {change.path: change.entry.hardlink_group for change in staging.changes()}
    assert groups == {"/a/1": 1, "/a/2": 1, "/a/3": 0, "/b/1": 0, "/b/2": 0}


def test_nothing_is_recorded_after_an_error(staging):
    def broken():
        yield put("/b")
        raise KeyError

    staging.record([put("/a")])
    with pytest.raises(KeyError):
        staging.record(broken())
    assert staged(staging) == [("/a", PUT)]


def test_the_objects_are_those_of_the_files_that_are_staged_now(staging):
    def file(path, **fields):
        return Change(path, PUT, Entry("", stat.S_IFREG | 0o644, 1, **fields))

    whole, first, second, gone = (Digest(Algorithm.SHAKE128, bytes([number]) * 20) for number in range(4))
    chunks = (Chunk(0, 1, first), Chunk(1, 1, second, bytes(32)))
    staging.record([file("/whole", digest=whole), file("/chunked", chunks=chunks, is_chunked=True), folder("/folder")])
    staging.record([file("/elsewhere", digest=gone, is_external=True), file("/gone", digest=gone)])
    staging.record([Change("/gone", ChangeKind.REMOVE)])
    expected = {
        ObjectName(whole, Kind.FILE).path,
        ObjectName(first, Kind.CHUNK).path,
        ObjectName(second, Kind.CHUNK).path,
    }
    with Staging(staging.file) as again:
        assert set(again.objects()) == expected


def test_a_damaged_file_is_named_in_one_sentence(tmp_path):
    (tmp_path / "changes.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(StorageError, match=r"the staged changes in .* cannot be used"):
        Staging(tmp_path / "changes.sqlite")


def test_a_mode_says_what_kind_of_file_a_marker_is(staging):
    staging.record([put("/a/m"), folder("/b/m"), put("/c/m", symlink_entry()), Change("/d/m", REMOVE)])
    assert [staging.has_file(f"/{name}/m") for name in "abcde"] == [True, False, False, False, False]
    assert stat.S_ISREG(staging.find("/a/m").entry.mode)
