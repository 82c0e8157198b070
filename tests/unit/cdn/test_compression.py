"""Compression: what is promised of every library underneath."""

from __future__ import annotations

import functools
import gzip
import tracemalloc
import zlib

import pytest

from cdn import compression
from cdn.compression import Compression, Decompressor, compress, compress_reproducibly, decompress
from cdn.errors import DocumentError

PLAIN = b"hello world, " * 1000
STORED = zlib.compress(PLAIN)
MIB = 1 << 20


@functools.cache
def bomb() -> bytes:
    return zlib.compress(bytes(64 * MIB), 9)


@pytest.fixture(params=["fast libraries", "standard library"], autouse=True)
def libraries(request, monkeypatch) -> None:
    """Everything must hold with the standard library alone, too."""
    if request.param == "standard library":
        monkeypatch.setattr(compression, "_libdeflate", None)
        monkeypatch.setattr(compression, "_stream_zlib", zlib)


def inflate(stored: bytes, size_max: int = MIB, piece_bytes: int = 1 << 30) -> bytes:
    """Through the stream decoder, in pieces."""
    decoder = Decompressor(size_max=size_max)
    plain = [
        piece
        for offset in range(0, max(len(stored), 1), piece_bytes)
        for piece in decoder.feed(stored[offset : offset + piece_bytes])
    ]
    decoder.finish()
    return b"".join(plain)


WAYS = {
    "at once": lambda stored, size_max=MIB: decompress(stored, size_max=size_max),
    "size known": lambda stored, size_max=MIB: decompress(stored, size_max=size_max, size_expected=len(PLAIN)),
    "size too small": lambda stored, size_max=MIB: decompress(stored, size_max=size_max, size_expected=3),
    "size zero": lambda stored, size_max=MIB: decompress(stored, size_max=size_max, size_expected=0),
    "size negative": lambda stored, size_max=MIB: decompress(stored, size_max=size_max, size_expected=-5),
    "size too large": lambda stored, size_max=MIB: decompress(stored, size_max=size_max, size_expected=1 << 60),
    "streamed": inflate,
    "byte by byte": lambda stored, size_max=MIB: inflate(stored, size_max, 1),
}


@pytest.fixture(params=WAYS, ids=str)
def way(request):
    return WAYS[request.param]


@pytest.mark.parametrize("level", range(10))
def test_what_is_compressed_inflates_to_itself(way, level) -> None:
    stored = compress(PLAIN, level=level)
    assert zlib.decompress(stored) == PLAIN
    assert way(stored) == PLAIN


def test_the_result_is_bytes(way) -> None:
    assert type(way(STORED)) is bytes


@pytest.mark.parametrize("plain", [b"", b"x"])
def test_the_smallest_contents_survive(way, plain) -> None:
    assert way(compress(plain)) == plain


def test_nothing_compresses_to_the_stream_of_the_specification_or_an_equal_one() -> None:
    assert zlib.decompress(compress(b"")) == b""
    assert compress(b"", level=6)[:2] == b"\x78\x9c"


@pytest.mark.parametrize(
    ("stored", "reason"),
    [
        (b"", "ends too early"),
        (STORED[:1], "ends too early"),
        (STORED[:20], "ends too early"),
        (STORED[:-4], "ends too early"),
        (STORED[:-1], "ends too early"),
        (STORED + b"x", "bytes follow the end"),
        (STORED + STORED, "bytes follow the end"),
        (STORED + STORED[-4:], "bytes follow the end"),
        (STORED + b"\0" * 100_000, "bytes follow the end"),
        (STORED[:-1] + bytes([STORED[-1] ^ 1]), "no zlib stream"),
        (STORED[2:], "no zlib stream"),
        (b"\x78\x9c" + b"\xff" * 100, "no zlib stream"),
        (gzip.compress(PLAIN, mtime=0), "no zlib stream"),
        (PLAIN, "no zlib stream"),
    ],
    ids=str,
)
def test_damaged_streams_are_refused_whatever_way_they_are_read(way, stored, reason) -> None:
    with pytest.raises(DocumentError, match=rf"object is damaged: .*{reason}"):
        way(stored)


def test_a_stream_that_needs_a_dictionary_is_refused(way) -> None:
    stream = zlib.compressobj(zdict=b"hello")
    with pytest.raises(DocumentError):
        way(stream.compress(PLAIN) + stream.flush())


def test_exactly_the_limit_is_accepted_and_one_byte_more_is_not(way) -> None:
    assert way(STORED, len(PLAIN)) == PLAIN
    with pytest.raises(DocumentError, match="larger than"):
        way(STORED, len(PLAIN) - 1)
    assert way(compress(b""), 0) == b""
    with pytest.raises(DocumentError, match="larger than"):
        way(compress(b"x"), 0)


def test_a_bomb_is_refused_in_little_memory(way) -> None:
    stored = bomb()
    tracemalloc.start()
    try:
        with pytest.raises(DocumentError, match="larger than"):
            way(stored, MIB)
        assert tracemalloc.get_traced_memory()[1] < 6 * MIB
    finally:
        tracemalloc.stop()


def test_a_large_stream_is_handed_out_in_bounded_pieces() -> None:
    pieces = list(Decompressor(size_max=64 * MIB).feed(bomb()))
    assert sum(map(len, pieces)) == 64 * MIB
    assert max(map(len, pieces)) <= 256 << 10


def test_bytes_that_come_after_the_end_in_a_later_piece_are_refused() -> None:
    decoder = Decompressor(size_max=MIB)
    assert b"".join(decoder.feed(STORED)) == PLAIN
    assert list(decoder.feed(b"")) == []
    with pytest.raises(DocumentError, match="bytes follow"):
        list(decoder.feed(b"x"))


def test_uncompressed_content_is_limited_too() -> None:
    assert compress(PLAIN, Compression.NONE) == PLAIN
    assert decompress(PLAIN, Compression.NONE, size_max=len(PLAIN)) == PLAIN
    with pytest.raises(DocumentError, match="larger than the limit of 10 bytes"):
        decompress(PLAIN, Compression.NONE, size_max=10)
    decoder = Decompressor(Compression.NONE, size_max=10)
    assert list(decoder.feed(b"")) == []
    assert list(decoder.feed(b"12345")) == [b"12345"]
    with pytest.raises(DocumentError, match="larger than"):
        list(decoder.feed(b"678901"))


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview], ids=lambda make: make.__name__)
def test_any_buffer_is_taken(make) -> None:
    assert decompress(compress(make(PLAIN)), size_max=MIB) == PLAIN
    assert decompress(make(STORED), size_max=MIB) == PLAIN
    assert b"".join(Decompressor(size_max=MIB).feed(make(STORED))) == PLAIN


def test_an_error_names_the_document() -> None:
    with pytest.raises(DocumentError, match=r"^catalog /software is damaged"):
        decompress(b"x", size_max=1, document="catalog /software")


def test_reproducible_streams_are_the_ones_of_zlib_itself_whatever_library_is_there() -> None:
    """Whoever inflates such an object and deflates it again must end with the same name for it."""
    for plain in (b"", b"hello\n", PLAIN, bytes(range(256)) * 300, b"".join(b"%d " % n for n in range(20_000))):
        assert compress_reproducibly(plain) == zlib.compress(plain, -1)


def test_compressions_have_names_in_options() -> None:
    assert [each.option for each in Compression] == ["zlib", "none"]
