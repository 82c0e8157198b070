"""One synchronization of one replica, from the source's manifest to our own (spec §9.1).

    lock, manifest verified -> history -> revisions, bottom-up -> certificate -> reflog -> whitelist -> manifest

Readers see the old revision until the manifest is replaced, which is one atomic step after everything it needs is
durable. Whatever ends a run before that, `kill -9` and a full disk included, leaves the old revision served complete.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from cdn.client.bootstrap import Authority, Known, Verified, fetch_from_any
from cdn.client.fetchers import default_fetcher
from cdn.client.keys import load_keys
from cdn.client.source_list import parse_proxies, parse_servers
from cdn.client.sources import Route, SourcePolicy, Sources
from cdn.client.state import RepositoryState
from cdn.client.threads import in_thread
from cdn.clock import Clock, SystemClock
from cdn.errors import (
    AllSourcesFailedError,
    CdnError,
    DocumentError,
    NotFoundError,
    RepositoryError,
    RevisionGoneError,
    StorageError,
    StorageFullError,
)
from cdn.hashing import Digest
from cdn.history import HISTORY_BYTES_MAX, History
from cdn.manifest import Manifest
from cdn.metainfo import METAINFO_BYTES_MAX
from cdn.objects import (
    IS_SNAPSHOTTING_PATH,
    LAST_SNAPSHOT_PATH,
    MANIFEST_PATH,
    MASTER_REPLICA_PATH,
    REFLOG_PATH,
    STATUS_PATH,
    WHITELIST_PATH,
    Kind,
    ObjectName,
)
from cdn.reflog import Reflog, checksum
from cdn.signing import DOCUMENT_BYTES_MAX, body_of
from cdn.storage.base import PrunableStore
from cdn.storage.local import LocalStore
from cdn.telemetry import NullProgress, Progress, event, fault_point, step
from cdn.transport.base import Fetcher
from cdn.transport.download import status_error
from cdn.transport.retry import RetryPolicy
from cdn.trust import Breadcrumb
from replica.config import ReplicaConfig
from replica.folders import exclusive, note_in_info
from replica.plan import (
    HISTORY_FOLLOWED_MAX,
    SyncPlan,
    SyncReport,
    date_line,
    date_text,
    reflog_names,
    status_json,
)
from replica.worker import Puller, PullSettings

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    from cdn.transport.http import Resolver

SOURCE_POLICY: Final = SourcePolicy(rounds=RetryPolicy(4, 0.5, 2.0))
_REFLOG_BYTES_MAX: Final = 1 << 30
_STATUS_BYTES_MAX: Final = 1 << 20


class Mirror:
    """A replica of one repository; an asynchronous context manager. One event loop.

    Args:
        authority: what the repository is held against.
        store: what is served.
        folder: what is known of it and never served.
        sources: where it is copied from.
        fetcher: sends requests; closed with this.
        config: how it is done.
        info: the folder above all repositories' storage, where ``info/v1`` lies; None for none.
        clock: dates what is written.
    """

    def __init__(
        self,
        authority: Authority,
        store: PrunableStore,
        folder: Path,
        sources: Sources,
        fetcher: Fetcher,
        *,
        config: ReplicaConfig,
        info: Path | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.authority = authority
        self.store = store
        self.sources = sources
        self.config = config
        self._folder = folder
        self._fetcher = fetcher
        self._info = info
        self._clock = clock or SystemClock()
        self._state = RepositoryState(folder / "state", authority.fqrn)

    @classmethod
    def open(
        cls,
        fqrn: str,
        *,
        storage: Path,
        folder: Path,
        keys: Iterable[RSAPublicKey | Path | str],
        config: ReplicaConfig,
        info: Path | None = None,
        resolver: Resolver | None = None,
        fetcher: Fetcher | None = None,
        clock: Clock | None = None,
    ) -> Mirror:
        """A replica in local folders.

        Args:
            fqrn: the repository's name.
            storage: folder of what is served.
            folder: of what is known of it and never served.
            keys: master public keys, or files or folders that hold them.
            config: where it is copied from, and how.
            info: the folder above all repositories' storage, where ``info/v1`` lies.
            resolver: finds addresses of servers in place of the system's resolver.
            fetcher: sends requests in place of the usual one.
            clock: in place of the machine's.

        Raises:
            ConfigError: there is no key, or no server.
        """
        servers = parse_servers(config.servers, fqrn)
        return cls(
            Authority(fqrn, load_keys(keys, fqrn)),
            LocalStore(storage),
            folder,
            Sources(servers, parse_proxies(config.proxies, fqrn), policy=SOURCE_POLICY),
            fetcher or _fetcher(servers, config, resolver),
            config=config,
            info=info,
            clock=clock,
        )

    @property
    def fqrn(self) -> str:
        """The repository's name."""
        return self.authority.fqrn

    async def sync(self, progress: Progress | None = None) -> SyncReport:
        """Makes the replica equal to its source.

        Raises:
            LeaseHeldError: another run is at it.
            RepositoryError: the source does not allow replication.
            RollbackError: every source is older than this replica.
            AllSourcesFailedError: something is at no source, or nowhere right.
            StorageError: the store is full, say; the old revision is still served.
        """
        with exclusive(self._folder, self.fqrn), step("replica.repository.sync", repository=self.fqrn):
            try:
                return await self._sync(progress or NullProgress())
            except OSError as error:  # the store's own failures are StorageErrors already
                raise self._unwritable(error) from error

    def puller(self, progress: Progress, *, distrusts_store: bool = False) -> Puller:
        """What copies revisions into this replica; for who holds its lock."""
        settings = PullSettings(self.config.workers, self.config.object_bytes_max, distrusts_store)
        work = self._folder / "work"
        return Puller(self.store, self.sources, self._fetcher, work, settings=settings, progress=progress)

    async def close(self) -> None:
        """Gives up all connections."""
        await self._fetcher.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # ------------------------------------------------------------------------------------------------------- the steps

    async def _sync(self, progress: Progress) -> SyncReport:
        started = self._clock.monotonic()
        own = self.own_manifest()
        if self.config.check_master_replica:
            await self._check_allowed()
        verified = await fetch_from_any(
            self.sources, self._fetcher, self.authority, now=self._clock.now(), known=self._known(own)
        )
        report = SyncReport(
            self.fqrn,
            verified.manifest.revision,
            None if own is None else own.revision,
            source=verified.source,
            whitelist_expires_at=verified.whitelist.expires_at,
        )
        if self._read(MANIFEST_PATH, DOCUMENT_BYTES_MAX) == verified.manifest_bytes:
            await in_thread(self._publish, verified, is_new=False)
            await in_thread(self._tidy)
        else:
            report = await self._copy(verified, report, progress)
        return replace(report, seconds=self._clock.monotonic() - started)

    async def _copy(self, verified: Verified, report: SyncReport, progress: Progress) -> SyncReport:
        """Copies what the manifest needs, then publishes it."""
        manifest = verified.manifest
        await in_thread(self._begin)
        try:
            progress.start(None, "objects")
            async with self.puller(progress, distrusts_store=self._begin_doubt()) as puller:
                history = await self._copy_documents(puller, manifest)
                plan = SyncPlan.of(
                    manifest,
                    history,
                    is_initial=not self.store.exists(LAST_SNAPSHOT_PATH),
                    with_tags=self.config.tags,
                )
                roots, skipped = await self._copy_revisions(puller, plan)
            await in_thread(self._finish, verified, roots)
        except BaseException:
            with suppress(CdnError):  # a disk that is full, or a folder's permissions, must not hide what went wrong
                self.store.delete(IS_SNAPSHOTTING_PATH)
            raise
        await in_thread(self._tidy)
        counts = puller.counts
        return replace(
            report, objects=counts.objects, bytes=counts.bytes, catalogs=counts.catalogs, skipped=tuple(skipped)
        )

    async def _copy_documents(self, puller: Puller, manifest: Manifest) -> History | None:
        """Copies metainfo and history; gives the tags."""
        if manifest.metainfo is not None:
            await self._copy_document(puller, ObjectName(manifest.metainfo, Kind.METAINFO), 2 * METAINFO_BYTES_MAX)
        if manifest.history is None:
            return None
        name = ObjectName(manifest.history, Kind.HISTORY)
        await self._copy_document(puller, name, HISTORY_BYTES_MAX)
        data = await in_thread(self.store.read, name.path, size_max=HISTORY_BYTES_MAX)
        history = await in_thread(History.from_object, data)
        if history.fqrn != self.fqrn:
            raise DocumentError("history", f"it is that of {history.fqrn[:200]!r}, not of {self.fqrn}")
        return history

    async def _copy_document(self, puller: Puller, name: ObjectName, size_max: int) -> None:
        if not await in_thread(puller.is_stored_well, name):
            await puller.fetch(name, size_max)

    async def _copy_revisions(self, puller: Puller, plan: SyncPlan) -> tuple[list[Digest], list[str]]:
        """Copies the newest revision, those before it that are new too, and the tagged ones."""
        copied: list[Digest] = []
        skipped: list[str] = []
        for root in await self._followed(puller, plan):
            await puller.pull(root)
            copied.append(root)
        for root in plan.tagged:
            try:
                await puller.pull(root)
            except RevisionGoneError as error:
                if not plan.may_lack_history:
                    raise
                event("replica.revision.skipped", level="warning", repository=self.fqrn, reason=str(error))
                skipped.append(root.text)
            else:
                copied.append(root)
        return copied, skipped

    async def _followed(self, puller: Puller, plan: SyncPlan) -> list[Digest]:
        """The newest revision and those before it that the replica lacks, oldest first: a later one stands for them."""
        chain = [plan.head]
        while plan.follows_history and len(chain) < HISTORY_FOLLOWED_MAX and not await puller.is_complete(chain[-1]):
            try:
                previous = await puller.previous_of(chain[-1])
            except RevisionGoneError:
                if len(chain) == 1 or not plan.may_lack_history:
                    raise
                chain.pop()
                break
            if previous is None or await puller.is_complete(previous):
                break
            chain.append(previous)
        return chain[::-1]

    def _begin(self) -> None:
        """Tidies up after runs that died, and tells whoever looks that one is under way."""
        self.store.sweep_staging(older_than=self._clock.now())
        self.store.replace(IS_SNAPSHOTTING_PATH, date_line(self._clock.now()))

    def _finish(self, verified: Verified, roots: list[Digest]) -> None:
        manifest = verified.manifest
        self.store.put(_certificate_of(manifest).path, verified.certificate_bytes)
        if manifest.alternative_names:
            for name in manifest.objects:
                self.give_alternative_name(name)
        self._write_reflog(manifest, roots)
        fault_point("replica.reflog.stored")
        self._publish(verified, is_new=True)

    def _publish(self, verified: Verified, *, is_new: bool) -> None:
        """Shows the revision, and says when."""
        now = self._clock.now()
        if self._read(WHITELIST_PATH, DOCUMENT_BYTES_MAX) != verified.whitelist_bytes:
            self.store.replace(WHITELIST_PATH, verified.whitelist_bytes)
            fault_point("replica.whitelist.stored")
        if is_new:
            self.store.replace(MANIFEST_PATH, verified.manifest_bytes)
            fault_point("replica.manifest.stored")
        self._state.remember(verified)
        status = status_json(self._read(STATUS_PATH, _STATUS_BYTES_MAX), last_snapshot=date_text(now))
        self.store.replace(STATUS_PATH, status)
        self.store.replace(LAST_SNAPSHOT_PATH, date_line(now))
        self._list_in_info()
        if is_new:
            event("replica.revision.published", repository=self.fqrn, revision=verified.manifest.revision)

    # -------------------------------------------------------------------------------------------------- smaller things

    def own_manifest(self) -> Manifest | None:
        """The manifest that is served, None if there is none or it is damaged."""
        data = self._read(MANIFEST_PATH, DOCUMENT_BYTES_MAX)
        try:
            return Manifest.parse(body_of(data)) if data else None
        except DocumentError as error:
            event("replica.manifest.damaged", level="warning", repository=self.fqrn, reason=str(error))
            return None

    def own_reflog(self) -> Reflog:
        """What the replica has had since it was made; nothing if the list is missing or damaged."""
        data = self._read(REFLOG_PATH, _REFLOG_BYTES_MAX)
        if data:
            try:
                reflog = Reflog.from_bytes(data)
            except DocumentError as error:
                event("replica.reflog.damaged", level="warning", repository=self.fqrn, reason=str(error))
            else:
                if reflog.fqrn == self.fqrn:
                    return reflog
        return Reflog(self.fqrn)

    def _unwritable(self, error: OSError) -> StorageError:
        said = f"the replica of {self.fqrn} cannot keep its work below {self._folder}: {error.strerror or error}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return StorageFullError(f"{said}; free some space and try again")
        return StorageError(said)

    def give_alternative_name(self, name: ObjectName) -> None:
        """Makes an object that is there also reachable by its other name (spec §1.1)."""
        self.store.replace(name.alternative_path, self.store.read(name.path, size_max=_REFLOG_BYTES_MAX))

    def _known(self, own: Manifest | None) -> Known:
        """The newest state believed: what was noted, or what is served if that is newer."""
        noted = self._state.known()
        crumbs = [noted.breadcrumb, None if own is None else Breadcrumb.of(own)]
        present = [crumb for crumb in crumbs if crumb is not None]
        newest = max(present, key=lambda crumb: (crumb.revision, crumb.timestamp), default=None)
        return Known(newest, noted.whitelist_created)

    async def _check_allowed(self) -> None:
        async def ask(route: Route) -> None:
            request = route.request(MASTER_REPLICA_PATH, method="HEAD")
            async with self._fetcher.send(request) as response:
                if response.status != 200:
                    raise status_error(request.url, response)

        try:
            await self.sources.fetch(MASTER_REPLICA_PATH, ask)
        except AllSourcesFailedError as error:
            if not all(isinstance(cause, NotFoundError) for cause in error.causes):
                raise
            raise RepositoryError(
                f"no source of {self.fqrn} lets itself be replicated ({MASTER_REPLICA_PATH} is missing): ask its "
                "publisher, or set check_master_replica = false"
            ) from error

    def _write_reflog(self, manifest: Manifest, roots: list[Digest]) -> None:
        reflog = self.own_reflog().with_objects(reflog_names(manifest, roots), int(self._clock.now()))
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            path = os.path.join(folder, "reflog")
            reflog.write(path)
            with open(path, "rb") as file:
                self.store.replace(REFLOG_PATH, file.read())
            text = checksum(path, manifest.root_catalog.algorithm).text
        note = self._folder / "reflog.chksum"
        note.with_suffix(".new").write_text(f"{text}\n", encoding="ascii")
        note.with_suffix(".new").replace(note)

    def _list_in_info(self) -> None:
        if self._info is not None:
            try:
                note_in_info(self._info, self._folder.parent, self.fqrn, present=True)
            except OSError as error:  # the replica itself is served all the same
                event("replica.info.unwritten", level="warning", repository=self.fqrn, reason=str(error))

    def _begin_doubt(self) -> bool:
        """Notes that a run is under way; whether the machine went down in the middle of the last one.

        Objects are not synced one by one, so after a power cut some may be torn; after `kill -9` they are not.
        """
        note = self._folder / "unfinished"
        boot = _boot_id()
        with suppress(OSError):
            if note.read_text(encoding="ascii", errors="replace") != boot:
                event("replica.store.distrusted", level="warning", repository=self.fqrn)
                return True
        note.write_text(boot, encoding="ascii")
        return False

    def _tidy(self) -> None:
        """Removes what says that a run is under way, also if it was another one that died after its last step."""
        self.store.delete(IS_SNAPSHOTTING_PATH)
        with suppress(OSError):
            (self._folder / "unfinished").unlink()

    def _read(self, path: str, size_max: int) -> bytes:
        return _read(self.store, path, size_max)


def _read(store: PrunableStore, path: str, size_max: int) -> bytes:
    """What a store has there, nothing if that is nothing."""
    return store.read(path, size_max=size_max) if store.exists(path) else b""


def _certificate_of(manifest: Manifest) -> ObjectName:
    assert manifest.certificate is not None, "a verified manifest names its certificate"
    return ObjectName(manifest.certificate, Kind.CERTIFICATE)


def _boot_id() -> str:
    with suppress(OSError), open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()
    return "unknown"


def _fetcher(servers: tuple[str, ...], config: ReplicaConfig, resolver: Resolver | None) -> Fetcher:
    if all(server.startswith("file:") for server in servers):
        return default_fetcher(servers)
    from cdn.transport.file import FileFetcher
    from cdn.transport.http import HttpFetcher, HttpSettings
    from cdn.transport.schemes import SchemeFetcher

    settings = HttpSettings(
        connect_timeout_seconds=config.timeout,
        idle_timeout_seconds=config.timeout,
        connections_per_host=config.workers + 4,
        connections_max=4 * config.workers,
    )
    http = HttpFetcher(settings, resolver=resolver)
    return SchemeFetcher({"http": http, "https": http, "file": FileFetcher()})
