"""What a replica must do, and the small documents it writes about itself (spec §1, §9.1). Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from cdn.hashing import Digest
from cdn.history import History
from cdn.manifest import Manifest
from cdn.objects import Kind, ObjectName

HISTORY_FOLLOWED_MAX: Final = 100_000
"""Revisions that are followed back at most."""
_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_SMALL_OBJECT_BYTES: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class SyncPlan:
    """Which revisions a run copies.

    Args:
        head: the newest; always copied, whatever else is there.
        tagged: those with a tag that the replica must also have, oldest first.
        follows_history: whether revisions between the newest and one that is there are copied too: on every run but
            the first, which has nothing to end at.
        may_lack_history: whether the publisher removes old revisions, so that a missing one is no failure.
    """

    head: Digest
    tagged: tuple[Digest, ...]
    follows_history: bool
    may_lack_history: bool

    @classmethod
    def of(cls, manifest: Manifest, history: History | None, *, is_initial: bool, with_tags: bool = True) -> SyncPlan:
        """The plan for a manifest and the tags it names."""
        tags = sorted(history.tags if history is not None and with_tags else (), key=lambda tag: tag.revision)
        roots = dict.fromkeys(tag.root_catalog for tag in tags if tag.root_catalog != manifest.root_catalog)
        return cls(manifest.root_catalog, tuple(roots), not is_initial, manifest.garbage_collectable)


@dataclass(frozen=True, slots=True)
class SyncReport:
    """What a run did.

    Args:
        fqrn: the repository.
        revision: what is served now.
        revision_before: what was served before, None for nothing.
        objects: how many were fetched; catalogs and documents count.
        bytes: how many bytes they have.
        catalogs: how many of them are catalogs.
        skipped: roots of old revisions that the publisher has removed.
        seconds: how long it took.
        source: where the manifest came from.
        whitelist_expires_at: seconds since the epoch.
    """

    fqrn: str
    revision: int
    revision_before: int | None
    objects: int = 0
    bytes: int = 0
    catalogs: int = 0
    skipped: tuple[str, ...] = ()
    seconds: float = 0.0
    source: str = ""
    whitelist_expires_at: int = 0

    @property
    def is_new(self) -> bool:
        """Whether another revision is served than before."""
        return self.revision != self.revision_before


def object_bytes_max(plain_bytes: int, limit: int) -> int:
    """How much a source may send for an object: what its catalog says with room for bad compression, or 64 MiB.

    A catalog with a wrong size must not stop replication; a source that never stops sending must not fill the disk.
    """
    return min(limit, max(plain_bytes + plain_bytes // 8 + 4096, _SMALL_OBJECT_BYTES))


def reflog_names(manifest: Manifest, roots: Iterable[Digest]) -> list[ObjectName]:
    """What a reflog must list after a run."""
    names = [ObjectName(root, Kind.CATALOG) for root in roots]
    return list(dict.fromkeys([*names, *manifest.objects]))


# ------------------------------------------------------------------------------------------------------------ documents


def date_line(now: float) -> bytes:
    """The time as `date --utc` writes it, in the one language all tools expect."""
    return f"{date_text(now)}\n".encode("ascii")


def date_text(now: float) -> str:
    """As `date_line`, as text and without its end."""
    time = datetime.fromtimestamp(int(now), UTC)
    return f"{_DAYS[time.weekday()]} {_MONTHS[time.month - 1]} {time.day:2} {time:%H:%M:%S} UTC {time.year}"


def status_json(before: bytes, **changes: str) -> bytes:
    """`.cvmfs_status.json` with some values changed; what is unreadable is written anew."""
    return _json(status_values(before) | changes)


def status_values(data: bytes) -> dict[str, str]:
    """What `.cvmfs_status.json` says; nothing if it is damaged."""
    return {key: value for key, value in _object(data).items() if isinstance(value, str)}


def repositories_json(before: bytes, fqrn: str, *, present: bool) -> bytes:
    """`info/v1/repositories.json` with this replica listed, or not; everything else in it stays (spec §1.2)."""
    values = {"schema": 1, "repositories": [], "replicas": []} | _object(before)
    listed = values["replicas"] if isinstance(values["replicas"], list) else []
    others = [each for each in listed if not (isinstance(each, dict) and each.get("name") == fqrn)]
    own = [{"name": fqrn, "url": f"/cvmfs/{fqrn}"}] if present else []
    return _json(values | {"replicas": [*others, *own]})


def _object(data: bytes) -> dict[str, Any]:
    try:
        values = json.loads(data or b"{}")
    except (ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def _json(values: dict[str, Any]) -> bytes:
    return (json.dumps(values, indent=2) + "\n").encode()
