"""What of the cache belongs to one revision of a repository, as far as the cache itself can tell.

The revision is known if a manifest of it is cached, or if the tags in a cached history name it. From its root catalog
on, the catalogs that are cached are walked; what the catalogs of the other revisions known here name as well is left
out, nested catalogs they share without being opened. Everything blocks and is called in a thread.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from cdn.catalog.reader import Catalog
from cdn.compression import decompress
from cdn.errors import DocumentError, UsageError
from cdn.hashing import Digest
from cdn.history import History
from cdn.manifest import Manifest
from cdn.objects import MANIFEST_PATH, Kind, ObjectName
from edge.content import Content, content_of, object_key

CATALOG_BYTES_MAX: Final = 1 << 30
CATALOGS_MAX: Final = 20_000
OBJECTS_MAX: Final = 2_000_000

Read = Callable[[str, Content], bytes | None]
"""Gives what is cached under a key."""


@dataclass(slots=True)
class _Tree:
    """What is reachable from root catalogs."""

    catalogs: set[Digest] = field(default_factory=set)
    objects: set[ObjectName] = field(default_factory=set)


class RevisionObjects:
    """Finds what belongs to a revision.

    Args:
        repository: its name.
        bases: below which keys of this repository's manifests begin.
        read: reads the cache.
    """

    def __init__(self, repository: str, bases: Iterable[str], read: Read) -> None:
        self._repository = repository
        self._bases = tuple(dict.fromkeys(bases))
        self._read = read

    def keys(self, revision: int) -> tuple[str, ...]:
        """The keys of what belongs to a revision.

        Raises:
            UsageError: nothing that is cached says what that revision is.
        """
        manifests = dict(self._manifests())
        meant = {key: each for key, each in manifests.items() if each.revision == revision}
        named = {name for each in meant.values() for name in each.objects}
        roots = {each.root_catalog for each in meant.values()} | self._tagged(manifests.values(), revision)
        if not roots:
            raise UsageError(
                f"nothing cached says what revision {revision} of {self._repository} is: neither a manifest nor a tag"
            )
        others = {each.root_catalog for each in manifests.values() if each.revision != revision}
        others |= {previous for root in roots for previous in self._previous(root)}
        kept, own = _Tree(), _Tree()
        self._walk(others - roots, kept, frozenset())
        self._walk(roots, own, frozenset(kept.catalogs))
        catalogs = {ObjectName(digest, Kind.CATALOG) for digest in own.catalogs}
        objects = named | catalogs | (own.objects - kept.objects)
        return (*meant, *(key for name in objects for key in self._keys_of(name, with_alternatives=name in named)))

    def _keys_of(self, name: ObjectName, *, with_alternatives: bool) -> Iterator[str]:
        yield self._key(name)
        if with_alternatives:
            yield from (f"{base}/{name.alternative_path}" for base in self._bases)

    def _key(self, name: ObjectName) -> str:
        return object_key(
            Content(content_of(f"/{self._repository}/{name.path}").kind, self._repository, None, name.path)
        )

    def _manifests(self) -> Iterator[tuple[str, Manifest]]:
        for base in self._bases:
            key = f"{base}/{MANIFEST_PATH}"
            data = self._read(key, content_of(f"/{self._repository}/{MANIFEST_PATH}"))
            if data is not None:
                try:
                    yield key, Manifest.parse(data)
                except DocumentError:
                    continue

    def _object(self, name: ObjectName) -> bytes | None:
        return self._read(self._key(name), content_of(f"/{self._repository}/{name.path}"))

    def _tagged(self, manifests: Iterable[Manifest], revision: int) -> set[Digest]:
        """The root catalogs that the tags of cached histories name for a revision."""
        found = set()
        for digest in {each.history for each in manifests if each.history is not None}:
            stored = self._object(ObjectName(digest, Kind.HISTORY))
            try:
                history = History.from_object(stored) if stored is not None else None
            except DocumentError:
                continue
            found |= {tag.root_catalog for tag in history.tags if tag.revision == revision} if history else set()
        return found

    def _previous(self, root: Digest) -> set[Digest]:
        """The root catalog of the revision before, which a root catalog names."""
        with self._catalog(root) as catalog:
            return {catalog.previous} if catalog is not None and catalog.previous is not None else set()

    def _walk(self, roots: Iterable[Digest], tree: _Tree, shared: frozenset[Digest]) -> None:
        """Adds what is reachable from roots through cached catalogs, shared ones excepted."""
        waiting = [root for root in roots if root not in shared]
        while waiting and len(tree.catalogs) < CATALOGS_MAX and len(tree.objects) < OBJECTS_MAX:
            digest = waiting.pop()
            if digest in tree.catalogs:
                continue
            tree.catalogs.add(digest)
            with self._catalog(digest) as catalog:
                if catalog is None:
                    continue
                try:
                    waiting += [each.digest for each in catalog.nested() if each.digest not in shared]
                    tree.objects.update(name for name, _ in catalog.references())
                except DocumentError:
                    continue

    @contextmanager
    def _catalog(self, digest: Digest) -> Iterator[Catalog | None]:
        """A catalog, if it is cached and whole."""
        stored = self._object(ObjectName(digest, Kind.CATALOG))
        if stored is None:
            yield None
            return
        with tempfile.NamedTemporaryFile(prefix="catalog-") as file:
            catalog = None
            try:
                file.write(decompress(stored, size_max=CATALOG_BYTES_MAX, document="catalog"))
                file.flush()
                catalog = Catalog.open(file.name)
            except DocumentError:
                catalog = None
            try:
                yield catalog
            finally:
                if catalog is not None:
                    catalog.close()
