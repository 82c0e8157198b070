"""The list of purges under way: several workers write it, and a crash leaves it whole."""

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdn.errors import StorageError, UsageError
from cdn.telemetry import FaultInjected, faults_armed
from edge.cache.purging import RULES_MAX, Rule
from edge.operations.purge_ledger import PurgeLedger

ONE, TWO = Rule("one", 1.0, prefixes=("/one",)), Rule("two", 2.0, is_soft=True, repositories=("two",))


@pytest.fixture
def ledger(tmp_path):
    return PurgeLedger(tmp_path)


def left(ledger) -> dict[str, set[int]]:
    return {each.rule.text: {shard for shard in range(256) if each.shards >> shard & 1} for each in ledger.entries()}


def test_a_purge_stands_until_every_shard_was_gone_through(ledger):
    ledger.add(ONE)
    ledger.add(TWO)
    ledger.cross_out([ONE], range(255))
    assert left(ledger) == {"one": {255}, "two": set(range(256))}
    ledger.cross_out([ONE, TWO], [255])
    assert left(ledger) == {"two": set(range(255))}


def test_a_purge_ordered_again_begins_anew(ledger):
    ledger.add(ONE)
    ledger.cross_out([ONE], range(256 // 2))
    again = Rule("one", 9.0, prefixes=ONE.prefixes)
    ledger.add(again)
    assert [each.rule for each in ledger.entries()] == [again]
    ledger.cross_out([ONE], range(256))
    assert left(ledger) == {"one": set(range(256))}, "who goes through for the first order has not done the second"


def test_the_list_is_bounded(ledger):
    for number in range(RULES_MAX):
        ledger.add(Rule(str(number), 1.0, prefixes=(f"/{number}",)))
    ledger.add(Rule("again", 2.0, prefixes=("/0",)))
    with pytest.raises(UsageError, match="wait for one to end"):
        ledger.add(ONE)


def test_workers_do_not_overwrite_one_another(tmp_path):
    ledgers = [PurgeLedger(tmp_path) for _ in range(4)]
    ledgers[0].add(ONE)

    def go_through(worker: int) -> None:
        for shard in range(worker, 256, 32):
            ledgers[worker % 4].cross_out([ONE], [shard])

    threads = [threading.Thread(target=go_through, args=(worker,)) for worker in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert left(ledgers[0])["one"] == {shard for shard in range(256) if shard % 32 >= 8}


def test_a_crash_while_it_is_written_leaves_what_was_before(ledger, tmp_path):
    ledger.add(ONE)
    with faults_armed("edge.purges.written:raise"), pytest.raises(FaultInjected):
        ledger.add(TWO)
    assert set(left(PurgeLedger(tmp_path))) == {"one"}
    PurgeLedger(tmp_path).add(TWO)
    assert set(left(ledger)) == {"one", "two"}


def test_a_disk_that_refuses_is_told(tmp_path):
    with pytest.raises(StorageError):
        PurgeLedger(tmp_path / "gone").add(ONE)


@settings(max_examples=50)
@given(st.binary(max_size=200) | st.sampled_from([b"[]", b"{}", b'{"purges":[1]}', b'{"purges":[{"shards":"1"}]}']))
def test_a_damaged_list_counts_as_empty(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("ledger")
    (folder / "purges.json").write_bytes(data)
    assert PurgeLedger(folder).entries() == ()
