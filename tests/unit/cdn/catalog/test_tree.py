import pytest

from cdn.catalog.schema import Counters, NestedReference
from cdn.catalog.tree import CatalogTree
from cdn.errors import DocumentError, ObjectMissingError, PathMissingError
from tests.fakes.catalogs import TIME, CatalogFolder, directory_entry, file_entry, publish
from tests.fakes.databases import connect

TREE = {"": directory_entry(), "/top": file_entry(b"top")}
for _name in ("a", "b", "c"):
    TREE |= {f"/{_name}": directory_entry(), f"/{_name}/in": directory_entry(), f"/{_name}/in/f": file_entry()}
MOUNTS = {"/a", "/b", "/b/in", "/c"}


@pytest.fixture
def folder(tmp_path):
    return CatalogFolder(tmp_path)


@pytest.fixture
def root(folder):
    return publish(folder, TREE, MOUNTS)


def test_paths_are_found_through_nested_catalogs(folder, root):
    with CatalogTree(folder, root.digest, root.size) as tree:
        assert tree.find("/b/in/f").is_file
        assert tree.find("/top").is_file
        assert tree.find("").is_directory
        assert tree.find("/b/in/missing") is None
        assert tree.find("/missing/f") is None


def test_the_entry_of_a_mountpoint_needs_only_the_catalog_above(folder, root):
    with CatalogTree(folder, root.digest) as tree:
        assert tree.find("/a").is_nested_mountpoint
        assert folder.loaded == [""]
        assert [entry.name for entry in tree.listing("/a")] == [".cvmfscatalog", "in"]
        assert folder.loaded == ["", "/a"]


def test_a_walk_goes_through_every_catalog(folder, root):
    with CatalogTree(folder, root.digest) as tree:
        markers = {f"{mount}/.cvmfscatalog" for mount in MOUNTS}
        found = [path for path, _ in tree.walk()]
        assert set(found) == set(TREE) | markers
        assert found == sorted(found, key=lambda path: path.split("/"))
        assert [path for path, _ in tree.walk("/b/in")] == ["/b/in", "/b/in/.cvmfscatalog", "/b/in/f"]
        assert [path for path, _ in tree.walk("/top")] == ["/top"]
        with pytest.raises(PathMissingError):
            list(tree.walk("/missing"))


def test_every_catalog_and_every_object_is_listed(folder, root):
    with CatalogTree(folder, root.digest) as tree:
        assert [reference.path for reference, _ in tree.catalogs()] == ["", "/a", "/b", "/b/in", "/c"]
        contents = {file_entry(content).digest for content in (b"top", b"content", b"")}
        assert {name.digest for name, _ in tree.references()} == contents


def test_few_catalogs_are_open_at_a_time_and_none_twice_in_a_row(folder, root):
    with CatalogTree(folder, root.digest, open_max=3) as tree:
        list(tree.walk())
        assert len(tree._open) == 3
        tree.find("/b/in/f")
        folder.loaded.clear()
        tree.find("/b/in/f")
        assert "/b/in" not in folder.loaded


def test_a_catalog_that_is_being_read_is_not_closed(folder, root):
    with CatalogTree(folder, root.digest, open_max=0) as tree:
        listing = tree.listing("/a")
        assert next(listing).name == ".cvmfscatalog"
        assert tree.find("/b/in/f") is not None
        assert [entry.name for entry in listing] == ["in"]


def test_a_missing_catalog_is_the_loaders_error(folder, root):
    with folder.load(root.digest) as catalog:
        folder.path_of(catalog.nested_at("/a").digest).unlink()
    with CatalogTree(folder, root.digest) as tree:
        assert tree.find("/b/in/f") is not None
        with pytest.raises(ObjectMissingError):
            tree.find("/a/in")


def test_a_catalog_attached_where_it_does_not_belong_is_damage(folder, root):
    connection = connect(folder.path_of(root.digest))
    digest = connection.execute("SELECT sha1 FROM nested_catalogs WHERE path = '/a'").fetchone()
    connection.execute("UPDATE nested_catalogs SET sha1 = ? WHERE path = '/c'", digest)
    connection.commit()
    with CatalogTree(folder, root.digest) as tree, pytest.raises(DocumentError, match="made for"):
        tree.find("/c/in")


@pytest.fixture
def with_snapshot(folder, root):
    """A newer revision in which the older one is bind-mounted."""
    builder = folder.modify(root.digest)
    builder.insert("/.cvmfs", directory_entry(is_hidden=True))
    builder.insert("/.cvmfs/v1", directory_entry())
    builder.bind(NestedReference("/.cvmfs/v1", root.digest, root.size))
    builder.replace("/top", file_entry(b"new"))
    return folder.keep(builder.finish(revision=2, previous=root.digest, last_modified=TIME), "")


def test_a_bind_mountpoint_leads_into_another_revision(folder, root, with_snapshot):
    with CatalogTree(folder, with_snapshot.digest) as tree:
        assert tree.find("/.cvmfs").is_hidden
        assert tree.find("/.cvmfs/v1").is_bind_mountpoint
        assert tree.find("/.cvmfs/v1/top").digest == file_entry(b"top").digest
        assert tree.find("/top").digest == file_entry(b"new").digest
        assert [entry.name for entry in tree.listing("/.cvmfs/v1")] == ["a", "b", "c", "top"]


def test_nested_catalogs_of_a_bind_mounted_revision_are_where_it_is_mounted(folder, with_snapshot):
    with CatalogTree(folder, with_snapshot.digest) as tree:
        assert tree.find("/.cvmfs/v1/b/in/f").is_file
        assert [entry.name for entry in tree.listing("/.cvmfs/v1/b/in")] == [".cvmfscatalog", "f"]


def test_walks_and_references_leave_other_revisions_alone(folder, with_snapshot):
    with CatalogTree(folder, with_snapshot.digest) as tree:
        found = [path for path, _ in tree.walk()]
        assert "/.cvmfs/v1" in found
        assert "/.cvmfs/v1/top" not in found
        assert len(list(tree.catalogs())) == 5
        assert "/.cvmfs/v1/b/in/f" in [path for path, _ in tree.walk("/.cvmfs", into_binds=True)]


def test_counters_of_the_root_are_the_sum_of_what_is_there(folder, root):
    with CatalogTree(folder, root.digest) as tree:
        (_, catalog), *_ = tree.catalogs()
        total = sum((Counters.of_entry(entry) for _, entry in tree.walk()), Counters())
        # Each mountpoint is a row twice: in its parent, and as the root of its own catalog.
        assert catalog.total_counters == total + Counters(dir=len(MOUNTS))
