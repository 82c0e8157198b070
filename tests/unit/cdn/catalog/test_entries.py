import stat

import pytest

from cdn.catalog.entries import Chunk, Entry, decode_name, decode_xattrs, encode_name, encode_xattrs
from cdn.compression import Compression
from cdn.errors import DocumentError
from cdn.hashing import Algorithm, Digest, digest_of
from tests.fakes.catalogs import directory_entry, file_entry, symlink_entry

SHA1 = digest_of(Algorithm.SHA1, b"x")


@pytest.mark.parametrize(
    ("entry", "flags"),
    [
        (directory_entry(), 1),
        (directory_entry(is_nested_mountpoint=True), 3),
        (directory_entry(is_nested_root=True), 33),
        (directory_entry(is_nested_mountpoint=True, is_hidden=True), 32771),
        (directory_entry(is_bind_mountpoint=True), 0x4001),
        (file_entry(digest=SHA1), 4),
        (file_entry(digest=SHA1, compression=Compression.NONE), 2052),
        (file_entry(digest=digest_of(Algorithm.SHAKE128, b"x")), 516),
        (file_entry(digest=None, chunks=(Chunk(0, 1, SHA1),)), 68),
        (symlink_entry(), 12),
        (Entry("", stat.S_IFIFO | 0o600), 20),
        (file_entry(digest=None, chunks=(Chunk(0, 1, SHA1),), compression=Compression.NONE, is_external=True), 2244),
        (file_entry(digest=SHA1, is_direct_io=True), 0x10004),
    ],
)
def test_flags_are_those_of_the_specification(entry, flags):
    assert entry.flags == flags


def test_the_algorithm_of_an_entry_is_that_of_its_content_or_its_chunks():
    assert file_entry(digest=SHA1).algorithm is Algorithm.SHA1
    assert (
        file_entry(digest=None, chunks=(Chunk(0, 1, Digest(Algorithm.RMD160, bytes(20))),)).algorithm
        is Algorithm.RMD160
    )
    assert directory_entry().algorithm is None


@pytest.mark.parametrize("raw", [b"plain", "ü".encode(), b"\xff\xfe", b"\xed\xb2\x80"])
def test_any_bytes_of_a_name_survive_the_round_trip(raw):
    assert encode_name(decode_name(raw)) == raw


def test_the_xattr_blob_is_that_of_the_specification():
    xattrs = ((b"user.b", b"xy"), (b"security.a", b"\x01\x02"))
    blob = bytes.fromhex("0102" + "0a02" + "73656375726974792e61" + "0102" + "0602" + "757365722e62" + "7879")
    assert encode_xattrs(xattrs) == blob
    assert decode_xattrs(blob) == tuple(sorted(xattrs))


@pytest.mark.parametrize(
    "xattrs",
    [
        ((b"", b"v"),),
        ((b"a\0b", b"v"),),
        ((b"k" * 256, b""),),
        ((b"k", b"v" * 256),),
        tuple((b"%d" % n, b"") for n in range(256)),
    ],
)
def test_xattrs_that_the_format_cannot_hold_are_refused(xattrs):
    with pytest.raises(DocumentError):
        encode_xattrs(xattrs)


@pytest.mark.parametrize(
    "blob", [b"", b"\x01", b"\x02\x01\x01\x01kv", b"\x01\x01\x05\x05kv", b"\x01\x01\x00\x00", b"\x01\x02\x01\x01kv"]
)
def test_a_blob_that_cannot_be_read_means_no_attributes(blob):
    assert decode_xattrs(blob) == ()
