"""A model tree against staged operations: what is committed is the model, and breaks no rule of the format."""

from __future__ import annotations

import stat
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from cdn.catalog.nesting import AUTO_MARKER, CATALOG_MARKER
from cdn.clock import ManualClock
from cdn.errors import CdnError, PathExistsError, PathKindError, PathMissingError, UsageError
from stratum0.changes import Change, ChangeKind, is_at_or_below, is_below, name_of, parent_of
from stratum0.transaction import Transaction
from tests.fakes.publishers import new_publisher, published, reopened

NAMES = st.sampled_from(["a", "b", "c", "d\x01", "d", "d-", "\udcff"])


@dataclass(frozen=True)
class Node:
    """What the model knows of a path."""

    kind: str
    content: object = None
    mode: int = 0o644


class Staging(RuleBasedStateMachine):
    """Random operations, some of which must be refused; commits, restarts of the program, and losing the changes."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self.clock = ManualClock()
        self.committed: dict[str, Node] = {"": Node("directory", mode=0o755)}
        self.model = dict(self.committed)
        self.transaction: Transaction | None = None

    @initialize(entries_max=st.sampled_from([0, 8, 10_000]))
    def create(self, entries_max):
        limits = {"catalog_entries_min": 4, "catalog_entries_max": entries_max}
        self.repository = new_publisher(Path(self._folder.name), self.clock, **limits)

    def teardown(self) -> None:
        if self.transaction is not None:
            self.transaction.close()
        self.repository.close()
        self._folder.cleanup()

    # ---------------------------------------------------------------------------------------------------------- helpers

    @property
    def staged(self) -> Transaction:
        if self.transaction is None:
            self.transaction = self.repository.transaction()
        return self.transaction

    def a_path(self, data) -> str:
        """A path that is there or could be."""
        path = data.draw(st.sampled_from(sorted(self.model)))
        if name_of(path) == CATALOG_MARKER:  # nothing can be below it, whatever it is
            return path
        return path if data.draw(st.booleans()) and path else f"{path}/{data.draw(NAMES)}"

    def why_not(self, path: str) -> type[CdnError] | None:
        """Why nothing new can be put at a path, leaving out that something is there."""
        above = self.model.get(parent_of(path))
        if above is None:
            return PathMissingError
        return None if above.kind == "directory" else PathKindError

    def below(self, path: str) -> list[str]:
        return [each for each in self.model if is_below(each, path)]

    def put(self, path: str, node: Node) -> None:
        self.model[path] = node

    # ------------------------------------------------------------------------------------------------------- operations

    @rule(data=st.data(), content=st.binary(max_size=3))
    def put_file(self, data, content):
        path = self.a_path(data)
        before = self.model.get(path)
        refused = PathKindError if before and before.kind == "directory" else self.why_not(path)
        if before and before.kind != "directory":
            refused = None
        if refused:
            with pytest.raises(refused):
                self.staged.put_file(path, content)
            return
        self.staged.put_file(path, content)
        self.put(path, Node("file", content, before.mode if before and before.kind == "file" else 0o644))

    @rule(data=st.data(), towards=st.sampled_from(["x", "../y"]))
    def symlink(self, data, towards):
        path = self.a_path(data)
        refused = PathExistsError if path in self.model else self.why_not(path)
        if refused:
            with pytest.raises(refused):
                self.staged.symlink(path, towards)
            return
        self.staged.symlink(path, towards)
        self.put(path, Node("symlink", towards, 0o777))

    @rule(data=st.data(), deeper=st.lists(NAMES, max_size=2))
    def mkdir(self, data, deeper):
        top = self.a_path(data)
        path = top if name_of(top) == CATALOG_MARKER else "/".join([top, *deeper])
        lineage = [path]
        while lineage[-1] and lineage[-1] not in self.model:
            lineage.append(parent_of(lineage[-1]))
        if self.model[lineage[-1]].kind != "directory":
            with pytest.raises(PathKindError if lineage[-1] != path else PathExistsError):
                self.staged.mkdir(path, parents=True)
            return
        self.staged.mkdir(path, parents=True)
        for each in reversed(lineage):
            self.model.setdefault(each, Node("directory", mode=0o755))

    @rule(data=st.data(), recursive=st.booleans())
    def remove(self, data, recursive):
        path = self.a_path(data)
        node = self.model.get(path)
        if node is None:
            with pytest.raises(PathMissingError):
                self.staged.remove(path, recursive=recursive)
            return
        if not recursive and node.kind == "directory" and self.below(path):
            with pytest.raises(PathKindError):
                self.staged.remove(path)
            return
        self.staged.remove(path, recursive=recursive)
        self.model = {each: node for each, node in self.model.items() if not is_at_or_below(each, path)}

    @rule(data=st.data())
    def move(self, data):
        source, destination = self.a_path(data), self.a_path(data)
        node, present = self.model.get(source), self.model.get(destination)
        if node is None:
            with pytest.raises(PathMissingError):
                self.staged.move(source, destination)
            return
        refused: tuple[type[CdnError], ...] | type[CdnError] | None = None
        if name_of(destination) == CATALOG_MARKER and node.kind != "file":
            refused = (PathKindError, PathExistsError, UsageError)
        elif is_below(destination, source):
            refused = PathKindError
        elif source == destination:
            refused = None
        elif present is not None and node.kind == "directory":
            refused = PathExistsError
        elif present is not None and present.kind == "directory":
            refused = PathKindError
        elif present is None:
            refused = self.why_not(destination)
        if refused:
            with pytest.raises(refused):
                self.staged.move(source, destination)
            return
        self.staged.move(source, destination)
        moved = {
            destination + path[len(source) :]: each for path, each in self.model.items() if is_at_or_below(path, source)
        }
        self.model = {path: each for path, each in self.model.items() if not is_at_or_below(path, source)} | moved

    @rule(data=st.data(), mode=st.sampled_from([0o600, 0o755, 0o4711]))
    def chmod(self, data, mode):
        path = data.draw(st.sampled_from(sorted(self.model)))
        node = self.model[path]
        if node.kind == "symlink":
            with pytest.raises(PathKindError):
                self.staged.chmod(path, mode)
            return
        self.staged.chmod(path, mode)
        self.model[path] = replace(node, mode=mode)

    @rule(data=st.data())
    def mark(self, data):
        """Makes a directory a nested catalog, or no longer one."""
        path = data.draw(st.sampled_from(sorted(self.model)))
        marker = f"{path}/{CATALOG_MARKER}"
        if not path or self.model[path].kind != "directory":
            return
        if marker in self.model:
            self.staged.remove(marker)
            del self.model[marker]
        else:
            self.staged.put_file(marker, b"")
            self.model[marker] = Node("file", b"")

    @rule(
        data=st.data(),
        names=st.lists(NAMES, max_size=4, unique=True),
        contents=st.lists(st.binary(max_size=2), min_size=4, max_size=4),
    )
    def publish_a_folder(self, data, names, contents):
        """What scanning a folder stages: the directory as it is, and nothing else in it, two names linked."""
        path = self.a_path(data)
        if not path or (self.model.get(path, Node("directory")).kind == "directory") is False or self.why_not(path):
            return
        made = self.staged._made(stat.S_IFDIR, 0o755)
        changes, objects = [Change(path, ChangeKind.CLEAR, made)], []
        new = {path: Node("directory", mode=0o755)}
        for name, content in zip(names, contents, strict=False):
            stored = self.repository.content.store_bytes(content)
            group = 1 if content == contents[0] and len(names) > 1 else 0
            entry = replace(self.staged._made(stat.S_IFREG, 0o644), **stored.entry_fields, hardlink_group=group)
            changes.append(Change(f"{path}/{name}", ChangeKind.PUT, entry))
            objects.extend(stored.found)
            new[f"{path}/{name}"] = Node("file", content)
        # what was staged below before this goes, as it would not be among the changes of a scan
        self.staged.staging.record_removal(path, [Change(path, ChangeKind.REMOVE)])
        self.staged.stage(changes, objects)
        self.model = {each: node for each, node in self.model.items() if not is_at_or_below(each, path)} | new

    # -------------------------------------------------------------------------------------------------------- the whole

    @precondition(lambda self: self.transaction is not None)
    @rule()
    def look(self):
        found = {path: self.node(entry) for path, entry in self.staged.walk()}
        assert without_automatic(found) == self.expected(self.model, without_content=True)

    @rule()
    def restart(self):
        if self.transaction is not None:
            self.transaction.close()
        self.repository = reopened(self.repository)
        if self.transaction is not None:
            self.transaction = Transaction.open(self.repository, self.transaction.id)

    @precondition(lambda self: self.transaction is not None)
    @rule()
    def abort(self):
        self.staged.abort()
        self.transaction.close()
        self.transaction = None
        self.model = dict(self.committed)

    @rule(seconds=st.integers(0, 100))
    def commit(self, seconds):
        self.clock.advance(seconds)
        before = self.repository.head().manifest
        revision = self.staged.commit()
        self.transaction.close()
        self.transaction = None
        if revision is None:
            assert self.repository.head().manifest == before
        else:
            assert revision.number == before.revision + 1
            assert self.repository.head().manifest.timestamp >= before.timestamp
        seen = published(self.repository)
        found = {path: self.node(entry) for path, entry in seen.tree.items()}
        assert without_automatic(found) == self.expected(self.model, without_content=True)
        self.check_contents(seen)
        self.check_nesting(seen)
        self.committed = dict(self.model)

    # ------------------------------------------------------------------------------------------------------- comparison

    def node(self, entry) -> Node:
        kind = "directory" if entry.is_directory else "symlink" if entry.is_symlink else "file"
        return Node(kind, entry.symlink or None, stat.S_IMODE(entry.mode))

    def expected(self, model, *, without_content):
        return {path: replace(node, content=None) if node.kind == "file" else node for path, node in model.items()}

    def check_contents(self, seen):
        for path, node in self.model.items():
            if node.kind == "file":
                assert seen.tree[path].digest == self.repository.content.store_bytes(node.content).digest, path

    def check_nesting(self, seen):
        marked = {
            parent_of(path) for path, entry in seen.tree.items() if name_of(path) == CATALOG_MARKER and entry.is_file
        }
        assert set(seen.catalogs) == marked | {""}


def without_automatic(found):
    """Without the markers that balancing made."""
    automatic = {parent_of(path) for path in found if name_of(path) == AUTO_MARKER}
    markers = {f"{path}/{name}" for path in automatic for name in (AUTO_MARKER, CATALOG_MARKER)}
    return {path: node for path, node in found.items() if path not in markers}


TestStaging = Staging.TestCase
TestStaging.settings = settings(max_examples=20, stateful_step_count=25)
