"""What several workers count together: held against a plain model, and by processes that really run at once."""

import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from subprocess import run

from hypothesis import given, settings
from hypothesis import strategies as st

from edge.connection.client_limits import JointLimits
from edge.connection.client_table import SLOTS, ClientTable, TableShape
from edge.workers.shared_memory import SharedMemory

SALT = b"salt"
WORKERS = 3


def tables(buckets: int = 4, workers: int = WORKERS) -> list[ClientTable]:
    shape = TableShape(workers, buckets)
    memory = bytearray(shape.bytes)
    return [ClientTable(memory, shape, index, SALT, lambda _: nullcontext()) for index in range(workers)]


def limits(**settings) -> list[JointLimits]:
    return [JointLimits(table, **settings) for table in tables()]


_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["admit", "leave", "die"]),
        st.integers(0, WORKERS - 1),
        st.sampled_from("abcdef"),
        st.integers(0),
    ),
    max_size=80,
)


@given(_STEPS)
def test_an_address_has_so_many_connections_whichever_workers_it_finds(steps):
    each_table = tables()
    joint = [JointLimits(table, connections_max=3) for table in each_table]
    held: list[list[tuple[str, object]]] = [[] for _ in range(WORKERS)]
    for what, worker, address, choice in steps:
        count = sum(address == other for each in held for other, _ in each)
        if what == "admit":
            client = joint[worker].admit(address, 0.0)
            assert (client is not None) == (count < 3)
            if client is not None:
                held[worker].append((address, client))
        elif what == "leave" and held[worker]:
            _, client = held[worker].pop(choice % len(held[worker]))
            joint[worker].leave(client, 0.0)
        elif what == "die":
            each_table[(worker + 1) % WORKERS].clear(worker)
            held[worker] = []


def test_requests_are_counted_at_all_workers_together_and_over_all_connections():
    first, second, _ = limits(requests_per_second=2, burst=4)
    ours, theirs = first.admit("192.0.2.1", 100), second.admit("192.0.2.1", 100)
    assert [first.wait_seconds(ours, 100) for _ in range(2)] == [0, 0]
    assert [second.wait_seconds(theirs, 100) for _ in range(3)] == [0, 0, 0.5]
    assert [first.wait_seconds(ours, 100.5), second.wait_seconds(theirs, 100.5)] == [0, 0.5]
    for each, client in ((first, ours), (second, theirs)):
        each.leave(client, 100.5)
    again = second.admit("192.0.2.1", 100.5)
    assert second.wait_seconds(again, 100.5) == 0.5


def test_whoever_has_no_connection_gives_up_its_place_and_nobody_else_does():
    first, second, _ = tables(buckets=1)
    slots = [first.enter(f"192.0.2.{number}", 1, 1.0, number) for number in range(SLOTS)]
    assert None not in slots
    assert second.enter("198.51.100.1", 1, 1.0, 50) is None
    first.leave(slots[3])
    assert second.enter("198.51.100.1", 1, 1.0, 50) is not None
    assert first.enter("192.0.2.4", 1, 1.0, 50) is None
    assert second.enter("192.0.2.4", 2, 1.0, 50) == slots[4]


@settings(max_examples=20)
@given(st.integers(1, 64), st.integers(1, 1_000_000))
def test_there_is_room_for_four_times_as_many_addresses_as_connections(workers, connections_max):
    shape = TableShape.of(workers, connections_max)
    assert shape.buckets * SLOTS >= max(4 * connections_max, 65_536)
    assert shape.buckets & (shape.buckets - 1) == 0


_TAKER = """
import os, sys
from edge.workers.shared_memory import SharedMemory
number, index, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
said = {"descriptor": number, "workers": 2, "buckets": 64, "salt": "00"}
table, taken = SharedMemory.heard(said).table(index), 0
for _ in range(1_000_000):
    if taken == 2000:
        break
    slot = table.enter("192.0.2.1", 1, 1.0, 0.0)
    if slot is not None:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))  # there is one connection, and so nobody else is here
        os.unlink(path)
        taken += 1
        table.leave(slot)
"""


def test_processes_that_count_at_the_same_time_never_give_one_too_many(tmp_path):
    memory = SharedMemory.new(TableShape(2, 64))

    def take(index: int) -> str:
        command = [sys.executable, "-c", _TAKER, str(memory.descriptor), str(index), str(tmp_path / "here")]
        return run(command, pass_fds=[memory.descriptor], capture_output=True, text=True, check=False).stderr

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(take, range(2))) == ["", ""]
    memory.close()
