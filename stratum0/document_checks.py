"""What a check looks at first: manifest, whitelist, certificate, tags, metainfo and reflog (spec §2, §7.4)."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from cdn.errors import CdnError, DocumentError, ObjectMissingError
from cdn.hashing import digest_of
from cdn.manifest import Manifest
from cdn.metainfo import METAINFO_BYTES_MAX, Metainfo
from cdn.objects import MANIFEST_PATH, MASTER_REPLICA_PATH, REFLOG_PATH, WHITELIST_PATH, Kind, ObjectName
from cdn.signing import DOCUMENT_BYTES_MAX, SignedText
from cdn.trust import TrustedRepository
from stratum0.checkpoint import Finding
from stratum0.documents import REFLOG_BYTES_MAX, kept_reflog_checksum, read_reflog
from stratum0.verification import DamagedObject, verify_object

if TYPE_CHECKING:
    from stratum0.repair import Repairer
    from stratum0.repository import Head, Repository

_AREA: Final = "document"
_CERTIFICATE_BYTES_MAX: Final = 1 << 20


class DocumentChecks:
    """The look at a repository's documents.

    Args:
        repository: which one.
        repairer: where to fetch objects that are missing or damaged.
    """

    def __init__(self, repository: Repository, repairer: Repairer | None = None) -> None:
        self._repository = repository
        self._store = repository.store
        self._repairer = repairer
        self.head: Head | None = None
        self.manifest_digest = ""

    def run(self) -> Iterator[Finding]:
        """Everything that is wrong with the documents; afterwards `head` is the current revision if it can be read."""
        manifest = yield from self._manifest()
        if manifest is None:
            return
        yield from self._named_objects(manifest)
        yield from self._trust(manifest)
        try:
            self.head = self._repository.head()
        except CdnError as error:
            yield Finding(_AREA, "head", MANIFEST_PATH, f"the current revision cannot be read: {error}")
            return
        yield from self._root_catalog(self.head)
        yield from self._metainfo(manifest)
        yield from self._reflog(manifest)
        if not self._store.exists(MASTER_REPLICA_PATH):
            yield Finding(_AREA, "replica-mark", MASTER_REPLICA_PATH, "it is missing, so replicas refuse to copy")

    def _manifest(self) -> Generator[Finding, None, Manifest | None]:
        try:
            data = self._store.read(MANIFEST_PATH, size_max=DOCUMENT_BYTES_MAX)
            manifest = Manifest.parse(SignedText.parse("manifest", data).body)
        except CdnError as error:
            yield Finding(_AREA, "manifest", MANIFEST_PATH, str(error))
            return None
        self.manifest_digest = hashlib.sha256(data).hexdigest()
        return manifest

    def _named_objects(self, manifest: Manifest) -> Iterator[Finding]:
        looked_at = [verify_object(self._store.root, name, content=True)[1] for name in manifest.objects]
        yield from object_findings([damage for damage in looked_at if damage is not None], self._repairer)

    def _trust(self, manifest: Manifest) -> Iterator[Finding]:
        """The chain that every client follows, from the master key down."""
        repository = self._repository
        try:
            trusted = TrustedRepository(repository.name, [repository.keys.public_key()], now=repository.clock.now())
        except CdnError as error:
            yield Finding(_AREA, "master-key", str(repository.keys.public_key_file), str(error))
            return
        try:
            trusted.load_whitelist(self._store.read(WHITELIST_PATH, size_max=DOCUMENT_BYTES_MAX))
        except CdnError as error:
            yield Finding(_AREA, "whitelist", WHITELIST_PATH, str(error))
            return
        if manifest.certificate is None:
            yield Finding(_AREA, "certificate", MANIFEST_PATH, "the manifest names no certificate")
            return
        path = ObjectName(manifest.certificate, Kind.CERTIFICATE).path
        try:
            trusted.load_certificate(self._store.read(path, size_max=_CERTIFICATE_BYTES_MAX))
        except CdnError as error:
            yield Finding(_AREA, "certificate", path, str(error))
            return
        try:
            trusted.load_manifest(self._store.read(MANIFEST_PATH, size_max=DOCUMENT_BYTES_MAX))
        except CdnError as error:
            yield Finding(_AREA, "manifest", MANIFEST_PATH, str(error))

    def _root_catalog(self, head: Head) -> Iterator[Finding]:
        """What manifest and root catalog must say alike (spec §2.1, §8.3)."""
        manifest, catalogs = head.manifest, self._repository.catalogs
        try:
            size = catalogs.file_of(head.root).stat().st_size
            with catalogs.load(head.root) as catalog:
                revision, modified, ttl = catalog.revision, catalog.last_modified, catalog.ttl_seconds
        except CdnError:
            return  # told when catalogs are looked at
        if revision != manifest.revision:
            message = f"the manifest is of revision {manifest.revision}, the root catalog of {revision}"
            yield Finding(_AREA, "revision", MANIFEST_PATH, message)
        if manifest.timestamp < modified:
            message = f"the manifest's time {manifest.timestamp} is before the root catalog's {modified}"
            yield Finding(_AREA, "timestamp", MANIFEST_PATH, message)
        if manifest.root_catalog_bytes not in {None, size}:
            message = f"the manifest says the root catalog has {manifest.root_catalog_bytes} bytes; it has {size}"
            yield Finding(_AREA, "size", MANIFEST_PATH, message)
        if ttl is not None and ttl != manifest.ttl_seconds:
            message = f"the manifest says a lifetime of {manifest.ttl_seconds} s, the root catalog {ttl} s"
            yield Finding(_AREA, "ttl", MANIFEST_PATH, message)

    def _metainfo(self, manifest: Manifest) -> Iterator[Finding]:
        if manifest.metainfo is None:
            return
        name = ObjectName(manifest.metainfo, Kind.METAINFO)
        try:
            Metainfo.from_object(self._store.read(name.path, size_max=2 * METAINFO_BYTES_MAX))
        except DocumentError as error:
            yield Finding(_AREA, "metainfo", name.path, error.reason)
        except ObjectMissingError:
            return  # told with the objects

    def _reflog(self, manifest: Manifest) -> Iterator[Finding]:
        """The reflog has the digest that was written down, and lists what is published (spec §7.4)."""
        try:
            reflog = read_reflog(self._repository)
            if reflog is None:
                if manifest.garbage_collectable or manifest.reflog is not None:
                    message = "it is missing, so other tools cannot collect garbage"
                    yield Finding(_AREA, "reflog", REFLOG_PATH, message)
                return
            expected = kept_reflog_checksum(self._repository) or manifest.reflog
        except CdnError as error:
            yield Finding(_AREA, "reflog", REFLOG_PATH, str(error))
            return
        if expected is None:
            yield Finding(_AREA, "reflog", REFLOG_PATH, "nothing says which digest it must have")
        else:
            data = self._store.read(REFLOG_PATH, size_max=REFLOG_BYTES_MAX)
            actual = digest_of(expected.algorithm, data)
            if actual not in {expected, manifest.reflog}:
                yield Finding(_AREA, "reflog", REFLOG_PATH, f"its digest is {actual}, it should be {expected}")
        for name in manifest.objects:
            if name not in reflog:
                yield Finding(_AREA, "reflog", REFLOG_PATH, f"it does not list {name.path}, which is published")


def object_findings(damaged: Sequence[DamagedObject], repairer: Repairer | None) -> Iterator[Finding]:
    """Damaged objects as findings, after trying to get good ones."""
    failures = {} if repairer is None else repairer.repair([damage.name for damage in damaged])
    for damage in damaged:
        rule = "missing" if damage.is_missing else "damaged"
        failure = failures.get(damage.name)
        said = damage.reason if failure is None else f"{damage.reason}; it could not be repaired: {failure}"
        is_repaired = repairer is not None and failure is None
        yield Finding("object", rule, damage.name.path, said, is_repaired=is_repaired)
