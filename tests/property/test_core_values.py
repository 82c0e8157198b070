"""Digests, object names and compression: round trips, and never an unexpected error."""

from __future__ import annotations

import zlib

import deflate
import pytest
from hypothesis import given
from hypothesis import strategies as st
from isal import isal_zlib

from cdn.compression import Decompressor, compress, decompress
from cdn.errors import DocumentError
from cdn.hashing import Digest
from cdn.objects import ObjectName
from tests.strategies import compressible_bytes, digests, object_names

COMPRESSORS = {
    "libdeflate": lambda data, level: bytes(deflate.zlib_compress(data, level)),
    "isal": lambda data, level: isal_zlib.compress(data, min(level, 3)),
    "zlib": zlib.compress,
    "ours": lambda data, level: bytes(compress(data, level=level)),
}


@given(digests())
def test_digests_survive_their_text_form(digest) -> None:
    assert Digest.parse(digest.text) == digest


@given(object_names())
def test_object_names_survive_their_path(name) -> None:
    assert ObjectName.parse(name.path) == name


@given(st.text() | st.from_regex(r"(data/)?[0-9a-f/]{0,45}(-rmd160|-shake128)?[A-Z]?"))
def test_no_text_is_read_as_something_it_would_not_be_written_as(text) -> None:
    for parse, write in ((Digest.parse, lambda digest: digest.text), (ObjectName.parse, lambda name: name.path)):
        try:
            value = parse(text)
        except DocumentError:
            continue
        assert write(value) == text


@pytest.mark.parametrize("library", COMPRESSORS)
@given(data=compressible_bytes(), level=st.integers(0, 9), piece_bytes=st.integers(1, 10_000))
def test_streams_of_every_library_inflate_to_what_they_were_made_of(library, data, level, piece_bytes) -> None:
    stored = COMPRESSORS[library](data, level)
    for expected in (None, len(data)):
        assert decompress(stored, size_max=len(data), size_expected=expected) == data
    decoder = Decompressor(size_max=len(data))
    pieces = [stored[offset : offset + piece_bytes] for offset in range(0, len(stored), piece_bytes)]
    assert b"".join(plain for piece in pieces for plain in decoder.feed(piece)) == data
    decoder.finish()


@given(
    data=compressible_bytes(2000),
    cut=st.floats(0, 1),
    flips=st.lists(st.floats(0, 0.999), max_size=3),
    tail=st.binary(max_size=8),
    expected=st.none() | st.integers(-10, 5000),
    piece_bytes=st.integers(1, 300),
)
def test_all_ways_of_inflating_agree_on_damaged_streams(data, cut, flips, tail, expected, piece_bytes) -> None:
    stored = bytearray(zlib.compress(data))
    for place in flips:
        stored[int(place * len(stored))] ^= 0x10
    stored = bytes(stored[: int(cut * len(stored)) + 1]) + tail
    outcomes: list[bytes | None] = []
    try:
        outcomes.append(decompress(stored, size_max=3000, size_expected=expected))
    except DocumentError:
        outcomes.append(None)
    try:
        decoder = Decompressor(size_max=3000)
        pieces = [stored[offset : offset + piece_bytes] for offset in range(0, len(stored), piece_bytes)]
        plain = b"".join(plain for piece in pieces for plain in decoder.feed(piece))
        decoder.finish()
        outcomes.append(plain)
    except DocumentError:
        outcomes.append(None)
    assert outcomes[0] == outcomes[1]
