"""Manifests and whitelists as they arrive: judged whole, and kept in step with one another and with the objects.

Clients of a new manifest ask at once for its root catalog, its certificate and the whitelist that must list it. So
before a newer manifest takes the place of one at hand, the edge fetches these itself. What it learns that they cannot
be had, or that the certificate is not listed, the newer manifest would only take clients away from a revision that
works: it counts as not published yet, and the next upstream is asked. Where that takes long, clients are not kept
waiting. A whitelist that does not list who signed the manifest at hand makes the edge look for a newer manifest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from cdn.errors import DocumentError, RollbackError
from cdn.hashing import Digest
from cdn.manifest import Manifest
from cdn.objects import MANIFEST_PATH, WHITELIST_PATH, Kind, ObjectName
from cdn.telemetry import event
from edge.content import Content, ContentKind, is_whitelist, object_key
from edge.documents.repository_states import RepositoryStates, lists, read_whitelist
from edge.documents.revisions import Order, RevisionWatch, read_manifest
from edge.fetch.orders import FetchOrder
from edge.fetch.supplies import Supplies
from edge.routing import Destination
from edge.serving.own_requests import Obtained, OwnRequests
from edge.settings.manifests import ManifestSettings

REMIND_SECONDS: Final = 600.0


class SignedDocuments:
    """Judges manifests and whitelists.

    Args:
        supplies: caches and clock.
        own: asks the edge itself.
        settings: how far it goes.
        on_new_repository: is told when requests for one more repository are counted apart.
    """

    def __init__(
        self,
        supplies: Supplies,
        own: OwnRequests,
        settings: ManifestSettings,
        on_new_repository: Callable[[], None] = lambda: None,
    ) -> None:
        self._on_new_repository = on_new_repository
        self._with = supplies
        self._own = own
        self.settings = settings
        self.repositories = RepositoryStates()
        self._revisions = RevisionWatch()

    async def judge(self, order: FetchOrder, data: bytes) -> None:
        """Accepts what an upstream gave, or not.

        Raises:
            DocumentError: it is not what its name promises, or what it names cannot be had.
            RollbackError: it is older than one that was given out.
        """
        if order.destination.content.kind is ContentKind.MANIFEST:
            await self._judge_manifest(order, data)
        else:
            self._judge_whitelist(order.destination, data)

    def loaded(self, destination: Destination, data: bytes) -> bool:
        """Lets what an earlier run stored count as given out, so that time goes forward over restarts; False if bad."""
        content = destination.content
        try:
            if content.kind is ContentKind.MANIFEST:
                self._note(destination, read_manifest(data, content.repository, self._with.clock.now()))
            elif is_whitelist(content):
                self.repositories.note_whitelist(content.repository, read_whitelist(data, content.repository))
        except DocumentError:
            return False
        return True

    async def remind_on(self) -> None:
        """Warns of whitelists that expire soon, over and over, also of repositories nobody asks for just now."""
        while True:
            await asyncio.sleep(REMIND_SECONDS)
            self.remind()

    def remind(self) -> None:
        """Warns of whitelists that expire soon."""
        now = self._with.clock.now()
        for repository, left in self.repositories.expiring(now, self.settings.whitelist_warning):
            event("edge.whitelist.expiring", level="warning", repository=repository, seconds_left=round(left))

    # ------------------------------------------------------------------------------------------------ manifests

    async def _judge_manifest(self, order: FetchOrder, data: bytes) -> None:
        destination = order.destination
        manifest = read_manifest(data, destination.content.repository, self._with.clock.now())
        if self._compare(destination, manifest) is Order.NEWER and self.settings.prefetch and order.is_shared:
            await self._prepare(order, manifest)
            self._compare(destination, manifest)  # another may have come meanwhile
        self._note(destination, manifest)

    def _compare(self, destination: Destination, manifest: Manifest) -> Order:
        """How it stands to what was given out.

        Raises:
            RollbackError: it is older.
        """
        found = self._revisions.compare(destination.key, manifest)
        if found is Order.OLDER:
            newest = self._revisions.newest(destination.key)
            raise RollbackError(f"revision {manifest.revision} is older than {newest}, which was seen")
        return found

    def _note(self, destination: Destination, manifest: Manifest) -> None:
        if self._revisions.note(destination.key, manifest):
            self._with.memory.forget_negatives(destination.content.repository)
            self.repositories.note_manifest(destination.content.repository, manifest)
            if self._with.statistics.tallies.admit([destination.content.repository]):
                self._on_new_repository()
            if self._with.root_catalogs is not None:
                self._with.root_catalogs.note(destination.key, destination.content.repository, manifest)

    async def _prepare(self, order: FetchOrder, manifest: Manifest) -> None:
        """Has what clients of a manifest will ask for next fetched.

        Raises:
            DocumentError: it cannot be had, and there is an earlier manifest to go on with.
        """
        self._with.memory.forget_negatives(order.destination.content.repository)
        following = _Following(order.destination, manifest, self._own, self.settings)
        self._with.statistics.prefetches += following.begin()
        if not order.has_stand_in:
            self._own.spawn(following.missing())
            return
        missing = await following.missing()
        if missing:
            self._with.statistics.manifests_held_back += 1
            raise DocumentError("manifest", f"revision {manifest.revision} cannot be used yet: {missing}")

    # ------------------------------------------------------------------------------------------------ whitelists

    def _judge_whitelist(self, destination: Destination, data: bytes) -> None:
        repository, states = destination.content.repository, self.repositories
        whitelist = read_whitelist(data, repository)
        state, now = states.of(repository), self._with.clock.now()
        is_valid = state.whitelist_expires_at is not None and state.whitelist_expires_at > now
        if is_valid and whitelist.created_at < (state.whitelist_created_at or 0):
            raise RollbackError(f"the whitelist of {repository} is older than one that was seen")
        is_new = state.whitelist_created_at not in {None, whitelist.created_at}
        states.note_whitelist(repository, whitelist)
        self.remind()
        if is_new and self.settings.prefetch:
            self._look_for_its_manifest(destination, data)

    def _look_for_its_manifest(self, destination: Destination, whitelist: bytes) -> None:
        """After a new whitelist there may be a newer manifest; if it does not list who signed ours, there must be."""
        entry = self._with.memory.peek(destination.key.removesuffix(WHITELIST_PATH) + MANIFEST_PATH)
        certificate = self._certificate_at_hand(destination.content.repository)
        if entry is not None and certificate is not None and not lists(whitelist, certificate):
            entry.outdate()
        self._own.begin(_beside(destination, MANIFEST_PATH), is_fresh=True)

    def _certificate_at_hand(self, repository: str) -> bytes | None:
        digest = self.repositories.of(repository).certificate
        if digest is None:
            return None
        path = ObjectName(digest, Kind.CERTIFICATE).path
        entry = self._with.memory.peek(object_key(Content(ContentKind.OBJECT, repository, digest, path)))
        return entry.body if entry is not None else None


def _beside(destination: Destination, path: str) -> str:
    """The URL of something else of the same repository, in the form that was asked for."""
    return destination.target.url.rpartition("/")[0] + "/" + path


class _Following:
    """What clients ask for after a manifest."""

    def __init__(
        self, destination: Destination, manifest: Manifest, own: OwnRequests, settings: ManifestSettings
    ) -> None:
        self._destination = destination
        self._manifest = manifest
        self._own = own
        self._settings = settings
        self._tasks: dict[str, asyncio.Task[Obtained]] = {}

    def begin(self) -> int:
        """Asks for the objects; gives how many that are."""
        manifest = self._manifest
        named = {"certificate": (manifest.certificate, Kind.CERTIFICATE)}
        if (manifest.root_catalog_bytes or 0) <= self._settings.prefetch_bytes_max:
            named["root catalog"] = (manifest.root_catalog, Kind.CATALOG)
        named["history"] = (manifest.history, Kind.HISTORY)
        for what, (digest, kind) in named.items():
            if digest is not None:
                task = self._own.begin(_beside(self._destination, self._path(digest, kind)))
                if task is not None:
                    self._tasks[what] = task
        return len(self._tasks)

    def _path(self, digest: Digest, kind: Kind) -> str:
        name = ObjectName(digest, kind)
        return name.alternative_path if self._manifest.alternative_names else name.path

    async def missing(self) -> str:
        """Says what cannot be had or does not fit; empty if all is well, or if it took too long to find out."""
        try:
            async with asyncio.timeout(self._settings.prefetch_timeout):
                return await self._what_is_missing()
        except TimeoutError:
            return ""

    async def _what_is_missing(self) -> str:
        needed = {what: task for what, task in self._tasks.items() if what != "history"}
        if needed:
            await asyncio.wait(needed.values())
        for what, task in needed.items():
            if not _result(task).is_there:
                return f"its {what} cannot be had"
        certificate = self._tasks.get("certificate")
        if certificate is None or await self._is_listed(_result(certificate).body):
            return ""
        return "its certificate is not on the whitelist"

    async def _is_listed(self, certificate: bytes) -> bool:
        """Whether the whitelist at hand, or else a newer one, lists the certificate."""
        for is_fresh in (False, True):
            task = self._own.begin(_beside(self._destination, WHITELIST_PATH), is_fresh=is_fresh)
            if task is None:
                return True
            whitelist = await asyncio.shield(task)
            if not whitelist.is_there or lists(whitelist.body, certificate):
                return True
        return False


def _result(task: asyncio.Task[Obtained]) -> Obtained:
    return Obtained(0) if task.cancelled() or task.exception() is not None else task.result()
