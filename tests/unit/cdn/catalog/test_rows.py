import stat

import pytest

from cdn.catalog.entries import Chunk
from cdn.catalog.rows import decode_chunks, decode_plain_digest, decode_row, encode_chunks, encode_row, has_chunks
from cdn.compression import Compression
from cdn.errors import DocumentError, UsageError
from cdn.hashing import Algorithm, Digest
from tests.fakes.catalogs import directory_entry, file_entry, symlink_entry

KEY, PARENT = (1, 2), (3, 4)
COLUMNS = [
    "hash",
    "hardlinks",
    "size",
    "mode",
    "mtime",
    "mtimens",
    "flags",
    "name",
    "symlink",
    "uid",
    "gid",
    "xattr",
    "plain_digest",
]


def row_of(entry, **changes):
    """What a query for the entry would give, some columns changed."""
    values = dict(zip(COLUMNS, encode_row(KEY, PARENT, "name", entry)[4:], strict=True)) | {"symlink": entry.symlink}
    return (*(values | changes).values(), *KEY)


def test_what_does_not_apply_is_null_or_empty_as_old_clients_need_it():
    values = dict(zip(COLUMNS, encode_row(KEY, PARENT, "d", directory_entry())[4:], strict=True))
    assert values["hash"] is None
    assert values["symlink"] == ""
    assert values["xattr"] is None
    assert values["plain_digest"] is None
    assert values["mtimens"] is None


def test_a_hard_link_holds_its_group_in_the_upper_half():
    assert encode_row(KEY, PARENT, "f", file_entry(link_count=2, hardlink_group=1))[5] == 4_294_967_298
    entry = decode_row(row_of(file_entry(), hardlinks=4_294_967_298), "d")
    assert (entry.link_count, entry.hardlink_group) == (2, 1)


def test_a_file_without_a_group_has_one_link_whatever_it_says():
    assert encode_row(KEY, PARENT, "f", file_entry(link_count=7))[5] == 1


def test_a_device_number_is_in_the_column_size():
    entry = directory_entry(mode=stat.S_IFCHR | 0o600, device=259)
    assert encode_row(KEY, PARENT, "null", entry)[6] == 259
    decoded = decode_row(row_of(entry), "d")
    assert (decoded.device, decoded.size) == (259, 0)


def test_the_size_of_a_symlink_is_that_of_its_target():
    assert decode_row(row_of(symlink_entry("ü"), size=77), "d").size == 2


def test_a_null_digest_is_no_digest():
    assert decode_row(row_of(file_entry(), hash=bytes(20)), "d").digest is None
    assert decode_row(row_of(file_entry(), hash=b""), "d").digest is None


def test_a_negative_nanosecond_part_means_none():
    assert decode_row(row_of(file_entry(), mtimens=-1), "d").mtime_ns == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"hash": b"short"},
        {"hash": "text"},
        {"hash": 5},
        {"hardlinks": None},
        {"hardlinks": "1"},
        {"size": -1},
        {"size": 1.5},
        {"size": None},
        {"mode": 0o644},
        {"mode": -1},
        {"mode": 1 << 40},
        {"mtime": "yesterday"},
        {"mtime": None},
        {"mtimens": 1_000_000_000},
        {"mtimens": "x"},
        {"flags": None},
        {"flags": 4 | 7 << 8},
        {"flags": 4 | 7 << 11},
        {"name": None},
        {"name": b"blob"},
        {"name": "."},
        {"name": ".."},
        {"name": "../../etc/passwd"},
        {"name": "a\0b"},
        {"name": "n" * 256},
        {"symlink": None},
        {"uid": None},
        {"gid": b"0"},
        {"xattr": 7},
        {"xattr": "text"},
    ],
)
def test_a_row_with_a_value_that_cannot_be_is_damaged(changes):
    with pytest.raises(DocumentError, match="thing is damaged"):
        decode_row(row_of(file_entry(), **changes), "thing")


@pytest.mark.parametrize("target", ["a\0b", "x" * 70_000])
def test_a_link_target_that_cannot_be_is_damage(target):
    with pytest.raises(DocumentError):
        decode_row(row_of(symlink_entry(), symlink=target), "d")


def test_a_plain_digest_is_believed_only_beside_the_digest_it_was_written_for():
    entry = file_entry(plain_digest=b"p" * 32)
    assert decode_row(row_of(entry), "d").plain_digest == b"p" * 32
    changed = row_of(entry, hash=b"other content's hash")
    assert decode_row(changed, "d").plain_digest is None


@pytest.mark.parametrize("value", [None, b"", b"p" * 32, b"p" * 41, "text", 5])
def test_what_has_not_the_form_of_a_plain_digest_is_none(value):
    assert decode_plain_digest(value, b"p" * 20) is None


def chunk_rows(*parts):
    return [(offset, size, bytes([offset % 256 or 1]) * 20, None) for offset, size in parts]


def chunked_row(size, **changes):
    return row_of(file_entry(), size=size, flags=4 | 64, hash=None, **changes)


def test_chunks_take_their_algorithm_from_the_file():
    row = chunked_row(3)
    assert has_chunks(row)
    assert decode_chunks(chunk_rows((0, 1), (1, 2)), row, "d") == (
        Chunk(0, 1, Digest(Algorithm.SHA1, b"\1" * 20)),
        Chunk(1, 2, Digest(Algorithm.SHA1, b"\1" * 20)),
    )


@pytest.mark.parametrize(
    ("parts", "size"),
    [
        ([], 0),
        ([(0, 1), (2, 1)], 3),
        ([(0, 2), (1, 2)], 3),
        ([(1, 2)], 3),
        ([(0, 2)], 3),
        ([(0, 0), (0, 3)], 3),
        ([(0, -3)], -3),
        ([("0", 3)], 3),
        ([(0, 3.0)], 3),
    ],
)
def test_chunks_that_leave_a_gap_or_do_not_add_up_are_damage(parts, size):
    rows = [(offset, length, b"h" * 20, None) for offset, length in parts]
    with pytest.raises(DocumentError):
        decode_chunks(rows, chunked_row(size), "d")


def test_a_chunk_without_a_digest_is_damage():
    with pytest.raises(DocumentError):
        decode_chunks([(0, 3, None, None)], chunked_row(3), "d")


@pytest.mark.parametrize(
    "entry",
    [
        file_entry(digest=None),
        file_entry(is_chunked=True),
        file_entry(size=-1),
        file_entry(mtime=1 << 63),
        file_entry(mtime_ns=1_000_000_000),
        file_entry(mode=0o644),
        file_entry(hardlink_group=1 << 31, link_count=2),
        file_entry(plain_digest=b"short"),
        symlink_entry(""),
        symlink_entry("a\0b"),
        directory_entry(link_count=0),
    ],
)
def test_an_entry_that_the_format_cannot_hold_is_refused(entry):
    with pytest.raises(UsageError):
        encode_row(KEY, PARENT, "name", entry)


@pytest.mark.parametrize(
    "chunks",
    [
        (Chunk(1, 6, Digest(Algorithm.SHA1, b"h" * 20)),),
        (Chunk(0, 6, Digest(Algorithm.SHA1, b"h" * 20)),),
        (Chunk(0, 7, Digest(Algorithm.SHA1, b"h" * 20)), Chunk(7, 0, Digest(Algorithm.SHA1, b"h" * 20))),
        (Chunk(0, 1, Digest(Algorithm.SHA1, b"h" * 20)), Chunk(1, 6, Digest(Algorithm.SHAKE128, b"h" * 20))),
    ],
)
def test_chunks_that_do_not_make_the_file_are_refused(chunks):
    with pytest.raises(UsageError):
        encode_chunks(KEY, file_entry(b"content", digest=None, chunks=chunks))


def test_compression_and_algorithm_are_read_from_the_flags():
    entry = decode_row(row_of(file_entry(), flags=4 | 2 << 8 | 1 << 11), "d")
    assert entry.digest.algorithm is Algorithm.SHAKE128
    assert entry.compression is Compression.NONE


def test_roles_count_only_where_they_make_sense():
    odd = decode_row(row_of(file_entry(), flags=4 | 2 | 32 | 0x4000), "d")
    assert not (odd.is_nested_mountpoint)
    assert not (odd.is_nested_root)
    assert not (odd.is_bind_mountpoint)
    hidden = decode_row(row_of(directory_entry(), flags=1 | 2 | 0x8000 | 128), "d")
    assert hidden.is_nested_mountpoint
    assert hidden.is_hidden
    assert not hidden.is_external
