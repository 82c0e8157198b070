"""Catalogs for tests: entries in one line, and a folder of catalog files that is the loader trees and diffs need."""

from __future__ import annotations

import itertools
import shutil
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

from cdn.catalog.entries import Entry
from cdn.catalog.nesting import CATALOG_MARKER
from cdn.catalog.reader import Catalog
from cdn.catalog.schema import Counters, NestedReference
from cdn.catalog.writer import CatalogBuilder, FinishedCatalog
from cdn.errors import ObjectMissingError
from cdn.hashing import Algorithm, Digest, digest_of

TIME = 1_700_000_000


def file_entry(content: bytes = b"content", **fields: Any) -> Entry:
    """A regular file; content gives its digest and size."""
    values = {
        "mode": stat.S_IFREG | 0o644,
        "size": len(content),
        "mtime": TIME,
        "digest": digest_of(Algorithm.SHAKE128, content),
    }
    return Entry("", **(values | fields))


def directory_entry(**fields: Any) -> Entry:
    """An empty directory."""
    return Entry("", **({"mode": stat.S_IFDIR | 0o755, "size": 4096, "mtime": TIME, "link_count": 2} | fields))


def symlink_entry(target: str = "target", **fields: Any) -> Entry:
    """A symlink."""
    size = len(target.encode("utf-8", "surrogateescape"))
    return Entry("", **({"mode": stat.S_IFLNK | 0o777, "size": size, "mtime": TIME, "symlink": target} | fields))


class _Builder(CatalogBuilder):
    """Is closed when the test that did not finish it is over."""

    def __del__(self) -> None:
        self.close()


class CatalogFolder:
    """Catalog files by digest; counts what was loaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.loaded: list[str] = []
        self._numbers = itertools.count()

    def new_file(self) -> Path:
        """A name for a file that is not there."""
        return self.folder / f"{next(self._numbers)}.new"

    def path_of(self, digest: Digest) -> Path:
        return self.folder / f"{digest}.catalog"

    def keep(self, finished: FinishedCatalog, path: str) -> NestedReference:
        """Takes over a finished file; the digest is that of its plain bytes, which for tests is as good."""
        file = Path(finished.file)
        digest = digest_of(Algorithm.SHA1, file.read_bytes())
        file.rename(self.path_of(digest))
        return NestedReference(path, digest, finished.size)

    def load(self, digest: Digest, *, size: int = 0, path: str = "") -> Catalog:
        if not self.path_of(digest).exists():
            raise ObjectMissingError(digest.text, str(self.folder))
        self.loaded.append(path)
        return Catalog.open(self.path_of(digest), document=f"catalog {path or '/'}")

    def totals(self, reference: NestedReference) -> Counters:
        with self.load(reference.digest, path=reference.path) as catalog:
            return catalog.total_counters

    def modify(self, digest: Digest) -> CatalogBuilder:
        """A builder over a copy of a kept catalog."""
        copy = self.new_file()
        shutil.copy(self.path_of(digest), copy)
        return _Builder.modify(copy, totals=self.totals)

    def create(self, root_prefix: str = "", root: Entry | None = None) -> CatalogBuilder:
        return _Builder.create(
            self.new_file(), root_prefix=root_prefix, root=root or directory_entry(), totals=self.totals
        )


def publish(
    folder: CatalogFolder, tree: dict[str, Entry], mountpoints: set[str] = frozenset(), revision: int = 1
) -> NestedReference:
    """Writes a tree as catalogs with nested ones at the mountpoints, markers included; gives the root's reference."""
    tree = {
        path: tree[path] for path in sorted(tree, key=lambda path: path.encode("utf-8", "surrogateescape").split(b"/"))
    }
    builder = folder.create("", tree.get("", directory_entry()))
    builder.insert_many((path, entry) for path, entry in tree.items() if path)
    for path in sorted(mountpoints, key=len, reverse=True):
        child = builder.split(path, folder.new_file())
        child.insert(f"{path}/{CATALOG_MARKER}", file_entry(b""))
        finished = child.finish(revision=revision, previous=None, last_modified=TIME)
        builder.attach(folder.keep(finished, path), finished.total, root=finished.root)
    return folder.keep(builder.finish(revision=revision, previous=None, last_modified=TIME), "")


def plain(entry: Entry) -> Entry:
    """An entry without what the catalogs decide: roles, link counts and groups."""
    return replace(
        entry,
        link_count=0,
        hardlink_group=0,
        is_nested_mountpoint=False,
        is_nested_root=False,
        is_chunked=bool(entry.chunks),
        size=0 if entry.is_directory else entry.size,
    )
