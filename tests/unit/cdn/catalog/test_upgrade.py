"""Catalogs of every older schema: read as they are, and written after an upgrade."""

import pytest

from cdn.catalog.reader import Catalog
from cdn.catalog.schema import COUNTER_NAMES, Counters
from cdn.catalog.validate import validate
from cdn.catalog.writer import CatalogBuilder
from cdn.errors import DocumentError
from cdn.hashing import Algorithm, Digest, path_key
from tests.fakes.catalogs import file_entry
from tests.fakes.databases import connect

HASH = bytes(range(20))
NESTED = "ab" * 20
LATER_COUNTERS = {"xattr": 2, "external": 3, "external_file_size": 3, "special": 5}


def rows():
    """Path, hash, size, mode, flags, symlink of a small tree with a nested catalog."""
    return [
        ("", None, 4096, 0o40755, 1, ""),
        ("/dir", None, 4096, 0o40755, 1, ""),
        ("/dir/file", HASH, 3, 0o100644, 4, ""),
        ("/dir/link", None, 4, 0o120777, 12, "file"),
        ("/nested", None, 4096, 0o40755, 3, ""),
    ]


def write(file, version, revision):
    """A catalog as a publisher of that time wrote it."""
    is_legacy = version < 2.1
    connection = connect(file)
    connection.execute("CREATE TABLE properties (key TEXT PRIMARY KEY, value TEXT)")
    properties = (
        {"revision": 4, "last_modified": 5, "root_prefix": ""} if is_legacy else {"revision": 4, "last_modified": 5}
    )
    if version != 1.0:
        properties["schema"] = version
    if revision:
        properties["schema_revision"] = revision
    connection.executemany("INSERT INTO properties VALUES (?, ?)", properties.items())
    own = "inode INTEGER" if is_legacy else "hardlinks INTEGER, uid INTEGER, gid INTEGER"
    own += ", xattr BLOB" * (revision >= 2) + ", mtimens INTEGER" * (revision >= 7)
    connection.execute(
        "CREATE TABLE catalog (md5path_1 INTEGER, md5path_2 INTEGER, parent_1 INTEGER, parent_2 INTEGER, hash BLOB, "
        f"size INTEGER, mode INTEGER, mtime INTEGER, flags INTEGER, name TEXT, symlink TEXT, {own}, "
        "PRIMARY KEY (md5path_1, md5path_2))"
    )
    for number, (path, content, size, mode, flags, symlink) in enumerate(rows()):
        parent, _, name = path.rpartition("/")
        values = [
            *path_key(path),
            *(path_key(parent) if path else (0, 0)),
            content,
            size,
            mode,
            1000,
            flags,
            name,
            symlink,
        ]
        links = {"": 4, "/dir": 2, "/nested": 2}.get(path, 1)
        values += [number] if is_legacy else [links, 10, 20]
        values += [b"\1\1\1\1kv" if name == "file" else None] * (revision >= 2) + [7] * (revision >= 7)
        connection.execute(f"INSERT INTO catalog VALUES ({', '.join('?' * len(values))})", values)
    connection.execute(
        "CREATE TABLE nested_catalogs (path TEXT PRIMARY KEY, sha1 TEXT" + ", size INTEGER" * (revision >= 1) + ")"
    )
    connection.execute(f"INSERT INTO nested_catalogs VALUES ('/nested', '{NESTED}'" + ", 77" * (revision >= 1) + ")")
    if not is_legacy:
        connection.execute(
            "CREATE TABLE chunks (md5path_1 INTEGER, md5path_2 INTEGER, offset INTEGER, size INTEGER, hash BLOB, "
            "PRIMARY KEY (md5path_1, md5path_2, offset, size))"
        )
        connection.execute("CREATE TABLE statistics (counter TEXT PRIMARY KEY, value INTEGER)")
        own = Counters(regular=1, symlink=1, dir=3, nested=1, file_size=3, xattr=1)
        for name in COUNTER_NAMES:
            if LATER_COUNTERS.get(name, 0) <= revision:
                connection.execute("INSERT INTO statistics VALUES (?, ?)", (f"self_{name}", getattr(own, name)))
                connection.execute("INSERT INTO statistics VALUES (?, ?)", (f"subtree_{name}", 0))
    if revision >= 4:
        connection.execute("CREATE TABLE bind_mountpoints (path TEXT PRIMARY KEY, sha1 TEXT, size INTEGER)")
    connection.commit()
    connection.close()
    return file


SCHEMAS = [(1.0, 0), (1.2, 0), (2.4, 0), *((2.5, revision) for revision in range(8))]


@pytest.mark.parametrize(("version", "revision"), SCHEMAS)
def test_every_schema_is_read(tmp_path, version, revision):
    with Catalog.open(write(tmp_path / "old", version, revision)) as catalog:
        assert (catalog.schema, catalog.schema_revision, catalog.revision) == (version, revision, 4)
        assert [path for path, _ in catalog.walk()] == [path for path, *_ in rows()]
        entry = catalog.find("/dir/file")
        assert entry.digest == Digest(Algorithm.SHA1, HASH)
        assert (entry.uid, entry.gid) == ((0, 0) if version < 2 else (10, 20))
        assert entry.link_count == 1
        assert entry.mtime_ns == (7 if revision >= 7 else 0)
        assert entry.xattrs == (((b"k", b"v"),) if revision >= 2 else ())
        (nested,) = catalog.nested()
        assert (nested.path, nested.digest.text, nested.size) == ("/nested", NESTED, 77 if revision >= 1 else 0)
        assert catalog.covering("/nested/x") == nested
        assert [digest.digest.value for digest, _ in catalog.references()] == [HASH]
        assert catalog.own_counters.regular == (0 if version < 2 else 1)


@pytest.mark.parametrize(("version", "revision"), SCHEMAS)
def test_every_schema_can_be_written_after_an_upgrade(tmp_path, version, revision):
    file = write(tmp_path / "old", version, revision)
    with Catalog.open(file) as catalog:
        before = list(catalog.walk())
    builder = CatalogBuilder.modify(file)
    builder.insert("/dir/new", file_entry(plain_digest=b"p" * 32))
    finished = builder.finish(revision=5, previous=None, last_modified=6)
    assert finished.own == Counters(
        regular=2, symlink=1, dir=3, nested=1, file_size=3 + 7, xattr=1 if revision >= 2 else 0
    )
    with Catalog.open(file) as catalog:
        assert (catalog.schema, catalog.schema_revision) == (2.5, 7)
        assert list(validate(catalog)) == []
        after = dict(catalog.walk())
        assert after.pop("/dir/new").plain_digest == b"p" * 32
        assert [path for path, _ in before] == list(after)
        assert after["/dir/file"] == dict(before)["/dir/file"]
        assert {path: after[path].link_count for path in ("", "/dir")} == {"": 4, "/dir": 2}


def test_a_revision_newer_than_ours_is_kept(tmp_path):
    file = write(tmp_path / "new", 2.5, 9)
    CatalogBuilder.modify(file).finish(revision=5, previous=None, last_modified=6)
    with Catalog.open(file) as catalog:
        assert catalog.schema_revision == 9


def test_the_layout_that_does_not_say_the_digests_of_nested_catalogs_is_refused(tmp_path):
    file = write(tmp_path / "old", 1.0, 0)
    connection = connect(file)
    connection.execute("ALTER TABLE nested_catalogs DROP COLUMN sha1")
    connection.commit()
    with pytest.raises(DocumentError, match="nested_catalogs"):
        Catalog.open(file)


def test_chunk_rows_of_an_old_catalog_are_read_without_our_column(tmp_path):
    file = write(tmp_path / "old", 2.5, 3)
    connection = connect(file)
    connection.execute("UPDATE catalog SET flags = 68 + 512, hash = NULL WHERE name = 'file'")
    connection.execute("INSERT INTO chunks VALUES (?, ?, 0, 3, ?)", (*path_key("/dir/file"), HASH))
    connection.commit()
    with Catalog.open(file) as catalog:
        (chunk,) = catalog.find("/dir/file").chunks
        assert (chunk.digest, chunk.plain_digest) == (Digest(Algorithm.SHAKE128, HASH), None)
