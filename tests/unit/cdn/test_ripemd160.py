"""The fallback gives the digests that the authors of RIPEMD-160 published."""

from __future__ import annotations

import pytest

from cdn.ripemd160 import Ripemd160

PUBLISHED = {
    b"": "9c1185a5c5e9fc54612808977ee8f548b2258d31",
    b"a": "0bdc9d2d256b3ee9daae347be6f4dc835a467ffe",
    b"abc": "8eb208f7e05d987a9b044a8e98c6b087f15a0bfc",
    b"message digest": "5d0689ef49d2fae572b881b123a85ffa21595f36",
    b"abcdefghijklmnopqrstuvwxyz": "f71c27109c692c1b56bbdceb5b9d2865b3708dbc",
    b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq": "12a053384a9c0c88e405a06c27dcf49ada62eb2b",
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789": "b0e20b6e3116640286ed3a87a5713079b21f5189",
    b"1234567890" * 8: "9b752e45573d4b39f4dbd3323cab82bf63326bfb",
}


@pytest.mark.parametrize(("data", "expected"), PUBLISHED.items())
def test_the_published_digests_come_out(data: bytes, expected: str) -> None:
    hasher = Ripemd160()
    hasher.update(data)
    assert hasher.digest().hex() == expected


@pytest.mark.parametrize("piece_bytes", [1, 55, 56, 63, 64, 65, 200])
def test_pieces_of_any_size_give_the_digest_of_the_whole(piece_bytes: int) -> None:
    data = bytes(range(256)) * 3
    whole, pieces = Ripemd160(), Ripemd160()
    whole.update(data)
    for start in range(0, len(data), piece_bytes):
        pieces.update(memoryview(data)[start : start + piece_bytes])
    assert pieces.digest() == whole.digest() == pieces.digest()
