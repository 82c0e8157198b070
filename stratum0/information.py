"""What a server tells about its repositories: ``info/v1`` (spec §1.2) and ``.cvmfs_status.json`` (spec §1.1)."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from cdn.errors import CdnError
from cdn.keyfiles import write_file
from cdn.objects import STATUS_PATH

if TYPE_CHECKING:
    from stratum0.config import Home
    from stratum0.repository import Repository

SCHEMA: Final = 1
_STATUS_BYTES_MAX: Final = 1 << 20
_PUBLIC_MODE: Final = 0o644


def write_repository_list(home: Home) -> None:
    """Writes ``repositories.json`` anew from what there is, and a ``meta.json`` to be filled in if there is none.

    Raises:
        OSError: they could not be written.
    """
    home.info.mkdir(parents=True, exist_ok=True)
    repositories = [{"name": name, "url": f"/cvmfs/{name}"} for name in home.names()]
    document = {"schema": SCHEMA, "repositories": repositories, "replicas": []}
    write_file(home.info / "repositories.json", _json(document), _PUBLIC_MODE, replace=True)
    if not (home.info / "meta.json").exists():
        empty = {"administrator": "", "email": "", "organisation": "", "custom": {}}
        write_file(home.info / "meta.json", _json(empty), _PUBLIC_MODE, replace=True)


def read_status(repository: Repository) -> dict[str, str]:
    """What ``.cvmfs_status.json`` says; empty where there is none or it cannot be read, as it decides nothing."""
    try:
        values: Any = json.loads(repository.store.read(STATUS_PATH, size_max=_STATUS_BYTES_MAX))
    except (CdnError, ValueError, RecursionError):
        return {}
    if not isinstance(values, dict):
        return {}
    return {key: value for key, value in values.items() if isinstance(key, str) and isinstance(value, str)}


def update_status(repository: Repository, **values: str) -> None:
    """Changes keys of ``.cvmfs_status.json`` and leaves the others.

    Raises:
        StorageError: it could not be stored.
    """
    repository.store.replace(STATUS_PATH, _json({**read_status(repository), **values}))


def status_date(now: float) -> str:
    """A time as `date --utc` prints it, which is what the values of the status file are."""
    return datetime.fromtimestamp(now, UTC).strftime("%a %b %e %H:%M:%S UTC %Y")


def _json(document: object) -> bytes:
    return (json.dumps(document, indent=2) + "\n").encode()
