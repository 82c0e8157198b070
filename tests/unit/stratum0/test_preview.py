"""What publishing would change."""

from __future__ import annotations

import os

import pytest

from cdn.errors import UsageError
from stratum0.preview import preview
from stratum0.publish import publish_tree
from tests.fakes.publishers import new_publisher
from tests.unit.stratum0.test_scan import LaterClock, StoppedClock


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "file").write_text("one")
    (folder / "odd\udcff").write_text("odd")
    (folder / "large").write_bytes(os.urandom(5 << 20))
    return folder


def seen(repository, source, **options):
    with preview(repository, source, **options) as differences:
        return {difference.path: difference.kind for difference in differences}


def test_it_foretells_what_publishing_does_and_changes_nothing(tmp_path, source):
    repository = new_publisher(tmp_path / "publisher")
    before = sorted(path for path in repository.home.root.rglob("*") if path.is_file())
    found = seen(repository, source)
    assert found == {"": "changed", **dict.fromkeys(("/sub", "/sub/file", "/odd\udcff", "/large"), "added")}
    after = sorted(path for path in repository.home.root.rglob("*") if path.is_file())
    assert [path for path in after if path not in before and path.parent.name not in {"sources", "catalogs"}] == []
    assert repository.head().revision == 1


def test_after_publishing_there_is_nothing_to_do_until_something_changes(tmp_path, source):
    repository = new_publisher(tmp_path / "publisher", LaterClock())
    publish_tree(repository, source, options=None)
    assert seen(repository, source) == {}
    (source / "sub" / "file").write_text("two, longer")
    (source / "large").unlink()
    (source / "new").symlink_to("sub")
    expected = {"": "changed", "/sub/file": "changed", "/large": "removed", "/new": "added"}
    assert seen(repository, source) == expected
    assert seen(repository, source) == expected


def test_files_too_young_to_be_trusted_are_read_again_and_found_to_be_the_same(tmp_path, source):
    repository = new_publisher(tmp_path / "publisher", StoppedClock(os.lstat(source / "sub").st_ctime))
    assert publish_tree(repository, source).counts.put > 0
    assert seen(repository, source) == {}
    again = publish_tree(repository, source)
    assert (again.counts.files_read, again.counts.put) == (3, 0)


def test_the_same_content_written_anew_is_a_change_of_time_only_and_checksums_see_silent_changes(tmp_path, source):
    repository = new_publisher(tmp_path / "publisher")
    publish_tree(repository, source)
    status = (source / "sub" / "file").stat()
    (source / "sub" / "file").write_text("ONE")
    os.utime(source / "sub" / "file", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert seen(repository, source, verify_content=True) == {"/sub/file": "changed"}


def test_a_source_that_is_no_folder_is_refused(tmp_path):
    repository = new_publisher(tmp_path / "publisher")
    with pytest.raises(UsageError, match="is not a folder"), preview(repository, tmp_path / "nowhere"):
        pass
