"""Publishing a folder makes the subtree equal to it, at a cost that follows the change."""

from __future__ import annotations

import functools
import io
import os
import random
import shutil
import socket
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdn.catalog.tree import CatalogTree
from cdn.chunking import CHUNKED_ABOVE_BYTES, cut
from cdn.clock import SystemClock
from cdn.errors import StorageError, UsageError
from cdn.objects import ObjectName
from stratum0.content import StoredContent
from stratum0.publish import PublishOptions, PublishResult, ingest_tarball, publish_tree
from stratum0.repository import Repository
from tests.fakes import publishers
from tests.fakes.publishers import NAME, new_publisher
from tests.unit.stratum0.test_content import read_back


class LaterClock(SystemClock):
    """A second ahead, so that what a test has just written is old enough for its times to be trusted."""

    def now(self) -> float:
        return super().now() + 1.0


class StoppedClock(SystemClock):
    """Always says the same."""

    def __init__(self, now: float) -> None:
        self._now = now

    def now(self) -> float:
        return self._now


@pytest.fixture(params=[True, False], ids=["file by file", "folder by folder"])
def repository(tmp_path: Path, request: pytest.FixtureRequest):
    """With extended attributes, which the scan looks for itself, and without, when the pipeline sees to new folders."""
    opened = new_publisher(tmp_path / "home", LaterClock(), include_xattrs=request.param)
    yield opened
    opened.close()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


def publish(repository: Repository, source: Path, to: str = "", **options: object) -> PublishResult:
    result = publish_tree(repository, source, to, options=PublishOptions(workers=0, **options))  # type: ignore[arg-type]
    publishers.published(repository)  # asserts that everything about it is right
    return result


def published(repository: Repository, below: str = "") -> dict[str, tuple[object, ...]]:
    """Everything below a path as comparable values: kind and mode, times, owner, content or target."""
    head = repository.head()
    found: dict[str, tuple[object, ...]] = {}
    with CatalogTree(repository.catalogs, head.root, head.root_size) as tree:
        for path, entry in tree.walk(below):
            what: object = entry.symlink or entry.device
            if entry.is_file:
                fields = StoredContent(entry.size, entry.compression, entry.digest, None, entry.chunks)
                what = read_back(repository.store, fields)  # type: ignore[arg-type]
                assert len(what) == entry.size
            times = entry.mtime * 10**9 + entry.mtime_ns
            links = 1 if entry.is_directory else entry.link_count
            found[path.removeprefix(below)] = (entry.mode, times, entry.uid, entry.gid, links, entry.xattrs, what)
    return found


def on_disk(source: Path) -> dict[str, tuple[object, ...]]:
    """The same of a folder."""
    found: dict[str, tuple[object, ...]] = {}
    paths = [source, *source.rglob("*")]
    for path in paths:
        status = path.lstat()
        what: object = status.st_rdev
        if path.is_symlink():
            what = os.readlink(path)
        elif path.is_file():
            what = path.read_bytes()
        links = 1
        if stat.S_ISREG(status.st_mode):
            links = sum(1 for other in path.parent.iterdir() if other.lstat().st_ino == status.st_ino)
        xattrs = tuple(
            sorted(
                (os.fsencode(key), os.getxattr(path, key, follow_symlinks=False))
                for key in os.listxattr(path, follow_symlinks=False)
            )
        )
        name = str(path)[len(str(source)) :]
        found[name] = (status.st_mode, status.st_mtime_ns, status.st_uid, status.st_gid, links, xattrs, what)
    return found


def age(source: Path) -> None:
    """Makes everything look as if it had been there for long, so that times can be trusted."""
    for path in sorted(source.rglob("*"), reverse=True):
        if not path.is_symlink():
            os.utime(path, ns=(10**18, 10**18), follow_symlinks=False)


@functools.cache
def large() -> bytes:
    """What is stored in more than one piece."""
    data = random.Random(4).randbytes(CHUNKED_ABOVE_BYTES + (1 << 20))
    assert len(list(cut(data))) == 2
    return data


def fill(source: Path) -> None:
    (source / "bin").mkdir()
    (source / "bin" / "tool").write_bytes(b"#!/bin/sh\n")
    (source / "bin" / "tool").chmod(0o4755)
    (source / "bin" / "alias").symlink_to("tool")
    (source / "bin" / "dangling").symlink_to("/no/such/$(VAR)/file")
    (source / "empty").mkdir()
    (source / "empty file").write_bytes(b"")
    (source / "data").mkdir(mode=0o700)
    (source / "data" / "large").write_bytes(large())
    (source / "data" / "one").write_bytes(b"linked")
    os.link(source / "data" / "one", source / "data" / "two")
    os.link(source / "data" / "one", source / "elsewhere")
    os.mkfifo(source / "fifo")
    with open(os.fsencode(source) + b"/odd \xff\n name", "wb") as stream:
        stream.write(b"x")
    os.utime(source / "empty", ns=(-(10**9) + 1, -(10**9) + 1))


# ------------------------------------------------------------------------------------------------------------- equality


def test_a_folder_of_every_kind_of_entry_is_published_as_it_is(repository: Repository, source: Path) -> None:
    fill(source)
    if repository.settings.include_xattrs:
        os.setxattr(source / "bin" / "tool", "user.origin", b"here")
    result = publish(repository, source)
    assert published(repository) == on_disk(source)
    assert result.revision is not None


def test_a_socket_is_published_as_one(repository: Repository, source: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        os.chdir(source)
        bound.bind("socket")
    publish(repository, source)
    assert stat.S_ISSOCK(published(repository)["/socket"][0])  # type: ignore[arg-type]


def test_publishing_below_a_path_leaves_the_rest_alone(repository: Repository, source: Path, tmp_path: Path) -> None:
    fill(source)
    publish(repository, source)
    before = published(repository)
    other = tmp_path / "other"
    other.mkdir()
    (other / "f").write_bytes(b"f")
    publish(repository, other, "/opt/other/1.0")
    assert published(repository, "/opt/other/1.0") == on_disk(other)
    after = published(repository)
    assert {path: value for path, value in after.items() if not path.startswith("/opt")} == before


def test_what_left_the_folder_leaves_the_repository(repository: Repository, source: Path) -> None:
    fill(source)
    publish(repository, source)
    shutil.rmtree(source / "bin")
    (source / "empty file").unlink()
    publish(repository, source)
    assert published(repository) == on_disk(source)


def test_kinds_may_change(repository: Repository, source: Path) -> None:
    fill(source)
    publish(repository, source)
    shutil.rmtree(source / "bin")
    (source / "bin").write_bytes(b"a file now")
    (source / "empty file").unlink()
    (source / "empty file").mkdir()
    (source / "empty file" / "deep").mkdir()
    (source / "fifo").unlink()
    (source / "fifo").symlink_to("bin")
    publish(repository, source)
    assert published(repository) == on_disk(source)


def test_the_nested_catalog_of_a_marked_folder_comes_and_goes(repository: Repository, source: Path) -> None:
    fill(source)
    (source / "data" / ".cvmfscatalog").touch()
    publish(repository, source)
    assert nested_paths(repository) == {"/data"}
    assert published(repository) == on_disk(source)
    (source / "data" / ".cvmfscatalog").unlink()
    publish(repository, source)
    assert nested_paths(repository) == set()
    assert published(repository) == on_disk(source)


def nested_paths(repository: Repository) -> set[str]:
    head = repository.head()
    with repository.catalogs.load(head.root, size=head.root_size, path="") as root:
        return {reference.path for reference in root.nested()}


def test_markers_that_the_repository_made_are_not_taken_for_removed_files(
    repository: Repository, source: Path, tmp_path: Path
) -> None:
    """Also when the memory of the source is lost, so that the published tree is looked at."""
    fill(source)
    (source / ".cvmfsdirtab").write_text("/data\n")
    publish(repository, source)
    assert nested_paths(repository) == {"/data"}
    shutil.rmtree(tmp_path / "home" / "repositories" / NAME / "sources")
    assert publish(repository, source).revision is None
    assert nested_paths(repository) == {"/data"}


def test_names_with_another_meaning_at_the_top_are_left_out_with_a_word(repository: Repository, source: Path) -> None:
    (source / ".cvmfs").mkdir()
    (source / ".cvmfscatalog").touch()
    (source / "f").touch()
    said: list[str] = []
    publish_tree(repository, source, options=PublishOptions(workers=0), warn=said.append)
    assert set(published(repository)) == {"", "/f"}
    assert len(said) == 2


def test_a_marker_that_is_no_regular_file_is_left_out_with_a_word(repository: Repository, source: Path) -> None:
    """Published, it would be a marker without a nested catalog, which checks take for damage."""
    (source / "d" / ".cvmfscatalog" / "below").mkdir(parents=True)
    (source / "e").mkdir()
    (source / "e" / ".cvmfscatalog").symlink_to("f")
    (source / "f").mkdir()
    (source / "f" / ".cvmfscatalog").touch()
    said: list[str] = []
    publish_tree(repository, source, options=PublishOptions(workers=0), warn=said.append)
    publishers.published(repository)
    assert set(published(repository)) == {"", "/d", "/e", "/f", "/f/.cvmfscatalog"}
    assert len(said) == 2
    (source / "f" / ".cvmfscatalog").unlink()
    (source / "f" / ".cvmfscatalog").mkdir()
    publish(repository, source)
    assert nested_paths(repository) == set()
    assert set(published(repository)) == {"", "/d", "/e", "/f"}


@pytest.mark.parametrize("tag", ["no name", "17", "trunk", ""])
def test_a_tag_that_cannot_be_is_refused_before_anything_is_read(
    repository: Repository, source: Path, tag: str
) -> None:
    (source / "f").write_bytes(b"content")
    with pytest.raises(UsageError, match="tag"):
        publish_tree(repository, source, options=PublishOptions(tag=tag, workers=0))
    with pytest.raises(UsageError, match="tag"):
        ingest_tarball(repository, io.BytesIO(b"no tarball"), options=PublishOptions(tag=tag, workers=0))
    with repository.transaction() as transaction, pytest.raises(UsageError, match="tag"):
        transaction.commit(tag=tag)


@pytest.mark.parametrize("kind", ["link", "fifo", "folder"])
def test_a_dirtab_that_is_no_regular_file_has_no_rules(
    repository: Repository, source: Path, tmp_path: Path, kind: str
) -> None:
    (tmp_path / "secret").write_text("not for everybody\n")
    dirtab = source / ".cvmfsdirtab"
    if kind == "link":
        dirtab.symlink_to(tmp_path / "secret")
    elif kind == "fifo":
        os.mkfifo(dirtab)
        keeper = os.open(dirtab, os.O_RDWR)  # a reader would wait for this to write
    else:
        dirtab.mkdir()
    publish(repository, source)
    assert published(repository) == on_disk(source)
    if kind == "fifo":
        os.close(keeper)


def test_a_file_from_the_far_future_is_published(repository: Repository, source: Path) -> None:
    file = source / "f"
    file.touch()
    os.utime(file, ns=(0, 10**19))
    if os.stat(file).st_mtime_ns < 10**19:
        pytest.skip("this file system does not hold such times")
    publish(repository, source)
    assert published(repository) == on_disk(source)


# ---------------------------------------------------------------------------------------------- cost follows the change


def test_nothing_is_read_when_nothing_changed_and_there_is_no_new_revision(
    repository: Repository, source: Path
) -> None:
    fill(source)
    age(source)
    publish(repository, source)
    revision = repository.head().revision
    again = publish(repository, source)
    assert again.revision is None
    assert again.counts.files_read == 0
    assert again.counts.put == again.counts.removed == 0
    assert repository.head().revision == revision


def test_a_file_written_just_before_it_was_scanned_is_read_once_more(source: Path, tmp_path: Path) -> None:
    """Another write within the same tick of the kernel's clock would leave the same times."""
    fill(source)
    repository = new_publisher(tmp_path / "home", StoppedClock(os.lstat(source / "empty").st_ctime))
    publish(repository, source)
    again = publish(repository, source)
    repository.close()
    assert again.counts.files_read > 0
    assert again.revision is None


def test_only_the_changed_file_is_read(repository: Repository, source: Path) -> None:
    fill(source)
    age(source)
    publish(repository, source)
    (source / "bin" / "tool").write_bytes(b"#!/bin/bash\n")
    result = publish(repository, source)
    assert result.counts.files_read == 1
    assert published(repository) == on_disk(source)


def test_a_change_that_keeps_size_and_mtime_is_seen(repository: Repository, source: Path) -> None:
    """The ctime tells."""
    fill(source)
    age(source)
    publish(repository, source)
    tool = source / "bin" / "tool"
    status = tool.stat()
    tool.write_bytes(b"#!/bin/zs\n")
    os.utime(tool, ns=(status.st_mtime_ns, status.st_mtime_ns))
    assert tool.stat().st_size == status.st_size
    result = publish(repository, source)
    assert result.counts.files_read == 1
    assert published(repository) == on_disk(source)


def test_a_chmod_alone_stores_nothing(repository: Repository, source: Path) -> None:
    fill(source)
    publish(repository, source)
    (source / "data" / "large").chmod(0o600)
    result = publish(repository, source)
    assert result.counts.bytes_stored == 0
    assert published(repository) == on_disk(source)


def test_a_moved_folder_stores_nothing(repository: Repository, source: Path) -> None:
    fill(source)
    publish(repository, source)
    (source / "data").rename(source / "moved")
    result = publish(repository, source)
    assert result.counts.bytes_stored == 0
    assert published(repository) == on_disk(source)


def test_what_others_changed_since_is_put_right_and_nothing_else_is_read(repository: Repository, source: Path) -> None:
    fill(source)
    age(source)
    publish(repository, source)
    with repository.transaction("") as transaction:
        transaction.put_file("/bin/tool", b"somebody else's")
        transaction.put_file("/bin/extra", b"somebody else's")
        transaction.remove("/data/one")
        transaction.remove("/empty")
    result = publish(repository, source)
    assert published(repository) == on_disk(source)
    assert result.counts.files_read == 2  # the tool, and the two names of one inode once


def test_changes_elsewhere_do_not_make_anything_be_read(repository: Repository, source: Path) -> None:
    fill(source)
    age(source)
    publish(repository, source, "/mine")
    with repository.transaction("/theirs") as transaction:
        transaction.put_file("/theirs/f", b"theirs", parents=True)
    result = publish(repository, source, "/mine")
    assert result.counts.files_read == 0
    assert result.revision is None


def test_verifying_content_reads_everything_and_changes_nothing(repository: Repository, source: Path) -> None:
    fill(source)
    age(source)
    publish(repository, source)
    result = publish(repository, source, verify_content=True)
    assert result.counts.files_read == 6
    assert result.revision is None


def test_a_lost_memory_only_costs_reading(repository: Repository, source: Path, tmp_path: Path) -> None:
    fill(source)
    publish(repository, source)
    shutil.rmtree(tmp_path / "home" / "repositories" / NAME / "sources")
    result = publish(repository, source)
    assert result.revision is None
    assert result.counts.bytes_stored == 0


def test_a_hard_link_made_or_broken_is_published(repository: Repository, source: Path) -> None:
    fill(source)
    age(source)
    publish(repository, source)
    os.link(source / "data" / "one", source / "data" / "three")
    publish(repository, source)
    assert published(repository) == on_disk(source)
    (source / "data" / "two").unlink()
    (source / "data" / "two").write_bytes(b"alone")
    publish(repository, source)
    assert published(repository) == on_disk(source)


# ------------------------------------------------------------------------------------------------------------ bad input


def test_a_source_that_is_no_folder_is_refused(repository: Repository, source: Path) -> None:
    (source / "f").touch()
    with pytest.raises(UsageError, match="is not a folder"):
        publish_tree(repository, source / "f")


def test_a_source_that_holds_the_repository_is_refused(repository: Repository, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds the repository itself"):
        publish_tree(repository, tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
def test_a_file_that_cannot_be_read_is_named_and_nothing_is_published(repository: Repository, source: Path) -> None:
    fill(source)
    (source / "bin" / "tool").chmod(0)
    revision = repository.head().revision
    with pytest.raises(StorageError, match="bin/tool"):
        publish_tree(repository, source)
    assert repository.head().revision == revision


def test_an_object_that_collection_took_is_stored_again(repository: Repository, source: Path) -> None:
    """The index still knows it, the store does not."""
    (source / "f").write_bytes(b"content")
    publish(repository, source)
    head = repository.head()
    with CatalogTree(repository.catalogs, head.root, head.root_size) as tree:
        entry = tree.find("/f")
    assert entry is not None
    assert entry.digest is not None
    repository.store.delete(ObjectName(entry.digest).path)
    shutil.copy(source / "f", source / "g")
    publish(repository, source)
    assert published(repository) == on_disk(source)


# ---------------------------------------------------------------------------------------------------------- any history


NAMES = st.sampled_from(["a", "b", "c", ".cvmfscatalog"])
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["file", "folder", "link", "hardlink", "remove", "publish"]), NAMES, NAMES, st.integers(0, 9)
    ),
    max_size=30,
)


@settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow])
@given(STEPS, st.booleans())
def test_after_any_changes_publishing_makes_them_equal(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str, str, int]], with_xattrs: bool
) -> None:
    base = tmp_path_factory.mktemp("any")
    source = base / "source"
    source.mkdir()
    repository = new_publisher(base / "home", include_xattrs=with_xattrs)
    try:
        for what, first, second, number in [*steps, ("publish", "", "", 0)]:
            if what == "publish":
                publish(repository, source)
                assert published(repository) == on_disk(source)
            else:
                change(source, what, first, second, number)
    finally:
        repository.close()
        shutil.rmtree(base)


def change(source: Path, what: str, first: str, second: str, number: int) -> None:
    """Does one random change, where it is possible."""
    if first == ".cvmfscatalog":
        return
    path = source / first / second if number % 2 and (source / first).is_dir() else source / first
    if path.name == ".cvmfscatalog" and what != "remove":
        what = "file"
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.is_dir() and what != "folder":
        shutil.rmtree(path)
    if what == "file":
        path.write_bytes(b"" if path.name == ".cvmfscatalog" else b"%d" % number)
    elif what == "folder":
        path.mkdir(exist_ok=True)
    elif what == "link":
        path.symlink_to(second)
    elif what == "hardlink":
        others = [other for other in path.parent.iterdir() if other.is_file() and not other.is_symlink()]
        if others and ".cvmfscatalog" not in {path.name, others[0].name}:
            os.link(others[0], path)
