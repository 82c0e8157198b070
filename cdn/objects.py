"""Objects: what kinds there are, and the one place that knows where in a store an object lies (spec §1.3)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from cdn.errors import DocumentError
from cdn.hashing import Digest


class Kind(Enum):
    """What an object is; the value is the suffix letter of its path."""

    FILE = ""
    CHUNK = "P"
    CATALOG = "C"
    HISTORY = "H"
    CERTIFICATE = "X"
    METAINFO = "M"


_BY_SUFFIX: Final = {kind.value: kind for kind in Kind if kind.value}


@dataclass(frozen=True, slots=True)
class ObjectName:
    """A digest and a kind: everything needed to find an object in any store and to verify it."""

    digest: Digest
    kind: Kind = Kind.FILE

    def __str__(self) -> str:
        return self.path

    @property
    def path(self) -> str:
        """Relative to the repository: ``data/`` + two hex digits + ``/`` + the rest + identifier + suffix letter."""
        text = self.digest.text
        return f"data/{text[:2]}/{text[2:]}{self.kind.value}"

    @property
    def alternative_path(self) -> str:
        """The `.cvmfsalt-` name that access-restricted repositories use for bootstrap objects (spec §1.1)."""
        return f".cvmfsalt-{self.digest.text}{self.kind.value}"

    @classmethod
    def parse(cls, path: str) -> ObjectName:
        """Reads an object path.

        Raises:
            DocumentError: the path is not one of an object; nothing else than what `path` writes is accepted.
        """
        return cls(digest_in(path), _BY_SUFFIX.get(path[-1:], Kind.FILE))


def digest_in(path: str) -> Digest:
    """The digest in an object path; raises as `ObjectName.parse`."""
    if len(path) < 8 or not path.startswith("data/") or path[7] != "/":  # "data/ab/"
        raise DocumentError("object path", f"{path[:100]!r} does not begin like data/ab/")
    text = path[5:7] + path[8:]
    return Digest.parse(text[:-1] if text[-1:] in _BY_SUFFIX else text)


MANIFEST_PATH: Final = ".cvmfspublished"
WHITELIST_PATH: Final = ".cvmfswhitelist"
REFLOG_PATH: Final = ".cvmfsreflog"
MASTER_REPLICA_PATH: Final = ".cvmfs_master_replica"
LAST_SNAPSHOT_PATH: Final = ".cvmfs_last_snapshot"
IS_SNAPSHOTTING_PATH: Final = ".cvmfs_is_snapshotting"
STATUS_PATH: Final = ".cvmfs_status.json"
STAGING_PATH: Final = "data/txn"
