"""A repository on its publisher's machine: opening it, its parts, and its verified current state."""

from __future__ import annotations

import difflib
import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cdn.certificate import CERTIFICATE_BYTES_MAX, Certificate
from cdn.clock import Clock, SystemClock
from cdn.closing import Closing
from cdn.errors import (
    CdnError,
    HashMismatchError,
    NameMismatchError,
    ObjectMissingError,
    RepositoryError,
    RepositoryMissingError,
    StorageReadOnlyError,
    UntrustedCertificateError,
)
from cdn.hashing import Digest, digest_of
from cdn.history import HISTORY_BYTES_MAX, History
from cdn.manifest import Manifest
from cdn.objects import MANIFEST_PATH, WHITELIST_PATH, Kind, ObjectName
from cdn.signing import DOCUMENT_BYTES_MAX, Scheme, SignedText
from cdn.storage.local import LocalStore
from cdn.whitelist import Whitelist
from stratum0.catalogs import CatalogCache
from stratum0.config import Home, RepositorySettings, checked_name
from stratum0.locks import publishing_locks
from stratum0.signer import KeyFolder, Signer
from stratum0.state import State

if TYPE_CHECKING:
    from stratum0.content import ContentSettings, ContentStore
    from stratum0.transaction import Transaction

OWNER_ONLY: Final = 0o700
CATALOGS_FOLDER: Final = "catalogs"
KEYS_FOLDER: Final = "keys"
STATE_FILE: Final = "state.sqlite"
CONTENT_FILE: Final = "content.sqlite"


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
        """Its number."""
        return self.manifest.revision


class Repository(Closing):
    """One repository. Several processes may have it open; each object is for one process.

    Args:
        settings: what is settled for it.
        home: where it is kept.
        clock: where the time comes from.
    """

    def __init__(self, settings: RepositorySettings, home: Home, *, clock: Clock | None = None) -> None:
        self.settings: Final = settings
        self.home: Final = home
        self.clock: Final[Clock] = clock or SystemClock()
        self.folder: Final = home.folder_of(settings.fqrn)
        self.keys: Final = KeyFolder(self.folder / KEYS_FOLDER, settings.fqrn)
        self.store: Final = LocalStore(settings.storage)
        self.catalogs: Final = CatalogCache(self.store, self.folder / CATALOGS_FOLDER, settings.catalog_cache_bytes)
        self._state: State | None = None
        self._content: ContentStore | None = None
        self._signer: Signer | None = None
        self._head: tuple[bytes, Head] | None = None

    def __repr__(self) -> str:
        return f"Repository({self.name!r}, {str(self.home.root)!r})"

    @classmethod
    def create(cls, name: str, home: Home | None = None, **options: Any) -> Repository:
        """Makes a new repository; see `stratum0.creation.create` for the options.

        Raises:
            CdnError: it could not be made; nothing is left of it.
        """
        from stratum0.creation import create

        return create(name, home or Home.default(), **options)

    @classmethod
    def open(cls, name: str, home: Home | None = None, *, clock: Clock | None = None) -> Repository:
        """Opens a repository and cleans up what a killed process left.

        Raises:
            RepositoryMissingError: there is none of this name.
            CdnError: its settings have mistakes, or it cannot be recovered.
        """
        repository = cls.peek(name, home, clock=clock)
        if os.statvfs(repository.folder).f_flag & os.ST_RDONLY:
            raise StorageReadOnlyError(f"{repository.folder} is on a read-only file system: {name} cannot be changed")
        if not os.access(repository.folder, os.W_OK | os.X_OK):
            raise RepositoryError(f"{name} belongs to somebody else: run this as the owner of {repository.folder}")
        from stratum0.recovery import recover

        recover(repository)
        return repository

    @classmethod
    def peek(cls, name: str, home: Home | None = None, *, clock: Clock | None = None) -> Repository:
        """Opens a repository for looking only: nothing is cleaned up.

        Raises:
            RepositoryMissingError: there is none of this name.
            ConfigError: its settings have mistakes.
        """
        home = home or Home.default()
        names = home.names()
        if name not in names:
            raise RepositoryMissingError(_missing(name, names, home))
        folder = home.folder_of(checked_name(name))
        if not os.access(folder / "repository.toml", os.R_OK) or not os.access(folder, os.R_OK | os.X_OK):
            raise RepositoryError(f"{name} belongs to somebody else: run this as the owner of {folder}")
        settings = RepositorySettings.load(folder)
        if settings.fqrn != name:
            raise NameMismatchError(f"the settings in {folder} are those of {settings.fqrn}, not of {name}")
        return cls(settings, home, clock=clock)

    @property
    def name(self) -> str:
        """Its fully qualified name."""
        return self.settings.fqrn

    @property
    def state(self) -> State:
        """Leases, transactions and whatever else is remembered between commands.

        Raises:
            StorageError: it cannot be opened.
        """
        if self._state is None:
            path = self.folder / STATE_FILE
            is_new = not path.exists()
            self._state = State(path)
            if is_new:
                self.give_to_owner(path)
        return self._state

    @property
    def content_settings(self) -> ContentSettings:
        """How the content of files is stored."""
        from stratum0.content import ContentSettings

        return ContentSettings(self.settings.algorithm, self.settings.compression, self.settings.compression_level)

    @property
    def content_index_file(self) -> Path:
        """Where it is remembered under which digest known content is stored."""
        return self.folder / CONTENT_FILE

    @property
    def content(self) -> ContentStore:
        """Stores the content of single files, in this process."""
        if self._content is None:
            from stratum0.content import ContentIndex, ContentStore

            self._content = ContentStore(self.store, self.content_settings, ContentIndex(self.content_index_file))
        return self._content

    @property
    def signer(self) -> Signer:
        """What signs its manifests.

        Raises:
            CdnError: a key is missing, readable by others, or belongs to another certificate.
        """
        if self._signer is None:
            self._signer = self.keys.signer()
        return self._signer

    def forget_signer(self) -> None:
        """Reads the keys again when they are next needed."""
        self._signer = None

    # ------------------------------------------------------------------------------------------------------------ state

    def head(self) -> Head:
        """The current revision, its signature verified.

        The certificate must be the one kept with the keys, or be listed by a whitelist that the master key signed. An
        expired whitelist does not matter here: looking must be possible, and `stratum0.expiry` stops publishing.

        Raises:
            CdnError: it cannot be read or must not be believed.
        """
        data = self._document(MANIFEST_PATH, "was the storage folder moved or emptied?")
        if self._head is not None and self._head[0] == data:
            return self._head[1]
        signed = SignedText.parse("manifest", data)
        manifest = Manifest.parse(signed.body)
        if manifest.fqrn != self.name:
            raise NameMismatchError(f"the manifest in {self.store.root} is for {manifest.fqrn}, not for {self.name}")
        signed.verify(self._certificate_of(manifest).public_key, Scheme.MANIFEST)
        head = Head(manifest, self._history_of(manifest))
        self._head = data, head
        return head

    def whitelist(self) -> Whitelist | None:
        """The whitelist that is published, signature and name verified, expired or not; None if there is none yet.

        Raises:
            CdnError: it must not be believed.
        """
        try:
            data = self.store.read(WHITELIST_PATH, size_max=DOCUMENT_BYTES_MAX)
        except ObjectMissingError:
            return None
        signed = SignedText.parse("whitelist", data)
        signed.verify(self.keys.public_key(), Scheme.WHITELIST)
        whitelist = Whitelist.parse(signed.body)
        if whitelist.fqrn != self.name:
            raise NameMismatchError(f"the whitelist in {self.store.root} is for {whitelist.fqrn}, not for {self.name}")
        return whitelist

    def read_object(self, name: ObjectName, *, size_max: int) -> bytes:
        """The stored bytes of an object, verified.

        Raises:
            ObjectMissingError: the store does not have it.
            HashMismatchError: it is damaged.
        """
        data = self.store.read(name.path, size_max=size_max)
        actual = digest_of(name.digest.algorithm, data)
        if actual != name.digest:
            raise HashMismatchError(name.path, actual.text)
        return data

    def _document(self, path: str, hint: str) -> bytes:
        try:
            return self.store.read(path, size_max=DOCUMENT_BYTES_MAX)
        except ObjectMissingError as error:
            raise RepositoryError(f"{self.name} has no {path} in {self.store.root}: {hint}") from error

    def _certificate_of(self, manifest: Manifest) -> Certificate:
        if manifest.certificate is None:
            raise UntrustedCertificateError(f"the manifest of {self.name} names no certificate")
        name = ObjectName(manifest.certificate, Kind.CERTIFICATE)
        certificate = Certificate.from_object(self.read_object(name, size_max=2 * CERTIFICATE_BYTES_MAX))
        if certificate.der == self._own_certificate_der():
            return certificate
        whitelist = self.whitelist()
        entries = () if whitelist is None else whitelist.entries
        if any(certificate.fingerprint(each.fingerprint.digest.algorithm) == each.fingerprint for each in entries):
            return certificate
        raise UntrustedCertificateError(
            f"the manifest of {self.name} was signed with the certificate {certificate.fingerprint()}, "
            "which is neither among its keys nor on its whitelist"
        )

    def _own_certificate_der(self) -> bytes | None:
        try:
            return self.keys.certificate().der
        except CdnError:
            return None

    def _history_of(self, manifest: Manifest) -> History | None:
        if manifest.history is None:
            return None
        name = ObjectName(manifest.history, Kind.HISTORY)
        history = History.from_object(self.read_object(name, size_max=HISTORY_BYTES_MAX))
        if history.fqrn != self.name:
            raise NameMismatchError(f"the tags that {self.name} names belong to {history.fqrn[:100]!r}")
        return history

    # ---------------------------------------------------------------------------------------------------------- changes

    def transaction(
        self,
        subtree: str = "",
        *,
        ephemeral: bool = False,
        holder: str | None = None,
        lease_seconds: float | None = None,
    ) -> Transaction:
        """Begins a transaction: a context manager that commits when left normally and aborts on an error.

        Args:
            subtree: what it may change; nobody else can change it meanwhile.
            ephemeral: whether it ends with this process.
            holder: who changes it, for messages to others.
            lease_seconds: how long others are kept off if this process dies.

        Raises:
            LeaseHeldError: somebody else has an overlapping subtree.
            CdnError: the repository cannot be changed, e.g. since its whitelist has expired.
        """
        from stratum0.expiry import require_publishable
        from stratum0.transaction import begin

        require_publishable(self)
        return begin(
            self,
            subtree,
            ephemeral=ephemeral,
            holder=holder,
            lease_seconds=self.settings.lease_seconds if lease_seconds is None else lease_seconds,
        )

    def close(self) -> None:
        """Closes the files it has open; a repository need not be closed."""
        if self._state is not None:
            self._state.close()
        if self._content is not None and self._content.index is not None:
            self._content.index.close()
        self._state = self._content = None

    def publishing(self) -> AbstractContextManager[None]:
        """The locks that whoever changes what is published holds."""
        return publishing_locks(self.folder)

    def give_to_owner(self, *paths: Path) -> None:
        """Gives files that root has just made to the repository's owner."""
        owner = self.settings.owner_ids
        if owner is None or os.geteuid() != 0:
            return
        for path in paths:
            os.chown(path, *owner, follow_symlinks=False)


def _missing(name: str, names: list[str], home: Home) -> str:
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    said = f"there is no repository {name!r} in {home.root}"
    if nearest:
        return f"{said}; did you mean {nearest[0]}?"
    if names:
        return f"{said}; `cdn repo list` shows which there are"
    return f"{said}, and no other either: make one with `cdn repo create {name}`"
