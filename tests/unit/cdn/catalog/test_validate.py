"""Each rule of the format's checker, with a catalog that breaks it and nothing else."""

import stat

import pytest

from cdn.catalog.entries import Chunk
from cdn.catalog.reader import Catalog
from cdn.catalog.schema import Counters, NestedReference
from cdn.catalog.validate import Rule, validate, validate_pair, validate_subtree
from cdn.hashing import Algorithm, Digest, digest_of, path_key
from tests.fakes.catalogs import CatalogFolder, directory_entry, file_entry, publish, symlink_entry
from tests.fakes.databases import connect

DIGEST = Digest(Algorithm.SHAKE128, b"c" * 20)
CHUNKS = tuple(Chunk(offset, 5, DIGEST) for offset in (0, 5))
TREE = {
    "": directory_entry(),
    "/d": directory_entry(),
    "/d/e": directory_entry(),
    "/d/f": file_entry(b"content", xattrs=((b"k", b"v"),)),
    "/d/h1": file_entry(hardlink_group=1, link_count=2),
    "/d/h2": file_entry(hardlink_group=1, link_count=2),
    "/d/l": symlink_entry(),
    "/d/c": file_entry(b"0123456789", digest=None, chunks=CHUNKS),
    "/d/p": directory_entry(mode=stat.S_IFIFO | 0o600, size=0, link_count=1),
    "/n": directory_entry(),
    "/n/x": file_entry(),
}
INSERT = """
INSERT INTO catalog
SELECT {}, hardlinks, hash, size, mode, mtime, mtimens, flags, {}, symlink, uid, gid, xattr, plain_digest
FROM catalog WHERE name = 'f'"""
REFERENCE = f"INSERT INTO {{}} VALUES ('{{}}', '{digest_of(Algorithm.SHA1, b'')}', 0)"


@pytest.fixture
def folder(tmp_path):
    return CatalogFolder(tmp_path)


@pytest.fixture
def root(folder):
    return publish(folder, TREE, {"/n"})


def open_changed(file, *statements):
    connection = connect(file)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()
    return Catalog.open(file)


def insert(path, *, parent=None, name=None):
    """A copy of the file's row under another path."""
    directory, _, own = path.rpartition("/")
    keys = (*path_key(path), *path_key(directory if parent is None else parent))
    return INSERT.format(", ".join(map(str, keys)), f"'{own if name is None else name}'")


def counted(**numbers):
    """The statements that keep the counters right, so that only one rule is broken."""
    return [
        f"UPDATE statistics SET value = value + {number} WHERE counter = 'self_{name}'"
        for name, number in numbers.items()
    ]


def test_a_good_catalog_has_no_findings(folder, root):
    with folder.load(root.digest) as parent:
        assert list(validate(parent)) == []
        (reference,) = parent.nested()
        with folder.load(reference.digest) as child:
            assert list(validate(child)) == []
            assert list(validate_pair(parent, reference, child, size=reference.size)) == []
            assert list(validate_subtree(parent, child.total_counters)) == []


FILE = {"regular": 1, "file_size": 7, "xattr": 1}


@pytest.mark.parametrize(
    ("rule", "path", "statements"),
    [
        (Rule.KEY, "", ["UPDATE catalog SET parent_1 = 5 WHERE name = ''"]),
        (Rule.FLAGS, "", ["UPDATE catalog SET flags = 33 WHERE name = ''"]),
        (Rule.ROW, "/d/f", ["UPDATE catalog SET size = 'x' WHERE name = 'f'"]),
        (Rule.ROW, "/d/f", ["UPDATE catalog SET mode = 420 WHERE name = 'f'"]),
        (Rule.ROW, "/d/f", ["UPDATE catalog SET symlink = NULL WHERE name = 'f'"]),
        (Rule.NAME, "/d", ["UPDATE catalog SET name = '' WHERE name = 'f'"]),
        (Rule.NAME, "/d", ["UPDATE catalog SET name = NULL WHERE name = 'f'"]),
        (Rule.NAME, "/d/..", ["UPDATE catalog SET name = '..' WHERE name = 'f'"]),
        (Rule.KEY, "/d/f", ["UPDATE catalog SET md5path_1 = 5 WHERE name = 'f'"]),
        (Rule.DUPLICATE, "/d/f", [insert("/d/g", name="f"), *counted(**FILE)]),
        (Rule.FLAGS, "/d/f", ["UPDATE catalog SET flags = flags | 1 WHERE name = 'f'"]),
        (Rule.FLAGS, "/d/f", ["UPDATE catalog SET flags = flags | 2 WHERE name = 'f'"]),
        (Rule.FLAGS, "/d/e", ["UPDATE catalog SET flags = flags | 64 WHERE name = 'e'"]),
        (Rule.FLAGS, "/d/l", ["UPDATE catalog SET flags = flags | 0x10000 WHERE name = 'l'"]),
        (Rule.FLAGS, "/d/l", ["UPDATE catalog SET flags = flags | 128 WHERE name = 'l'"]),
        (Rule.MARKER, "/d/.cvmfscatalog", [insert("/d/.cvmfscatalog"), *counted(**FILE)]),
        (Rule.MARKER, "/.cvmfscatalog", [insert("/.cvmfscatalog"), *counted(**FILE)]),
        (Rule.DIGEST, "/d/f", ["UPDATE catalog SET hash = NULL WHERE name = 'f'"]),
        (Rule.DIGEST, "/d/c", ["UPDATE catalog SET hash = x'' WHERE name = 'c'"]),
        (Rule.DIGEST, "/d/c", ["UPDATE catalog SET hash = zeroblob(20) WHERE name = 'c'"]),
        (Rule.DIGEST, "/d/l", ["UPDATE catalog SET hash = x'00' WHERE name = 'l'"]),
        (Rule.DIGEST, "/d/p", ["UPDATE catalog SET hash = zeroblob(20) WHERE name = 'p'"]),
        (Rule.DIGEST, "/d/e", ["UPDATE catalog SET hash = zeroblob(20) WHERE name = 'e'"]),
        (Rule.LINK_COUNT, "/d", ["UPDATE catalog SET hardlinks = 7 WHERE name = 'd'"]),
        (Rule.LINK_COUNT, "", ["UPDATE catalog SET hardlinks = 3 WHERE name = ''"]),
        (Rule.LINK_COUNT, "/d/f", ["UPDATE catalog SET hardlinks = 0 WHERE name = 'f'"]),
        (Rule.LINK_COUNT, "/n", ["UPDATE catalog SET hardlinks = 0 WHERE name = 'n'"]),
        (Rule.HARD_LINKS, "/d/f", ["UPDATE catalog SET hardlinks = 2 WHERE name = 'f'"]),
        (Rule.HARD_LINKS, "/d/h1", ["UPDATE catalog SET hardlinks = (1 << 32) + 3 WHERE name IN ('h1', 'h2')"]),
        (Rule.HARD_LINKS, "/d/h1", ["UPDATE catalog SET mtime = 5 WHERE name = 'h2'"]),
        (Rule.HARD_LINKS, "/d/e", ["UPDATE catalog SET hardlinks = (9 << 32) + 2 WHERE name = 'e'"]),
        (
            Rule.HARD_LINKS,
            "",
            [insert("/x"), "UPDATE catalog SET hardlinks = (1 << 32) + 1 WHERE name = 'x'", *counted(**FILE)],
        ),
        (Rule.SYMLINK, "/d/l", ["UPDATE catalog SET symlink = '' WHERE name = 'l'"]),
        (Rule.SYMLINK, "/d/f", ["UPDATE catalog SET symlink = 'x' WHERE name = 'f'"]),
        (Rule.SYMLINK, "/d/p", ["UPDATE catalog SET symlink = 'x' WHERE name = 'p'"]),
        (Rule.SPECIAL, "/d/p", ["UPDATE catalog SET size = 5 WHERE name = 'p'"]),
        (Rule.XATTR, "/d/f", ["UPDATE catalog SET xattr = x'0205' WHERE name = 'f'"]),
        (Rule.CHUNKS, "/d/c", ["UPDATE chunks SET offset = 6 WHERE offset = 5"]),
        (Rule.CHUNKS, "/d/c", ["UPDATE chunks SET size = 4 WHERE offset = 5"]),
        (Rule.CHUNKS, "/d/c", ["UPDATE chunks SET hash = NULL WHERE offset = 5"]),
        (Rule.CHUNKS, "/d/c", ["DELETE FROM chunks", *counted(chunks=-2)]),
        (Rule.CHUNKS, "", ["INSERT INTO chunks VALUES (1, 2, 0, 5, zeroblob(20), NULL)"]),
        (Rule.MOUNTPOINT, "/d/e", [REFERENCE.format("nested_catalogs", "/d/e"), *counted(nested=1)]),
        (Rule.MOUNTPOINT, "/d/e", [REFERENCE.format("bind_mountpoints", "/d/e")]),
        (Rule.MOUNTPOINT, "/d/f", [REFERENCE.format("nested_catalogs", "/d/f"), *counted(nested=1)]),
        (Rule.MOUNTPOINT, "/gone", [REFERENCE.format("nested_catalogs", "/gone"), *counted(nested=1)]),
        (Rule.MOUNTPOINT, "/…/n", ["DELETE FROM nested_catalogs", *counted(nested=-1)]),
        (Rule.COUNTERS, "", ["UPDATE statistics SET value = 99 WHERE counter = 'self_regular'"]),
        (Rule.COUNTERS, "", ["UPDATE statistics SET value = 99 WHERE counter = 'self_chunks'"]),
        (Rule.COUNTERS, "", ["UPDATE statistics SET value = 99 WHERE counter = 'self_file_size'"]),
        (Rule.COUNTERS, "", ["UPDATE statistics SET value = 99 WHERE counter = 'self_nested'"]),
        (Rule.COUNTERS, "", ["UPDATE statistics SET value = 99 WHERE counter = 'self_xattr'"]),
        (Rule.DANGLING, "", [insert("/lost/f"), *counted(**FILE)]),
    ],
)
def test_each_broken_rule_is_found_where_it_is(folder, root, rule, path, statements):
    with open_changed(folder.path_of(root.digest), *statements) as catalog:
        findings = list(validate(catalog))
    assert (rule, path) in [(finding.rule, finding.path) for finding in findings]
    # What cannot be read is missing elsewhere too: from the counters, from the rows reached.
    follows = {Rule.COUNTERS, Rule.DANGLING, Rule.CHUNKS} if rule in {Rule.ROW, Rule.NAME, Rule.DUPLICATE} else set()
    follows |= {Rule.COUNTERS, Rule.HARD_LINKS} if rule in {Rule.DANGLING, Rule.CHUNKS, Rule.DUPLICATE} else set()
    assert {finding.rule for finding in findings} <= {rule} | follows
    assert all(finding.message and not finding.message.endswith(".") for finding in findings)


def test_a_catalog_without_a_root_is_found(folder, root):
    with open_changed(folder.path_of(root.digest), "DELETE FROM catalog WHERE name = ''") as catalog:
        assert Rule.ROOT in {finding.rule for finding in validate(catalog)}


def test_entries_below_a_mountpoint_are_found(folder, root):
    with open_changed(folder.path_of(root.digest), insert("/n/below")) as catalog:
        found = {(finding.rule, finding.path) for finding in validate(catalog)}
    assert (Rule.MOUNTPOINT, "/n") in found
    assert (Rule.DANGLING, "") in found


def test_two_catalogs_attached_at_one_path_are_found(folder, root):
    statement = REFERENCE.format("bind_mountpoints", "/n")
    with open_changed(
        folder.path_of(root.digest), statement, "UPDATE catalog SET flags = flags | 0x4000 WHERE name = 'n'"
    ) as catalog:
        findings = list(validate(catalog))
    assert {finding.rule for finding in findings} == {Rule.MOUNTPOINT}
    assert len(findings) == 2


def test_a_ring_of_directories_does_not_hold_the_check_up(folder, root):
    one, other = path_key("/d"), path_key("/d/e")
    statements = [
        f"UPDATE catalog SET parent_1 = {other[0]}, parent_2 = {other[1]} WHERE name = 'd'",
        f"UPDATE catalog SET parent_1 = {one[0]}, parent_2 = {one[1]} WHERE name = 'e'",
    ]
    with open_changed(folder.path_of(root.digest), *statements) as catalog:
        assert Rule.DANGLING in {finding.rule for finding in validate(catalog)}


def nested(folder, root, *statements, prefix="/n"):
    with folder.load(root.digest) as parent:
        reference = parent.nested_at(prefix)
    return reference, open_changed(folder.path_of(reference.digest), *statements)


@pytest.mark.parametrize(
    ("rule", "path", "statement"),
    [
        (
            Rule.MARKER,
            "/n",
            "UPDATE catalog SET name = 'other', md5path_1 = {}, md5path_2 = {} WHERE name = '.cvmfscatalog'".format(
                *path_key("/n/other")
            ),
        ),
        (Rule.FLAGS, "/n", "UPDATE catalog SET flags = 1 WHERE name = 'n'"),
        (Rule.KEY, "/n", "UPDATE catalog SET parent_1 = 0 WHERE name = 'n'"),
    ],
)
def test_rules_for_nested_catalogs_are_checked(folder, root, rule, path, statement):
    _, catalog = nested(folder, root, statement)
    with catalog:
        assert [(finding.rule, finding.path) for finding in validate(catalog)] == [(rule, path)]


@pytest.mark.parametrize(
    "change",
    [
        "mode = 16832",
        "size = 1",
        "mtime = 1",
        "mtimens = 1",
        "uid = 1",
        "gid = 1",
        "hardlinks = 9",
        "flags = 33 + 0x8000",
        "xattr = x'010101016b76'",
    ],
)
def test_a_mountpoint_and_its_nested_root_must_be_equal(folder, root, change):
    reference, child = nested(folder, root, f"UPDATE catalog SET {change} WHERE name = 'n'")
    with child, folder.load(root.digest) as parent:
        (finding,) = validate_pair(parent, reference, child, size=reference.size)
        assert (finding.rule, finding.path) == (Rule.TRANSITION, "/n")


def test_the_size_in_the_reference_must_be_the_files(folder, root):
    reference, child = nested(folder, root)
    with child, folder.load(root.digest) as parent:
        (finding,) = validate_pair(parent, reference, child, size=reference.size + 1)
        assert finding.rule is Rule.REFERENCE_SIZE
        unknown = NestedReference(reference.path, reference.digest, 0)
        assert list(validate_pair(parent, unknown, child, size=5)) == []


def test_a_catalog_made_for_another_place_is_found(folder, root):
    reference, child = nested(folder, root)
    with child, folder.load(root.digest) as parent:
        elsewhere = NestedReference("/d/e", reference.digest, reference.size)
        (finding,) = validate_pair(parent, elsewhere, child, size=reference.size)
        assert (finding.rule, finding.path) == (Rule.ROOT_PREFIX, "/d/e")


def test_subtree_counters_must_be_the_sum_of_what_is_attached(folder, root):
    with folder.load(root.digest) as parent:
        findings = list(validate_subtree(parent, parent.subtree_counters + Counters(symlink=1)))
    assert [finding.rule for finding in findings] == [Rule.SUBTREE_COUNTERS]
    assert "symlink" in findings[0].message
