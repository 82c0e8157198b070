"""What transactions and commits need of a repository, so that they know nothing of how it is put together.

`stratum0.repository.Repository` is what fills these interfaces in production.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Protocol

from cdn.catalog.entries import Chunk
from cdn.compression import Compression
from cdn.hashing import Algorithm, Digest
from cdn.objects import Kind, ObjectName

if TYPE_CHECKING:
    import os
    from pathlib import Path

    from typing_extensions import Buffer

    from cdn.catalog.tree import CatalogLoader
    from cdn.certificate import Certificate
    from cdn.clock import Clock
    from cdn.history import History
    from cdn.manifest import Manifest
    from cdn.storage.base import PrunableStore
    from stratum0.locks import Locks
    from stratum0.state import State


@dataclass(frozen=True, slots=True)
class Head:
    """The revision that is published at the moment, its signature verified.

    Args:
        manifest: what is published.
        history: its tags; None where the manifest names no history.
    """

    manifest: Manifest
    history: History | None = None

    @property
    def root(self) -> Digest:
        """Digest of the root catalog."""
        return self.manifest.root_catalog

    @property
    def root_size(self) -> int:
        """Size of the uncompressed root catalog in bytes, 0 where the manifest does not say it."""
        return self.manifest.root_catalog_bytes or 0

    @property
    def revision(self) -> int:
        return self.manifest.revision


@dataclass(frozen=True, slots=True)
class StoredContent:
    """A file's content as it lies in the store: the fields of its `Entry` that follow from the content.

    Args:
        size: plain bytes.
        digest: of the stored object; None if the content is in `chunks`.
        compression: how object or chunks are stored.
        chunks: the parts of a chunked file.
        plain_digest: SHA-256 of the plain bytes of an unchunked file.
    """

    size: int
    digest: Digest | None
    compression: Compression = Compression.ZLIB
    chunks: Sequence[Chunk] = ()
    plain_digest: bytes | None = None

    @property
    def objects(self) -> tuple[str, ...]:
        """Paths of the objects in the store."""
        if self.chunks:
            return tuple(ObjectName(chunk.digest, Kind.CHUNK).path for chunk in self.chunks)
        return () if self.digest is None else (ObjectName(self.digest, Kind.FILE).path,)


class ContentStore(Protocol):
    """Puts the content of files into the object store."""

    def store_bytes(self, data: Buffer, /) -> StoredContent: ...

    def store_stream(self, stream: BinaryIO, /) -> StoredContent: ...

    def store_path(self, path: str | os.PathLike[str], /) -> StoredContent: ...


class ManifestSigner(Protocol):
    """The key that signs manifests, and its certificate."""

    @property
    def certificate(self) -> Certificate: ...

    def sign(self, body: bytes, algorithm: Algorithm, /) -> bytes:
        """The complete signed document for a manifest's body (`SignedText.to_bytes`).

        Raises:
            SignatureError: the key cannot be used.
        """
        ...


class PublisherSettings(Protocol):
    """The settings of a repository that decide how it is published.

    Attributes:
        algorithm: of new objects.
        compression, compression_level: of catalogs and content.
        ttl_seconds: how long clients may go without looking for a new revision.
        garbage_collectable: whether old revisions may be removed.
        catalog_entries_min, catalog_entries_max: what balancing aims at; 0 for the second switches it off.
        auto_tag: whether each revision gets a tag of its own.
        auto_tag_keep_seconds: automatic tags older than this are dropped; 0 keeps them for ever.
        auto_tag_keep_count: only so many automatic tags are kept, the newest ones; 0 is no limit.
    """

    @property
    def algorithm(self) -> Algorithm: ...
    @property
    def compression(self) -> Compression: ...
    @property
    def compression_level(self) -> int: ...
    @property
    def ttl_seconds(self) -> int: ...
    @property
    def garbage_collectable(self) -> bool: ...
    @property
    def catalog_entries_min(self) -> int: ...
    @property
    def catalog_entries_max(self) -> int: ...
    @property
    def auto_tag(self) -> bool: ...
    @property
    def auto_tag_keep_seconds(self) -> float: ...
    @property
    def auto_tag_keep_count(self) -> int: ...


class RepositoryParts(Protocol):
    """What transactions, commits and recovery use of a repository."""

    @property
    def name(self) -> str:
        """The fully qualified name."""
        ...

    @property
    def folder(self) -> Path:
        """Where what is never served lies: ``state.sqlite``, ``transactions/``, ``locks/``, ``reflog.chksum``."""
        ...

    @property
    def settings(self) -> PublisherSettings: ...

    @property
    def store(self) -> PrunableStore: ...

    @property
    def catalogs(self) -> CatalogLoader: ...

    @property
    def signer(self) -> ManifestSigner: ...

    @property
    def state(self) -> State: ...

    @property
    def locks(self) -> Locks: ...

    @property
    def clock(self) -> Clock: ...

    @property
    def content(self) -> ContentStore: ...

    def head(self) -> Head:
        """The published revision, read anew.

        Raises:
            RepositoryError, TrustError, StorageError: there is none, or it must not be believed, or cannot be read.
        """
        ...
