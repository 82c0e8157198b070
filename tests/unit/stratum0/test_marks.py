"""Sets of objects kept on disk."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from cdn.hashing import Algorithm, Digest
from cdn.objects import Kind, ObjectName
from stratum0 import marks
from stratum0.marks import ObjectMarks, name_of_path, name_of_record, record_of, records_in

NAMES = st.builds(
    ObjectName,
    st.builds(Digest, st.sampled_from(Algorithm), st.binary(min_size=20, max_size=20)),
    st.sampled_from(Kind),
)


def test_a_record_says_all_of_a_name():
    for kind in Kind:
        for algorithm in Algorithm:
            name = ObjectName(Digest(algorithm, bytes(range(20))), kind)
            assert name_of_record(record_of(name)) == name
            assert len(record_of(name)) == marks.RECORD_BYTES


@given(st.lists(NAMES, max_size=50))
def test_what_was_added_is_there_once_in_its_folder(names):
    with tempfile.TemporaryDirectory() as folder:
        kept = ObjectMarks(Path(folder))
        for name in [*names, *names]:
            kept.add(name)
        found = [name for number in range(256) for name in kept.names(number)]
        assert sorted(found, key=str) == sorted(set(names), key=str)
        for name in names:
            assert record_of(name) in kept.shard(name.digest.value[0])


def test_files_do_not_grow_by_repetition(tmp_path, monkeypatch):
    monkeypatch.setattr(marks, "_BUFFER_BYTES", marks.RECORD_BYTES * 4)
    monkeypatch.setattr(marks, "_COMPACT_BYTES", marks.RECORD_BYTES * 16)
    kept = ObjectMarks(tmp_path)
    names = [ObjectName(Digest(Algorithm.SHA1, bytes([7, number, *range(18)]))) for number in range(4)]
    for _ in range(1000):
        for name in names:
            kept.add(name)
    assert kept.file(7).stat().st_size <= marks.RECORD_BYTES * 24
    assert set(kept.names(7)) == set(names)
    assert [name_of_record(record) for record in records_in(kept.file(7))] == kept.names(7)


def test_an_earlier_state_can_be_gone_back_to(tmp_path):
    kept = ObjectMarks(tmp_path)
    first, second = (ObjectName(Digest(Algorithm.SHA1, bytes([number]) * 20)) for number in (1, 2))
    kept.add(first)
    sizes = kept.sizes()
    kept.add(second)
    kept.flush()
    assert ObjectMarks(tmp_path).truncate(sizes)
    assert ObjectMarks(tmp_path).names(2) == []
    assert ObjectMarks(tmp_path).names(1) == [first]
    assert not ObjectMarks(tmp_path).truncate([size + 1 for size in sizes])


def test_paths_of_anything_else_are_passed_over(tmp_path):
    kept = ObjectMarks(tmp_path)
    name = ObjectName(Digest(Algorithm.SHAKE128, b"\x05" * 20), Kind.CHUNK)
    kept.add_paths([name.path, ".cvmfspublished", "data/05/x"])
    assert kept.names(5) == [name]
    assert name_of_path("data/zz") is None
