import pytest

from cdn.catalog.entries import Chunk
from cdn.catalog.reader import Catalog
from cdn.catalog.schema import Counters, NestedReference
from cdn.compression import Compression
from cdn.errors import DocumentError, PathMissingError
from cdn.hashing import Algorithm, Digest, digest_of, path_key
from cdn.objects import Kind, ObjectName
from tests.fakes.catalogs import TIME, CatalogFolder, directory_entry, file_entry, publish, symlink_entry
from tests.fakes.databases import connect

DIGEST = digest_of(Algorithm.SHA1, b"nested")
TREE = {
    "": directory_entry(),
    "/a": directory_entry(uid=7),
    "/a/b": directory_entry(),
    "/a/b/f": file_entry(b"f", plain_digest=b"p" * 32),
    "/a.b": symlink_entry("a/b"),
    "/ünï": file_entry(b"u", xattrs=((b"user.a", b"1"),)),
    "/\udcff": file_entry(b"odd", is_hidden=True),
}


@pytest.fixture
def folder(tmp_path):
    return CatalogFolder(tmp_path)


@pytest.fixture
def file(folder):
    return folder.path_of(publish(folder, TREE, revision=3).digest)


def change(file, *statements):
    """Does to a catalog file what its writer never would."""
    connection = connect(file)
    for statement in statements:
        connection.execute(*([statement] if isinstance(statement, str) else statement))
    connection.commit()
    connection.close()
    return file


def test_a_catalog_says_what_it_is(file):
    with Catalog.open(file) as catalog:
        assert (catalog.schema, catalog.schema_revision, catalog.revision) == (2.5, 7, 3)
        assert (catalog.root_prefix, catalog.previous, catalog.last_modified) == ("", None, TIME)
        assert (catalog.ttl_seconds, catalog.is_volatile, catalog.authorization, catalog.branch) == (
            None,
            False,
            None,
            "",
        )
        assert catalog.entry_count == len(TREE)
        assert catalog.own_counters == Counters(
            regular=3, symlink=1, dir=3, xattr=1, file_size=len(b"f") + len(b"u") + len(b"odd")
        )
        assert catalog.subtree_counters == Counters()


def test_properties_of_a_root_catalog_are_read(folder):
    builder = folder.create()
    finished = builder.finish(
        revision=9,
        previous=DIGEST,
        last_modified=TIME,
        ttl_seconds=600,
        properties={"volatile": "1", "voms_authz": "vo:/group", "branch": "test"},
    )
    with Catalog.open(finished.file) as catalog:
        assert (catalog.previous, catalog.ttl_seconds) == (DIGEST, 600)
        assert (catalog.is_volatile, catalog.authorization, catalog.branch) == (True, "vo:/group", "test")


def test_entries_are_found_by_path(file):
    with Catalog.open(file) as catalog:
        for path, entry in TREE.items():
            found = catalog.find(path)
            assert found is not None
            assert (found.mode, found.digest, found.uid, found.xattrs) == (
                entry.mode,
                entry.digest,
                entry.uid,
                entry.xattrs,
            )
        assert catalog.find("/a/b/f").plain_digest == b"p" * 32
        assert catalog.find("/missing") is None
        assert catalog.find("/a/") is None


def test_a_listing_is_sorted_by_bytes_and_has_hidden_entries(file):
    with Catalog.open(file) as catalog:
        assert [entry.name for entry in catalog.listing("")] == ["a", "a.b", "ünï", "\udcff"]
        assert list(catalog.listing("/missing")) == []
        assert list(catalog.listing("/a/b/f")) == []


def test_a_listing_of_many_is_complete_while_others_are_asked_for(folder):
    names = [f"f{number:03}" for number in range(200)]
    reference = publish(folder, {"": directory_entry()} | {f"/{name}": file_entry() for name in names})
    with folder.load(reference.digest) as catalog:
        found = []
        for entry in catalog.listing(""):
            found.append(entry.name)
            assert next(catalog.listing("")).name == "f000"
        assert found == names


def test_a_walk_meets_parents_first_and_siblings_in_order(file):
    with Catalog.open(file) as catalog:
        assert [path for path, _ in catalog.walk()] == ["", "/a", "/a/b", "/a/b/f", "/a.b", "/ünï", "/\udcff"]
        assert [path for path, _ in catalog.walk("/a/b")] == ["/a/b", "/a/b/f"]
        assert [path for path, _ in catalog.walk("/a.b")] == ["/a.b"]
        with pytest.raises(PathMissingError):
            list(catalog.walk("/missing"))


def test_references_are_distinct_and_leave_out_external_files(folder):
    chunk = Chunk(0, 5, Digest(Algorithm.SHA1, b"c" * 20))
    external = Digest(Algorithm.SHA1, b"x" * 20)
    tree = {
        "": directory_entry(),
        "/one": file_entry(b"same"),
        "/two": file_entry(b"same"),
        "/raw": file_entry(b"raw", compression=Compression.NONE),
        "/chunked": file_entry(b"12345", digest=None, chunks=(chunk,)),
        "/external": file_entry(digest=external, is_external=True),
        "/external chunks": file_entry(b"12345", digest=None, chunks=(Chunk(0, 5, external),), is_external=True),
        "/link": symlink_entry(),
    }
    with folder.load(publish(folder, tree).digest) as catalog:
        found = list(catalog.references())
    assert len(found) == 3
    assert set(found) == {
        (ObjectName(file_entry(b"same").digest), Compression.ZLIB),
        (ObjectName(file_entry(b"raw").digest), Compression.NONE),
        (ObjectName(chunk.digest, Kind.CHUNK), Compression.ZLIB),
    }


def test_nested_references_cover_what_is_below_them(folder):
    root = publish(folder, TREE | {"/a/b/c": directory_entry()}, {"/a/b"})
    with folder.load(root.digest) as catalog:
        (reference,) = catalog.nested()
        assert reference.path == "/a/b"
        assert catalog.nested_at("/a/b") == reference
        assert catalog.nested_at("/a") is None
        assert catalog.covering("/a/b") == catalog.covering("/a/b/c/d") == reference
        assert catalog.covering("/a/bc") is None
        assert catalog.covering("") is None
        assert [path for path, _ in catalog.walk("/a")] == ["/a", "/a/b"]
        assert catalog.find("/a/b/f") is None
        with folder.load(reference.digest) as nested:
            assert nested.root_prefix == "/a/b"
            assert nested.covering("/a/b/c") is None
            assert [path for path, _ in nested.walk()] == ["/a/b", "/a/b/.cvmfscatalog", "/a/b/c", "/a/b/f"]


def test_bind_mountpoints_are_covered_but_not_nested(folder):
    builder = folder.create()
    builder.insert("/tag", directory_entry())
    builder.bind(NestedReference("/tag", DIGEST, 5))
    finished = builder.finish(revision=1, previous=None, last_modified=0)
    with Catalog.open(finished.file) as catalog:
        assert catalog.nested() == []
        assert catalog.bind_mountpoints() == [NestedReference("/tag", DIGEST, 5)]
        assert catalog.covering("/tag/x") == NestedReference("/tag", DIGEST, 5)
        assert catalog.translated("/elsewhere/x", "/elsewhere") == "/x"
        assert finished.own.nested == 0


# --------------------------------------------------------------------------------------------------------------- damage


NAME = "UPDATE catalog SET name = CAST(? AS TEXT) WHERE name = 'f'"


@pytest.mark.parametrize(
    "statement",
    [
        (NAME, (b"..",)),
        (NAME, (b"../../etc",)),
        (NAME, (b"a\0b",)),
        "UPDATE catalog SET name = NULL WHERE name = 'f'",
        "UPDATE catalog SET name = '' WHERE name = 'f'",
        "UPDATE catalog SET symlink = NULL WHERE name = 'f'",
        "UPDATE catalog SET name = x'6666' WHERE name = 'f'",
        "UPDATE catalog SET size = -5 WHERE name = 'f'",
        "UPDATE catalog SET size = 'large' WHERE name = 'f'",
        "UPDATE catalog SET mode = 420 WHERE name = 'f'",
        "UPDATE catalog SET hash = x'00' WHERE name = 'f'",
        "UPDATE catalog SET xattr = 'text' WHERE name = 'f'",
        "UPDATE catalog SET flags = flags | 64 WHERE name = 'f'",
        "UPDATE catalog SET name = zeroblob(100000) WHERE name = 'f'",
    ],
)
def test_a_damaged_row_is_damage_wherever_it_is_met(file, statement):
    with Catalog.open(change(file, statement), document="catalog /x") as catalog:
        for read in (catalog.walk, lambda: catalog.listing("/a/b")):
            with pytest.raises(DocumentError, match="catalog /x is damaged"):
                list(read())
        with pytest.raises(DocumentError):
            catalog.find("/a/b/f")


def test_two_entries_of_the_same_name_are_damage(file):
    key = path_key("/another")
    statement = f"""INSERT INTO catalog SELECT {key[0]}, {key[1]}, parent_1, parent_2, hardlinks, hash, size, mode,
        mtime, mtimens, flags, name, symlink, uid, gid, xattr, plain_digest FROM catalog WHERE name = 'a.b'"""
    with Catalog.open(change(file, statement)) as catalog, pytest.raises(DocumentError, match="two entries"):
        list(catalog.listing(""))


def test_a_row_that_is_its_own_parent_ends_the_walk(file):
    statement = "UPDATE catalog SET parent_1 = md5path_1, parent_2 = md5path_2 WHERE name = 'b'"
    with Catalog.open(change(file, statement)) as catalog:
        assert "/a/b" not in [path for path, _ in catalog.walk()]
        assert [path for path, _ in catalog.walk("/a/b")] == ["/a/b", "/a/b/b", "/a/b/f"]


def test_a_ring_of_directories_ends_the_walk(file):
    one, other = path_key("/a"), path_key("/a/b")
    statements = [
        f"UPDATE catalog SET parent_1 = {other[0]}, parent_2 = {other[1]} WHERE name = 'a'",
        f"UPDATE catalog SET parent_1 = {one[0]}, parent_2 = {one[1]} WHERE name = 'b'",
    ]
    with Catalog.open(change(file, *statements)) as catalog:
        assert [path for path, _ in catalog.walk()] == ["", "/a.b", "/ünï", "/\udcff"]


def test_a_tree_deeper_than_paths_can_say_is_damage(folder):
    builder = folder.create()
    finished = builder.finish(revision=1, previous=None, last_modified=0)
    connection = connect(finished.file)
    path = ""
    for _ in range(30):
        parent, path = path_key(path), f"{path}/{'d' * 200}"
        row = (*path_key(path), *parent, 2, None, 4096, 0o40755, 0, None, 1, "d" * 200, "", 0, 0, None, None)
        connection.execute(f"INSERT INTO catalog VALUES ({', '.join('?' * 17)})", row)
    connection.commit()
    connection.close()
    with Catalog.open(finished.file) as catalog, pytest.raises(DocumentError, match="deeper"):
        list(catalog.walk())


@pytest.mark.parametrize(
    "values",
    [
        ("/a/b", "nonsense", 5),
        ("/a/b", None, 5),
        (None, "a" * 40, 5),
        ("/a/b", "a" * 40, -5),
        ("/a/b", "a" * 40, "large"),
        ("a/b", "a" * 40, 5),
        ("/a/../../b", "a" * 40, 5),
        ("", "a" * 40, 5),
        ("/", "a" * 40, 5),
        (b"/a/b", "a" * 40, 5),
    ],
)
@pytest.mark.parametrize("table", ["nested_catalogs", "bind_mountpoints"])
def test_a_damaged_reference_is_damage(file, values, table):
    with Catalog.open(change(file, (f"INSERT INTO {table} VALUES (?, ?, ?)", values))) as catalog:
        with pytest.raises(DocumentError):
            catalog.nested() + catalog.bind_mountpoints()
        with pytest.raises(DocumentError):
            catalog.covering("/a/b/f")


def test_a_reference_outside_of_a_nested_catalog_is_damage(folder):
    root = publish(folder, TREE, {"/a"})
    with folder.load(root.digest) as catalog:
        digest = catalog.nested()[0].digest
    file = change(folder.path_of(digest), ("INSERT INTO nested_catalogs VALUES ('/b', ?, 5)", ("a" * 40,)))
    with Catalog.open(file) as catalog, pytest.raises(DocumentError, match="does not lie below"):
        catalog.nested()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE properties SET value = '2.3' WHERE key = 'schema'",
        "UPDATE properties SET value = '2.6' WHERE key = 'schema'",
        "UPDATE properties SET value = 'nan' WHERE key = 'schema'",
        "UPDATE properties SET value = 'two' WHERE key = 'schema'",
        "UPDATE properties SET value = '-1' WHERE key = 'schema'",
        "UPDATE properties SET value = 'x' WHERE key = 'schema_revision'",
        "UPDATE properties SET value = 'x' WHERE key = 'revision'",
        "UPDATE properties SET value = '99999999999999999999999' WHERE key = 'revision'",
        "UPDATE properties SET value = '1.5' WHERE key = 'last_modified'",
        "INSERT INTO properties VALUES ('previous_revision', 'nonsense')",
        "INSERT INTO properties VALUES ('root_prefix', '../x')",
        "INSERT INTO properties VALUES ('root_prefix', '/x/')",
        "DELETE FROM statistics WHERE counter = 'self_regular'",
        "DELETE FROM statistics WHERE counter = 'subtree_special'",
        "UPDATE statistics SET value = 'many' WHERE counter = 'self_regular'",
        "UPDATE statistics SET value = NULL WHERE counter = 'self_regular'",
        "DROP TABLE catalog",
        "DROP TABLE properties",
        "DROP TABLE nested_catalogs",
        "DROP TABLE bind_mountpoints",
        "DROP TABLE chunks",
        "DROP TABLE statistics",
        "ALTER TABLE catalog DROP COLUMN mtimens",
        "ALTER TABLE catalog DROP COLUMN xattr",
        "CREATE VIEW v AS SELECT 1",
    ],
)
def test_a_catalog_that_real_clients_refuse_is_refused(file, statement):
    with pytest.raises(DocumentError):
        Catalog.open(change(file, statement))


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO properties VALUES ('future', 'x')",
        "CREATE TABLE future (x)",
        "ALTER TABLE catalog ADD COLUMN future TEXT",
        "INSERT INTO statistics VALUES ('self_future', 1)",
        "UPDATE properties SET value = '9' WHERE key = 'schema_revision'",
        "INSERT INTO properties VALUES ('previous_revision', '')",
        "DROP INDEX idx_catalog_parent",
        "ALTER TABLE catalog DROP COLUMN plain_digest",
        "ALTER TABLE chunks DROP COLUMN plain_digest",
        "UPDATE nested_catalogs SET size = NULL",
        "UPDATE catalog SET hardlinks = 0",
    ],
)
def test_what_real_clients_tolerate_is_tolerated(file, statement):
    with Catalog.open(change(file, statement)) as catalog:
        assert len(list(catalog.walk())) == len(TREE)


def test_a_catalog_without_a_root_has_none(file):
    statement = "DELETE FROM catalog WHERE name = ''"
    with Catalog.open(change(file, statement)) as catalog, pytest.raises(DocumentError, match="root"):
        list(catalog.walk())


def test_what_is_no_catalog_is_refused(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"text" * 2000)
    with pytest.raises(DocumentError):
        Catalog.open(file)
    with pytest.raises(FileNotFoundError):
        Catalog.open(tmp_path / "missing")


def test_a_reference_to_a_wrong_digest_length_is_damage(file):
    statement = "UPDATE catalog SET hash = x'0102' WHERE name = 'f'"
    with Catalog.open(change(file, statement)) as catalog, pytest.raises(DocumentError):
        list(catalog.references())
