"""A model tree against the catalog builder: after every commit the catalogs hold the model and break no rule."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from cdn.catalog.diff import diff
from cdn.catalog.entries import Entry
from cdn.catalog.nesting import CATALOG_MARKER
from cdn.catalog.paths import is_at_or_below, name_of, order_key, parent_of, prefixes
from cdn.catalog.schema import Counters, NestedReference
from cdn.catalog.tree import CatalogTree
from cdn.catalog.validate import validate, validate_pair, validate_subtree
from cdn.catalog.writer import CatalogBuilder
from tests.fakes.catalogs import TIME, CatalogFolder, directory_entry, file_entry, plain
from tests.strategies import entries, names


def with_name(path: str, entry: Entry) -> Entry:
    return replace(plain(entry), name=name_of(path))


class Publishing(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self._temporary = tempfile.TemporaryDirectory()
        self.folder = CatalogFolder(Path(self._temporary.name))
        self.model: dict[str, Entry] = {"": directory_entry()}
        self.mounts: set[str] = {""}
        self.builders: dict[str, CatalogBuilder] = {"": self.folder.create()}
        self.root: NestedReference | None = None
        self.committed: dict[str, Entry] = {}
        self.revision = 0

    def teardown(self) -> None:
        for builder in self.builders.values():
            builder.close()
        self._temporary.cleanup()

    # ------------------------------------------------------------------------------------------------------------ rules

    @rule(data=st.data(), name=names(), entry=entries())
    def insert(self, data, name, entry):
        path = f"{self.pick_directory(data)}/{name}"
        if path in self.model or name == CATALOG_MARKER:
            return
        self.open(self.home(path)).insert(path, entry)
        self.model[path] = entry

    @rule(data=st.data(), name=names(), content=st.lists(st.tuples(names(), entries()), max_size=6))
    def insert_a_tree(self, data, name, content):
        top = f"{self.pick_directory(data)}/{name}"
        if top in self.model or name == CATALOG_MARKER:
            return
        tree = {top: directory_entry()} | {
            f"{top}/{below}": entry for below, entry in content if below != CATALOG_MARKER
        }
        assert self.open(self.home(top)).insert_many(tree.items()) == len(tree)
        self.model |= tree

    @rule(data=st.data(), name=st.lists(names(), min_size=1, max_size=4, unique=True), content=st.binary(max_size=3))
    def insert_hard_links(self, data, name, content):
        directory = self.pick_directory(data)
        builder = self.open(self.home(f"{directory}/x"))
        group = builder.next_hardlink_group()
        for one in name:
            path = f"{directory}/{one}"
            if path not in self.model and one != CATALOG_MARKER:
                entry = file_entry(content, link_count=len(name), hardlink_group=group)
                builder.insert(path, entry)
                self.model[path] = entry

    @rule(data=st.data(), entry=entries())
    def replace(self, data, entry):
        path = data.draw(st.sampled_from(sorted(self.model)))
        before = self.model[path]
        has_content = path in self.mounts or any(parent_of(other) == path for other in self.model if other)
        if (before.is_directory and has_content and not entry.is_directory) or name_of(path) == CATALOG_MARKER:
            return
        for home in {self.home(path), self.upper_home(path)}:
            self.open(home).replace(path, entry)
        self.model[path] = entry

    @rule(data=st.data())
    def remove(self, data):
        removable = sorted(path for path in self.model if path and name_of(path) != CATALOG_MARKER)
        if not removable:
            return
        path = data.draw(st.sampled_from(removable))
        self.open(self.upper_home(path)).remove(path)
        for gone in [other for other in self.model if is_at_or_below(other, path)]:
            del self.model[gone]
        for mount in [mount for mount in self.mounts if mount and is_at_or_below(mount, path)]:
            self.mounts.remove(mount)
            self.drop(mount)

    @rule(data=st.data())
    def split(self, data):
        directories = sorted(
            path for path, entry in self.model.items() if entry.is_directory and path not in self.mounts
        )
        if not directories:
            return
        path = data.draw(st.sampled_from(directories))
        self.builders[path] = self.open(self.home(path)).split(path, self.folder.new_file())
        self.mounts.add(path)
        self.builders[path].insert(f"{path}/{CATALOG_MARKER}", file_entry(b""))
        self.model[f"{path}/{CATALOG_MARKER}"] = file_entry(b"")

    @precondition(lambda self: len(self.mounts) > 1)
    @rule(data=st.data(), as_file=st.booleans())
    def merge(self, data, as_file):
        path = data.draw(st.sampled_from(sorted(self.mounts - {""})))
        parent = self.open(self.upper_home(path))
        reference = parent.nested_at(path)
        if as_file and path not in self.builders and reference is not None:
            with self.folder.load(reference.digest) as child:
                parent.merge(child)
        else:
            parent.merge(self.open(path))
        self.drop(path)
        self.mounts.remove(path)
        parent.remove(f"{path}/{CATALOG_MARKER}")
        del self.model[f"{path}/{CATALOG_MARKER}"]

    @rule(data=st.data())
    def detach(self, data):
        path = data.draw(st.sampled_from(sorted(self.mounts)))
        parent = self.open(self.upper_home(path))
        if not path or parent.nested_at(path) is None:
            return
        parent.detach(path)
        for gone in [other for other in self.model if other != path and is_at_or_below(other, path)]:
            del self.model[gone]
        for mount in [mount for mount in self.mounts if mount and is_at_or_below(mount, path)]:
            self.mounts.remove(mount)
            self.drop(mount)

    @rule()
    def commit(self):
        self.revision += 1
        for path in sorted(self.builders, key=len, reverse=True):
            for above in list(prefixes(path))[1:]:
                if above in self.mounts:
                    self.open(above)
        root = None
        for path in sorted(self.builders, key=len, reverse=True):
            finished = self.builders.pop(path).finish(
                revision=self.revision, previous=self.root.digest if self.root else None, last_modified=TIME
            )
            root = self.folder.keep(finished, path)
            if path:
                self.builders[self.upper_home(path)].attach(root, finished.total, root=finished.root)
        old, self.root = self.root, root or self.root
        assert self.root is not None
        self.check_tree()
        self.check_rules()
        if old is not None:
            self.check_diff(old)
        self.committed = dict(self.model)

    # ----------------------------------------------------------------------------------------------------------- checks

    def check_tree(self):
        with CatalogTree(self.folder, self.root.digest, open_max=2) as tree:
            found = list(tree.walk())
            assert [path for path, _ in found] == sorted(self.model, key=order_key)
            for path, entry in found:
                assert plain(entry) == with_name(path, self.model[path])
                assert tree.find(path) == entry
            hard_linked = [entry for _, entry in found if entry.hardlink_group]
            assert all(entry.link_count > 1 for entry in hard_linked)

    def check_rules(self):
        with CatalogTree(self.folder, self.root.digest) as tree:
            for _, catalog in tree.catalogs():
                assert list(validate(catalog)) == []
                below = Counters()
                for reference in catalog.nested():
                    with self.folder.load(reference.digest) as child:
                        size = self.folder.path_of(reference.digest).stat().st_size
                        assert list(validate_pair(catalog, reference, child, size=size)) == []
                        below += child.total_counters
                assert list(validate_subtree(catalog, below)) == []
            assert {reference.path for reference, _ in tree.catalogs()} == self.mounts

    def check_diff(self, old):
        state = {path: with_name(path, entry) for path, entry in self.committed.items()}
        paths = []
        for change in diff(self.folder, old.digest, self.root.digest):
            paths.append(change.path)
            assert (state.get(change.path) is None) == (change.before is None)
            if change.after is None:
                del state[change.path]
            else:
                state[change.path] = plain(change.after)
        assert state == {path: with_name(path, entry) for path, entry in self.model.items()}
        assert paths == sorted(set(paths), key=order_key)

    # ----------------------------------------------------------------------------------------------------------- inside

    def pick_directory(self, data) -> str:
        return data.draw(st.sampled_from(sorted(path for path, entry in self.model.items() if entry.is_directory)))

    def home(self, path: str) -> str:
        """Root prefix of the catalog that holds a path; of a mountpoint, that of its own."""
        return next(prefix for prefix in prefixes(path) if prefix in self.mounts)

    def upper_home(self, path: str) -> str:
        """Root prefix of the catalog that holds a path; of a mountpoint, that of the one above."""
        return self.home(parent_of(path)) if path else ""

    def open(self, prefix: str) -> CatalogBuilder:
        if prefix not in self.builders:
            reference = self.open(self.upper_home(prefix)).nested_at(prefix) if prefix else self.root
            self.builders[prefix] = self.folder.modify(reference.digest)
        return self.builders[prefix]

    def drop(self, prefix: str) -> None:
        if prefix in self.builders:
            self.builders.pop(prefix).close()


TestPublishing = Publishing.TestCase
TestPublishing.settings = settings(max_examples=settings.default.max_examples // 2, stateful_step_count=30)
