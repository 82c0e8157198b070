import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from cdn.catalog.entries import Chunk
from cdn.catalog.reader import Catalog
from cdn.catalog.schema import COUNTER_NAMES, Counters, NestedReference
from cdn.catalog.validate import validate, validate_pair
from cdn.catalog.writer import CatalogBuilder
from cdn.errors import DocumentError, PathExistsError, PathKindError, PathMissingError, UsageError
from cdn.hashing import Algorithm, Digest, digest_of, path_key
from tests.fakes.catalogs import TIME, CatalogFolder, directory_entry, file_entry, publish, symlink_entry
from tests.fakes.databases import connect

DIGEST = digest_of(Algorithm.SHAKE128, b"nested")
MARKER = ".cvmfscatalog"


@pytest.fixture
def folder(tmp_path):
    return CatalogFolder(tmp_path)


@pytest.fixture
def builder(folder):
    """A tree of some directories and files."""
    builder = folder.create()
    builder.insert_many(
        {
            "/a": directory_entry(),
            "/a/b": directory_entry(),
            "/a/b/c": directory_entry(),
            "/a/b/c/deep": file_entry(b"deep"),
            "/a/f": file_entry(b"f"),
            "/e": directory_entry(),
            "/l": symlink_entry(),
        }.items()
    )
    with builder:
        yield builder


def finish(builder, **values):
    return builder.finish(**({"revision": 1, "previous": None, "last_modified": TIME} | values))


def findings(file):
    with Catalog.open(file) as catalog:
        return list(validate(catalog))


def paths(catalog):
    return [path for path, _ in catalog.walk()]


def links(catalog, path):
    return catalog.find(path).link_count


# ----------------------------------------------------------------------------------------------------- what the file is


def test_the_file_is_what_real_clients_need(builder):
    finished = finish(builder)
    data = Path(finished.file).read_bytes()
    assert data[18:20] == b"\1\1"  # rollback format, not WAL
    assert len(data) == finished.size
    assert hashlib.sha256(data).digest() == finished.plain_digest
    connection = connect(finished.file)
    schema = dict(connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"))
    assert {"properties", "catalog", "chunks", "nested_catalogs", "bind_mountpoints", "statistics"} <= schema.keys()
    assert "WITHOUT ROWID" not in schema["catalog"]
    assert "(parent_1, parent_2)" in schema["idx_catalog_parent"]
    assert {kind for (kind,) in connection.execute("SELECT type FROM sqlite_master")} == {"table", "index"}
    names = {name for (name,) in connection.execute("SELECT counter FROM statistics")}
    assert names == {prefix + name for prefix in ("self_", "subtree_") for name in COUNTER_NAMES}
    properties = dict(connection.execute("SELECT key, value FROM properties"))
    assert properties == {"schema": "2.5", "schema_revision": "7", "revision": "1", "last_modified": str(TIME)}
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_no_column_that_old_clients_read_is_null_or_of_a_wrong_type(folder, builder):
    builder.insert("/\udcff", symlink_entry("\udcfe"))
    connection = connect(finish(builder).file)
    connection.text_factory = bytes
    types = "typeof(name), typeof(symlink), typeof(hardlinks), typeof(size), typeof(mode), typeof(mtime), typeof(flags)"
    expected = (b"text", b"text", *[b"integer"] * 5)
    assert set(connection.execute(f"SELECT {types} FROM catalog")) == {expected}
    assert connection.execute("SELECT count(*) FROM catalog WHERE hash = x''").fetchone() == (0,)
    assert connection.execute("SELECT symlink FROM catalog WHERE name = CAST(x'ff' AS TEXT)").fetchone() == (b"\xfe",)


def test_the_root_row_is_that_of_the_specification(builder):
    connection = connect(finish(builder).file)
    key = "md5path_1, md5path_2, parent_1, parent_2"
    row = connection.execute(f"SELECT {key}, name, flags, mode FROM catalog WHERE name = ''").fetchone()
    assert row == (338333539836370388, 9098107892288553193, 0, 0, "", 1, 0o40755)


def test_a_nested_root_says_where_it_belongs(folder):
    builder = folder.create("/sw/x86", directory_entry(is_nested_mountpoint=True, link_count=9))
    finished = finish(builder)
    assert (finished.root.is_nested_root, finished.root.is_nested_mountpoint, finished.root.link_count) == (
        True,
        False,
        2,
    )
    connection = connect(finished.file)
    assert connection.execute("SELECT value FROM properties WHERE key = 'root_prefix'").fetchone() == ("/sw/x86",)
    row = connection.execute("SELECT parent_1, parent_2, name, flags FROM catalog").fetchone()
    assert row == (*path_key("/sw"), "x86", 33)


@pytest.mark.parametrize("root", [file_entry(), symlink_entry()])
def test_only_a_directory_can_be_a_root(folder, root):
    with pytest.raises(UsageError):
        folder.create("", root)


def test_an_existing_file_is_not_overwritten(folder, tmp_path):
    (tmp_path / "there").write_text("precious")
    with pytest.raises(FileExistsError):
        CatalogBuilder.create(tmp_path / "there", root_prefix="", root=directory_entry())
    assert (tmp_path / "there").read_text() == "precious"


# ---------------------------------------------------------------------------------------------------------- insert etc.


def test_link_counts_of_directories_follow(builder):
    assert (links(builder, ""), links(builder, "/a"), links(builder, "/a/b"), links(builder, "/e")) == (4, 3, 3, 2)
    builder.insert("/e/new", directory_entry(link_count=77))
    assert (links(builder, "/e"), links(builder, "/e/new")) == (3, 2)
    builder.remove("/a")
    assert links(builder, "") == 3
    builder.replace("/l", directory_entry(link_count=77))
    assert (links(builder, ""), links(builder, "/l")) == (4, 2)
    builder.replace("/l", file_entry())
    assert links(builder, "") == 3
    builder.replace("/e", directory_entry(mode=0o40700, link_count=77))
    assert links(builder, "/e") == 3
    assert findings(finish(builder).file) == []


def test_the_name_of_an_entry_is_that_of_its_path(builder):
    builder.insert("/e/actual", replace(file_entry(), name="claimed"))
    assert builder.find("/e/actual").name == "actual"


@pytest.mark.parametrize("method", ["insert", "insert_many"])
@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/a/f", PathExistsError),
        ("/missing/f", PathMissingError),
        ("/a/f/below", PathKindError),
        ("/l/below", PathKindError),
        ("/e/..", UsageError),
        ("/e/", UsageError),
        ("relative", UsageError),
        ("", UsageError),
        ("/e/" + "n" * 256, UsageError),
    ],
)
def test_a_path_that_cannot_be_added_is_refused(builder, method, path, error):
    with pytest.raises(error):
        builder.insert(path, file_entry()) if method == "insert" else builder.insert_many([(path, file_entry())])


def test_a_refused_insert_leaves_the_builder_as_it_was(builder):
    before = paths(builder)
    for path in ("/a/f", "/missing/f", "/a/f/below"):
        with pytest.raises((PathExistsError, PathMissingError, PathKindError)):
            builder.insert(path, file_entry())
    with pytest.raises(UsageError):
        builder.insert("/e/f", file_entry(digest=None))
    assert paths(builder) == before
    assert findings(finish(builder).file) == []


def test_a_bulk_insert_that_fails_half_way_breaks_the_builder_for_good(builder):
    with pytest.raises(PathExistsError, match="/a/f"):
        builder.insert_many([("/new", file_entry()), ("/a/f", file_entry())])
    for step in (lambda: builder.insert("/x", file_entry()), lambda: builder.remove("/a"), lambda: finish(builder)):
        with pytest.raises(UsageError, match="half-way"):
            step()


def test_an_error_of_the_caller_in_the_middle_of_a_bulk_insert_passes_through(builder):
    def entries():
        yield "/new", file_entry()
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        builder.insert_many(entries())


def test_chunks_come_go_and_change_with_their_file(builder):
    chunks = tuple(Chunk(offset, 5, Digest(Algorithm.SHA1, b"c" * 20), b"p" * 32) for offset in (0, 5))
    chunked = file_entry(b"0123456789", digest=None, chunks=chunks, is_chunked=True)
    builder.insert("/chunked", chunked)
    assert builder.find("/chunked").chunks == chunks
    assert builder.own_counters.chunks == 2
    builder.replace("/chunked", replace(chunked, size=5, chunks=chunks[:1]))
    assert builder.find("/chunked").chunks == chunks[:1]
    builder.replace("/chunked", file_entry())
    assert builder.find("/chunked").chunks == ()
    builder.replace("/chunked", chunked)
    builder.remove("/chunked")
    connection = connect(finish(builder).file)
    assert connection.execute("SELECT count(*) FROM chunks").fetchone() == (0,)


@pytest.mark.parametrize("path", ["", "/a"])
def test_a_directory_that_holds_something_cannot_become_a_file(builder, path):
    with pytest.raises(PathKindError):
        builder.replace(path, file_entry())


def test_what_is_not_there_cannot_be_replaced_or_removed(builder):
    with pytest.raises(PathMissingError):
        builder.replace("/missing", file_entry())
    with pytest.raises(PathMissingError):
        builder.remove("/missing")


def test_the_root_cannot_be_removed(builder):
    with pytest.raises(PathKindError):
        builder.remove("")


def test_removing_a_directory_removes_everything_below(builder):
    assert builder.remove("/a") == []
    assert paths(builder) == ["", "/e", "/l"]


# ----------------------------------------------------------------------------------------------------------- hard links


def group(catalog, *names):
    return [(catalog.find(f"/e/{name}").hardlink_group, catalog.find(f"/e/{name}").link_count) for name in names]


def test_a_group_of_hard_links_counts_its_members(folder, builder):
    number = builder.next_hardlink_group()
    for name in "abc":
        builder.insert(f"/e/{name}", file_entry(hardlink_group=number, link_count=99))
    finished = finish(builder)
    with Catalog.open(finished.file) as catalog:
        assert group(catalog, *"abc") == [(1, 3)] * 3
    again = CatalogBuilder.modify(finished.file)
    assert again.next_hardlink_group() == 2
    again.remove("/e/a")
    with Catalog.open(finish(again).file) as catalog:
        assert group(catalog, *"bc") == [(1, 2)] * 2
    again = CatalogBuilder.modify(finished.file)
    again.replace("/e/b", file_entry(b"other"))
    with Catalog.open(finish(again).file) as catalog:
        assert group(catalog, *"bc") == [(0, 1)] * 2


def test_members_that_differ_or_lie_elsewhere_part_ways(builder):
    for path in ("/e/a", "/e/b", "/a/a", "/a/z"):
        builder.insert(path, file_entry(hardlink_group=5, link_count=2))
    for path in ("/e/c", "/e/d", "/a/single"):
        builder.insert(path, file_entry(hardlink_group=5, link_count=2, uid=len(path)))
    with Catalog.open(finish(builder).file) as catalog:
        assert list(validate(catalog)) == []
        groups = {path: catalog.find(path).hardlink_group for path in ("/e/a", "/e/b", "/a/a", "/a/z", "/e/c", "/e/d")}
        assert groups["/e/a"] == groups["/e/b"] != groups["/a/a"] == groups["/a/z"]
        assert groups["/e/c"] == groups["/e/d"] not in (0, groups["/e/a"], groups["/a/a"])
        assert catalog.find("/a/single").hardlink_group == 0


def test_groups_do_not_meet_when_catalogs_are_merged(folder):
    link = file_entry(hardlink_group=1, link_count=2)
    tree = {"": directory_entry(), "/n": directory_entry()}
    tree |= {"/a": link, "/b": link, "/n/a": link, "/n/b": link}
    builder = folder.modify(publish(folder, tree, {"/n"}).digest)
    with folder.load(builder.nested_at("/n").digest) as child:
        builder.merge(child)
    builder.remove(f"/n/{MARKER}")
    with Catalog.open(finish(builder).file) as catalog:
        assert list(validate(catalog)) == []
        assert catalog.find("/a").hardlink_group == catalog.find("/b").hardlink_group == 1
        assert catalog.find("/n/a").hardlink_group == catalog.find("/n/b").hardlink_group > 1


# ------------------------------------------------------------------------------------------------------ nested catalogs


def nest(folder, builder, path):
    child = builder.split(path, folder.new_file())
    child.insert(f"{path}/{MARKER}", file_entry(b""))
    finished = finish(child)
    reference = folder.keep(finished, path)
    builder.attach(reference, finished.total, root=finished.root)
    return reference


def test_a_split_moves_what_is_below_and_leaves_the_mountpoint(folder, builder):
    reference = nest(folder, builder, "/a")
    assert paths(builder) == ["", "/a", "/e", "/l"]
    finished = finish(builder)
    with Catalog.open(finished.file) as parent, folder.load(reference.digest) as child:
        assert parent.find("/a").is_nested_mountpoint
        assert paths(child) == ["/a", f"/a/{MARKER}", "/a/b", "/a/b/c", "/a/b/c/deep", "/a/f"]
        assert list(validate(parent)) == list(validate(child)) == []
        assert list(validate_pair(parent, reference, child, size=reference.size)) == []
        assert parent.subtree_counters == child.total_counters == finished.subtree
        assert parent.own_counters.nested == 1


def test_deeper_catalogs_move_with_the_directory_they_lie_in(folder, builder):
    deep = nest(folder, builder, "/a/b/c")
    upper = nest(folder, builder, "/a")
    assert builder.nested() == [upper]
    with folder.load(upper.digest) as child, folder.load(deep.digest) as grandchild:
        assert child.nested() == [deep]
        assert child.subtree_counters == grandchild.total_counters
        assert builder.subtree_counters == child.total_counters


def test_a_merge_brings_everything_back(folder, builder):
    before = dict(builder.walk())
    counters = builder.own_counters
    deep = nest(folder, builder, "/a/b/c")
    reference = nest(folder, builder, "/a")
    with folder.load(reference.digest) as child:
        builder.merge(child)
    assert builder.nested() == [deep]
    with folder.load(deep.digest) as child:
        assert builder.subtree_counters == child.total_counters
        builder.merge(child)
    for path in ("/a", "/a/b/c"):
        builder.remove(f"{path}/{MARKER}")
    assert dict(builder.walk()) == before
    assert builder.own_counters == counters
    assert builder.subtree_counters == Counters()


def test_a_catalog_being_written_can_be_merged_too(folder, builder):
    child = builder.split("/a", folder.new_file())
    child.insert("/a/new", file_entry())
    builder.merge(child)
    child.close()
    assert "/a/new" in paths(builder)
    assert findings(finish(builder).file) == []


def test_attaching_another_catalog_replaces_what_the_first_counted(folder, builder):
    reference = nest(folder, builder, "/a")
    other = Counters(regular=100, dir=1)
    builder.attach(NestedReference("/a", DIGEST, 5), other)
    assert builder.subtree_counters == other
    assert builder.nested() == [NestedReference("/a", DIGEST, 5)]
    assert builder.detach("/a") == NestedReference("/a", DIGEST, 5)
    assert builder.subtree_counters == Counters()
    assert (builder.find("/a").is_nested_mountpoint, links(builder, "/a")) == (False, 2)
    assert reference.path == "/a"


def test_what_a_catalog_counted_is_asked_for_when_it_is_not_known(folder, builder):
    reference = nest(folder, builder, "/a")
    root = folder.keep(finish(builder), "")
    for change in (lambda b: b.detach("/a"), lambda b: b.remove("/a")):
        builder = folder.modify(root.digest)
        change(builder)
        assert builder.subtree_counters == Counters()
        assert builder.nested() == []
    assert folder.modify(root.digest).remove("/a") == [reference]


def test_without_anybody_to_ask_it_must_be_given(folder, builder):
    reference = nest(folder, builder, "/a")
    total = folder.totals(reference)
    file = finish(builder).file
    builder = CatalogBuilder.modify(file)
    for change in (
        lambda: builder.remove("/a"),
        lambda: builder.detach("/a"),
        lambda: builder.attach(reference, total),
    ):
        with pytest.raises(UsageError, match="/a"):
            change()
    builder.attach(reference, total + Counters(regular=1), previous=total)
    assert builder.subtree_counters == total + Counters(regular=1)
    builder.close()


def test_a_mountpoint_follows_the_root_of_its_catalog(folder, builder):
    reference = nest(folder, builder, "/a")
    child = folder.modify(reference.digest)
    child.insert("/a/more", directory_entry())
    child.replace("/a", directory_entry(uid=5, mtime_ns=7))
    finished = finish(child, revision=2)
    builder.attach(folder.keep(finished, "/a"), finished.total, root=finished.root)
    entry = builder.find("/a")
    assert (entry.link_count, entry.uid, entry.mtime_ns, entry.is_nested_mountpoint) == (4, 5, 7, True)
    assert finished.replaced == folder.totals(reference)


@pytest.mark.parametrize("path", ["/a", "/a/f", "", "/missing"])
def test_a_catalog_is_attached_only_to_an_empty_directory(builder, path):
    with pytest.raises((PathKindError, PathMissingError)):
        builder.attach(NestedReference(path, DIGEST, 1), Counters())


@pytest.mark.parametrize("path", ["/a/f", "", "/missing"])
def test_only_a_directory_of_the_catalog_can_be_split_off(folder, builder, path):
    with pytest.raises((PathKindError, PathMissingError)):
        builder.split(path, folder.new_file())


def test_nothing_is_put_below_a_mountpoint(builder):
    builder.attach(NestedReference("/e", DIGEST, 1), Counters())
    with pytest.raises(PathKindError):
        builder.insert("/e/f", file_entry())
    with pytest.raises(PathKindError):
        builder.replace("/e", file_entry())
    with pytest.raises(PathKindError):
        builder.bind(NestedReference("/e", DIGEST, 1))


def test_a_catalog_is_merged_only_where_it_belongs(folder, builder):
    with pytest.raises(PathMissingError):
        builder.merge(folder.create("/elsewhere"))
    with pytest.raises(PathKindError):
        builder.merge(folder.create("/a"))
    with pytest.raises(PathKindError):
        builder.merge(folder.create(""))


def test_bind_mountpoints_are_set_and_moved(folder, builder):
    builder.bind(NestedReference("/e", DIGEST, 1))
    builder.bind(NestedReference("/e", DIGEST, 2))
    assert builder.bind_mountpoints() == [NestedReference("/e", DIGEST, 2)]
    assert builder.find("/e").is_bind_mountpoint
    with pytest.raises(PathKindError):
        builder.attach(NestedReference("/e", DIGEST, 1), Counters())
    with pytest.raises(PathKindError):
        builder.bind(NestedReference("/a", DIGEST, 1))
    builder.remove("/e")
    assert builder.bind_mountpoints() == []


# --------------------------------------------------------------------------------------------------------------- modify


def test_a_catalog_is_changed_in_place(folder):
    root = publish(folder, {"": directory_entry(), "/f": file_entry()})
    builder = folder.modify(root.digest)
    builder.insert("/g", file_entry())
    finished = finish(builder, revision=2, previous=root.digest, ttl_seconds=60)
    with Catalog.open(finished.file) as catalog:
        assert (catalog.revision, catalog.previous, catalog.ttl_seconds) == (2, root.digest, 60)
        assert paths(catalog) == ["", "/f", "/g"]
    with folder.load(root.digest) as catalog:
        assert paths(catalog) == ["", "/f"]


def test_what_others_wrote_beside_stays(builder):
    file = finish(builder, properties={"theirs": "kept", "volatile": "1"}).file
    connection = connect(file)
    connection.execute("CREATE TABLE theirs (x)")
    connection.execute("INSERT INTO theirs VALUES ('kept')")
    connection.execute("ALTER TABLE catalog ADD COLUMN theirs TEXT")
    connection.execute("UPDATE catalog SET theirs = name")
    connection.execute("INSERT INTO statistics VALUES ('self_theirs', 7)")
    connection.commit()
    connection.close()
    again = CatalogBuilder.modify(file)
    again.remove("/a")  # so much that the row ids are made dense
    again.replace("/l", symlink_entry("other"))
    finish(again, properties={"volatile": None})
    connection = connect(file)
    assert connection.execute("SELECT x FROM theirs").fetchone() == ("kept",)
    assert connection.execute("SELECT theirs FROM catalog WHERE name = 'l'").fetchone() == ("l",)
    assert connection.execute("SELECT value FROM statistics WHERE counter = 'self_theirs'").fetchone() == (7,)
    properties = dict(connection.execute("SELECT key, value FROM properties"))
    assert properties["theirs"] == "kept"
    assert "volatile" not in properties


def test_wrong_counters_are_put_right(builder):
    file = finish(builder).file
    connection = connect(file)
    connection.execute("UPDATE statistics SET value = 99 WHERE counter LIKE 'self%'")
    connection.execute("UPDATE statistics SET value = -3 WHERE counter = 'subtree_regular'")
    connection.commit()
    finished = finish(CatalogBuilder.modify(file))
    assert finished.own.regular == 2
    assert finished.subtree == Counters()


def test_row_ids_stay_dense_and_pages_used(folder):
    builder = folder.create()
    builder.insert_many((f"/f{number:04}", file_entry()) for number in range(3000))
    file = finish(builder).file
    builder = CatalogBuilder.modify(file)
    for number in range(2000):
        builder.remove(f"/f{number:04}")
    smaller = finish(builder)
    connection = connect(file)
    assert connection.execute("SELECT count(*), max(rowid) FROM catalog").fetchone() == (1001, 1001)
    assert connection.execute("PRAGMA freelist_count").fetchone() == (0,)
    assert smaller.own.regular == 1000
    assert Path(file).read_bytes()[18:20] == b"\1\1"


def test_a_damaged_file_is_not_taken_over(builder, tmp_path):
    (tmp_path / "x").write_bytes(b"no catalog at all" * 500)
    with pytest.raises(DocumentError):
        CatalogBuilder.modify(tmp_path / "x")
    file = finish(builder).file
    connection = connect(file)
    connection.execute("DELETE FROM catalog WHERE name = ''")
    connection.commit()
    with pytest.raises(DocumentError, match="root"):
        CatalogBuilder.modify(file)


def test_a_merge_with_a_damaged_row_is_refused(folder, builder):
    reference = nest(folder, builder, "/a")
    connection = connect(folder.path_of(reference.digest))
    connection.execute("UPDATE catalog SET name = '..' WHERE name = 'f'")
    connection.commit()
    with folder.load(reference.digest) as child, pytest.raises(DocumentError):
        builder.merge(child)


def test_weights_count_what_is_below(folder, builder):
    assert list(builder.subtree_weights()) == [
        ("/a/b/c", 2, 1),
        ("/a/b", 3, 1),
        ("/a", 5, 2),
        ("/e", 1, 0),
        ("", 8, 3),
    ]
    nest(folder, builder, "/a/b")
    assert list(builder.subtree_weights()) == [("/a", 3, 2), ("/e", 1, 0), ("", 6, 3)]
