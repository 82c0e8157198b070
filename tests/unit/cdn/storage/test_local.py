"""The local back end: what only files, processes and a real kernel can show."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from cdn.errors import ObjectMissingError, StorageError, StorageReadOnlyError
from cdn.hashing import Algorithm, digest_of
from cdn.objects import ObjectName
from cdn.storage.local import LocalStore
from tests.contracts.object_store import HELLO, HELLO_PATH, FullStoreContract, ObjectStoreContract, path_of

PROJECT = Path(__file__).resolve().parents[4]


def run_python(program: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Starts a program that imports the project."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), *arguments],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


class TestLocalStore(ObjectStoreContract, FullStoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> LocalStore:
        return LocalStore(tmp_path / "repository")

    @pytest.fixture
    def full_store(self, tmp_path: Path):
        folder = tmp_path / "small"
        folder.mkdir()
        if os.geteuid() != 0:
            pytest.skip("mounting a small file system needs root")
        # 256 folders, and room for half a megabyte of content
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=512k", "none", str(folder)], capture_output=True, check=False
        )
        if mounted.returncode != 0:
            pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.decode().strip()}")
        try:
            yield LocalStore(folder)
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=True)


class TestLocalStoreWithoutHardLinks(ObjectStoreContract):
    """File systems that have no hard links (FAT, some network ones): the same promises but one.

    Whether one of two writers racing for the same object is told that it was second is not promised there.
    """

    @pytest.fixture
    def store(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalStore:
        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(os, "link", refuse)
        return LocalStore(tmp_path / "repository")

    def test_of_many_threads_putting_one_object_exactly_one_stores_it(self, store) -> None:
        pytest.skip("not promised without hard links")


def staged_files(store: LocalStore) -> list[str]:
    """The temporary files that writers have or left; their own folders are not counted."""
    return [name for _, _, names in os.walk(f"{store.root}/data/txn") for name in names]


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "repository")


# ----------------------------------------------------------------------------------------------------- layout and modes


def test_the_layout_is_the_one_of_the_format(store: LocalStore) -> None:
    store.prepare()
    folders = sorted(os.listdir(f"{store.root}/data"))
    assert folders == [f"{number:02x}" for number in range(256)] + ["txn"]
    store.put(HELLO_PATH, HELLO)
    assert Path(store.root, HELLO_PATH).read_bytes() == HELLO
    assert staged_files(store) == []


def test_reading_creates_nothing(store: LocalStore) -> None:
    assert not store.exists(HELLO_PATH)
    assert list(store.list("")) == []
    assert store.sweep_staging(older_than=float("inf")) == 0
    assert not store.delete(HELLO_PATH)
    assert not os.path.exists(store.root)


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_files_have_the_permissions_that_the_umask_leaves(store, umask, mode) -> None:
    before = os.umask(umask)
    try:
        store.put(HELLO_PATH, HELLO)
        store.replace(".cvmfspublished", b"manifest")
        with store.stage() as staged:
            staged.commit(path_of(b""))
    finally:
        os.umask(before)
    for path in (HELLO_PATH, ".cvmfspublished", path_of(b"")):
        assert stat.S_IMODE(os.stat(f"{store.root}/{path}").st_mode) == mode


def test_a_store_with_missing_folders_gets_them_when_they_are_needed(store: LocalStore) -> None:
    store.prepare()
    os.rmdir(f"{store.root}/{HELLO_PATH[:7]}")
    os.rmdir(f"{store.root}/data/txn")
    assert store.put(HELLO_PATH, HELLO)
    assert store.read(HELLO_PATH, size_max=100) == HELLO


def test_stored_files_have_one_name_only(store: LocalStore) -> None:
    store.put(HELLO_PATH, HELLO)
    assert os.stat(f"{store.root}/{HELLO_PATH}").st_nlink == 1


# --------------------------------------------------------------------------------------------------------- odd contents


def test_foreign_files_are_not_listed(store: LocalStore) -> None:
    store.put(HELLO_PATH, HELLO)
    folder = f"{store.root}/{HELLO_PATH[:7]}"
    Path(folder, "README").write_text("not an object")
    Path(folder, "0" * 38).mkdir()
    os.mkfifo(f"{folder}/{'1' * 38}")
    assert [found.path for found in store.list("data/")] == [HELLO_PATH]


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo], ids=["folder", "fifo"])
def test_what_is_no_file_is_no_object_and_does_not_hang_the_reader(store, make) -> None:
    store.prepare()
    make(f"{store.root}/{HELLO_PATH}")
    assert not store.exists(HELLO_PATH)
    with pytest.raises(ObjectMissingError):
        store.read(HELLO_PATH, size_max=10)
    with pytest.raises(ObjectMissingError):
        store.size(HELLO_PATH)


def test_a_bootstrap_link_made_by_others_is_read_through(store: LocalStore) -> None:
    store.put(HELLO_PATH, HELLO)
    alternative = ObjectName(digest_of(Algorithm.SHAKE128, HELLO)).alternative_path
    os.symlink(HELLO_PATH, f"{store.root}/{alternative}")
    assert store.read(alternative, size_max=100) == HELLO


def test_replacing_a_link_does_not_write_to_where_it_leads(store: LocalStore, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"precious")
    store.prepare()
    os.symlink(outside, f"{store.root}/.cvmfspublished")
    store.replace(".cvmfspublished", b"manifest")
    assert outside.read_bytes() == b"precious"
    assert not os.path.islink(f"{store.root}/.cvmfspublished")


def test_an_object_name_that_leads_nowhere_is_replaced_by_the_object(store: LocalStore, tmp_path: Path) -> None:
    store.prepare()
    os.symlink(tmp_path / "nowhere", f"{store.root}/{HELLO_PATH}")
    assert store.put(HELLO_PATH, HELLO)
    assert not (tmp_path / "nowhere").exists()
    assert store.read(HELLO_PATH, size_max=100) == HELLO


@pytest.mark.parametrize("folder", ["data", "data/txn", HELLO_PATH[:7]])
def test_nothing_is_written_through_a_linked_folder(store, tmp_path, folder) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    LocalStore(outside / "other").prepare()
    store.prepare()
    os.rename(f"{store.root}/{folder}", f"{store.root}/away")
    os.symlink(outside / "other" / folder, f"{store.root}/{folder}")
    with pytest.raises(StorageError, match="symbolic link"):
        LocalStore(store.root).put(HELLO_PATH, HELLO)
    assert [path for path in outside.rglob("*") if not path.is_dir()] == []


# ----------------------------------------------------------------------------------------------- power cuts and crashes


def test_an_object_that_a_power_cut_left_empty_does_not_exist_and_is_stored_anew(store: LocalStore) -> None:
    store.prepare()
    Path(store.root, HELLO_PATH).touch()
    assert not store.exists(HELLO_PATH)
    assert store.put(HELLO_PATH, HELLO)
    assert store.read(HELLO_PATH, size_max=100) == HELLO


@pytest.mark.parametrize("links", [True, False])
def test_an_object_that_a_power_cut_left_short_is_stored_anew(store, monkeypatch, links) -> None:
    if not links:
        monkeypatch.setattr(os, "link", lambda *_, **__: (_ for _ in ()).throw(OSError(1, "no")))
    store.prepare()
    Path(store.root, HELLO_PATH).write_bytes(HELLO[:5])
    with store.stage() as staged:
        staged.write(HELLO)
        assert staged.commit(HELLO_PATH)
    assert store.read(HELLO_PATH, size_max=100) == HELLO
    assert staged_files(store) == []


def test_a_writer_killed_at_any_moment_leaves_only_whole_objects(store: LocalStore) -> None:
    """Three writers are killed after some objects; what is under a final name has the right digest."""
    program = """
        import sys
        from cdn.hashing import Algorithm, digest_of
        from cdn.objects import ObjectName
        from cdn.storage.local import LocalStore
        store = LocalStore(sys.argv[1])
        number = int(sys.argv[2])
        while True:
            number += 3
            data = str(number).encode() * 40_000
            path = ObjectName(digest_of(Algorithm.SHA1, data)).path
            if number % 2:
                store.put(path, data)
            else:
                with store.stage() as staged:
                    for offset in range(0, len(data), 50_000):
                        staged.write(data[offset:offset + 50_000])
                    staged.commit(path)
            sys.stdout.write("."); sys.stdout.flush()
    """
    store.prepare()
    writers = [run_python(program, store.root, str(number)) for number in range(3)]
    for count, writer in enumerate(writers):
        assert writer.stdout is not None
        writer.stdout.read(10 + 3 * count)  # it is in the middle of something now
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
    found = list(store.list("data/"))
    assert len(found) >= 30
    for each in found:
        data = store.read(each.path, size_max=1 << 24)
        assert path_of(data, algorithm=Algorithm.SHA1) == each.path
    store.sweep_staging(older_than=float("inf"))
    assert staged_files(store) == []


def test_a_publisher_killed_while_replacing_leaves_the_old_document_or_the_new_one(store: LocalStore) -> None:
    program = """
        import sys
        from cdn.storage.local import LocalStore
        store = LocalStore(sys.argv[1])
        for number in range(1_000_000):
            store.replace(".cvmfspublished", b"%d," % number * 50_000)
            sys.stdout.write("."); sys.stdout.flush()
    """
    publisher = run_python(program, store.root)
    assert publisher.stdout is not None
    publisher.stdout.read(5)
    publisher.send_signal(signal.SIGKILL)
    publisher.communicate()
    numbers = store.read(".cvmfspublished", size_max=1 << 24).split(b",")
    assert len(numbers) == 50_001
    assert len(set(numbers[:-1])) == 1
    assert int(numbers[0]) >= 4


def test_of_many_processes_putting_one_object_exactly_one_stores_it(store: LocalStore) -> None:
    program = """
        import sys
        from cdn.hashing import Algorithm, digest_of
        from cdn.objects import ObjectName
        from cdn.storage.local import LocalStore
        store = LocalStore(sys.argv[1])
        print("ready", flush=True)
        sys.stdin.read()
        datas = [b"%d" % number * 500 for number in range(200)]
        print(sum(store.put(ObjectName(digest_of(Algorithm.SHA1, data)).path, data) for data in datas))
    """
    writers = [run_python(program, store.root) for _ in range(3)]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
    counts = []
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.close()
    for writer in writers:
        assert writer.stdout is not None
        counts.append(int(writer.stdout.read()))
        writer.stdout.close()
        assert writer.wait() == 0
    assert sum(counts) == 200
    assert len(list(store.list("data/"))) == 200
    assert staged_files(store) == []


def test_a_forked_process_and_its_parent_do_not_share_temporary_names(store: LocalStore) -> None:
    program = """
        import os, sys
        from cdn.hashing import Algorithm, digest_of
        from cdn.objects import ObjectName
        from cdn.storage.local import LocalStore
        store = LocalStore(sys.argv[1])
        staged = store.stage()
        child = os.fork()  # both now have the same counter and token
        data = b"parent" if child else b"child"
        with staged if child else store.stage() as mine, store.stage() as other:
            for number in range(1000):
                mine.write(data)
                other.write(data.upper())
            for each, content in ((mine, data), (other, data.upper())):
                each.commit(ObjectName(digest_of(Algorithm.SHAKE128, content * 1000)).path)
        if child:
            os.waitpid(child, 0)
    """
    process = run_python(program, store.root)
    process.communicate()
    assert process.returncode == 0
    for data in (b"parent", b"child", b"PARENT", b"CHILD"):
        assert store.read(path_of(data * 1000), size_max=10_000) == data * 1000


# ------------------------------------------------------------------------------------------------------------- refusals


def test_a_store_that_may_not_be_written_says_so(store: LocalStore) -> None:
    if os.geteuid() == 0:
        pytest.skip("permissions do not bind root")
    store.prepare()
    os.chmod(f"{store.root}/data/txn", 0o555)
    with pytest.raises(StorageReadOnlyError, match="permissions"):
        store.put(HELLO_PATH, HELLO)


def test_a_read_only_file_system_is_named_as_such(store: LocalStore) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    store.put(HELLO_PATH, HELLO)
    binding = ["mount", "--bind", store.root, store.root]
    if subprocess.run(binding, capture_output=True, check=False).returncode != 0:
        pytest.skip("a folder cannot be mounted here")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", store.root], check=True, capture_output=True)
        read_only = LocalStore(store.root)
        assert read_only.read(HELLO_PATH, size_max=100) == HELLO
        for write in (
            lambda: read_only.put(path_of(b"new"), b"new"),
            lambda: read_only.replace(".cvmfspublished", b"new"),
            lambda: read_only.delete(HELLO_PATH),
            read_only.stage,
        ):
            with pytest.raises(StorageReadOnlyError, match="Read-only file system"):
                write()
    finally:
        subprocess.run(["umount", "-l", store.root], check=True)


def test_a_root_that_is_a_file_is_reported_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = LocalStore(tmp_path / "file")
    with pytest.raises(StorageError, match=str(tmp_path / "file")):
        store.put(HELLO_PATH, HELLO)
    assert not store.exists(HELLO_PATH)


def test_a_file_too_large_for_the_process_leaves_nothing_behind(store: LocalStore) -> None:
    program = """
        import resource, sys
        from cdn.errors import StorageError
        from cdn.storage.local import LocalStore
        store = LocalStore(sys.argv[1])
        store.prepare()
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            store.put(sys.argv[2], b"x" * 5000)
        except StorageError as error:
            print(error)
    """
    process = run_python(program, store.root, HELLO_PATH)
    output, _ = process.communicate()
    assert b"cannot store " + HELLO_PATH.encode() in output
    assert not store.exists(HELLO_PATH)
    assert staged_files(store) == []
