"""Where one catalog of a new tree ends and the next begins: markers, `.cvmfsdirtab`, and size (spec §1.4, §5.8).

The rules about paths are in `cdn.catalog.nesting`; here is what they mean for one commit. Markers that balancing or the
dirtab made are not the publisher's: a source folder that does not have them does not take them away.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from cdn.catalog.entries import Entry
from cdn.catalog.nesting import CATALOG_MARKER, DIRTAB, DIRTAB_BYTES_MAX, Dirtab, choose_splits
from cdn.compression import compress, decompress
from cdn.errors import DocumentError
from cdn.hashing import digest_of, plain_digest_of
from cdn.objects import ObjectName
from cdn.telemetry import event
from stratum0.staging import path_of

if TYPE_CHECKING:
    from cdn.catalog.writer import CatalogBuilder
    from cdn.compression import Compression
    from cdn.hashing import Algorithm
    from cdn.storage.base import ObjectStore, ReadableStore
    from stratum0.overlay import Overlay
    from stratum0.staging import Staging

ENTRIES_LIMIT: Final = 200_000
"""No catalog has more entries than this, unless one directory alone does, whatever the settings say."""
_SPLIT_WEIGHT_MIN: Final = 16
"""The smallest subtree that is split off where a catalog would otherwise be larger than the limit."""
DIRTAB_PATH: Final = f"/{DIRTAB}"


@dataclass(slots=True)
class Markers:
    """Makes the entries of marker files; their content, nothing, is stored when the first one is made.

    Args:
        store: where.
        algorithm, compression: of new objects.
        timestamp: modification time of the files, in seconds since the epoch.
    """

    store: ObjectStore
    algorithm: Algorithm
    compression: Compression
    timestamp: int
    _template: Entry | None = field(default=None, init=False)

    def entry(self, directory: Entry) -> Entry:
        """A marker file in this directory, owned by whoever owns that."""
        if self._template is None:
            stored = compress(b"", self.compression)
            digest = digest_of(self.algorithm, stored)
            self.store.put(ObjectName(digest).path, stored)
            self._template = Entry(
                "",
                stat.S_IFREG | 0o644,
                mtime=self.timestamp,
                digest=digest,
                compression=self.compression,
                plain_digest=plain_digest_of(b""),
            )
        template = self._template
        return Entry(
            "",
            template.mode,
            mtime=template.mtime,
            uid=directory.uid,
            gid=directory.gid,
            digest=template.digest,
            compression=template.compression,
            plain_digest=template.plain_digest,
        )


# -------------------------------------------------------------------------------------------------------------- dirtab


def read_dirtab(store: ReadableStore, overlay: Overlay) -> Dirtab:
    """The rules of the new tree's `.cvmfsdirtab`, none if it has no such file.

    Raises:
        DocumentError: it is no text of rules.
        StorageError: it cannot be read.
    """
    entry = overlay.find(DIRTAB_PATH)
    if entry is None or not entry.is_file:
        return Dirtab()
    if entry.digest is None or entry.size > DIRTAB_BYTES_MAX:
        raise DocumentError(DIRTAB_PATH, f"it is larger than {DIRTAB_BYTES_MAX} bytes")
    stored = store.read(ObjectName(entry.digest).path, size_max=2 * DIRTAB_BYTES_MAX)
    plain = decompress(stored, entry.compression, size_max=DIRTAB_BYTES_MAX, document=DIRTAB_PATH)
    return Dirtab.parse(bytes(plain).decode("utf-8", "surrogateescape"))


def directories_to_mark(overlay: Overlay, staging: Staging, dirtab: Dirtab) -> Iterator[tuple[str, Entry]]:
    """Directories of the base that become nested catalogs because the dirtab was changed, in order of their paths.

    What is new is asked for one by one while it is applied; here the whole tree must be looked at.
    """
    change = staging.find(DIRTAB_PATH)
    if change is None or change.entry is None or not dirtab:
        return
    for path, entry in overlay.walk(""):
        if entry.is_directory and dirtab.matches(path) and overlay.find(f"{path}/{CATALOG_MARKER}") is None:
            yield path, entry


# ---------------------------------------------------------------------------------------------------------------- size


def planned_splits(staging: Staging, *, entries_min: int, entries_max: int) -> frozenset[str]:
    """Which new directories become catalogs because of what is staged in them.

    They could be split off when their catalog is finished, but begun right away their entries are written only once.
    Where the publisher placed catalogs by markers the weights would be wrong, so nothing is planned.
    """
    if staging.count <= entries_max or staging.has_name(CATALOG_MARKER):
        return frozenset()
    return frozenset(choose_splits(staged_weights(staging.keys()), entries_min=entries_min, entries_max=entries_max))


def staged_weights(keys: Iterable[tuple[bytes, bool]]) -> Iterator[tuple[str, int, int]]:
    """Weights of directories as `CatalogBuilder.subtree_weights` has them, counted from what is staged.

    Args:
        keys: keys of paths in their order, and whether they are directories.
    """
    pending = [_Weighed(b"")]
    for key, is_directory in keys:
        parent = key.rpartition(b"\0")[0] if key else b""
        while not parent.startswith(pending[-1].prefix) and parent != pending[-1].key:
            yield _weighed(pending)
        while (top := pending[-1]).key != parent:  # directories that are no changes themselves
            end = parent.find(b"\0", len(top.key) + 1)
            top.children += 1
            pending.append(_Weighed(parent if end < 0 else parent[:end]))
        if not key:
            continue
        top.children += 1
        if is_directory:
            pending.append(_Weighed(key))
        else:
            top.entries += 1
    while pending:
        yield _weighed(pending)


class _Weighed:
    """A directory whose weight is being taken."""

    __slots__ = ("children", "entries", "key", "prefix")

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.prefix = key + b"\0"
        self.entries = 1
        self.children = 0


def _weighed(pending: list[_Weighed]) -> tuple[str, int, int]:
    done = pending.pop()
    if pending:
        pending[-1].entries += done.entries
    return path_of(done.key), done.entries, done.children


def splits(builder: CatalogBuilder, *, entries_min: int, entries_max: int) -> list[str]:
    """Directories to split off a catalog that became too large, in an order in which that can be done."""
    if builder.entry_count <= entries_max:
        return []
    return choose_splits(builder.subtree_weights(), entries_min=entries_min, entries_max=entries_max)


def necessary_splits(builder: CatalogBuilder) -> list[str]:
    """Directories to split off where a catalog would be larger than real clients cope with well."""
    return splits(builder, entries_min=_SPLIT_WEIGHT_MIN, entries_max=ENTRIES_LIMIT)


def warning_about_size(path: str, entries: int) -> str | None:
    """What to tell the publisher of a catalog that stayed too large."""
    if entries <= ENTRIES_LIMIT:
        return None
    event("stratum0.catalog.oversize", level="warning", path=path or "/", entries=entries)
    return (
        f"the catalog of {path or '/'} has {entries} entries, as one directory in it has too many by itself: "
        f"spread its files over subdirectories"
    )
