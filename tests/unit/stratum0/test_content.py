"""Content is stored once, verifiably, and in pieces that make up the whole."""

from __future__ import annotations

import io
import random
import sqlite3
from pathlib import Path

import pytest

from cdn.chunking import CHUNK_BYTES_MAX, CHUNKED_ABOVE_BYTES
from cdn.compression import Compression, decompress
from cdn.hashing import Algorithm, digest_of, plain_digest_of
from cdn.objects import Kind, ObjectName
from cdn.storage.memory import MemoryStore
from stratum0.content import ContentIndex, ContentSettings, ContentStore, StoredContent

SETTINGS = ContentSettings(Algorithm.SHAKE128)


@pytest.fixture
def index(tmp_path: Path):
    with ContentIndex(tmp_path / "content.sqlite") as index:
        yield index


@pytest.fixture
def content(index) -> ContentStore:
    return ContentStore(MemoryStore(), SETTINGS, index)


def read_back(store: MemoryStore, stored: StoredContent) -> bytes:
    names = [ObjectName(chunk.digest, Kind.CHUNK) for chunk in stored.chunks]
    if stored.digest is not None:
        names = [ObjectName(stored.digest, Kind.FILE)]
    parts = []
    for name in names:
        data = store.read(name.path, size_max=1 << 30)
        assert digest_of(name.digest.algorithm, data) == name.digest
        parts.append(bytes(decompress(data, stored.compression, size_max=1 << 30)))
    return b"".join(parts)


@pytest.mark.parametrize("compression", list(Compression))
@pytest.mark.parametrize("algorithm", list(Algorithm))
@pytest.mark.parametrize("size", [0, 1, 100_000, CHUNKED_ABOVE_BYTES, CHUNKED_ABOVE_BYTES + 1])
def test_what_is_stored_reads_back(algorithm: Algorithm, compression: Compression, size: int) -> None:
    data = random.Random(size).randbytes(size // 2) + bytes(size - size // 2)
    content = ContentStore(MemoryStore(), ContentSettings(algorithm, compression))
    stored = content.store_bytes(data)
    assert stored.size == size
    assert read_back(content.store, stored) == data


def test_a_file_up_to_the_limit_is_one_object_with_its_plain_digest(content: ContentStore) -> None:
    data = bytes(CHUNKED_ABOVE_BYTES)
    stored = content.store_bytes(data)
    assert stored.chunks == ()
    assert stored.plain_digest == plain_digest_of(data)
    assert content.store.exists(ObjectName(stored.digest, Kind.FILE).path)
    assert stored.found == ()
    assert content.store_bytes(data).found == (ObjectName(stored.digest, Kind.FILE).path,)


def test_a_large_file_is_cut_into_contiguous_chunks_with_plain_digests(content: ContentStore) -> None:
    data = random.Random(1).randbytes(3 * CHUNK_BYTES_MAX)
    stored = content.store_stream(io.BytesIO(data))
    assert stored.digest is None
    assert len(stored.chunks) > 1
    position = 0
    for chunk in stored.chunks:
        assert chunk.offset == position
        assert chunk.plain_digest == plain_digest_of(data[position : position + chunk.size])
        position += chunk.size
    assert position == stored.size == len(data)


def test_a_large_file_of_a_single_piece_is_not_called_chunked(content: ContentStore) -> None:
    """Spec §6: a file that yields one piece is a bulk object."""
    stored = content.store_bytes(random.Random(0).randbytes(CHUNKED_ABOVE_BYTES + 1))
    assert stored.chunks == ()
    assert stored.entry_fields["is_chunked"] is False


def test_known_content_is_not_written_again(content: ContentStore) -> None:
    first = content.store_bytes(b"hello" * 1000)
    again = content.store_bytes(b"hello" * 1000)
    assert first.stored_size > 0
    assert again.stored_size == 0
    assert again.digest == first.digest


def test_known_content_is_not_compressed_again_even_at_another_level(content: ContentStore, index) -> None:
    first = content.store_bytes(b"hello" * 1000)
    other = ContentStore(content.store, ContentSettings(Algorithm.SHAKE128, level=1), index)
    assert other.store_bytes(b"hello" * 1000).digest == first.digest


def test_known_content_that_the_store_lost_is_written_again(content: ContentStore) -> None:
    first = content.store_bytes(b"hello")
    assert content.store.delete(ObjectName(first.digest, Kind.FILE).path)
    again = content.store_bytes(b"hello")
    assert again.stored_size > 0
    assert read_back(content.store, again) == b"hello"


def test_a_chunk_and_a_file_of_the_same_bytes_are_two_objects(content: ContentStore) -> None:
    file = content.store_piece(b"same", Kind.FILE)
    chunk = content.store_piece(b"same", Kind.CHUNK)
    assert file.digest == chunk.digest
    assert chunk.is_new
    assert content.store.exists(ObjectName(chunk.digest, Kind.CHUNK).path)


def test_what_cannot_be_compressed_is_stored_as_it_is_inside_a_zlib_stream(content: ContentStore) -> None:
    data = random.Random(2).randbytes(1 << 20)
    stored = content.store_bytes(data)
    assert len(data) < stored.stored_size < len(data) + 200
    assert read_back(content.store, stored) == data


def test_the_index_can_be_read_while_another_process_writes(tmp_path: Path) -> None:
    with ContentIndex(tmp_path / "i.sqlite") as writer, ContentIndex(tmp_path / "i.sqlite") as reader:
        content = ContentStore(MemoryStore(), SETTINGS, writer)
        blocker = sqlite3.connect(tmp_path / "i.sqlite", isolation_level=None)
        stored = content.store_bytes(b"x")
        blocker.execute("BEGIN IMMEDIATE")
        found = reader.find([(plain_digest_of(b"x"), Kind.FILE)], SETTINGS)
        blocker.execute("ROLLBACK")
        blocker.close()
        assert found == [(stored.digest, stored.stored_size)]


def test_a_cleared_index_knows_nothing(content: ContentStore, index) -> None:
    content.store_bytes(b"x")
    index.clear()
    assert index.find([(plain_digest_of(b"x"), Kind.FILE)], SETTINGS) == [None]
