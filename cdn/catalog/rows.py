"""Rows of the tables `catalog` and `chunks` as values and back (spec §5.2, §5.5, §5.6).

Reading is lenient where real clients are (link counts, sizes of directories) and strict where a wrong value could lead
somewhere: names that escape their directory, sizes that cannot be, chunks that leave a gap. Mode decides what kind of
entry a row is, as it does for clients; that flags agree is for `cdn.catalog.validate` to say.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Any, Final

from cdn.catalog import entries
from cdn.catalog.entries import Chunk, Entry, encode_name, encode_xattrs
from cdn.catalog.paths import is_name
from cdn.compression import Compression
from cdn.errors import DocumentError, UsageError
from cdn.hashing import Algorithm, Digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

CHUNKS_MAX: Final = 1 << 20
"""Of one file; at the format's 4 MiB minimum that is a file of 4 TiB."""
SYMLINK_BYTES_MAX: Final = 65_535
"""Linux file systems hold 4095; what is longer by far is no link target."""
_DIGEST_BYTES: Final = 20
_NULL_DIGEST: Final = bytes(_DIGEST_BYTES)
_PLAIN_BYTES: Final = 32
_BINDING_BYTES: Final = 8
_NANOSECONDS: Final = 1_000_000_000
_UINT32: Final = 0xFFFF_FFFF
_UINT64: Final = 0xFFFF_FFFF_FFFF_FFFF
_INT64_MAX: Final = (1 << 63) - 1
_MODE_MAX: Final = 0xFFFF
_REGULAR: Final = stat.S_IFREG
_DIRECTORY: Final = stat.S_IFDIR
_SYMLINK: Final = stat.S_IFLNK
_SPECIAL_KINDS: Final = frozenset({stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK})
_DEVICE_KINDS: Final = frozenset({stat.S_IFCHR, stat.S_IFBLK})
_ROLES: Final = (
    entries.FLAG_NESTED_MOUNTPOINT
    | entries.FLAG_NESTED_ROOT
    | entries.FLAG_BIND_MOUNTPOINT
    | entries.FLAG_HIDDEN
    | entries.FLAG_EXTERNAL
    | entries.FLAG_DIRECT_IO
)
_ALGORITHMS: Final = {algorithm.number - 1: algorithm for algorithm in Algorithm}
_COMPRESSIONS: Final = {compression.value: compression for compression in Compression}

_Roles = tuple[bool, bool, bool, bool, bool, bool]
_NO_ROLES: Final[_Roles] = (False, False, False, False, False, False)

Row = tuple[Any, ...]
"""hash, hardlinks, size, mode, mtime, mtimens, flags, name, symlink, uid, gid, xattr, plain_digest, and the key."""


# -------------------------------------------------------------------------------------------------------------- reading


def decode_row(row: Row, document: str, chunks: tuple[Chunk, ...] = ()) -> Entry:
    """The entry that a row holds.

    Args:
        row: the columns of `Layout.row_columns`.
        document: what to call the catalog in an error.
        chunks: of a chunked file (`has_chunks`), what `decode_chunks` made of its rows.

    Raises:
        DocumentError: a value cannot be.
    """
    raw_digest, hardlinks, size, mode, mtime, mtime_ns, flags, name, symlink, uid, gid, xattr, plain, _, _ = row
    if not (
        type(hardlinks) is int
        and type(size) is int
        and type(mode) is int
        and type(mtime) is int
        and type(flags) is int
        and type(uid) is int
        and type(gid) is int
        and type(name) is str
        and type(symlink) is str
    ):
        raise DocumentError(document, _wrong_type(row))
    if size < 0 or not 0 <= mode <= _MODE_MAX:
        raise DocumentError(document, f"{name[:80]!r} has size {size} and mode {mode}")
    if name and not is_name(name):
        raise DocumentError(document, f"{name[:80]!r} is no name of a directory entry")
    kind = mode & 0xF000
    digest = plain_digest = None
    compression = Compression.ZLIB
    is_chunked = False
    device = 0
    if kind == _REGULAR:
        symlink = ""
        if (number := flags >> 11 & 7) not in _COMPRESSIONS:
            raise DocumentError(document, f"flags {flags} name no compression")
        compression = _COMPRESSIONS[number]
        is_chunked = flags & entries.FLAG_CHUNKED != 0
        if raw_digest is not None:
            digest = _decode_digest(raw_digest, flags, document)
            plain_digest = None if plain is None else decode_plain_digest(plain, raw_digest)
    elif kind == _DIRECTORY:
        symlink = ""
    elif kind == _SYMLINK:
        size = _symlink_size(name, symlink, document)
    elif kind in _SPECIAL_KINDS:
        symlink = ""
        if kind in _DEVICE_KINDS:
            device, size = size, 0
    else:
        raise DocumentError(document, f"{name!r} has mode {mode:#o}, which is no kind of entry")
    roles = flags & _ROLES
    return Entry(
        name,
        mode,
        size,
        mtime,
        0 if mtime_ns is None else _decode_mtime_ns(mtime_ns, document),
        uid & _UINT32,
        gid & _UINT32,
        digest,
        symlink,
        hardlinks & _UINT32,
        (hardlinks & _UINT64) >> 32,
        () if xattr is None else _decode_xattrs(xattr, document),
        compression,
        chunks,
        device,
        plain_digest,
        *(_decode_roles(roles, kind) if roles else _NO_ROLES),
        is_chunked,
    )


def has_chunks(row: Row) -> bool:
    """Whether rows of the table `chunks` belong to this row."""
    mode, flags = row[3], row[6]
    return type(flags) is int and type(mode) is int and flags & entries.FLAG_CHUNKED != 0 and stat.S_ISREG(mode)


def decode_chunks(rows: Iterable[Sequence[Any]], row: Row, document: str) -> tuple[Chunk, ...]:
    """The chunks of a chunked file.

    Args:
        rows: the columns of `Layout.chunk_columns` in order of offset.
        row: the file's own row.
        document: what to call the catalog in an error.

    Raises:
        DocumentError: there are none or too many, they leave a gap or overlap, or their sizes do not add up to the
            file's.
    """
    algorithm = _algorithm(row[6], document)
    chunks: list[Chunk] = []
    end = 0
    for offset, size, raw, plain in rows:
        if type(offset) is not int or type(size) is not int or offset != end or size <= 0:
            raise DocumentError(
                document, f"the chunk of {row[7]!r} at offset {offset!r} with {size!r} bytes should begin at {end}"
            )
        if type(raw) is not bytes or len(raw) != _DIGEST_BYTES or len(chunks) == CHUNKS_MAX:
            raise DocumentError(document, f"{row[7]!r} has a chunk without a digest, or more than {CHUNKS_MAX} chunks")
        chunks.append(Chunk(offset, size, Digest(algorithm, raw), decode_plain_digest(plain, raw)))
        end += size
    if not chunks or end != row[2]:
        raise DocumentError(document, f"the chunks of {row[7]!r} have {end} bytes together, the file has {row[2]!r}")
    return tuple(chunks)


def decode_plain_digest(value: object, raw_digest: object) -> bytes | None:
    """The plain digest of a column of that name, None where there is none.

    Behind the SHA-256 stand the first bytes of the stored content's digest. A publisher that does not know the column
    leaves it as it was when it changes the content; then these differ and the value is not believed
    (docs/formats/plain-digest.md).
    """
    if type(value) is not bytes or len(value) != _PLAIN_BYTES + _BINDING_BYTES or type(raw_digest) is not bytes:
        return None
    return value[:_PLAIN_BYTES] if raw_digest.startswith(value[_PLAIN_BYTES:]) else None


def _decode_digest(raw: object, flags: int, document: str) -> Digest | None:
    if type(raw) is not bytes or len(raw) != _DIGEST_BYTES:
        if raw == b"":
            return None
        raise DocumentError(document, f"a digest is {raw!r:.80}, not {_DIGEST_BYTES} bytes")
    return None if raw == _NULL_DIGEST else Digest(_algorithm(flags, document), raw)


def _algorithm(flags: int, document: str) -> Algorithm:
    algorithm = _ALGORITHMS.get(flags >> 8 & 7)
    if algorithm is None:
        raise DocumentError(document, f"flags {flags} name no hash algorithm")
    return algorithm


def _decode_mtime_ns(value: object, document: str) -> int:
    if type(value) is not int or value >= _NANOSECONDS:
        raise DocumentError(document, f"a nanosecond part is {value!r:.80}")
    return max(value, 0)  # negative means none, as NULL does


def _symlink_size(name: str, symlink: str, document: str) -> int:
    size = len(encode_name(symlink))
    if "\0" in symlink or size > SYMLINK_BYTES_MAX:
        raise DocumentError(document, f"{name!r} has a link target that cannot be")
    return size


def _decode_xattrs(value: object, document: str) -> tuple[tuple[bytes, bytes], ...]:
    if type(value) is not bytes:
        raise DocumentError(document, f"extended attributes are {value!r:.80}, not a blob")
    return entries.decode_xattrs(value)


def _decode_roles(flags: int, kind: int) -> _Roles:
    is_directory, is_file = kind == _DIRECTORY, kind == _REGULAR
    return (
        is_directory and flags & entries.FLAG_NESTED_MOUNTPOINT != 0,
        is_directory and flags & entries.FLAG_NESTED_ROOT != 0,
        is_directory and flags & entries.FLAG_BIND_MOUNTPOINT != 0,
        flags & entries.FLAG_HIDDEN != 0,
        is_file and flags & entries.FLAG_EXTERNAL != 0,
        is_file and flags & entries.FLAG_DIRECT_IO != 0,
    )


def _wrong_type(row: Row) -> str:
    columns = ["hash", "hardlinks", "size", "mode", "mtime", "mtimens", "flags", "name", "symlink", "uid", "gid"]
    values = ", ".join(f"{name} {value!r:.40}" for name, value in zip(columns[1:], row[1:], strict=False))
    return f"a row has a value of the wrong type ({values})"


# -------------------------------------------------------------------------------------------------------------- writing

INSERT_ROW: Final = """
INSERT INTO catalog (md5path_1, md5path_2, parent_1, parent_2, hash, hardlinks, size, mode, mtime, mtimens, flags,
  name, symlink, uid, gid, xattr, plain_digest)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, CAST(? AS TEXT), CAST(? AS TEXT), ?, ?, ?, ?)"""
INSERT_CHUNK: Final = """
INSERT INTO chunks (md5path_1, md5path_2, offset, size, hash, plain_digest) VALUES (?, ?, ?, ?, ?, ?)"""


def encode_row(key: tuple[int, int], parent: tuple[int, int], name: str, entry: Entry) -> Row:
    """The parameters of `INSERT_ROW` for an entry.

    Args:
        key, parent: path keys of the entry and of its directory.
        name: what it is called there; `entry.name` is not looked at.
        entry: everything else.

    Raises:
        UsageError: the format cannot hold this entry.
        DocumentError: it cannot hold its extended attributes.
    """
    kind = entry.mode & 0xF000
    size = entry.size
    raw: bytes | None = None
    plain: bytes | None = None
    hardlinks = entry.link_count
    if kind == _REGULAR:
        flags, raw, plain = _encode_content(name, entry)
        hardlinks = entry.hardlink_group << 32 | hardlinks if entry.hardlink_group else 1
        if size < 0:
            raise UsageError(f"{name!r} cannot be stored: its size is {size}")
    elif kind == _DIRECTORY:
        flags = entry.flags
    elif kind == _SYMLINK or kind in _SPECIAL_KINDS:
        flags = entry.flags
        size = _size_of_other(name, entry)
        hardlinks = entry.hardlink_group << 32 | hardlinks if entry.hardlink_group else 1
    else:
        raise UsageError(f"{name!r} cannot be stored: its mode {entry.mode:#o} is no kind of entry")
    if not 0 < hardlinks <= _INT64_MAX or abs(entry.mtime) > _INT64_MAX or not 0 <= entry.mtime_ns < _NANOSECONDS:
        raise UsageError(f"{name!r} cannot be stored: its modification time or link count is out of range")
    xattr = encode_xattrs(entry.xattrs) if entry.xattrs else None
    symlink = entry.symlink if kind == _SYMLINK else ""
    return (
        *key,
        *parent,
        raw,
        hardlinks,
        size,
        entry.mode,
        entry.mtime,
        entry.mtime_ns or None,
        flags,
        as_text(name),
        as_text(symlink),
        entry.uid,
        entry.gid,
        xattr,
        plain,
    )


def encode_plain_file(
    name: str,
    *,
    size: int,
    mode: int,
    mtime_ns: int,
    uid: int,
    gid: int,
    digest: Digest,
    plain_digest: bytes,
    compression: Compression,
) -> Row:
    """What `encode_row` gives after the keys for a regular file of one object and one name, without an `Entry`.

    Args:
        name: what it is called.
        size: bytes.
        mode: full `st_mode`.
        mtime_ns: nanoseconds since the epoch.
        uid, gid: numeric owner.
        digest: of the stored content.
        plain_digest: SHA-256 of the content.
        compression: how it is stored.
    """
    flags = entries.FLAG_FILE | compression.value << 11 | (digest.algorithm.number - 1) << 8
    seconds, nanoseconds = divmod(mtime_ns, _NANOSECONDS)
    return (
        digest.value,
        1,
        size,
        mode,
        seconds,
        nanoseconds or None,
        flags,
        as_text(name),
        "",
        uid,
        gid,
        None,
        _encode_plain_digest(plain_digest, digest),
    )


def encode_chunks(key: tuple[int, int], entry: Entry) -> list[Row]:
    """The parameters of `INSERT_CHUNK` for every chunk of an entry.

    Raises:
        UsageError: the chunks leave a gap, do not add up to the file, or differ in algorithm.
    """
    end = 0
    for chunk in entry.chunks:
        if chunk.offset != end or chunk.size <= 0 or chunk.digest.algorithm is not entry.algorithm:
            raise UsageError(f"{entry.name!r} cannot be stored: its chunks leave a gap or differ in hash algorithm")
        end += chunk.size
    if entry.chunks and end != entry.size:
        raise UsageError(
            f"{entry.name!r} cannot be stored: its chunks have {end} bytes together, the file {entry.size}"
        )
    return [
        (*key, chunk.offset, chunk.size, chunk.digest.value, _encode_plain_digest(chunk.plain_digest, chunk.digest))
        for chunk in entry.chunks
    ]


def as_text(name: str) -> str | bytes:
    """What to bind for ``CAST(? AS TEXT)`` so that any name is stored as text of exactly its bytes."""
    return name if name.isascii() else encode_name(name)


_Content = tuple[int, "bytes | None", "bytes | None"]


def _encode_content(name: str, entry: Entry) -> _Content:
    """Flags, digest and plain digest of a regular file."""
    digest = entry.digest
    flags = entries.FLAG_FILE | entry.compression.value << 11
    if entry.is_hidden or entry.is_external or entry.is_direct_io:
        flags |= entry.is_hidden * entries.FLAG_HIDDEN
        flags |= entry.is_external * entries.FLAG_EXTERNAL | entry.is_direct_io * entries.FLAG_DIRECT_IO
    if entry.chunks:
        algorithm = entry.chunks[0].digest.algorithm
        flags |= entries.FLAG_CHUNKED | (algorithm.number - 1) << 8
        if digest is None:
            return flags, None, None
    elif digest is None or entry.is_chunked:
        raise UsageError(f"{name!r} cannot be stored: a regular file needs the digest of its content or its chunks")
    flags |= (digest.algorithm.number - 1) << 8
    plain = entry.plain_digest
    return flags, digest.value, None if plain is None else _encode_plain_digest(plain, digest)


def _encode_plain_digest(plain: bytes | None, digest: Digest) -> bytes | None:
    if plain is None:
        return None
    if len(plain) != _PLAIN_BYTES:
        raise UsageError(f"a plain digest has {_PLAIN_BYTES} bytes, not {len(plain)}")
    return plain + digest.value[:_BINDING_BYTES]


def _size_of_other(name: str, entry: Entry) -> int:
    """The column `size` of a symlink or special file."""
    if not entry.is_symlink:
        return entry.device if entry.mode & 0xF000 in _DEVICE_KINDS else 0
    size = len(encode_name(entry.symlink))
    if not size or size > SYMLINK_BYTES_MAX or "\0" in entry.symlink:
        raise UsageError(f"{name!r} cannot be stored: it is a symlink without a usable target")
    return size
