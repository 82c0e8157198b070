"""Making a repository: keys, whitelist and a first, empty revision; all of it or nothing.

Everything but the objects is made in a folder ``.creating-<name>`` that gets its real name last: from that moment there
is a repository. What a killed attempt left is found by that name and removed by the next one.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cdn.catalog.entries import Entry
from cdn.catalog.writer import CatalogBuilder
from cdn.clock import Clock, SystemClock
from cdn.compression import compress
from cdn.errors import CdnError, ConfigError, RepositoryError, StorageError, StorageReadOnlyError, UsageError
from cdn.hashing import digest_of
from cdn.history import History
from cdn.keyfiles import read_private_key, read_public_key
from cdn.manifest import PLAIN_DIGEST_KEY, Manifest
from cdn.metainfo import Metainfo
from cdn.objects import MANIFEST_PATH, MASTER_REPLICA_PATH, WHITELIST_PATH, Kind, ObjectName
from cdn.reflog import Reflog
from cdn.signing import generate_key
from cdn.storage.durability import sync_directory
from cdn.storage.local import LocalStore
from cdn.telemetry import fault_point, step
from cdn.whitelist import Whitelist
from stratum0.config import Home, RepositorySettings, checked_name
from stratum0.documents import chown_tree, store_certificate, store_history, store_metainfo, store_reflog
from stratum0.information import write_repository_list
from stratum0.locks import LOCKS_FOLDER, FileLock
from stratum0.repository import KEYS_FOLDER, Repository
from stratum0.signer import KeyFolder, Signer, new_signer, sign_whitelist

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

MASTER_REPLICA_TEXT: Final = b"This file marks the repository as one that replicas may copy.\n"
ROOT_MODE: Final = stat.S_IFDIR | 0o755
FIRST_REVISION: Final = 1
_CREATING: Final = ".creating-"


@dataclass(frozen=True, slots=True)
class MasterKeys:
    """Which master key a new repository has.

    Args:
        public: what clients verify with.
        private: what signs whitelists; None where that is done elsewhere.
    """

    public: RSAPublicKey
    private: RSAPrivateKey | None = None

    @classmethod
    def new(cls) -> MasterKeys:
        """A new key."""
        private = generate_key()
        return cls(private.public_key(), private)

    @classmethod
    def from_files(cls, *, private: Path | None = None, public: Path | None = None) -> MasterKeys:
        """An existing key: one for several repositories, or, with only its public half, an offline one.

        Raises:
            CdnError: a file holds no such key.
            OSError: it cannot be read.
        """
        if private is None:
            return cls.new() if public is None else cls(read_public_key(public))
        if public is not None:
            raise UsageError("give either the master key or only its public half, not both")
        key = read_private_key(private)
        from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

        if not isinstance(key, RSAPrivateKey):
            raise ConfigError(f"{private} is no RSA key, and only such keys sign whitelists")
        return cls(key.public_key(), key)


def create(
    name: str,
    home: Home,
    *,
    settings: RepositorySettings | None = None,
    storage: Path | None = None,
    master: MasterKeys | None = None,
    metainfo: Metainfo | None = None,
    clock: Clock | None = None,
) -> Repository:
    """Makes a new repository with one revision that holds an empty root directory.

    Args:
        name: its fully qualified name.
        home: where it is kept.
        settings: other settings than the default ones; name and storage in them are ignored.
        storage: where it is served from; must be absent or empty. In `home` if omitted.
        master: its master key; a new one if omitted.
        metainfo: what it says about itself.
        clock: where the time comes from.

    Raises:
        UsageError: the name cannot be one.
        RepositoryError: there is one of this name.
        CdnError: it could not be made; nothing is left of it.
    """
    checked_name(name)
    folder = Path(os.path.abspath(storage)) if storage is not None else home.storage_of(name)
    settled = replace(settings, fqrn=name, storage=folder) if settings else RepositorySettings(name, folder)
    settled.to_toml()  # complains about a folder that cannot be written down
    try:
        with step("stratum0.repository.create", repository=name):
            home.repositories.mkdir(parents=True, exist_ok=True)
            with FileLock(home.repositories / ".create.lock"):
                _check_free(settled, home)
                _create(settled, home, master or MasterKeys.new(), metainfo or Metainfo(), clock or SystemClock())
    except OSError as error:
        raise _refused(name, error) from error
    return Repository.peek(name, home, clock=clock)


def _check_free(settings: RepositorySettings, home: Home) -> None:
    final = home.folder_of(settings.fqrn)
    if os.path.lexists(final):
        raise RepositoryError(f"there is a repository {settings.fqrn} already, in {final}")
    _remove_leftover(settings.fqrn, home)
    storage = settings.storage
    if any(storage == each or storage in each.parents for each in (home.root, home.repositories, home.served)):
        raise UsageError(f"{storage} cannot be the storage: it holds more than this repository")
    if home.repositories in storage.parents:
        raise UsageError(f"{storage} cannot be the storage: what is in there is never served")
    if os.path.lexists(storage) and (not storage.is_dir() or any(storage.iterdir())):
        raise RepositoryError(f"the storage folder {storage} is not empty: choose another one with --storage")


def _remove_leftover(name: str, home: Home) -> None:
    """Removes what a killed attempt left; the lock says that none is alive."""
    leftover = home.repositories / f"{_CREATING}{name}"
    if not leftover.exists():
        return
    try:
        storage = RepositorySettings.load(leftover).storage
    except CdnError:
        pass  # it died before it touched the storage
    else:
        _clear(storage)
    shutil.rmtree(leftover)


def _create(settings: RepositorySettings, home: Home, master: MasterKeys, metainfo: Metainfo, clock: Clock) -> None:
    staged = home.repositories / f"{_CREATING}{settings.fqrn}"
    storage_was_there = settings.storage.exists()
    staged.mkdir(mode=0o755)
    try:
        settings.save(staged)
        (staged / LOCKS_FOLDER).mkdir(mode=0o700)
        (staged / "transactions").mkdir(mode=0o700)
        keys = KeyFolder(staged / KEYS_FOLDER, settings.fqrn)
        keys.create()
        signer = _write_keys(keys, master, clock)
        fault_point("create.keys.stored")
        _first_revision(settings, staged, signer, master, metainfo, int(clock.now()))
        fault_point("create.storage.stored")
        if settings.owner_ids is not None:
            chown_tree(staged, settings.owner_ids)
            chown_tree(settings.storage, settings.owner_ids)
        os.rename(staged, home.folder_of(settings.fqrn))
        sync_directory(str(home.repositories))
    except BaseException:
        _clear(settings.storage, keep=storage_was_there)
        shutil.rmtree(staged, ignore_errors=True)
        raise
    fault_point("create.repository.named")
    write_repository_list(home)


def _write_keys(keys: KeyFolder, master: MasterKeys, clock: Clock) -> Signer:
    if master.private is not None:
        keys.write_master(master.private)
    else:
        keys.write_public(master.public)
    signer = new_signer(keys.fqrn, now=clock.now())
    keys.write_signer(signer)
    return signer


def _first_revision(
    settings: RepositorySettings, folder: Path, signer: Signer, master: MasterKeys, metainfo: Metainfo, now: int
) -> None:
    """Stores the documents of an empty tree in the order of spec §7.2, the manifest last."""
    name, algorithm = settings.fqrn, settings.algorithm
    store = LocalStore(settings.storage)
    store.prepare()
    if master.private is not None:
        fingerprint = signer.certificate.fingerprint(algorithm)
        whitelist = Whitelist.valid_for(name, [fingerprint], now=now, days=settings.whitelist_days)
        store.replace(WHITELIST_PATH, sign_whitelist(whitelist, master.private, algorithm))
    store.replace(MASTER_REPLICA_PATH, MASTER_REPLICA_TEXT)
    manifest = _stored_root(settings, store, now)
    history = History(name).with_head(
        manifest.root_catalog,
        revision=FIRST_REVISION,
        timestamp=now,
        root_catalog_bytes=manifest.root_catalog_bytes or 0,
    )
    manifest = replace(
        manifest,
        certificate=store_certificate(store, signer.certificate, algorithm).digest,
        history=store_history(store, history, algorithm).digest,
        metainfo=store_metainfo(store, metainfo, algorithm).digest,
    )
    reflog = Reflog(name).with_objects(manifest.objects, now)
    manifest = replace(manifest, reflog=store_reflog(store, folder, reflog, algorithm))
    store.replace(MANIFEST_PATH, signer.sign(manifest.to_body(), algorithm))


def _stored_root(settings: RepositorySettings, store: LocalStore, now: int) -> Manifest:
    uid, gid = settings.owner_ids or (os.geteuid(), os.getegid())
    root = Entry("", ROOT_MODE, size=4096, mtime=now, uid=uid, gid=gid, link_count=2)
    with tempfile.TemporaryDirectory(prefix="catalog-") as scratch:
        with CatalogBuilder.create(Path(scratch) / "root", root_prefix="", root=root) as builder:
            finished = builder.finish(
                revision=FIRST_REVISION, previous=None, last_modified=now, ttl_seconds=settings.ttl_seconds
            )
        stored = compress(Path(finished.file).read_bytes())
    digest = digest_of(settings.algorithm, stored)
    store.put(ObjectName(digest, Kind.CATALOG).path, stored)
    return Manifest(
        digest,
        FIRST_REVISION,
        settings.ttl_seconds,
        settings.fqrn,
        finished.size,
        garbage_collectable=settings.garbage_collectable,
        timestamp=now,
        extensions=((PLAIN_DIGEST_KEY, finished.plain_digest.hex()),),
    )


def _clear(storage: Path, *, keep: bool = False) -> None:
    """Empties a storage folder that was empty before, and removes it unless it is to be kept."""
    if not storage.is_dir():
        return
    for entry in storage.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
    if not keep:
        storage.rmdir()


def _refused(name: str, error: OSError) -> CdnError:
    import errno

    where = f" in {os.fsdecode(error.filename)}" if error.filename else ""
    said = f"{name} could not be created{where}: {error.strerror}"
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return StorageReadOnlyError(f"{said}; choose a folder you may write to with --root or CDN_ROOT")
    return StorageError(said)
