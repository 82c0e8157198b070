"""A repository's root-level documents: storing them, listing them in the reflog, and the one step that publishes.

Whoever changes something here holds the locks of `Repository.publishing`. The order is that of spec §7.2: objects,
then the reflog, then the manifest.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cdn.compression import compress_reproducibly
from cdn.errors import DocumentError, ObjectMissingError
from cdn.hashing import Digest, digest_of
from cdn.keyfiles import write_file
from cdn.objects import MANIFEST_PATH, REFLOG_PATH, Kind, ObjectName
from cdn.reflog import Reflog, checksum
from cdn.telemetry import step

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cdn.certificate import Certificate
    from cdn.hashing import Algorithm
    from cdn.history import History
    from cdn.manifest import Manifest
    from cdn.metainfo import Metainfo
    from cdn.storage.base import ObjectStore
    from stratum0.repository import Repository
    from stratum0.signer import Signer

REFLOG_BYTES_MAX: Final = 1 << 30
REFLOG_CHECKSUM_FILE: Final = "reflog.chksum"


def store_document(store: ObjectStore, plain: bytes, kind: Kind, algorithm: Algorithm) -> ObjectName:
    """Stores the bytes of a root-level document, compressed as the format demands.

    Raises:
        StorageError: it could not be stored.
    """
    stored = compress_reproducibly(plain)
    name = ObjectName(digest_of(algorithm, stored), kind)
    store.put(name.path, stored)
    return name


def store_history(store: ObjectStore, history: History, algorithm: Algorithm) -> ObjectName:
    """Stores a history.

    Raises:
        StorageError: it could not be stored.
    """
    with tempfile.TemporaryDirectory(prefix="history-") as folder:
        file = Path(folder) / "history"
        history.write(file)
        return store_document(store, file.read_bytes(), Kind.HISTORY, algorithm)


def store_certificate(store: ObjectStore, certificate: Certificate, algorithm: Algorithm) -> ObjectName:
    """Stores a certificate.

    Raises:
        StorageError: it could not be stored.
    """
    return store_document(store, certificate.pem, Kind.CERTIFICATE, algorithm)


def store_metainfo(store: ObjectStore, metainfo: Metainfo, algorithm: Algorithm) -> ObjectName:
    """Stores what a repository says about itself.

    Raises:
        StorageError: it could not be stored.
    """
    return store_document(store, metainfo.to_bytes(), Kind.METAINFO, algorithm)


# ---------------------------------------------------------------------------------------------------------- the reflog


def read_reflog(repository: Repository) -> Reflog | None:
    """The reflog, None if there is none.

    Raises:
        DocumentError: it is damaged.
        StorageError: it cannot be read.
    """
    try:
        data = repository.store.read(REFLOG_PATH, size_max=REFLOG_BYTES_MAX)
    except ObjectMissingError:
        return None
    reflog = Reflog.from_bytes(data)
    if reflog.fqrn != repository.name:
        raise DocumentError("reflog", f"it belongs to {reflog.fqrn[:100]!r}")
    return reflog


def write_reflog(repository: Repository, reflog: Reflog) -> Digest:
    """Replaces the reflog and the checksum kept beside the keys; returns the digest for key Y of the manifest.

    Raises:
        StorageError: it could not be stored.
    """
    digest = store_reflog(repository.store, repository.folder, reflog, repository.settings.algorithm)
    repository.give_to_owner(Path(repository.store.root, REFLOG_PATH), repository.folder / REFLOG_CHECKSUM_FILE)
    return digest


def store_reflog(store: ObjectStore, folder: Path, reflog: Reflog, algorithm: Algorithm) -> Digest:
    """As `write_reflog`, for a repository that is only being made.

    Raises:
        StorageError: it could not be stored.
    """
    with tempfile.TemporaryDirectory(prefix="reflog-") as scratch:
        file = Path(scratch) / "reflog"
        reflog.write(file)
        digest = checksum(file, algorithm)
        store.replace(REFLOG_PATH, file.read_bytes())
    write_file(folder / REFLOG_CHECKSUM_FILE, f"{digest}\n".encode(), 0o644, replace=True)
    return digest


def kept_reflog_checksum(repository: Repository) -> Digest | None:
    """The digest the reflog had when it was last written here, None if that is not known.

    Raises:
        DocumentError: the file holds something else.
    """
    try:
        text = (repository.folder / REFLOG_CHECKSUM_FILE).read_text("ascii", "replace")
    except FileNotFoundError:
        return None
    return Digest.parse(text.strip())


# --------------------------------------------------------------------------------------------------------- the manifest


def publish_manifest(repository: Repository, manifest: Manifest, signer: Signer | None = None) -> None:
    """Signs a manifest and puts it in place of the current one: the single, atomic step that publishes.

    Args:
        repository: whose.
        manifest: it names the signer's certificate.
        signer: who signs; the repository's own unless said otherwise.

    Raises:
        CdnError: it could not be signed or stored; the former one stays.
    """
    with step("stratum0.manifest.publish", repository=repository.name, revision=manifest.revision):
        data = (signer or repository.signer).sign(manifest.to_body(), repository.settings.algorithm)
        repository.store.replace(MANIFEST_PATH, data)
        repository.give_to_owner(Path(repository.store.root, MANIFEST_PATH))


def republish(
    repository: Repository,
    *,
    history: History | None = None,
    metainfo: Metainfo | None = None,
    signer: Signer | None = None,
    unlisted: Iterable[ObjectName] = (),
) -> Manifest:
    """Publishes the current revision again with other documents around it: same root catalog, same revision.

    Clients that have the revision see nothing new; whoever comes new, and every replica, takes the new documents.

    Args:
        repository: whose.
        history: with other tags.
        metainfo: another description.
        signer: another certificate.
        unlisted: objects that are gone and leave the reflog.

    Raises:
        CdnError: something could not be stored; what was published stays.
    """
    store, algorithm = repository.store, repository.settings.algorithm
    manifest = repository.head().manifest
    if history is not None:
        successor = history if manifest.history is None else history.following(manifest.history)
        manifest = replace(manifest, history=store_history(store, successor, algorithm).digest)
    if metainfo is not None:
        manifest = replace(manifest, metainfo=store_metainfo(store, metainfo, algorithm).digest)
    used = signer or repository.signer
    now = max(int(repository.clock.now()), manifest.timestamp)
    manifest = replace(
        manifest,
        certificate=store_certificate(store, used.certificate, algorithm).digest,
        timestamp=now,
        garbage_collectable=repository.settings.garbage_collectable,
    )
    reflog = (read_reflog(repository) or Reflog(repository.name)).without(unlisted)
    manifest = replace(manifest, reflog=write_reflog(repository, reflog.with_objects(manifest.objects, now)))
    publish_manifest(repository, manifest, used)
    return manifest


def chown_tree(top: Path, owner: tuple[int, int]) -> None:
    """Gives a folder and everything in it to somebody, as far as this process may."""
    if os.geteuid() != 0:
        return
    for folder, _, files in os.walk(top):
        for path in (folder, *(os.path.join(folder, name) for name in files)):
            os.chown(path, *owner, follow_symlinks=False)
