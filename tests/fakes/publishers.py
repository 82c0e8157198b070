"""Publishers' repositories for tests, and a reader of what they serve that believes nothing."""

from __future__ import annotations

import functools
import shutil
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography.hazmat.primitives import serialization

from cdn.catalog.entries import Entry
from cdn.catalog.reader import Catalog
from cdn.catalog.schema import Counters, NestedReference
from cdn.catalog.validate import validate, validate_pair, validate_subtree
from cdn.clock import Clock, ManualClock
from cdn.compression import Compression, decompress
from cdn.hashing import Digest, digest_of
from cdn.history import History
from cdn.manifest import Manifest
from cdn.objects import MANIFEST_PATH, REFLOG_PATH, Kind, ObjectName
from cdn.reflog import Reflog
from cdn.signing import SignedText
from stratum0.config import Home, RepositorySettings
from stratum0.repository import Repository
from tests.fakes.catalogs import plain

NAME = "sw.example.org"
TODAY = time.time()
"""When the tests began: clocks that must be near the real one begin here, so that one new repository does for all."""
_OPENED: list[Repository] = []

# Whoever reads a private key has it shown that its numbers are primes, which takes forty milliseconds. Here it is shown
# once for the same key.
serialization.load_pem_private_key = functools.cache(serialization.load_pem_private_key)


@functools.cache
def _template(now: float | None) -> tuple[tempfile.TemporaryDirectory[str], Home]:
    """A new repository made at this time, once in a test run, as making its keys takes half a second."""
    folder = tempfile.TemporaryDirectory()
    home = Home(Path(folder.name))
    Repository.create(NAME, home, clock=None if now is None else ManualClock(now)).close()
    _without_empty_folders(home.storage_of(NAME) / "data")
    return folder, home


def _without_empty_folders(data: Path) -> None:
    """Lets folders of objects be made when they are needed: to copy 256 of them takes longer than most tests."""
    for folder in data.iterdir():
        if len(folder.name) == 2 and not any(folder.iterdir()):
            folder.rmdir()


def new_publisher(folder: Path, clock: Clock | None = None, **settings: object) -> Repository:
    """A new repository below this folder; made when a clock that stands still says, with any other now."""
    made_at = clock.now() if isinstance(clock, ManualClock) else None
    return copied(_template(made_at)[1], folder, clock, **settings)


def copied(template: Home, folder: Path, clock: Clock | None = None, **settings: object) -> Repository:
    """A copy of a repository that nobody has open, below this folder."""
    home = Home(folder)
    shutil.copytree(template.root, folder, dirs_exist_ok=True, symlinks=True)
    changed = {"storage": home.storage_of(NAME), **settings}
    replace(RepositorySettings.load(home.folder_of(NAME)), **changed).save(home.folder_of(NAME))
    return _noted(Repository.peek(NAME, home, clock=clock))


def reopened(repository: Repository) -> Repository:
    """The repository as the next command finds it, recovered."""
    repository.close()
    return _noted(Repository.open(NAME, repository.home, clock=repository.clock))


def close_all() -> None:
    """Closes what the functions above opened."""
    while _OPENED:
        _OPENED.pop().close()


def _noted(repository: Repository) -> Repository:
    _OPENED.append(repository)
    return repository


@dataclass(frozen=True)
class Published:
    """What a folder serves, every object of it looked at.

    Args:
        manifest: what is current.
        tree: all entries by path, without what depends on where catalogs begin.
        catalogs: digests by path of where they begin.
        history: the tags.
    """

    manifest: Manifest
    tree: dict[str, Entry]
    catalogs: dict[str, Digest]
    history: History

    @property
    def paths(self) -> list[str]:
        return sorted(self.tree)


def published(repository: Repository) -> Published:
    """Reads everything that is current, and asserts that nothing about it is wrong."""
    served = Path(repository.store.root)
    signed = SignedText.parse("manifest", (served / MANIFEST_PATH).read_bytes())
    assert digest_of(signed.digest.algorithm, signed.body) == signed.digest
    manifest = Manifest.parse(signed.body)
    reflog = Reflog.read(served / REFLOG_PATH)
    for name in manifest.objects:
        assert name in reflog, f"the reflog lacks {name}"
    reading = _Reading(served)
    total, _ = reading.catalog(NestedReference("", manifest.root_catalog, manifest.root_catalog_bytes or 0))
    assert total.entries > 0
    assert manifest.history is not None
    history = History.from_object(reading.stored(ObjectName(manifest.history, Kind.HISTORY)))
    for name in manifest.objects:
        reading.stored(name)
    return Published(manifest, reading.tree, reading.catalogs, history)


class _Reading:
    def __init__(self, served: Path) -> None:
        self.served = served
        self.tree: dict[str, Entry] = {}
        self.catalogs: dict[str, Digest] = {}
        self._seen: set[ObjectName] = set()

    def stored(self, name: ObjectName) -> bytes:
        data = (self.served / name.path).read_bytes()
        assert digest_of(name.digest.algorithm, data) == name.digest, f"{name} has wrong content"
        return data

    def catalog(self, reference: NestedReference) -> tuple[Counters, int]:
        """Looks at a catalog and all below; gives what it counts and its size."""
        self.catalogs[reference.path] = reference.digest
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "catalog")
            file.write_bytes(decompress(self.stored(ObjectName(reference.digest, Kind.CATALOG)), size_max=1 << 30))
            size = file.stat().st_size
            with Catalog.open(file) as catalog:
                assert [*validate(catalog)] == []
                self._rows(catalog)
                below = Counters()
                for nested in catalog.nested():
                    below += self._nested(catalog, nested)
                assert [*validate_subtree(catalog, below)] == []
                return catalog.total_counters, size

    def _nested(self, parent: Catalog, reference: NestedReference) -> Counters:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "catalog")
            file.write_bytes(decompress(self.stored(ObjectName(reference.digest, Kind.CATALOG)), size_max=1 << 30))
            with Catalog.open(file) as child:
                assert [*validate_pair(parent, reference, child, size=file.stat().st_size)] == []
        return self.catalog(reference)[0]

    def _rows(self, catalog: Catalog) -> None:
        for path, entry in catalog.walk():
            self.tree[path] = replace(plain(entry), hardlink_group=entry.hardlink_group, link_count=entry.link_count)
        for name, compression in catalog.references():
            if name not in self._seen:
                self._seen.add(name)
                stored = self.stored(name)
                if compression is Compression.ZLIB:
                    decompress(stored, size_max=1 << 30)
