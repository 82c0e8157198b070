"""A repository's catalogs, inflated once: a bounded folder of files between the store and whoever reads them.

A file gets its name when its content has been verified, so what is there is right, with one exception: a power cut can
leave a file whose content never reached the disk. Syncing each of some thousand files would cost more than the cache
saves, so the cache remembers in which run of the machine it was written and begins anew in the next.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cdn.catalog.reader import Catalog
from cdn.compression import Decompressor
from cdn.errors import DocumentError, HashMismatchError, ObjectMissingError
from cdn.hashing import Hasher
from cdn.objects import Kind, ObjectName

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cdn.hashing import Digest
    from cdn.storage.base import ReadableStore

CATALOG_BYTES_MAX: Final = 16 << 30
"""Of an uncompressed catalog; real ones have some hundred megabytes at most."""
_PIECE_BYTES: Final = 1 << 20
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_BOOT_FILE: Final = "boot"


@dataclass(slots=True)
class CatalogCache:
    """Loads catalogs from a store through a folder of uncompressed files; a `cdn.catalog.tree.CatalogLoader`.

    Several processes may share the folder.

    Args:
        store: where the objects are.
        folder: for the uncompressed files; created when needed.
        bytes_max: about so large the folder may grow.
    """

    store: ReadableStore
    folder: Path
    bytes_max: int = 4 << 30
    _unswept: int = field(default=-1, init=False)

    def load(self, digest: Digest, *, size: int = 0, path: str = "") -> Catalog:
        """Opens a catalog; the caller closes it.

        Args:
            digest: of the stored object, which is verified.
            size: of the uncompressed file as the reference says, 0 if it does not.
            path: where it is attached, for messages.

        Raises:
            ObjectMissingError: the store does not have it.
            HashMismatchError: the object has other content than its name says.
            DocumentError: it is no catalog.
        """
        document = f"catalog {path or '/'}"
        while True:
            file = self.file_of(digest, path=path)
            with suppress(FileNotFoundError):  # another process made room in between
                return Catalog.open(file, document=document)

    def file_of(self, digest: Digest, *, path: str = "") -> Path:
        """The uncompressed file of a catalog; nobody may change it, and it may vanish when room is made.

        Raises:
            CdnError: as `load`.
        """
        self._prepare()
        file = self._file(digest)
        name = ObjectName(digest, Kind.CATALOG)
        if not self.store.exists(name.path):  # a revision that was collected must not come back by way of the cache
            self.forget(digest)
            raise ObjectMissingError(name.path, "the repository's storage")
        try:
            os.utime(file)
        except FileNotFoundError:
            self._inflate(digest, file, f"catalog {path or '/'}")
            self._make_room(file)
        return file

    def copy(self, digest: Digest, target: str | os.PathLike[str], *, path: str = "") -> None:
        """Makes a private, uncompressed copy of a catalog, for a `CatalogBuilder` to modify.

        Raises:
            FileExistsError: the target is there already.
            CdnError: as `load`.
        """
        while True:
            with suppress(FileNotFoundError), self.file_of(digest, path=path).open("rb") as source:
                with open(target, "xb") as copy:
                    shutil.copyfileobj(source, copy, _PIECE_BYTES)
                return

    def keep(self, digest: Digest, file: str | os.PathLike[str]) -> None:
        """Takes over the uncompressed file of a catalog that was just written and stored under this digest."""
        self._prepare()
        try:
            os.replace(file, self._file(digest))
        except OSError:  # on another file system: it will be inflated when needed
            with suppress(FileNotFoundError):
                os.unlink(file)
            return
        self._make_room(self._file(digest))

    def forget(self, digest: Digest) -> None:
        """Drops a catalog from the cache."""
        self._file(digest).unlink(missing_ok=True)

    def clear(self) -> None:
        """Drops everything."""
        for entry in self._entries():
            with suppress(FileNotFoundError):
                os.unlink(entry.path)

    def _file(self, digest: Digest) -> Path:
        return self.folder / f"{digest.text}.catalog"

    def _prepare(self) -> None:
        if self._unswept >= 0:
            return
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._unswept = 0
        boot = _boot_id()
        mark = self.folder / _BOOT_FILE
        with suppress(OSError):
            if mark.read_text() == boot:
                return
        self.clear()
        mark.write_text(boot)

    def _inflate(self, digest: Digest, file: Path, document: str) -> None:
        name = ObjectName(digest, Kind.CATALOG)
        hasher = Hasher(digest.algorithm)
        inflater = Decompressor(size_max=CATALOG_BYTES_MAX, document=document)
        descriptor, staged = tempfile.mkstemp(prefix=".", suffix=".staged", dir=self.folder)
        try:
            with os.fdopen(descriptor, "wb") as target, self.store.open(name.path) as source:
                damage: DocumentError | None = None
                while piece := source.read(_PIECE_BYTES):
                    hasher.update(piece)
                    if damage is None:
                        damage = _written(inflater, piece, target)
            if hasher.digest() != digest:  # says more than what inflating made of it
                raise HashMismatchError(name.path, hasher.digest().text)
            if damage is not None:
                raise damage
            inflater.finish()
            os.replace(staged, file)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(staged)

    def _make_room(self, newest: Path) -> None:
        """Removes the files that were not used for longest; looks only after an eighth of the room was written."""
        with suppress(FileNotFoundError):
            self._unswept += newest.stat().st_size
        if self._unswept <= self.bytes_max // 8:
            return
        self._unswept = 0
        found = sorted(self._sizes())
        excess = sum(size for _, size, _ in found) - self.bytes_max
        for _, size, path in found:
            if excess <= 0:
                return
            if path != str(newest):
                with suppress(FileNotFoundError):
                    os.unlink(path)
                excess -= size

    def _sizes(self) -> Iterator[tuple[float, int, str]]:
        for entry in self._entries():
            with suppress(FileNotFoundError):
                status = entry.stat()
                yield status.st_mtime, status.st_size, entry.path

    def _entries(self) -> list[os.DirEntry[str]]:
        with suppress(FileNotFoundError), os.scandir(self.folder) as entries:
            return [entry for entry in entries if entry.name.endswith((".catalog", ".staged"))]
        return []


def _written(inflater: Decompressor, piece: bytes, target: object) -> DocumentError | None:
    try:
        for plain in inflater.feed(piece):
            target.write(plain)  # type: ignore[attr-defined]
    except DocumentError as error:
        return error
    return None


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text()
    except OSError:  # no Linux: begin anew with every process
        return os.urandom(16).hex()
