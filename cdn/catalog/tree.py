"""A whole revision's tree through its nested catalogs (spec §5.8, §5.9).

Catalogs are opened when needed and a bounded number is kept open. A nested catalog must say that it was made for the
place where it is attached; a bind mountpoint's catalog was made for another, and its paths are translated.
"""

from __future__ import annotations

from collections import OrderedDict
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from cdn.catalog.paths import PATH_BYTES_MAX, moved
from cdn.catalog.reader import Catalog
from cdn.catalog.schema import NestedReference
from cdn.closing import Closing
from cdn.errors import DocumentError, PathMissingError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cdn.catalog.entries import Entry
    from cdn.compression import Compression
    from cdn.hashing import Digest
    from cdn.objects import ObjectName

OPEN_MAX_DEFAULT: Final = 64


class CatalogLoader(Protocol):
    """Where catalogs come from; whoever loads verifies the digest."""

    def load(self, digest: Digest, *, size: int, path: str) -> Catalog:
        """Opens a catalog; the caller closes it.

        Args:
            digest: of the stored object.
            size: of the uncompressed file as the reference says, 0 if it does not.
            path: where it is attached, for messages.

        Raises:
            CdnError: it cannot be had, or is not what the digest says.
        """
        ...


@dataclass(slots=True, eq=False)
class _Mounted:
    """A catalog that is open, where it is attached, and how many are reading it right now."""

    catalog: Catalog
    mountpoint: str
    users: int = 0

    def inside(self, path: str) -> str:
        """The path to ask the catalog for."""
        return moved(path, self.mountpoint, self.catalog.root_prefix)

    def outside(self, path: str) -> str:
        """Where in the whole tree a path of the catalog is."""
        return moved(path, self.catalog.root_prefix, self.mountpoint)


class CatalogTree(Closing):
    """One revision's tree; a context manager that closes its catalogs. One thread at a time.

    Args:
        loader: where catalogs come from.
        root: digest of the root catalog.
        size: of the root catalog's uncompressed file, 0 if unknown.
        open_max: so many catalogs stay open when nobody reads them.
    """

    def __init__(self, loader: CatalogLoader, root: Digest, size: int = 0, *, open_max: int = OPEN_MAX_DEFAULT) -> None:
        self._loader = loader
        self._root = NestedReference("", root, size)
        self._open_max = open_max
        self._open: OrderedDict[NestedReference, _Mounted] = OrderedDict()

    def close(self) -> None:
        """Closes every catalog."""
        while self._open:
            self._open.popitem()[1].catalog.close()

    def find(self, path: str) -> Entry | None:
        """The entry at a path, None if there is none; of a mountpoint, the entry in the catalog above it.

        Raises:
            CdnError: a catalog cannot be loaded or is damaged.
        """
        with self._holding(path, is_listed=False) as mounted:
            return mounted.catalog.find(mounted.inside(path))

    def listing(self, path: str) -> Iterator[Entry]:
        """The entries of a directory in byte order of their names, hidden ones included; none if it is not there.

        Raises:
            CdnError: as `find`.
        """
        with self._holding(path, is_listed=True) as mounted:
            yield from mounted.catalog.listing(mounted.inside(path))

    def walk(self, path: str = "", *, into_binds: bool = False) -> Iterator[tuple[str, Entry]]:
        """Everything at and below a path: parents before children, siblings in byte order of their names.

        Args:
            path: where to begin.
            into_binds: whether other revisions mounted in this one are entered, which have everything once more.

        Raises:
            PathMissingError: there is no such path.
            CdnError: as `find`.
        """
        top = self.find(path)
        if top is None:
            raise PathMissingError(path)
        yield path, top
        pending = [(path, self.listing(path))] if top.is_directory else []
        while pending:
            directory, entries = pending[-1]
            entry = next(entries, None)
            if entry is None:
                pending.pop()
                continue
            child = f"{directory}/{entry.name}"
            yield child, entry
            if entry.is_directory and (into_binds or not entry.is_bind_mountpoint):
                if len(child) > PATH_BYTES_MAX:
                    raise DocumentError(
                        f"the tree at {path or '/'}", f"it has paths of more than {PATH_BYTES_MAX} bytes"
                    )
                pending.append((child, self.listing(child)))

    def catalogs(self) -> Iterator[tuple[NestedReference, Catalog]]:
        """Every catalog with its reference, parents before children; it stays open until the next is asked for.

        Bind mountpoints are not followed: their catalogs belong to revisions of their own.

        Raises:
            CdnError: as `find`.
        """
        pending = [[self._root]]
        while pending:
            if not pending[-1]:
                pending.pop()
                continue
            reference = pending[-1].pop()
            with self._using(reference, made_for=reference.path) as mounted:
                yield reference, mounted.catalog
                pending.append(mounted.catalog.nested()[::-1])

    def references(self) -> Iterator[tuple[ObjectName, Compression]]:
        """Every object that the tree's rows need; one that several catalogs need comes several times.

        Raises:
            CdnError: as `find`.
        """
        for _, catalog in self.catalogs():
            yield from catalog.references()

    @contextmanager
    def _holding(self, path: str, *, is_listed: bool) -> Iterator[_Mounted]:
        """The catalog that has the entry of a path, or, if it is to be listed, what is below it."""
        reference = self._root
        made_for: str | None = ""
        while True:
            with self._using(reference, made_for=made_for) as mounted:
                catalog = mounted.catalog
                found = catalog.covering(mounted.inside(path))
                mountpoint = "" if found is None else mounted.outside(found.path)
                if found is None or (mountpoint == path and not is_listed):
                    yield mounted
                    return
                made_for = found.path if catalog.nested_at(found.path) else None
            reference = NestedReference(mountpoint, found.digest, found.size)

    @contextmanager
    def _using(self, reference: NestedReference, *, made_for: str | None) -> Iterator[_Mounted]:
        mounted = self._open.get(reference)
        if mounted is None:
            mounted = self._open[reference] = self._mount(reference, made_for)
        self._open.move_to_end(reference)
        mounted.users += 1
        try:
            self._close_idle()
            yield mounted
        finally:
            mounted.users -= 1

    def _mount(self, reference: NestedReference, made_for: str | None) -> _Mounted:
        """Opens a catalog.

        Args:
            reference: where it is attached in the whole tree.
            made_for: the root prefix it must have; None for a bind mountpoint, which may have any.
        """
        catalog = self._loader.load(reference.digest, size=reference.size, path=reference.path)
        if made_for not in (None, catalog.root_prefix):
            catalog.close()
            raise DocumentError(f"catalog {reference.path or '/'}", f"it was made for {catalog.root_prefix[:200]!r}")
        return _Mounted(catalog, reference.path)

    def _close_idle(self) -> None:
        excess = len(self._open) - self._open_max
        if excess <= 0:
            return
        idle = [reference for reference, mounted in self._open.items() if not mounted.users]
        for reference in idle[:excess]:
            self._open.pop(reference).catalog.close()
