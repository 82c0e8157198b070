"""The folders of transactions, each with the lock of whoever works in it."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from stratum0.locks import FileLock

if TYPE_CHECKING:
    from stratum0.repository import Repository

TRANSACTIONS_FOLDER: Final = "transactions"
LOCK_FILE: Final = "lock"
CHANGES_FILE: Final = "changes.sqlite"
WORK_FOLDER: Final = "work"


def folder_of(repository: Repository, transaction_id: str) -> Path:
    """The folder of a transaction."""
    return repository.folder / TRANSACTIONS_FOLDER / transaction_id


@contextmanager
def work_folder(repository: Repository) -> Iterator[Path]:
    """A folder for files in the making, which recovery removes if this process dies."""
    folder, lock = new_folder(repository, f"work-{secrets.token_hex(6)}")
    with lock:
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def new_folder(repository: Repository, name: str) -> tuple[Path, FileLock]:
    """A folder among the transactions', and its lock; recovery, which removes those of nobody, cannot come between."""
    with repository.state.writing():
        folder = folder_of(repository, name)
        folder.parent.mkdir(mode=0o700, exist_ok=True)
        folder.mkdir(mode=0o700)
        try:
            return folder, FileLock(folder / LOCK_FILE, timeout_seconds=0)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
