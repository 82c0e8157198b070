"""What the commands of stratum 0 have in common: finding a repository, warning of expiries, leaving things in order."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cdn.reporting import Output

if TYPE_CHECKING:
    from stratum0.config import Home
    from stratum0.repository import Repository

Function = TypeVar("Function", bound=Callable[..., Any])

_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS})

FILE = click.Path(path_type=Path)
"""A file or folder on this machine."""


def root_option(function: Function) -> Function:
    """Adds ``--root``."""
    return click.option(
        "--root",
        type=FILE,
        envvar="CDN_ROOT",
        show_envvar=True,
        help="The folder that holds all repositories.  [default: /var/lib/stratocast for root, "
        "~/.local/share/stratocast for others]",
    )(function)


@contextmanager
def opened(out: Output, root: Path | None, name: str) -> Iterator[Repository]:
    """Opens a repository to change it, and leaves it in order.

    The whitelist is signed anew if it is time; whatever expires soon is warned of.
    """
    from stratum0.config import Home
    from stratum0.metrics import write_metrics
    from stratum0.repository import Repository

    home = Home.at(root)
    with disk_named(home.folder_of(name)), Repository.open(name, home) as repository:
        resign(out, repository)
        warn(out, repository)
        try:
            yield repository
        finally:
            if repository.folder.exists():
                write_metrics(repository)
                give_back(repository)


@contextmanager
def peeked(out: Output, root: Path | None, name: str) -> Iterator[Repository]:
    """Opens a repository to look at it only."""
    from stratum0.config import Home
    from stratum0.repository import Repository

    home = Home.at(root)
    with disk_named(home.folder_of(name)), Repository.peek(name, home) as repository:
        warn(out, repository)
        yield repository


@contextmanager
def disk_named(folder: Path) -> Iterator[None]:
    """Says which disk it is that is full, or fails; the system does not always name what it was asked to write.

    Raises:
        StorageError: in place of such errors.
    """
    import sqlite3

    from cdn.errors import StorageError, StorageFullError, StorageReadOnlyError

    try:
        yield
    except sqlite3.OperationalError as error:
        kind = StorageFullError if "full" in str(error) else StorageError
        raise kind(f"a database in {folder} cannot be used: {error}; look at the disk and try again") from error
    except OSError as error:
        if error.errno not in _DISK:
            raise
        where = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else folder
        if error.errno == errno.EROFS:
            raise StorageReadOnlyError(f"{where} cannot be written: {error.strerror}") from error
        kind = StorageError if error.errno == errno.EIO else StorageFullError
        raise kind(f"{where} cannot be written: {error.strerror}; look at the disk and try again") from error


def warn(out: Output, repository: Repository) -> None:
    """Warns of what expires within ten days."""
    from stratum0.expiry import warnings

    for text in warnings(repository):
        out.warning(text)


def resign(out: Output, repository: Repository) -> None:
    """Signs the whitelist anew if less than a third of its life is left and the master key is here."""
    from stratum0.expiry import date_text, resign_if_due

    if resign_if_due(repository):
        whitelist = repository.whitelist()
        assert whitelist is not None
        out.note(f"signed the whitelist of {repository.name} anew: valid until {date_text(whitelist.expires_at)}")


def give_back(repository: Repository) -> None:
    """Gives what root has just made to the repository's owner, who could not change it otherwise."""
    from stratum0.documents import chown_tree

    if repository.settings.owner_ids is not None and os.geteuid() == 0:
        chown_tree(repository.folder, repository.settings.owner_ids)


def home_at(root: Path | None) -> Home:
    """The folder of all repositories."""
    from stratum0.config import Home

    return Home.at(root)


def repository_path(text: str) -> str:
    """A path in a repository from what a user writes: ``software/`` is ``/software``, and ``/`` is the root.

    Raises:
        UsageError: it has ``.`` or ``..`` in it.
    """
    from cdn.errors import UsageError

    parts = [part for part in text.split("/") if part]
    if any(part in {".", ".."} for part in parts):
        raise UsageError(f"{text!r} is no path in a repository: write it without . and ..")
    return "".join(f"/{part}" for part in parts)
