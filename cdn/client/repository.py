"""A repository open for reading: verified, kept fresh, and readable on when every source is gone (spec §8.3).

    async with await open_repository("sw.example.org", servers="http://…", keys=["sw.example.org.pub"]) as repository:
        data = await repository.files.read("/README")

`repository.files` is the file system of the revision believed newest. `refresh` looks for a newer one and only ever
goes forward; who holds on to the `files` from before goes on reading the old revision, unless that was blacklisted.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from cdn.client.bootstrap import Authority, Known, Verified, bootstrap_path, fetch_from_any
from cdn.client.cache import ObjectCache
from cdn.client.catalogs import CatalogPool, Mount, Tree
from cdn.client.config import ClientSettings
from cdn.client.fetchers import default_fetcher
from cdn.client.filesystem import FileSystem
from cdn.client.keys import load_keys
from cdn.client.objects import ObjectReader, Wanted
from cdn.client.pins import NEWEST, Pin, chosen
from cdn.client.source_list import parse_external_urls, parse_proxies, parse_servers
from cdn.client.sources import Sources
from cdn.client.state import RepositoryState
from cdn.clock import Clock, SystemClock
from cdn.errors import (
    AllSourcesFailedError,
    BlacklistedRevisionError,
    CdnError,
    ConfigError,
    NameMismatchError,
    RollbackError,
    TransportError,
    UsageError,
)
from cdn.hashing import Digest
from cdn.history import HISTORY_BYTES_MAX, History
from cdn.manifest import TTL_SECONDS_DEFAULT, Manifest, is_repository_name
from cdn.metainfo import METAINFO_BYTES_MAX, Metainfo
from cdn.objects import Kind, ObjectName
from cdn.telemetry import event
from cdn.transport.base import Fetcher
from cdn.trust import Blacklist, Breadcrumb

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    from cdn.transport.http import Resolver

_NO_VARIABLES: Final[Mapping[str, str]] = {}


class Refreshed(Enum):
    """What a look for a newer revision found."""

    NEWER = "newer"
    SAME = "same"
    OFFLINE = "offline"


class MountedRepository:
    """A repository open for reading; made by `open_repository`, an asynchronous context manager. One event loop.

    Args:
        authority: what it is held against.
        sources: whom to ask.
        fetcher: sends requests; closed with this.
        cache: where content is kept.
        external: whom to ask for the content of external files; None where nobody is known.
        state: what is remembered between runs; None for nothing.
        settings: how it behaves.
        variables: for ``$(VAR)`` in links.
        clock: tells whitelists' time and when to look again.
        temporary: a folder that is removed at the end.
        blacklist_file: where the authority's blacklist was read from, and is read again with every look.
    """

    def __init__(
        self,
        authority: Authority,
        sources: Sources,
        fetcher: Fetcher,
        cache: ObjectCache,
        *,
        external: Sources | None = None,
        state: RepositoryState | None = None,
        settings: ClientSettings | None = None,
        variables: Mapping[str, str] = _NO_VARIABLES,
        clock: Clock | None = None,
        temporary: str | None = None,
        blacklist_file: Path | None = None,
    ) -> None:
        self.authority = authority
        self.sources = sources
        self.cache = cache
        self._settings = settings or ClientSettings()
        self.objects = ObjectReader(fetcher, sources, cache, external=external, fetches_max=self._settings.fetches_max)
        self._fetcher = fetcher
        self._state = state
        self._variables = dict(variables)
        self._clock = clock or SystemClock()
        self._temporary = temporary
        self._blacklist_file = blacklist_file
        self._pool = CatalogPool(self.objects, open_max=self._settings.catalogs_open_max)
        self._refreshing = asyncio.Lock()
        self._pin = NEWEST
        self._files: FileSystem | None = None
        self._verified: Verified | None = None
        self._verified_under = authority.blacklist
        self._next_look = 0.0
        self._task: asyncio.Task[None] | None = None
        self.offline_reason: CdnError | None = None

    # ------------------------------------------------------------------------------------------------------- what it is

    @property
    def fqrn(self) -> str:
        """The repository's name."""
        return self.authority.fqrn

    @property
    def files(self) -> FileSystem:
        """The file system of the revision believed newest, or of the one chosen."""
        assert self._files is not None, "the repository is not open"
        return self._files

    @property
    def revision(self) -> int:
        """The number of that revision."""
        return self.files.revision

    @property
    def verified(self) -> Verified | None:
        """The newest documents believed; None where a root catalog was chosen and nothing was asked."""
        return self._verified

    @property
    def manifest(self) -> Manifest | None:
        """The newest manifest believed."""
        return None if self._verified is None else self._verified.manifest

    @property
    def is_offline(self) -> bool:
        """Whether the last look for a newer revision failed."""
        return self.offline_reason is not None

    # ------------------------------------------------------------------------------------------------ opening and after

    async def open(self, pin: Pin = NEWEST) -> None:
        """Verifies the newest revision and opens it, or the one chosen.

        Raises:
            CdnError: it cannot be had or must not be believed, and nothing was believed before.
        """
        self._pin = pin
        if pin.root_catalog is not None:
            self._files = await self._opened(Mount("", pin.root_catalog))
            return
        has_fallback = self._has_fallback()
        try:
            await self._take(await self._fetch_documents(has_fallback=has_fallback))
        except CdnError as error:
            if await self._open_offline(error):
                return
            if not has_fallback or not isinstance(error, TransportError):
                raise
            await self._take(await self._fetch_documents())  # what is kept is damaged: as if there were nothing

    async def refresh(self) -> Refreshed:
        """Looks for a newer revision and switches to it; whatever fails, the present one stays.

        The blacklist is read again before. A revision that is on it now is not read any more.

        Returns:
            what was found; after `Refreshed.OFFLINE`, `offline_reason` says why.
        """
        async with self._refreshing:
            await self._read_blacklist_again()
            if not self._pin.is_newest:
                return Refreshed.SAME
            before = self.revision
            try:
                await self._take(await self._fetch_documents())
            except CdnError as error:
                self._went_offline(error)
                return Refreshed.OFFLINE
            return Refreshed.NEWER if self.revision > before else Refreshed.SAME

    def keep_fresh(self) -> None:
        """Looks for newer revisions by itself from now on, as often as the repository says."""
        if self._task is None and self._pin.is_newest:
            self._task = asyncio.create_task(self._keep_fresh())

    async def close(self) -> None:
        """Lets go of everything."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        await self.objects.close()
        self._pool.close()
        await self._fetcher.close()
        if self._temporary is not None:
            await asyncio.to_thread(shutil.rmtree, self._temporary, ignore_errors=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # ------------------------------------------------------------------------------------------------------- about it

    async def history(self) -> History | None:
        """The tags, None if the repository has none.

        Raises:
            CdnError: they cannot be had.
        """
        manifest = self.manifest
        if manifest is None or manifest.history is None:
            return None
        content = await self.objects.read(self._document(manifest, manifest.history, Kind.HISTORY, HISTORY_BYTES_MAX))
        history = await asyncio.to_thread(History.read, content.path)
        if history.fqrn != self.fqrn:
            raise NameMismatchError(f"the tags are those of {history.fqrn[:200]!r}, not of {self.fqrn}")
        return history

    async def metainfo(self) -> Metainfo | None:
        """What the repository says about itself, None if it says nothing.

        Raises:
            CdnError: it cannot be had.
        """
        manifest = self.manifest
        if manifest is None or manifest.metainfo is None:
            return None
        wanted = self._document(manifest, manifest.metainfo, Kind.METAINFO, METAINFO_BYTES_MAX)
        content = await self.objects.read(wanted)
        return Metainfo.parse(content.read(0, content.size))

    async def pinned(self, pin: Pin) -> FileSystem:
        """The file system of another revision.

        Raises:
            RepositoryError: there is no such revision.
            CdnError: it cannot be had.
        """
        if pin.root_catalog is not None:
            return await self._opened(Mount("", pin.root_catalog))
        manifest = self.manifest
        assert manifest is not None, "only a repository opened by its manifest knows others"
        if pin.is_newest or pin.revision == manifest.revision:
            return await self._opened(_root_mount(manifest))
        tag = chosen(pin, await self.history(), self.fqrn)
        return await self._opened(Mount("", tag.root_catalog))

    # -------------------------------------------------------------------------------------------------------- internals

    async def _fetch_documents(self, *, has_fallback: bool = False) -> Verified:
        try:
            return await fetch_from_any(
                self.sources,
                self._fetcher,
                self.authority,
                now=self._clock.now(),
                known=self._known(),
                current=self._verified if self._verified_under == self.authority.blacklist else None,
                has_fallback=has_fallback,
            )
        except (RollbackError, AllSourcesFailedError) as error:
            refusal = _as_rollback(error)
            if refusal is None or self._state is None:
                raise
            raise RollbackError(
                f"{refusal}; if its publisher really made it anew or set it back, remove {self._state.folder}"
            ) from error

    def _has_fallback(self) -> bool:
        """Whether the repository can probably be opened with what is kept, without any source."""
        manifest = self._state.manifest() if self._state is not None else None
        if manifest is None:
            return False
        if self._pin.is_newest:
            return self.cache.has(ObjectName(manifest.root_catalog, Kind.CATALOG))
        return manifest.history is not None and self.cache.has(ObjectName(manifest.history, Kind.HISTORY))

    async def _read_blacklist_again(self) -> None:
        if self._blacklist_file is None:
            return
        try:
            blacklist = await asyncio.to_thread(read_blacklist, self._blacklist_file)
        except CdnError as error:  # what was forbidden stays forbidden
            event("client.blacklist.unreadable", level="warning", repository=self.fqrn, reason=str(error))
        else:
            self.authority = replace(self.authority, blacklist=blacklist)

    def _known(self) -> Known:
        """The newest that this process or another one believed."""
        noted = self._state.known() if self._state is not None else Known()
        own = self._verified.known if self._verified is not None else Known()
        crumbs = [crumb for crumb in (own.breadcrumb, noted.breadcrumb) if crumb is not None]
        newest: Breadcrumb | None = max(crumbs, key=lambda crumb: (crumb.revision, crumb.timestamp), default=None)
        return Known(newest, max(own.whitelist_created, noted.whitelist_created))

    async def _take(self, verified: Verified) -> None:
        """Switches to what was verified; nothing changes if its root catalog cannot be had."""
        if self._files is None or not self._is_current(verified):
            before, self._verified = self._verified, verified
            try:
                self._files = await self.pinned(self._pin)
            except BaseException:
                self._verified = before
                raise
            event("client.repository.opened", repository=self.fqrn, revision=self.revision, source=verified.source)
        self._verified, self._verified_under = verified, self.authority.blacklist
        self.offline_reason = None
        self._next_look = self._clock.monotonic() + await self._ttl_seconds()
        if self._state is not None:
            await asyncio.to_thread(self._state.remember, verified)

    def _is_current(self, verified: Verified) -> bool:
        return self._verified is not None and verified.manifest.root_catalog == self._verified.manifest.root_catalog

    async def _open_offline(self, reason: CdnError) -> bool:
        """Opens what was believed last, if that is possible with what is cached."""
        if self._state is None:
            return False
        verified = await asyncio.to_thread(self._state.last_verified, self.authority, now=self._clock.now())
        if verified is None:
            return False
        self._verified = verified
        try:
            self._files = await self.pinned(self._pin)
        except CdnError:
            return False
        self._went_offline(reason)
        return True

    def _went_offline(self, reason: CdnError) -> None:
        self.offline_reason = reason
        self._next_look = self._clock.monotonic() + self._settings.retry_seconds
        event("client.repository.offline", level="warning", repository=self.fqrn, reason=str(reason))

    async def _opened(self, root: Mount) -> FileSystem:
        tree = Tree(self._pool, root)
        async with tree.root_catalog() as catalog:
            revision = catalog.revision

        def check() -> None:
            self.authority.blacklist.check_revision(self.fqrn, revision)

        check()  # an old one may be chosen by its tag
        return FileSystem(tree, self.objects, fqrn=self.fqrn, revision=revision, variables=self._variables, check=check)

    async def _ttl_seconds(self) -> float:
        async with self.files.tree.root_catalog() as catalog:
            seconds = float(catalog.ttl_seconds or TTL_SECONDS_DEFAULT)
        if self._settings.refresh_seconds_max > 0:
            seconds = min(seconds, self._settings.refresh_seconds_max)
        return max(seconds, self._settings.refresh_seconds_min)

    async def _keep_fresh(self) -> None:
        while True:
            await asyncio.sleep(max(0.0, self._next_look - self._clock.monotonic()))
            await self.refresh()

    def _document(self, manifest: Manifest, digest: Digest, kind: Kind, size_max: int) -> Wanted:
        name = ObjectName(digest, kind)
        return Wanted(name, size_max=size_max, path=bootstrap_path(name, alternative=manifest.alternative_names))


def _root_mount(manifest: Manifest) -> Mount:
    name = ObjectName(manifest.root_catalog, Kind.CATALOG)
    path = bootstrap_path(name, alternative=True) if manifest.alternative_names else ""
    return Mount("", manifest.root_catalog, fetch_path=path, size_about=manifest.root_catalog_bytes or 0)


# ------------------------------------------------------------------------------------------------- putting it together


def _as_rollback(error: CdnError) -> RollbackError | None:
    """The refusal of something older than what is remembered, where that alone stands in the way."""
    causes = error.causes if isinstance(error, AllSourcesFailedError) else (error,)
    refusals = [
        cause
        for cause in causes
        if isinstance(cause, RollbackError) and not isinstance(cause, BlacklistedRevisionError)
    ]
    return refusals[-1] if refusals and len(refusals) == len(causes) else None


async def open_repository(
    fqrn: str,
    *,
    servers: str | Iterable[str],
    keys: Iterable[RSAPublicKey | Path | str],
    proxies: str = "",
    external_urls: str | Iterable[str] = (),
    pin: Pin = NEWEST,
    settings: ClientSettings | None = None,
    variables: Mapping[str, str] = _NO_VARIABLES,
    blacklist: Blacklist | Path | None = None,
    resolver: Resolver | None = None,
    fetcher: Fetcher | None = None,
    clock: Clock | None = None,
) -> MountedRepository:
    """Opens a repository for reading, inside a running event loop.

    Args:
        fqrn: its name.
        servers: base URLs, see `parse_servers`; a path means a folder of this machine.
        keys: master public keys, or files or folders that hold them.
        proxies: groups of proxies, see `parse_proxies`.
        external_urls: where the content of external files lies, written as servers are; asked through the same proxies.
        pin: which revision, if not the newest.
        settings: how it behaves; among them the folder of the cache.
        variables: for ``$(VAR)`` in links, such as `os.environ`.
        blacklist: certificates and revisions that are refused, or the file that lists them.
        resolver: finds addresses of servers in place of the system's resolver.
        fetcher: sends requests in place of the usual one; closed with the repository.
        clock: in place of the machine's.

    Raises:
        UsageError, ConfigError: the arguments make no sense.
        CdnError: the repository cannot be had or must not be believed.
    """
    if not is_repository_name(fqrn):
        raise UsageError(f"{fqrn[:200]!r} is no name of a repository, such as sw.example.org")
    settings = settings or ClientSettings()
    blacklist_file = blacklist if isinstance(blacklist, Path) else None
    refused = read_blacklist(blacklist) if isinstance(blacklist, Path) else blacklist or Blacklist()
    authority = Authority(fqrn, load_keys(keys, fqrn), refused)
    urls = parse_servers(servers, fqrn)
    external = parse_external_urls(external_urls, fqrn)
    groups = parse_proxies(proxies, fqrn)
    sources = Sources(urls, groups, policy=settings.policy, clock=clock)
    temporary = None if settings.cache is not None else tempfile.mkdtemp(prefix="cdn-client-")
    folder = Path(temporary or settings.cache or "")
    repository = MountedRepository(
        authority,
        sources,
        fetcher or default_fetcher((*urls, *external), resolver),
        ObjectCache(folder, size_bytes_max=settings.cache_bytes_max),
        external=Sources(external, groups, policy=settings.policy, clock=clock) if external else None,
        state=RepositoryState(folder / "repositories", fqrn) if settings.cache is not None else None,
        settings=settings,
        variables=variables,
        clock=clock,
        temporary=temporary,
        blacklist_file=blacklist_file,
    )
    try:
        await repository.open(pin)
    except BaseException:
        await repository.close()
        raise
    return repository


def read_blacklist(path: Path) -> Blacklist:
    """The blacklist in a file.

    Raises:
        ConfigError: it cannot be read.
        DocumentError: it is too large.
    """
    try:
        return Blacklist.parse(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"the blacklist {path} cannot be read: {error.strerror}") from error
