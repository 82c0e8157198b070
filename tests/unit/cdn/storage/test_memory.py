"""The store in memory."""

from __future__ import annotations

import pytest

from cdn.clock import ManualClock
from cdn.errors import StorageFullError
from cdn.storage.memory import MemoryStore
from tests.contracts.object_store import HELLO, HELLO_PATH, FullStoreContract, ObjectStoreContract, path_of


class TestMemoryStore(ObjectStoreContract, FullStoreContract):
    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore()

    @pytest.fixture
    def full_store(self) -> MemoryStore:
        return MemoryStore(bytes_max=500_000)


def test_times_of_modification_are_those_of_the_clock_handed_in() -> None:
    clock = ManualClock(1000.0)
    store = MemoryStore(clock=clock)
    store.put(HELLO_PATH, HELLO)
    clock.advance(5)
    store.put(path_of(b"later"), b"later")
    assert {found.path: found.modified for found in store.list("data/")} == {
        HELLO_PATH: 1000.0,
        path_of(b"later"): 1005.0,
    }


def test_a_staged_object_counts_as_fresh_from_its_last_write() -> None:
    clock = ManualClock(1000.0)
    store = MemoryStore(clock=clock)
    with store.stage() as staged:
        clock.advance(100)
        staged.write(HELLO)
        assert store.sweep_staging(older_than=1050.0) == 0
        assert staged.commit(HELLO_PATH)


def test_deleting_and_replacing_give_room_back() -> None:
    store = MemoryStore(bytes_max=10)
    store.put(HELLO_PATH, b"12345678")
    with pytest.raises(StorageFullError):
        store.put(path_of(b"x"), b"123")
    store.delete(HELLO_PATH)
    store.replace(".cvmfspublished", b"1234567890")
    store.replace(".cvmfspublished", b"0987654321")
    store.replace(".cvmfspublished", b"")
    assert store.put(path_of(b"x"), b"1234567890")
