"""Where large files are cut."""

from __future__ import annotations

import functools
import io
import itertools
import mmap
import random

import pytest

from cdn.chunking import CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, Span, cut, cut_stream

MIB = 1 << 20


@functools.cache
def noise() -> bytes:
    return random.Random(1).randbytes(40 * MIB)


def assert_partition(spans: list[Span], size: int) -> None:
    assert spans[0].offset == 0
    assert spans[-1].end == size
    assert all(one.end == other.offset for one, other in itertools.pairwise(spans))
    assert all(span.size <= CHUNK_BYTES_MAX for span in spans)
    assert all(span.size >= CHUNK_BYTES_MIN for span in spans[:-1])
    assert spans[-1].size > 0


@pytest.mark.parametrize("size", [1, MIB - 1, MIB, MIB + 1, 5 * MIB, 16 * MIB, 40 * MIB])
def test_chunks_cover_the_file_within_their_limits(size) -> None:
    assert_partition(list(cut(noise()[:size])), size)


@pytest.mark.parametrize("size", [0, 17 * MIB, 40 * MIB])
def test_a_file_of_one_byte_over_and_over_is_cut_at_the_limit(size) -> None:
    spans = list(cut(b"\0" * size))
    assert sum(span.size for span in spans) == size
    assert all(0 < span.size <= CHUNK_BYTES_MAX for span in spans)


def test_an_empty_file_has_no_chunks() -> None:
    assert list(cut(b"")) == []
    assert list(cut_stream(io.BytesIO(b""))) == []


def test_a_stream_is_cut_as_a_buffer_is() -> None:
    pieces = [bytes(piece) for piece in cut_stream(io.BytesIO(noise()))]
    assert [len(piece) for piece in pieces] == [span.size for span in cut(noise())]
    assert b"".join(pieces) == noise()


def test_a_mapped_file_can_be_cut(tmp_path) -> None:
    (tmp_path / "file").write_bytes(noise()[: 9 * MIB])
    with (tmp_path / "file").open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        spans = list(cut(mapped))
    assert spans == list(cut(noise()[: 9 * MIB]))


def test_an_insertion_leaves_most_chunks_as_they_were() -> None:
    def contents(data: bytes) -> set[bytes]:
        return {data[span.offset : span.end] for span in cut(data)}

    before = contents(noise())
    after = contents(noise()[: 12 * MIB] + b"inserted" + noise()[12 * MIB :])
    assert len(before) >= 5
    assert len(after - before) <= 2
