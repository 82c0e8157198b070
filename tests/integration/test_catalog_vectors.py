"""Catalogs of repositories made by CernVM-FS 2.12: read byte for byte as its client lists them, and changed by us."""

from __future__ import annotations

import itertools
import json
import os
import re
import stat
import zlib
from dataclasses import replace

import pytest

from cdn.catalog.diff import ChangeKind, diff
from cdn.catalog.nesting import CATALOG_MARKER
from cdn.catalog.reader import Catalog
from cdn.catalog.schema import Counters
from cdn.catalog.tree import CatalogTree
from cdn.catalog.validate import validate, validate_pair, validate_subtree
from cdn.catalog.writer import CatalogBuilder
from cdn.errors import ObjectMissingError
from cdn.hashing import Digest, digest_of
from cdn.objects import Kind, ObjectName
from tests.fakes.catalogs import CatalogFolder, directory_entry, file_entry

TAGS = ("v1", "v2", "v3", "v4", "v5")
REPOSITORIES = ("sha1", "shake128")


class Vector:
    """One of the repositories, as a loader of its catalogs."""

    def __init__(self, folder, work):
        self.folder = folder
        self._work = work

    def read(self, name):
        file = self.folder / "repo" / name.path
        if not file.exists():
            raise ObjectMissingError(name.path, str(self.folder))
        data = file.read_bytes()
        assert digest_of(name.digest.algorithm, data) == name.digest
        return data

    def file(self, digest):
        file = self._work / digest.text
        if not file.exists():
            file.write_bytes(zlib.decompress(self.read(ObjectName(digest, Kind.CATALOG))))
        return file

    def load(self, digest, *, size=0, path=""):
        file = self.file(digest)
        assert size in (0, file.stat().st_size)
        return Catalog.open(file, document=f"catalog {path or '/'}")

    def totals(self, reference):
        with self.load(reference.digest) as catalog:
            return catalog.total_counters

    def root(self, tag):
        text = (self.folder / "catalogs.txt").read_text()
        return Digest.parse(re.search(rf"^{tag} revision \d+ root (\S+)$", text, re.MULTILINE)[1])

    def listing(self, tag):
        """What the real client listed, by path."""
        lines = (self.folder / f"manifest-{tag}.jsonl").read_text().splitlines()
        return {unescape(line["path"].rstrip("/")): line for line in map(json.loads, lines)}


def unescape(text):
    raw = re.sub(rb"%([0-9A-Fa-f]{2})", lambda found: bytes.fromhex(found[1].decode()), text.encode())
    return raw.decode("utf-8", "surrogateescape")


@pytest.fixture(scope="module", params=REPOSITORIES)
def vector(request, vectors, tmp_path_factory):
    return Vector(vectors / request.param, tmp_path_factory.mktemp(request.param))


def described(entry, line):
    """An entry in the words of the client's listing."""
    kinds = {stat.S_IFREG: "f", stat.S_IFDIR: "d", stat.S_IFLNK: "l", stat.S_IFIFO: "p", stat.S_IFCHR: "c"}
    found = {
        "path": line["path"],
        "type": kinds[stat.S_IFMT(entry.mode)],
        "mode": f"{stat.S_IMODE(entry.mode):04o}",
        "mtime": entry.mtime,
        "mtime_ns": entry.mtime_ns,
        "uid": entry.uid,
        "gid": entry.gid,
    }
    if entry.is_file:
        found |= {"size": entry.size, "nlink": entry.link_count, "sha256": line["sha256"]}
    if entry.is_symlink:
        raw = "target_raw" if "target_raw" in line else "target"
        found |= {key: line[key] for key in ("target", "target_raw") if key in line}
        assert entry.symlink == unescape(line[raw])
    if stat.S_ISCHR(entry.mode):
        found["rdev"] = f"{os.major(entry.device)}:{os.minor(entry.device)}"
    if entry.xattrs:
        found["xattr_hex"] = {key.decode(): value.hex() for key, value in entry.xattrs}
    return found


@pytest.mark.parametrize("tag", TAGS)
def test_every_path_of_every_tag_reads_as_the_real_client_lists_it(vector, tag):
    expected = vector.listing(tag)
    with CatalogTree(vector, vector.root(tag)) as tree:
        found = dict(tree.walk())
        assert found.keys() == expected.keys()
        for path, entry in found.items():
            assert described(entry, expected[path]) == expected[path]
            assert tree.find(path) == entry


@pytest.mark.parametrize("tag", TAGS)
def test_every_object_that_the_rows_need_is_there(vector, tag):
    with CatalogTree(vector, vector.root(tag)) as tree:
        names = {name for name, _ in tree.references()}
        assert len(names) > 100
        for name in names:
            assert (vector.folder / "repo" / name.path).exists()


@pytest.mark.parametrize("tag", TAGS)
def test_real_catalogs_follow_the_rules_and_say_the_counters_listed(vector, tag):
    rows = re.findall(rf"^{tag} revision.*\n((?:  .*\n)+)", (vector.folder / "catalogs.txt").read_text(), re.MULTILINE)[
        0
    ].splitlines()
    listed = {fields[0].rstrip("/"): fields for fields in (row.replace(";", " ").split() for row in rows)}
    with CatalogTree(vector, vector.root(tag)) as tree:
        for reference, catalog in tree.catalogs():
            assert list(validate(catalog)) == []
            below = Counters()
            for nested in catalog.nested():
                with vector.load(nested.digest) as child:
                    size = vector.file(nested.digest).stat().st_size
                    assert list(validate_pair(catalog, nested, child, size=size)) == []
                    below += child.total_counters
            assert list(validate_subtree(catalog, below)) == []
            own = catalog.own_counters
            _, digest, size, _, *counters = listed[reference.path]
            assert (digest, int(size)) == (reference.digest.text, vector.file(reference.digest).stat().st_size)
            assert list(map(int, counters)) == [own.regular, own.dir, own.symlink, own.special, own.chunked, own.chunks]


@pytest.mark.parametrize(("old", "new"), [*itertools.pairwise(TAGS), ("v5", "v1"), ("v1", "v5")])
def test_the_difference_between_tags_is_that_of_their_listings(vector, old, new):
    before, after = vector.listing(old), vector.listing(new)
    kinds = {change.path: change.kind for change in diff(vector, vector.root(old), vector.root(new))}
    assert {path for path, kind in kinds.items() if kind is ChangeKind.ADDED} == after.keys() - before.keys()
    assert {path for path, kind in kinds.items() if kind is ChangeKind.REMOVED} == before.keys() - after.keys()
    differing = {path for path in before.keys() & after.keys() if before[path] != after[path]}
    changed = {path for path, kind in kinds.items() if kind in (ChangeKind.CONTENT, ChangeKind.METADATA)}
    # A variant symlink may change in its raw target alone, a hard link in its count alone.
    links = {path for path in differing if before[path] | {"nlink": 0} == after[path] | {"nlink": 0}}
    assert differing - links <= changed
    assert all(
        kinds[path] is ChangeKind.CONTENT for path in changed if before[path].get("sha256") != after[path].get("sha256")
    )
    assert changed <= differing


def test_a_real_catalog_that_we_change_still_follows_the_rules(vector, tmp_path):
    folder = CatalogFolder(tmp_path)
    root = vector.root("v5")
    (tmp_path / "root").write_bytes(vector.file(root).read_bytes())
    with vector.load(root) as catalog:
        before = dict(catalog.walk())
        references = catalog.nested()
        old = catalog.total_counters
    builder = CatalogBuilder.modify(tmp_path / "root", totals=vector.totals)
    builder.insert("/new", directory_entry())
    builder.insert("/new/file", file_entry(plain_digest=b"p" * 32))
    child = builder.split("/data", folder.new_file())
    child.insert(f"/data/{CATALOG_MARKER}", file_entry(b""))
    finished_child = child.finish(revision=7, previous=None, last_modified=1)
    nested = folder.keep(finished_child, "/data")
    builder.attach(nested, finished_child.total, root=finished_child.root)
    finished = builder.finish(revision=7, previous=root, last_modified=1)
    assert finished.replaced == old
    with Catalog.open(finished.file) as catalog, folder.load(nested.digest) as child:
        assert list(validate(catalog)) == list(validate(child)) == []
        assert list(validate_pair(catalog, nested, child, size=nested.size)) == []
        assert {reference.path for reference in child.nested()} == {"/data/run1", "/data/run2"}
        assert {*catalog.nested(), *child.nested()} == {*references, nested}
        for parent in (catalog, child):
            for reference in parent.nested():
                if reference != nested:
                    with vector.load(reference.digest) as deeper:
                        size = vector.file(reference.digest).stat().st_size
                        assert list(validate_pair(parent, reference, deeper, size=size)) == []
        assert catalog.ttl_seconds == 240
        added = Counters(dir=2, regular=2, nested=1, file_size=7)  # /data is a row of both its catalogs
        assert catalog.total_counters == old + added
        after = dict(catalog.walk()) | dict(child.walk())
        for path, entry in before.items():
            if path not in ("", "/data"):
                assert replace(after[path], is_nested_mountpoint=entry.is_nested_mountpoint) == entry


@pytest.mark.parametrize("tag", TAGS)
def test_real_nested_catalogs_merge_into_one_tree_without_a_loss(vector, tag, tmp_path):
    (tmp_path / "root").write_bytes(vector.file(vector.root(tag)).read_bytes())
    builder = CatalogBuilder.modify(tmp_path / "root", totals=vector.totals)
    while references := builder.nested():
        with vector.load(references[0].digest) as child:
            builder.merge(child)
        builder.remove(f"{references[0].path}/{CATALOG_MARKER}")
    finished = builder.finish(revision=9, previous=None, last_modified=1)
    assert finished.subtree == Counters()
    expected = vector.listing(tag)
    with Catalog.open(finished.file) as catalog:
        assert list(validate(catalog)) == []
        found = dict(catalog.walk())
        assert found.keys() == {path for path in expected if not path.endswith(f"/{CATALOG_MARKER}")}
        for path, entry in found.items():
            assert described(entry, expected[path]) == expected[path]
