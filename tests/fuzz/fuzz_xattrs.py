"""Extended attribute blobs: any bytes are attributes or none, and what the format can hold is written back the same."""

from __future__ import annotations

from cdn.catalog.entries import decode_xattrs, encode_xattrs
from cdn.errors import DocumentError
from tests.fuzz.driver import main


def seeds() -> list[bytes]:
    attributes = [((b"user.a", b"1"),), tuple((b"user.%03d" % number, b"v" * number) for number in range(255))]
    return [b"", b"\1\0", *(encode_xattrs(one) or b"" for one in attributes)]


def check(data: bytes) -> None:
    found = decode_xattrs(data)
    try:
        again = encode_xattrs(found)
    except DocumentError:
        return  # a key that is empty or holds a NUL: read as real clients do, but never written
    assert decode_xattrs(again) == tuple(sorted(found))


if __name__ == "__main__":
    main("fuzz_xattrs", seeds, check, tokens=[b"\1\1", b"\xff\xff", b"\0\0"])
