"""Round trips and hostile input for what catalogs are made of: rows, attributes, rules."""

from __future__ import annotations

import fnmatch
import re
import shutil
import sqlite3
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdn.catalog.entries import decode_xattrs, encode_xattrs
from cdn.catalog.nesting import Dirtab
from cdn.catalog.reader import Catalog
from cdn.catalog.rows import decode_row
from cdn.catalog.validate import validate
from cdn.errors import DocumentError
from tests.fakes.catalogs import CatalogFolder, directory_entry, file_entry, plain, publish
from tests.strategies import entries, names, xattrs


@given(xattrs())
def test_xattrs_survive_the_round_trip(attributes):
    assert decode_xattrs(encode_xattrs(attributes)) == attributes


@given(st.binary(max_size=600))
def test_any_bytes_are_attributes_or_none(blob):
    for key, _ in decode_xattrs(blob):
        assert isinstance(key, bytes)


@given(st.dictionaries(names(), entries(), max_size=5))
def test_every_entry_is_read_as_it_was_written(content):
    with tempfile.TemporaryDirectory() as temporary:
        folder = CatalogFolder(Path(temporary))
        tree = {f"/{name}": entry for name, entry in content.items() if name != ".cvmfscatalog"}
        with folder.load(publish(folder, {"": directory_entry()} | tree).digest) as catalog:
            for path, entry in tree.items():
                assert plain(catalog.find(path)) == replace(plain(entry), name=path[1:])
            assert list(validate(catalog)) == []


value = st.one_of(
    st.none(),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.sampled_from([0, 1, 4, 0o100644, 0o40755, 0o120777, 68, 33, 4096]),
    st.floats(),
    st.text(max_size=20),
    st.binary(max_size=40),
    st.sampled_from(["", ".", "..", "a/b", "name", b"h" * 20, b"p" * 40]),
)


@given(st.tuples(*[value] * 15))
def test_any_row_is_an_entry_or_damage(row):
    try:
        entry = decode_row(row, "catalog")
    except DocumentError:
        return
    assert "/" not in entry.name
    assert entry.name not in (".", "..")
    assert entry.size >= 0
    assert entry.is_file or entry.digest is None


COLUMNS = (
    "md5path_1 parent_1 parent_2 hardlinks hash size mode mtime mtimens flags name symlink uid gid xattr plain_digest"
)
CHUNK_COLUMNS = "md5path_1 md5path_2 offset size hash plain_digest"
REFERENCE_COLUMNS = "path sha1 size"
change = st.one_of(
    st.tuples(st.just("catalog"), st.sampled_from(COLUMNS.split()), st.integers(1, 12), value),
    st.tuples(st.just("chunks"), st.sampled_from(CHUNK_COLUMNS.split()), st.integers(1, 2), value),
    st.tuples(st.just("nested_catalogs"), st.sampled_from(REFERENCE_COLUMNS.split()), st.just(1), value),
    st.tuples(st.just("statistics"), st.just("value"), st.integers(1, 24), value),
    st.tuples(st.just("properties"), st.sampled_from(["key", "value"]), st.integers(1, 5), value),
)


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """The file of a catalog with some of everything."""
    folder = CatalogFolder(tmp_path_factory.mktemp("sample"))
    tree = {"": directory_entry(), "/d": directory_entry(), "/d/e": directory_entry(), "/n": directory_entry()}
    tree |= {f"/d/f{number}": file_entry(b"%d" % number) for number in range(5)}
    return folder.path_of(publish(folder, tree, {"/n"}).digest)


@given(changes=st.lists(change, min_size=1, max_size=4))
def test_a_catalog_with_any_values_is_read_or_damaged(sample, changes):
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "catalog"
        shutil.copy(sample, file)
        connection = sqlite3.connect(file)
        for table, column, row, new in changes:
            try:
                connection.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (new, row))
            except (sqlite3.IntegrityError, UnicodeEncodeError):
                continue
        connection.commit()
        connection.close()
        read_everything(file)


def read_everything(file):
    try:
        catalog = Catalog.open(file)
    except DocumentError:
        return
    with catalog:
        steps = [
            lambda: list(catalog.walk()),
            lambda: list(catalog.listing("/d")),
            lambda: catalog.find("/d/f1"),
            lambda: list(catalog.references()),
            catalog.nested,
            lambda: catalog.covering("/n/x"),
            lambda: list(validate(catalog)),
        ]
        for step in steps:
            try:
                step()
            except DocumentError:
                continue


pattern = st.lists(st.sampled_from(["/", "a", "b", "*", "?", "*", "[ab]", "[!a]"]), min_size=1, max_size=12).map(
    "".join
)
path = st.lists(st.sampled_from(["/", "a", "b", "c", "x"]), max_size=12).map(lambda parts: "/" + "".join(parts))


@given(pattern, path)
def test_dirtab_patterns_match_component_by_component_as_a_shell_does(text, where):
    where = re.sub("/+", "/", where).rstrip("/")
    components = [part for part in text.split("/") if part]
    if not components:
        return
    names_below = where[1:].split("/")
    expected = len(components) == len(names_below) and all(
        fnmatch.fnmatchcase(name, part) for part, name in zip(components, names_below, strict=True)
    )
    assert Dirtab.parse("/" + text).matches(where) is (expected and bool(where))


@given(st.text(alphabet="/ab*?[]!\\# \n.-^", max_size=60), path)
def test_any_dirtab_is_rules_or_damage(text, where):
    try:
        rules = Dirtab.parse(text)
    except DocumentError:
        return
    assert rules.matches(where) in (True, False)
