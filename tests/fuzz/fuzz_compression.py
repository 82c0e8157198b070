"""Stored objects: at once, in pieces and with any expectation, equal bytes give equal content or are refused."""

from __future__ import annotations

import zlib

from cdn.compression import Decompressor, compress, decompress
from cdn.errors import DocumentError
from tests.fuzz.driver import main

SIZE_MAX = 100_000


def seeds() -> list[bytes]:
    contents = [b"", b"hello, world", bytes(range(256)) * 40, b"a" * 90_000, b"a" * 200_000]
    stored = [bytes(compress(content, level=level)) for content in contents for level in (0, 1, 6)]
    return [*stored, zlib.compress(b"x" * 50_000_000, 9)]


def check(data: bytes) -> None:
    outcomes = [
        _at_once(data, None),
        _at_once(data, 12),
        _at_once(data, SIZE_MAX),
        _in_pieces(data, 7),
        _in_pieces(data, 4096),
    ]
    assert all((one is None) == (outcomes[0] is None) and one == outcomes[0] for one in outcomes), "the ways disagree"
    if outcomes[0] is None:
        decompress(data, size_max=SIZE_MAX)  # tells the driver which refusal it was
    else:
        assert len(outcomes[0]) <= SIZE_MAX


def _at_once(data: bytes, size_expected: int | None) -> bytes | None:
    try:
        return decompress(data, size_max=SIZE_MAX, size_expected=size_expected)
    except DocumentError:
        return None


def _in_pieces(data: bytes, size: int) -> bytes | None:
    decoder = Decompressor(size_max=SIZE_MAX)
    try:
        plain = [piece for offset in range(0, len(data), size) for piece in decoder.feed(data[offset : offset + size])]
        decoder.finish()
    except DocumentError:
        return None
    return b"".join(plain)


if __name__ == "__main__":
    main("fuzz_compression", seeds, check, tokens=[b"\x78\x9c", b"\x78\x01", b"\x00\x00\xff\xff", b"\x03\x00"])
