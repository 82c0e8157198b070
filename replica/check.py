"""Proving that a replica is complete and right, and repairing what is not (design promise 3).

Two passes in bounded memory. The first looks at what is there: every object's content has the digest in its name. The
second follows what is promised: from the manifest through every catalog of the newest and of each tagged revision, all
they name is there. Together they say that every reader of the replica gets what was published.
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from pathlib import Path
from typing import Final, TypeVar

from cdn.catalog.reader import Catalog
from cdn.catalog.schema import NestedReference
from cdn.certificate import CERTIFICATE_BYTES_MAX
from cdn.client.bootstrap import NOTHING_KNOWN, Verified, verify
from cdn.client.threads import in_thread
from cdn.compression import Decompressor
from cdn.errors import CdnError, DocumentError, ObjectMissingError
from cdn.hashing import Digest
from cdn.history import HISTORY_BYTES_MAX, History
from cdn.manifest import Manifest
from cdn.objects import MANIFEST_PATH, WHITELIST_PATH, Kind, ObjectName
from cdn.signing import DOCUMENT_BYTES_MAX
from cdn.storage.base import PrunableStore, StoredObject
from cdn.storage.paths import SHARDS
from cdn.telemetry import NullProgress, Progress
from cdn.trust import certificate_named_by
from replica.folders import exclusive
from replica.mirror import Mirror
from replica.plan import SyncPlan, object_bytes_max
from replica.worker import CATALOG_BYTES_MAX, Puller, digest_in

T = TypeVar("T")

_BATCH: Final = 256
_HASHED_AT_ONCE: Final = 4
_PIECE_BYTES: Final = 1 << 20


class ProblemKind(Enum):
    """What is wrong."""

    DAMAGED = "damaged"
    MISSING = "missing"
    UNTRUSTED = "not to be believed"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    Args:
        path: in the store.
        kind: what is wrong with it.
        detail: where it was found wanting, or why.
        is_repaired: whether it is right again.
    """

    path: str
    kind: ProblemKind
    detail: str = ""
    is_repaired: bool = False


@dataclass(slots=True)
class CheckCounts:
    """How much was looked at."""

    objects: int = 0
    bytes: int = 0
    catalogs: int = 0
    references: int = 0
    revisions: int = 0


class ReplicaCheck:
    """A check of one replica.

    Args:
        mirror: the replica.
        folder: of what is known of it and never served.
        now: seconds since the epoch.
        repairs: whether to fetch from its sources what is missing or damaged.
        reads_content: whether every object is read; otherwise only what is missing is found.
        progress: told of every object.
    """

    def __init__(
        self,
        mirror: Mirror,
        folder: Path,
        *,
        now: float,
        repairs: bool = False,
        reads_content: bool = True,
        progress: Progress | None = None,
    ) -> None:
        self.counts = CheckCounts()
        self._mirror = mirror
        self._store: PrunableStore = mirror.store
        self._folder = folder
        self._now = now
        self._reads_content = reads_content
        self._progress = progress or NullProgress()
        self._seen: set[Digest] = set()
        self._puller: Puller | None = mirror.puller(NullProgress()) if repairs else None

    async def run(self) -> AsyncIterator[Problem]:
        """Everything that is wrong.

        Raises:
            LeaseHeldError: a synchronization is under way.
            CdnError: nothing could be checked, or a repair failed for another reason than that no source has the
                object.
        """
        with exclusive(self._folder, self._mirror.fqrn):
            if self._reads_content:
                async for problem in self._damaged():
                    yield problem
            async for problem in self._incomplete():
                yield problem

    # ---------------------------------------------------------------------------------------------------------- content

    async def _damaged(self) -> AsyncIterator[Problem]:
        self._progress.start(None, "objects")
        listed = itertools.chain.from_iterable(self._store.list(f"data/{shard}/") for shard in SHARDS)
        while batch := await in_thread(_next_of, listed):
            for stored, is_good in await self._looked_at(batch):
                self.counts.objects += 1
                self.counts.bytes += stored.size
                if not is_good:
                    yield await self._with_repair(stored)
            self._progress.expect(len(batch))
            self._progress.advance(len(batch))

    async def _looked_at(self, batch: list[StoredObject]) -> list[tuple[StoredObject, bool]]:
        slots = asyncio.Semaphore(_HASHED_AT_ONCE)

        async def look(stored: StoredObject) -> tuple[StoredObject, bool]:
            async with slots:
                return stored, await in_thread(self._is_good, stored)

        return list(await asyncio.gather(*map(look, batch)))

    def _is_good(self, stored: StoredObject) -> bool:
        try:
            name = ObjectName.parse(stored.path)
            return digest_in(self._store, name) == name.digest
        except ObjectMissingError:  # removed meanwhile: if it is needed, the second pass says so
            return True
        except (DocumentError, OSError):
            return False

    async def _with_repair(self, stored: StoredObject) -> Problem:
        try:
            name = ObjectName.parse(stored.path)
        except DocumentError:
            return Problem(stored.path, ProblemKind.DAMAGED, "no object has such a name")
        is_repaired = False
        if self._puller is not None:
            self._store.delete(stored.path)  # wrong content must not be served a moment longer
            is_repaired = await self._refetched(name, stored.size)
        return Problem(stored.path, ProblemKind.DAMAGED, "its content has another digest", is_repaired=is_repaired)

    # ----------------------------------------------------------------------------------------------------- completeness

    async def _incomplete(self) -> AsyncIterator[Problem]:
        try:
            if problem := await self._absent_certificate():
                yield problem
            verified = await in_thread(self._documents)
        except ObjectMissingError as error:
            yield Problem(error.path, ProblemKind.MISSING, "nothing is served without it")
            return
        except CdnError as error:
            yield Problem(MANIFEST_PATH, ProblemKind.UNTRUSTED, str(error))
            return
        self._progress.start(None, "references")
        manifest = verified.manifest
        for name in manifest.objects[1:]:
            if problem := await self._absence(name, "the manifest names it", 0):
                yield problem
        try:
            plan = SyncPlan.of(manifest, await in_thread(self._history, manifest), is_initial=True)
        except CdnError:
            plan = SyncPlan.of(manifest, None, is_initial=True)  # that it is damaged or missing was said above
        copied = await in_thread(self._mirror.own_reflog)
        for root in (plan.head, *plan.tagged):
            name = ObjectName(root, Kind.CATALOG)
            # The publisher may have removed an old revision before it was copied; one that was copied must be there.
            is_gone_well = root != plan.head and plan.may_lack_history and name not in copied
            if is_gone_well and not self._store.exists(name.path):
                continue
            self.counts.revisions += 1
            async for problem in self._incomplete_below(root):
                yield problem
        for name in manifest.objects if manifest.alternative_names else ():
            if problem := await in_thread(self._wrong_alternative, name):
                yield problem

    def _wrong_alternative(self, name: ObjectName) -> Problem | None:
        """What is wrong with the other name that readers of a restricted repository know an object by."""
        path = name.alternative_path
        kind = ProblemKind.DAMAGED if self._store.exists(path) else ProblemKind.MISSING
        if kind is ProblemKind.DAMAGED and digest_in(self._store, name, path) == name.digest:
            return None
        is_repaired = self._puller is not None and self._store.exists(name.path)
        if is_repaired:
            self._mirror.give_alternative_name(name)
        return Problem(path, kind, "readers of a restricted repository ask for it", is_repaired=is_repaired)

    async def _incomplete_below(self, root: Digest) -> AsyncIterator[Problem]:
        pending = [NestedReference("", root, 0)]
        while pending:
            reference = pending.pop()
            if reference.digest in self._seen:
                continue
            self._seen.add(reference.digest)
            name = ObjectName(reference.digest, Kind.CATALOG)
            where = f"the catalog at {reference.path or '/'}"
            if problem := await self._catalog_absence(name, where, reference.path):
                yield problem
                if not problem.is_repaired:
                    continue
            with tempfile.NamedTemporaryFile(prefix="cdn-check-") as file:
                try:
                    opened = await in_thread(self._opened, name, where, file.name)
                except CdnError as error:
                    yield Problem(name.path, ProblemKind.DAMAGED, str(error))
                    continue
                self.counts.catalogs += 1
                with opened as catalog:
                    async for problem in self._absent_objects(catalog, where):
                        yield problem
                    pending += reversed(await in_thread(catalog.nested))

    async def _absent_objects(self, catalog: Catalog, where: str) -> AsyncIterator[Problem]:
        references = catalog.sized_references()
        while batch := await in_thread(_next_of, references):
            self.counts.references += len(batch)
            self._progress.expect(len(batch))
            absent = await in_thread(self._absent_of, [(name, size) for name, _, size in batch])
            for name, size in absent:
                if problem := await self._absence(name, f"{where} needs it", size):
                    yield problem
            self._progress.advance(len(batch))

    def _absent_of(self, names: list[tuple[ObjectName, int]]) -> list[tuple[ObjectName, int]]:
        return [(name, size) for name, size in names if not self._store.exists(name.path)]

    async def _absence(self, name: ObjectName, detail: str, size: int) -> Problem | None:
        if self._store.exists(name.path):
            return None
        is_repaired = self._puller is not None and await self._refetched(name, size)
        return Problem(name.path, ProblemKind.MISSING, detail, is_repaired=is_repaired)

    async def _catalog_absence(self, name: ObjectName, detail: str, path: str) -> Problem | None:
        if self._store.exists(name.path):
            return None
        is_repaired = self._puller is not None and await self._refetched_catalog(name, path)
        return Problem(name.path, ProblemKind.MISSING, detail, is_repaired=is_repaired)

    # ----------------------------------------------------------------------------------------------------------- repair

    async def _refetched(self, name: ObjectName, size: int) -> bool:
        assert self._puller is not None
        limit = object_bytes_max(size, self._mirror.config.object_bytes_max)
        try:
            await self._puller.fetch(name, limit)
        except CdnError:
            return False
        return True

    async def _refetched_catalog(self, name: ObjectName, path: str) -> bool:
        """Fetches what is below a catalog, then the catalog: it stands for all of that being there."""
        try:
            async with self._mirror.puller(NullProgress()) as puller:
                await puller.pull(name.digest, path)
        except CdnError:
            return False
        return True

    # -------------------------------------------------------------------------------------------------------- documents

    async def _absent_certificate(self) -> Problem | None:
        """The certificate's absence, if it was repaired; otherwise whoever reads it complains."""
        problem = await self._absence(self._certificate(), "the manifest names it", CERTIFICATE_BYTES_MAX)
        return problem if problem is not None and problem.is_repaired else None

    def _certificate(self) -> ObjectName:
        return certificate_named_by(self._store.read(MANIFEST_PATH, size_max=DOCUMENT_BYTES_MAX))

    def _documents(self) -> Verified:
        manifest = self._store.read(MANIFEST_PATH, size_max=DOCUMENT_BYTES_MAX)
        whitelist = self._store.read(WHITELIST_PATH, size_max=DOCUMENT_BYTES_MAX)
        certificate = self._store.read(self._certificate().path, size_max=CERTIFICATE_BYTES_MAX)
        return verify(self._mirror.authority, manifest, whitelist, certificate, now=self._now, known=NOTHING_KNOWN)

    def _history(self, manifest: Manifest) -> History | None:
        if manifest.history is None:
            return None
        name = ObjectName(manifest.history, Kind.HISTORY)
        return History.from_object(self._store.read(name.path, size_max=HISTORY_BYTES_MAX))

    def _opened(self, name: ObjectName, document: str, path: str) -> Catalog:
        decoder = Decompressor(size_max=CATALOG_BYTES_MAX, document=document)
        with self._store.open(name.path) as source, open(path, "wb") as target:
            while piece := source.read(_PIECE_BYTES):
                target.writelines(decoder.feed(piece))
        decoder.finish()
        return Catalog.open(path, document=document)


def _next_of(items: Iterator[T]) -> list[T]:
    return list(islice(items, _BATCH))
