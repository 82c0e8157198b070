"""The catalogs of a repository as a client has them: fetched when a path needs them, a bounded number kept open (§5.8).

This is `cdn.catalog.tree` for a program that must not wait: what has to be fetched is awaited, and what SQLite answers
in microseconds is asked in place. Catalogs are known by digest, so two revisions share those they have in common.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from cdn.catalog.entries import Entry
from cdn.catalog.paths import moved
from cdn.catalog.reader import Catalog
from cdn.catalog.schema import NestedReference
from cdn.client.content import Content
from cdn.client.objects import ObjectReader, Wanted
from cdn.client.threads import in_thread
from cdn.errors import DocumentError
from cdn.hashing import Digest
from cdn.objects import Kind, ObjectName

CATALOG_BYTES_MAX: Final = 1 << 30
"""The largest catalog that is opened: about three million entries."""
OPEN_MAX_DEFAULT: Final = 64
_LISTED_AT_ONCE: Final = 256


@dataclass(frozen=True, slots=True)
class Mount:
    """A catalog and where it is attached.

    Args:
        path: where.
        digest: of the stored catalog.
        is_bind: whether it was made for another place (spec §5.9).
        fetch_path: where it is fetched from, if not from its usual place.
        size_about: how large it is said to be, 0 where nobody says; tools that write it wrong do no harm.
    """

    path: str
    digest: Digest
    is_bind: bool = False
    fetch_path: str = ""
    size_about: int = field(default=0, compare=False)


@dataclass(slots=True, eq=False)
class _Open:
    """A catalog that is open, and how many are reading it right now."""

    catalog: Catalog
    content: Content  # the file behind it stays while this is held
    mount: Mount
    users: int = 0

    def inside(self, path: str) -> str:
        """The path to ask the catalog for."""
        return moved(path, self.mount.path, self.catalog.root_prefix)

    def outside(self, path: str) -> str:
        """Where in the whole tree a path of the catalog is."""
        return moved(path, self.catalog.root_prefix, self.mount.path)


class CatalogPool:
    """Open catalogs, those used last kept open; for one event loop.

    Args:
        objects: where catalogs come from.
        open_max: so many stay open when nobody reads them.
    """

    def __init__(self, objects: ObjectReader, *, open_max: int = OPEN_MAX_DEFAULT) -> None:
        self._objects = objects
        self._open_max = open_max
        self._open: OrderedDict[Mount, _Open] = OrderedDict()
        self._opening: dict[Mount, asyncio.Lock] = {}

    @asynccontextmanager
    async def using(self, mount: Mount) -> AsyncIterator[_Open]:
        """A catalog, open as long as the block runs.

        Raises:
            AllSourcesFailedError: it cannot be had.
            DocumentError: it is damaged, or was made for another place.
        """
        opened = await self._get(mount)
        opened.users += 1
        try:
            yield opened
        finally:
            opened.users -= 1
            self._close_idle()

    def close(self) -> None:
        """Closes every catalog."""
        while self._open:
            self._open.popitem()[1].catalog.close()

    @property
    def open_count(self) -> int:
        """How many catalogs are open."""
        return len(self._open)

    async def _get(self, mount: Mount) -> _Open:
        if mount not in self._open:
            async with self._opening.setdefault(mount, asyncio.Lock()):
                if mount not in self._open:
                    self._open[mount] = await self._load(mount)
            self._opening.pop(mount, None)
        self._open.move_to_end(mount)
        return self._open[mount]

    async def _load(self, mount: Mount) -> _Open:
        name = ObjectName(mount.digest, Kind.CATALOG)
        document = f"catalog {mount.path or '/'}"
        wanted = Wanted(name, size_max=CATALOG_BYTES_MAX, size_about=mount.size_about, path=mount.fetch_path)
        try:
            content, catalog = await self._opened(wanted, document)
        except FileNotFoundError:  # another process made room in the cache in just this moment
            content, catalog = await self._opened(wanted, document)
        if not mount.is_bind and catalog.root_prefix != mount.path:
            catalog.close()
            raise DocumentError(document, f"it was made for {catalog.root_prefix[:200]!r}")
        return _Open(catalog, content, mount)

    async def _opened(self, wanted: Wanted, document: str) -> tuple[Content, Catalog]:
        content = await self._objects.read(wanted)
        return content, await in_thread(Catalog.open, content.path, document=document)

    def _close_idle(self) -> None:
        excess = len(self._open) - self._open_max
        if excess > 0:
            idle = [mount for mount, opened in self._open.items() if not opened.users]
            for mount in idle[:excess]:
                self._open.pop(mount).catalog.close()


class Tree:
    """One revision's tree.

    Args:
        pool: opens catalogs.
        root: the root catalog.
    """

    def __init__(self, pool: CatalogPool, root: Mount) -> None:
        self._pool = pool
        self.root = root

    async def find(self, path: str) -> Entry | None:
        """The entry at a path, None if there is none; of a mountpoint, the entry in the catalog above it.

        Raises:
            CdnError: a catalog cannot be had or is damaged.
        """
        async with self._holding(path, is_listed=False) as opened:
            return opened.catalog.find(opened.inside(path))

    async def listing(self, path: str) -> AsyncGenerator[Entry, None]:
        """The entries of a directory in byte order of their names, hidden ones included; none if it is not there.

        Raises:
            CdnError: as `find`.
        """
        async with self._holding(path, is_listed=True) as opened:
            for number, entry in enumerate(opened.catalog.listing(opened.inside(path))):
                if number % _LISTED_AT_ONCE == _LISTED_AT_ONCE - 1:
                    await asyncio.sleep(0)  # a directory of a million entries does not keep others waiting
                yield entry

    async def mount_of(self, path: str) -> Mount:
        """The catalog that has the entry of a path."""
        async with self._holding(path, is_listed=False) as opened:
            return opened.mount

    @asynccontextmanager
    async def root_catalog(self) -> AsyncIterator[Catalog]:
        """The root catalog, open as long as the block runs."""
        async with self._pool.using(self.root) as opened:
            yield opened.catalog

    @asynccontextmanager
    async def _holding(self, path: str, *, is_listed: bool) -> AsyncIterator[_Open]:
        """The catalog that has the entry of a path, or, if it is to be listed, what is below it."""
        mount = self.root
        while True:
            async with self._pool.using(mount) as opened:
                below = _next_mount(opened, path)
                if below is None or (below.path == path and not is_listed):
                    yield opened
                    return
            mount = below


def _next_mount(opened: _Open, path: str) -> Mount | None:
    catalog = opened.catalog
    inside = opened.inside(path)
    found = catalog.covering(inside)
    if found is None:
        return None
    is_bind = catalog.bind_mountpoint_at(found.path) is not None
    is_elsewhere = is_bind or _is_moved(opened, found)
    return Mount(opened.outside(found.path), found.digest, is_elsewhere, size_about=found.size)


def _is_moved(opened: _Open, reference: NestedReference) -> bool:
    """Whether a nested catalog appears at another place than it was made for, since the one above it does."""
    return opened.outside(reference.path) != reference.path
