"""What servers tell of their repositories."""

from __future__ import annotations

import re

from stratum0.information import read_status, status_date, update_status
from tests.fakes.publishers import new_publisher


def test_keys_of_the_status_file_are_changed_one_by_one(tmp_path):
    repository = new_publisher(tmp_path)
    assert read_status(repository) == {}
    update_status(repository, last_gc="yesterday")
    update_status(repository, last_check="today", check_status="failed")
    assert read_status(repository) == {"last_gc": "yesterday", "last_check": "today", "check_status": "failed"}


def test_a_status_file_that_cannot_be_read_decides_nothing(tmp_path):
    repository = new_publisher(tmp_path)
    for content in (b"no json", b"[1]", b'{"last_gc": 5, "last_check": "x"}', b"\xff"):
        (repository.settings.storage / ".cvmfs_status.json").write_bytes(content)
        assert set(read_status(repository)) <= {"last_check"}


def test_times_are_written_as_date_writes_them():
    assert re.fullmatch(r"Tue Nov 14 22:13:20 UTC 2023", status_date(1_700_000_000))
