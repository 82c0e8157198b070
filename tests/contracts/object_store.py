"""What every store must do; each store's own tests subclass this and give it a `store` fixture."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from cdn.errors import ObjectMissingError, StorageError, UsageError
from cdn.hashing import Algorithm, digest_of
from cdn.objects import Kind, ObjectName
from cdn.storage.base import PrunableStore

MIB = 1 << 20


def path_of(data: bytes, kind: Kind = Kind.FILE, algorithm: Algorithm = Algorithm.SHAKE128) -> str:
    """The path these bytes are stored under."""
    return ObjectName(digest_of(algorithm, data), kind).path


HELLO = b"hello, object"
HELLO_PATH = path_of(HELLO)
HOSTILE_PATHS = [
    "",
    "/etc/passwd",
    "../outside",
    "data/../../outside",
    "data/ab/../../.cvmfspublished",
    "data/ab/../ab/cdef",
    "data/txn/abc",
    "data/ab/",
    "data//abc",
    ".cvmfs/../../outside",
    ".cvmfspublished\0.txt",
    ".cvmfspublished\n",
    "data/AB/" + "0" * 38,
    "data/ab/" + "0" * 37,
    "data/ab/" + "0" * 38 + "/x",
    "info/v1/../../outside.json",
    "info/v1/..json/../x.json",
    "data\\ab\\" + "0" * 38,
    "x" * 10_000,
    ".cvmfs" + "x" * 10_000,
    "\ud800",
]


class ObjectStoreContract:
    """The tests; `store` is an empty store."""

    @pytest.fixture
    def store(self) -> PrunableStore:
        raise NotImplementedError

    # ---------------------------------------------------------------------------------------------- putting and reading

    def test_what_was_put_is_read_back(self, store: PrunableStore) -> None:
        assert store.put(HELLO_PATH, HELLO)
        assert store.exists(HELLO_PATH)
        assert store.size(HELLO_PATH) == len(HELLO)
        assert store.read(HELLO_PATH, size_max=100) == HELLO
        with store.open(HELLO_PATH) as stream:
            assert stream.read() == HELLO

    @pytest.mark.parametrize("algorithm", Algorithm)
    @pytest.mark.parametrize("kind", Kind)
    def test_objects_of_every_algorithm_and_kind_have_a_place(self, store, algorithm, kind) -> None:
        path = path_of(HELLO, kind, algorithm)
        assert store.put(path, HELLO)
        assert [found.path for found in store.list("data/")] == [path]

    def test_objects_of_equal_bytes_and_different_kind_are_different_objects(self, store: PrunableStore) -> None:
        store.put(path_of(HELLO, Kind.CHUNK), HELLO)
        assert not store.exists(path_of(HELLO, Kind.FILE))

    @pytest.mark.parametrize("make", [bytes, bytearray, memoryview], ids=lambda make: make.__name__)
    def test_any_buffer_can_be_put(self, store, make) -> None:
        store.put(HELLO_PATH, make(HELLO))
        assert store.read(HELLO_PATH, size_max=100) == HELLO

    def test_the_store_keeps_no_reference_to_a_buffer_that_changes_later(self, store: PrunableStore) -> None:
        buffer = bytearray(HELLO)
        store.put(HELLO_PATH, buffer)
        buffer[0] ^= 0xFF
        assert store.read(HELLO_PATH, size_max=100) == HELLO

    @pytest.mark.parametrize("algorithm", Algorithm)
    def test_the_empty_object_can_be_stored(self, store, algorithm) -> None:
        path = path_of(b"", algorithm=algorithm)
        assert store.put(path, b"")
        assert store.exists(path)
        assert store.read(path, size_max=0) == b""
        assert not store.put(path, b"")

    def test_a_large_object_is_kept_whole(self, store: PrunableStore) -> None:
        data = bytes(range(256)) * (4 * MIB // 256)
        store.put(path_of(data), data)
        assert store.read(path_of(data), size_max=4 * MIB) == data

    def test_an_object_that_is_there_is_left_alone(self, store: PrunableStore) -> None:
        store.put(HELLO_PATH, HELLO)
        before = next(iter(store.list("data/")))
        assert not store.put(HELLO_PATH, HELLO[::-1])
        assert store.read(HELLO_PATH, size_max=100) == HELLO
        assert next(iter(store.list("data/"))) == before

    def test_what_is_absent_is_said_to_be_missing(self, store: PrunableStore) -> None:
        assert not store.exists(HELLO_PATH)
        for ask in (store.size, store.open, lambda path: store.read(path, size_max=1)):
            with pytest.raises(ObjectMissingError, match=HELLO_PATH):
                ask(HELLO_PATH)

    def test_an_object_larger_than_the_limit_is_not_read(self, store: PrunableStore) -> None:
        store.put(HELLO_PATH, HELLO)
        assert store.read(HELLO_PATH, size_max=len(HELLO)) == HELLO
        with pytest.raises(StorageError, match="larger than the limit"):
            store.read(HELLO_PATH, size_max=len(HELLO) - 1)

    def test_an_opened_object_is_seekable_and_stays_readable_when_it_is_deleted(self, store: PrunableStore) -> None:
        store.put(HELLO_PATH, HELLO)
        with store.open(HELLO_PATH) as stream:
            store.delete(HELLO_PATH)
            stream.seek(7)
            assert stream.read() == HELLO[7:]

    # ----------------------------------------------------------------------------------------------------------- paths

    @pytest.mark.parametrize("path", HOSTILE_PATHS, ids=lambda path: repr(path[:40]))
    def test_no_path_leads_out_of_the_layout(self, store, path) -> None:
        asks = (
            store.exists,
            store.size,
            store.open,
            store.delete,
            lambda path: store.read(path, size_max=1),
            lambda path: store.put(path, b"x"),
            lambda path: store.replace(path, b"x"),
        )
        for ask in asks:
            with pytest.raises(UsageError):
                ask(path)
        with store.stage() as staged:
            staged.write(b"x")
            with pytest.raises(UsageError):
                staged.commit(path)
        assert list(store.list("")) == []

    @pytest.mark.parametrize("prefix", ["..", "/", "data", "data/txn/", "data/ab", "data/ab/c", "data/../", "\0"])
    def test_only_folders_of_the_layout_are_listed(self, store, prefix) -> None:
        with pytest.raises(UsageError):
            list(store.list(prefix))

    # -------------------------------------------------------------------------------------------------------- documents

    def test_a_document_can_be_replaced(self, store: PrunableStore) -> None:
        for version in (b"one", b"two, longer", b"", b"3"):
            store.replace(".cvmfspublished", version)
            assert store.read(".cvmfspublished", size_max=100) == version
        assert store.size(".cvmfspublished") == 1

    @pytest.mark.parametrize(
        "path", [".cvmfswhitelist", ".cvmfs_master_replica", "info/v1/meta.json", "stats/stats.db"]
    )
    def test_documents_lie_beside_the_objects(self, store, path) -> None:
        store.replace(path, b"{}")
        assert store.read(path, size_max=2) == b"{}"
        assert store.delete(path)
        assert not store.exists(path)

    def test_an_alternative_name_can_hold_a_copy_of_an_object(self, store: PrunableStore) -> None:
        name = ObjectName(digest_of(Algorithm.SHA1, HELLO), Kind.CERTIFICATE)
        assert store.put(name.alternative_path, HELLO)
        assert store.read(name.alternative_path, size_max=100) == HELLO

    def test_readers_see_the_old_document_or_the_new_one_and_nothing_between(self, store: PrunableStore) -> None:
        versions = [bytes([number]) * (number * 500 + 1) for number in range(20)]
        store.replace(".cvmfspublished", versions[0])
        done = threading.Event()

        def watch() -> set[bytes]:
            seen = set()
            while not done.is_set():
                seen.add(store.read(".cvmfspublished", size_max=MIB))
            return seen

        with ThreadPoolExecutor(2) as pool:
            watchers = [pool.submit(watch) for _ in range(2)]
            try:
                for version in versions:
                    store.replace(".cvmfspublished", version)
            finally:
                done.set()
            for watcher in watchers:
                assert watcher.result() <= set(versions)
        assert store.read(".cvmfspublished", size_max=MIB) == versions[-1]

    # ---------------------------------------------------------------------------------------------------------- staging

    def test_a_staged_object_gets_its_name_at_the_end(self, store: PrunableStore) -> None:
        with store.stage() as staged:
            staged.write(HELLO[:5])
            staged.write(memoryview(HELLO)[5:])
            assert list(store.list("")) == []
            assert staged.commit(HELLO_PATH)
        assert store.read(HELLO_PATH, size_max=100) == HELLO

    def test_a_staged_object_without_commit_is_discarded(self, store: PrunableStore) -> None:
        with store.stage() as staged:
            staged.write(HELLO)
        assert list(store.list("")) == []
        assert store.sweep_staging(older_than=float("inf")) == 0

    def test_a_staged_object_whose_block_fails_is_discarded(self, store: PrunableStore) -> None:
        with pytest.raises(RuntimeError, match="halfway"), store.stage() as staged:
            staged.write(HELLO)
            raise RuntimeError("halfway")
        assert store.sweep_staging(older_than=float("inf")) == 0

    def test_committing_an_object_that_is_there_leaves_it_alone(self, store: PrunableStore) -> None:
        store.put(HELLO_PATH, HELLO)
        with store.stage() as staged:
            staged.write(HELLO[::-1])
            assert not staged.commit(HELLO_PATH)
        assert store.read(HELLO_PATH, size_max=100) == HELLO

    def test_a_finished_staged_object_takes_nothing_more(self, store: PrunableStore) -> None:
        with store.stage() as staged:
            staged.write(HELLO)
            staged.commit(HELLO_PATH)
            with pytest.raises(StorageError, match="already finished"):
                staged.write(b"more")
            with pytest.raises(StorageError, match="already finished"):
                staged.commit(path_of(b"other"))
        assert store.read(HELLO_PATH, size_max=100) == HELLO

    def test_an_empty_staged_object_is_the_empty_object(self, store: PrunableStore) -> None:
        with store.stage() as staged:
            assert staged.commit(path_of(b""))
        assert store.read(path_of(b""), size_max=0) == b""

    def test_sweeping_removes_only_what_has_been_left_for_long(self, store: PrunableStore) -> None:
        staged = store.stage()
        staged.write(HELLO)
        store.put(HELLO_PATH, HELLO)
        assert store.sweep_staging(older_than=1.0) == 0
        swept = store.sweep_staging(older_than=float("inf"))
        assert store.exists(HELLO_PATH)
        with staged:
            if swept:
                with pytest.raises(StorageError):
                    staged.commit(path_of(b"swept"))
            else:  # it cannot be left behind, so there is nothing to sweep
                assert staged.commit(path_of(b"swept"))

    # --------------------------------------------------------------------------------------------- listing and deleting

    def test_listing_tells_path_size_and_time_of_every_object(self, store: PrunableStore) -> None:
        objects = {path_of(bytes([number])): bytes([number]) for number in range(100)}
        for path, data in objects.items():
            store.put(path, data)
        store.replace(".cvmfspublished", b"manifest")
        listed = {found.path: found for found in store.list("data/")}
        assert listed.keys() == objects.keys()
        assert {found.size for found in listed.values()} == {1}
        assert min(found.modified for found in listed.values()) > 0
        assert {found.path for found in store.list("")} == objects.keys() | {".cvmfspublished"}

    def test_listing_one_folder_gives_its_objects_alone(self, store: PrunableStore) -> None:
        paths = {path_of(bytes([number])) for number in range(100)}
        for path in paths:
            store.put(path, b"x")
        for folder in {path[:8] for path in paths}:
            assert {found.path for found in store.list(folder)} == {path for path in paths if path.startswith(folder)}
        assert list(store.list("data/")) != []

    def test_objects_can_be_deleted_while_they_are_listed(self, store: PrunableStore) -> None:
        for number in range(200):
            store.put(path_of(bytes([number])), b"x")
        for found in store.list("data/"):
            assert store.delete(found.path)
        assert list(store.list("data/")) == []

    def test_deleting_tells_whether_the_object_was_there(self, store: PrunableStore) -> None:
        store.put(HELLO_PATH, HELLO)
        assert store.delete(HELLO_PATH)
        assert not store.delete(HELLO_PATH)
        assert not store.exists(HELLO_PATH)
        assert store.put(HELLO_PATH, HELLO)

    def test_flushing_changes_nothing_that_can_be_seen(self, store: PrunableStore) -> None:
        store.flush()
        store.put(HELLO_PATH, HELLO)
        store.flush()
        assert store.read(HELLO_PATH, size_max=100) == HELLO

    # ----------------------------------------------------------------------------------------------------- many at once

    def test_of_many_threads_putting_one_object_exactly_one_stores_it(self, store: PrunableStore) -> None:
        threads = 8
        objects = [bytes([number]) * 2000 for number in range(40)]
        start = threading.Barrier(threads)

        def put_all() -> int:
            start.wait()
            return sum(store.put(path_of(data), data) for data in objects)

        with ThreadPoolExecutor(threads) as pool:
            stored = [pool.submit(put_all) for _ in range(threads)]
        assert sum(one.result() for one in stored) == len(objects)
        assert {found.path for found in store.list("data/")} == {path_of(data) for data in objects}
        assert store.sweep_staging(older_than=float("inf")) == 0

    def test_threads_staging_at_once_do_not_mix_their_bytes(self, store: PrunableStore) -> None:
        threads = 6
        start = threading.Barrier(threads)

        def stage_one(number: int) -> None:
            data = bytes([number]) * 30_000
            start.wait()
            with store.stage() as staged:
                for offset in range(0, len(data), 1000):
                    staged.write(data[offset : offset + 1000])
                staged.commit(path_of(data))

        with ThreadPoolExecutor(threads) as pool:
            for done in [pool.submit(stage_one, number) for number in range(threads)]:
                done.result()
        for found in store.list("data/"):
            assert path_of(store.read(found.path, size_max=MIB)) == found.path
        assert len(list(store.list("data/"))) == threads


class FullStoreContract:
    """What a store must do that has no room left; `full_store` is empty and holds at most about half a megabyte."""

    @pytest.fixture
    def full_store(self) -> PrunableStore:
        raise NotImplementedError

    def test_a_full_store_says_so_and_keeps_nothing_of_what_did_not_fit(self, full_store: PrunableStore) -> None:
        from cdn.errors import StorageFullError

        large = b"x" * MIB
        full_store.put(HELLO_PATH, HELLO)
        full_store.replace(".cvmfspublished", b"old")
        with pytest.raises(StorageFullError):
            full_store.put(path_of(large), large)
        with pytest.raises(StorageFullError), full_store.stage() as staged:
            staged.write(large)
        with pytest.raises(StorageFullError):
            full_store.replace(".cvmfspublished", large)
        assert full_store.read(".cvmfspublished", size_max=10) == b"old"
        assert {found.path for found in full_store.list("")} == {HELLO_PATH, ".cvmfspublished"}
        assert full_store.sweep_staging(older_than=float("inf")) == 0
        assert full_store.put(path_of(b"small"), b"small"), "what did not fit must not take up room"
