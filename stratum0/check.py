"""Checking a whole repository: the chain of signatures, the documents, every catalog, every object (spec §5.8, §7.4).

The check goes from the top down: documents, then the catalogs of the current revision and of every tag, each catalog
once however many revisions share it, then every object any of them needs. What was done is written down as it is done,
in the repository's folder ``check``, so that an interrupted check goes on where it was.

With a repairer, what is missing or damaged is fetched as soon as it is found; without the right catalogs one would not
even know what else is missing.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from cdn.catalog.schema import Counters, NestedReference
from cdn.catalog.validate import validate, validate_pair, validate_subtree
from cdn.errors import CdnError, DocumentError, HashMismatchError, ObjectMissingError, RepositoryError
from cdn.objects import Kind, ObjectName
from cdn.storage.paths import SHARDS
from cdn.telemetry import NullProgress, Progress, step
from stratum0.checkpoint import Checkpoint, Finding
from stratum0.document_checks import DocumentChecks, object_findings
from stratum0.information import status_date, update_status
from stratum0.locks import FileLock
from stratum0.revisions import of_head, of_tag, tags_of
from stratum0.verification import DamagedObject, verify_all, verify_object

if TYPE_CHECKING:
    from cdn.catalog.reader import Catalog
    from stratum0.repair import Repairer
    from stratum0.repository import Head, Repository
    from stratum0.revisions import KnownRevision

CHECK_FOLDER: Final = "check"
_SAVE_EVERY_CATALOGS: Final = 50


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is looked at.

    Args:
        all_revisions: the revisions of all tags; otherwise only the current one.
        content: the content of every object; otherwise only that each is there.
    """

    all_revisions: bool = True
    content: bool = True


@dataclass(frozen=True, slots=True)
class CheckSummary:
    """What a check came to.

    Args:
        revisions, catalogs, objects: how many were looked at.
        bytes: size of the objects.
        findings: how much is wrong.
        repaired: how much was wrong and was mended.
        was_resumed: whether an interrupted check was continued.
    """

    revisions: int = 0
    catalogs: int = 0
    objects: int = 0
    bytes: int = 0
    findings: int = 0
    repaired: int = 0
    was_resumed: bool = False


class Check:
    """One check of a repository; iterate over `findings` after `run`.

    Args:
        repository: which one.
        extent: how much to look at.
        resume: whether to go on with an interrupted check, if there is one of the same revision and extent.
        repairer: where to fetch what is missing or damaged.
        progress: where to report the advance.
    """

    def __init__(
        self,
        repository: Repository,
        extent: Extent | None = None,
        *,
        resume: bool = False,
        repairer: Repairer | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._repository = repository
        self._extent = extent or Extent()
        self._resume = resume
        self._repairer = repairer
        self._progress = progress or NullProgress()
        self._folder = repository.folder / CHECK_FOLDER
        self._checkpoint: Checkpoint
        self._unsaved = 0
        self.summary = CheckSummary()

    def run(self) -> CheckSummary:
        """Looks at everything.

        Raises:
            LockHeldError: another check of the repository is running.
            CdnError: the check itself could not go on; findings are no errors.
        """
        repository = self._repository
        self._folder.mkdir(mode=0o700, exist_ok=True)
        with (
            step("stratum0.repository.check", repository=repository.name) as told,
            FileLock(self._folder / "check.lock", timeout_seconds=0),
        ):
            head = self._documents()
            if head is not None:
                self._catalogs(head)
                self._objects()
            summary = self._finished()
            told.add(findings=summary.findings, objects=summary.objects)
        return summary

    def findings(self) -> Iterator[Finding]:
        """What is wrong, in the order in which it was found."""
        yield from self._checkpoint.findings()

    def close(self) -> None:
        """Forgets what was written down; to be called when the findings were read."""
        self._checkpoint.close()
        shutil.rmtree(self._folder / "state", ignore_errors=True)

    # -------------------------------------------------------------------------------------------------------- documents

    def _documents(self) -> Head | None:
        """Looks at the documents; None if nothing below them can be looked at."""
        checks = DocumentChecks(self._repository, self._repairer)
        found = list(checks.run())
        identity = {"manifest": checks.manifest_digest, "extent": repr(self._extent)}
        self._checkpoint = Checkpoint.open(self._folder / "state", json.dumps(identity), resume=self._resume)
        if self._checkpoint.was_resumed:
            self.summary = replace(self.summary, was_resumed=True)
        self._checkpoint.replace_findings("document", found)
        return checks.head

    # --------------------------------------------------------------------------------------------------------- catalogs

    def _catalogs(self, head: Head) -> None:
        revisions = [of_head(head)]
        if self._extent.all_revisions:
            revisions += [of_tag(tag) for tag in tags_of(head).tags]
        distinct = {revision.root: revision for revision in reversed(revisions)}
        self._progress.start(None, "catalogs")
        for name in head.manifest.objects:
            self._checkpoint.marks.add(name)
        for revision in distinct.values():
            self._progress.message(f"checking the catalogs of {revision.title}")
            self._tree(revision)
        self._checkpoint.save()
        self.summary = replace(self.summary, revisions=len(distinct), catalogs=self._checkpoint.catalogs_done())

    def _tree(self, revision: KnownRevision) -> None:
        """Walks one revision's catalogs, children before their parents are done."""
        pending: list[_Place] = []
        try:
            self._enter(revision, pending, NestedReference("", revision.root, revision.size))
            while pending:
                place = pending[-1]
                if place.children:
                    self._enter(revision, pending, place.children.pop())
                else:
                    self._left(revision, pending.pop())
        finally:
            for place in pending:
                place.catalog.close()

    def _enter(self, revision: KnownRevision, pending: list[_Place], reference: NestedReference) -> None:
        """Looks at a catalog, and puts it on the way if there is more to do below it."""
        parent = pending[-1] if pending else None
        self._checkpoint.marks.add(ObjectName(reference.digest, Kind.CATALOG))
        try:
            catalog = self._load(reference)
        except CdnError as error:
            is_told = isinstance(error, ObjectMissingError | HashMismatchError)  # as an object
            message = "it is missing or damaged, so what is below it was not looked at" if is_told else str(error)
            self._found(revision, reference.path, "catalog", message)
            if parent is not None:
                parent.is_complete = False
            return
        place = _Place(reference, catalog)
        try:
            if parent is not None:
                self._look_at_border(revision, parent, place)
            if not self._checkpoint.is_done(reference.digest):
                self._look_at(revision, place)
                pending.append(place)
        finally:
            if place not in pending:
                catalog.close()

    def _look_at_border(self, revision: KnownRevision, parent: _Place, place: _Place) -> None:
        reference = place.reference
        parent.attached += place.catalog.total_counters
        size = self._repository.catalogs.file_of(reference.digest, path=reference.path).stat().st_size
        for found in validate_pair(parent.catalog, reference, place.catalog, size=size):
            self._found(revision, found.path, found.rule.value, found.message)

    def _look_at(self, revision: KnownRevision, place: _Place) -> None:
        try:
            for found in validate(place.catalog):
                self._found(revision, found.path, found.rule.value, found.message)
            for name, _ in place.catalog.references():
                self._checkpoint.marks.add(name)
            place.children = place.catalog.nested()
        except DocumentError as error:
            self._found(revision, place.reference.path, "catalog", error.reason)
            place.is_complete = False

    def _left(self, revision: KnownRevision, place: _Place) -> None:
        if place.is_complete:
            for found in validate_subtree(place.catalog, place.attached):
                self._found(revision, found.path, found.rule.value, found.message)
        place.catalog.close()
        self._checkpoint.done(place.reference.digest)
        self._progress.advance()
        self._unsaved += 1
        if self._unsaved >= _SAVE_EVERY_CATALOGS:
            self._unsaved = 0
            self._checkpoint.save()

    def _load(self, reference: NestedReference) -> Catalog:
        catalogs = self._repository.catalogs
        name = ObjectName(reference.digest, Kind.CATALOG)
        _, damage = verify_object(self._repository.store.root, name, content=True)
        if damage is not None:  # however right the copy in the cache is
            self._mend([damage])
            if self._repairer is None:
                raise ObjectMissingError(name.path, self._repository.store.root)
        return catalogs.load(reference.digest, size=reference.size, path=reference.path)

    def _found(self, revision: KnownRevision, path: str, rule: str, message: str) -> None:
        self._checkpoint.add(Finding("catalog", rule, path or "/", message, revision.title))

    # ---------------------------------------------------------------------------------------------------------- objects

    def _objects(self) -> None:
        checkpoint = self._checkpoint
        todo = [(number, checkpoint.marks.file(number)) for number in checkpoint.shards_left()]
        self._progress.start(len(SHARDS), "folders")
        self._progress.advance(len(SHARDS) - len(todo))
        self._progress.message("verifying objects")
        empty = {number for number, file in todo if not file.exists()}
        self._progress.advance(len(empty))
        for result in verify_all(self._repository.store.root, todo, content=self._extent.content):
            self._mend(result.damaged)
            checkpoint.shard_done(result.number, result.objects, result.bytes)
            self._progress.advance()

    def _mend(self, damaged: Sequence[DamagedObject]) -> None:
        """Writes damaged objects down, after trying to get good ones."""
        for finding in object_findings(damaged, self._repairer):
            self._checkpoint.add(finding)

    # ----------------------------------------------------------------------------------------------------------- finish

    def _finished(self) -> CheckSummary:
        checkpoint = self._checkpoint
        objects, size = checkpoint.verified()
        findings, repaired = checkpoint.counts()
        self.summary = replace(self.summary, objects=objects, bytes=size, findings=findings, repaired=repaired)
        checkpoint.save()
        try:
            now = status_date(self._repository.clock.now())
            status = "failed" if findings else "succeeded"
            update_status(self._repository, last_check=now, check_status=status)
        except CdnError as error:
            raise RepositoryError(f"the check is done, but its outcome could not be noted: {error}") from error
        return self.summary


@dataclass(slots=True, eq=False)
class _Place:
    """A catalog on the way to the one being looked at."""

    reference: NestedReference
    catalog: Catalog
    children: list[NestedReference] = field(default_factory=list)
    attached: Counters = field(default_factory=Counters)
    is_complete: bool = True
