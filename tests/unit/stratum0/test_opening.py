"""What commands say of a disk that is full, fails, or cannot be written."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

import pytest

from cdn.errors import StorageError, StorageFullError, StorageReadOnlyError
from stratum0.commands.opening import opened, peeked
from tests.fakes.publishers import NAME, new_publisher
from tests.fakes.reporting import RecordingOutput


@pytest.fixture
def root(tmp_path: Path) -> Path:
    new_publisher(tmp_path).close()
    return tmp_path


@pytest.mark.parametrize("opening", [opened, peeked])
@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), StorageFullError),
        (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), StorageFullError),
        (OSError(errno.EROFS, os.strerror(errno.EROFS)), StorageReadOnlyError),
        (OSError(errno.EIO, os.strerror(errno.EIO)), StorageError),
        (sqlite3.OperationalError("database or disk is full"), StorageFullError),
        (sqlite3.OperationalError("disk I/O error"), StorageError),
    ],
)
def test_a_disk_that_refuses_is_named(root: Path, opening, error: Exception, kind: type[StorageError]) -> None:
    with pytest.raises(kind, match=NAME) as caught, opening(RecordingOutput(), root, NAME):
        raise error
    assert caught.type is kind
    assert caught.value.exit_code == 5


def test_a_file_that_the_system_names_is_the_one_that_is_said(root: Path) -> None:
    error = OSError(errno.ENOSPC, "No space left on device", "/some/where/else")
    with pytest.raises(StorageFullError, match="/some/where/else"), opened(RecordingOutput(), root, NAME):
        raise error


def test_other_errors_stay_as_they_are(root: Path) -> None:
    with pytest.raises(PermissionError), opened(RecordingOutput(), root, NAME):
        raise PermissionError(errno.EACCES, "Permission denied", "/x")
