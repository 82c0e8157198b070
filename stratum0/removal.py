"""Removing a repository, for good."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from cdn.errors import LockHeldError, RepositoryError
from cdn.storage.paths import is_store_path
from cdn.telemetry import fault_point, step
from stratum0.information import write_repository_list
from stratum0.locks import commit_lock
from stratum0.metrics import remove_metrics

if TYPE_CHECKING:
    from stratum0.repository import Repository


def remove(repository: Repository, *, keep_storage: bool = False) -> None:
    """Removes a repository with its keys, and what it serves unless that is to be kept.

    Its name is gone first, so that an interrupted removal leaves no half of a repository. In the storage only files of
    the format's layout are removed: whatever else is there is none of ours.

    Raises:
        RepositoryError: something is being published right now.
        OSError: a file could not be removed.
    """
    name, folder = repository.name, repository.folder
    with step("stratum0.repository.remove", repository=name):
        repository.close()
        gone = folder.with_name(f".removed-{name}-{os.urandom(4).hex()}")
        try:
            with commit_lock(folder, timeout_seconds=5):
                os.rename(folder, gone)
        except LockHeldError as error:
            raise RepositoryError(f"{name} is being published right now: try again later") from error
        fault_point("remove.name.gone")
        if not keep_storage:
            _remove_storage(Path(repository.store.root))
        shutil.rmtree(gone)
        write_repository_list(repository.home)
        remove_metrics(repository.home, name)


def _remove_storage(storage: Path) -> None:
    if not storage.is_dir():
        return
    for entry in sorted(storage.iterdir(), key=lambda entry: not entry.name.startswith(".cvmfspublished")):
        if entry.name == "data" and not entry.is_symlink():
            shutil.rmtree(entry)
        elif is_store_path(entry.name):
            entry.unlink(missing_ok=True)
    with suppress(OSError):  # something else is in there, or it is a mountpoint
        storage.rmdir()
