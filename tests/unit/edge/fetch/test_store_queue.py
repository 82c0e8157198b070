"""How much waits to be written to disk."""

from contextlib import ExitStack

import pytest

from cdn.errors import StorageError
from edge.fetch.store_queue import OF_ONE_URL_MAX, WAITING_OVERHEAD_BYTES, StoreQueue


def test_only_so_many_bytes_wait_and_what_is_done_makes_room():
    queue = StoreQueue(2 * (WAITING_OVERHEAD_BYTES + 1000))
    with queue.place("a", 1000):
        with queue.place("b", 1000):
            with pytest.raises(StorageError, match="too slow: 2 answers wait"), queue.place("c", 0):
                pass
            assert len(queue) == 2
        with queue.place("c", 1000):
            assert len(queue) == 2
    assert len(queue) == 0


def test_of_one_url_only_so_many_wait_however_small():
    queue = StoreQueue()
    with ExitStack() as stack:
        for _ in range(OF_ONE_URL_MAX):
            stack.enter_context(queue.place("a", 1))
        with pytest.raises(StorageError), queue.place("a", 1):
            pass
        with queue.place("b", 1), queue.place("a", 1, is_certain=True):
            assert len(queue) == OF_ONE_URL_MAX + 2


def test_a_place_is_given_back_when_writing_fails():
    queue = StoreQueue()
    with pytest.raises(RuntimeError), queue.place("a", 1):
        raise RuntimeError
    assert len(queue) == 0
