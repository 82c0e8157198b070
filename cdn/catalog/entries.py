"""One row of a catalog as a value: kinds, flags, groups of hard links, extended attributes (spec §5.2, §5.5-5.7).

Paths and names are `str` decoded with *surrogateescape*, so that any bytes a file system allows survive the round trip;
the functions `encode_name` and `decode_name` are the only places that convert.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from typing import Final

from cdn.compression import Compression
from cdn.errors import DocumentError
from cdn.hashing import Algorithm, Digest

FLAG_DIRECTORY: Final = 1
FLAG_NESTED_MOUNTPOINT: Final = 2
FLAG_FILE: Final = 4
FLAG_SYMLINK: Final = 8
FLAG_SPECIAL: Final = 16
FLAG_NESTED_ROOT: Final = 32
FLAG_CHUNKED: Final = 64
FLAG_EXTERNAL: Final = 128
FLAG_BIND_MOUNTPOINT: Final = 0x4000
FLAG_HIDDEN: Final = 0x8000
FLAG_DIRECT_IO: Final = 0x10000
_ALGORITHM_SHIFT: Final = 8
_COMPRESSION_SHIFT: Final = 11
_THREE_BITS: Final = 7

XATTR_COUNT_MAX: Final = 255
XATTR_BYTES_MAX: Final = 255
_XATTR_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a large file: `size` plain bytes at `offset`, stored as an object of kind chunk.

    `plain_digest` is the SHA-256 of the plain bytes (32 bytes), None where a publisher did not write it.
    """

    offset: int
    size: int
    digest: Digest
    plain_digest: bytes | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A file, directory, symlink or special file.

    Args:
        name: last path component; empty for the repository's root.
        mode: full `st_mode`, file type included.
        size: bytes of a regular file; 4096 by convention for directories; target length for symlinks; 0 for special
            files,
            for devices the number is in `device`.
        mtime: seconds since the epoch; may be negative.
        mtime_ns: the nanosecond part, 0 to 999,999,999.
        uid, gid: numeric owner.
        digest: of the stored content; None for directories, symlinks, special files and chunked files.
        symlink: raw target, variables unexpanded; empty if no symlink.
        link_count: as `st_nlink`.
        hardlink_group: 0 if not hard-linked; otherwise the number of the group within its catalog.
        xattrs: extended attributes in ascending key order.
        compression: how content is stored.
        chunks: the parts of a chunked file, in order; empty otherwise.
        device: Linux `makedev` encoding for device files.
        plain_digest: SHA-256 of the content of an unchunked regular file, None where unknown.
        is_nested_mountpoint, is_nested_root, is_bind_mountpoint, is_hidden, is_external, is_direct_io: the flag bits of
            that name.
    """

    name: str
    mode: int
    size: int = 0
    mtime: int = 0
    mtime_ns: int = 0
    uid: int = 0
    gid: int = 0
    digest: Digest | None = None
    symlink: str = ""
    link_count: int = 1
    hardlink_group: int = 0
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    compression: Compression = Compression.ZLIB
    chunks: tuple[Chunk, ...] = ()
    device: int = 0
    plain_digest: bytes | None = None
    is_nested_mountpoint: bool = False
    is_nested_root: bool = False
    is_bind_mountpoint: bool = False
    is_hidden: bool = False
    is_external: bool = False
    is_direct_io: bool = False
    is_chunked: bool = False

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        """Whether this is a regular file."""
        return stat.S_ISREG(self.mode)

    @property
    def is_symlink(self) -> bool:
        return stat.S_ISLNK(self.mode)

    @property
    def is_special(self) -> bool:
        """Whether this is a FIFO, a socket or a device."""
        return not (self.is_directory or self.is_file or self.is_symlink)

    @property
    def algorithm(self) -> Algorithm | None:
        """The hash algorithm of the content, None if there is no content with a digest."""
        if self.digest is not None:
            return self.digest.algorithm
        return self.chunks[0].digest.algorithm if self.chunks else None

    @property
    def flags(self) -> int:
        """The value of the column `flags` (spec §5.5)."""
        return _kind_flags(self) | _role_flags(self) | _content_flags(self)


def _kind_flags(entry: Entry) -> int:
    if entry.is_directory:
        return FLAG_DIRECTORY
    if entry.is_file:
        return FLAG_FILE
    return FLAG_FILE | (FLAG_SYMLINK if entry.is_symlink else FLAG_SPECIAL)


def _role_flags(entry: Entry) -> int:
    return (
        entry.is_nested_mountpoint * FLAG_NESTED_MOUNTPOINT
        | entry.is_nested_root * FLAG_NESTED_ROOT
        | entry.is_bind_mountpoint * FLAG_BIND_MOUNTPOINT
        | entry.is_hidden * FLAG_HIDDEN
    )


def _content_flags(entry: Entry) -> int:
    if not entry.is_file:
        return 0
    flags = entry.is_external * FLAG_EXTERNAL | entry.is_direct_io * FLAG_DIRECT_IO
    flags |= (entry.is_chunked or bool(entry.chunks)) * FLAG_CHUNKED
    if entry.algorithm is not None:
        flags |= (entry.algorithm.number - 1) << _ALGORITHM_SHIFT
    return flags | entry.compression.value << _COMPRESSION_SHIFT


def algorithm_of_flags(flags: int) -> Algorithm:
    """The hash algorithm that `flags` name.

    Raises:
        DocumentError: there is no such algorithm.
    """
    return Algorithm.from_number((flags >> _ALGORITHM_SHIFT & _THREE_BITS) + 1)


def compression_of_flags(flags: int) -> Compression:
    """The compression that `flags` name.

    Raises:
        DocumentError: there is no such compression.
    """
    number = flags >> _COMPRESSION_SHIFT & _THREE_BITS
    try:
        return Compression(number)
    except ValueError as error:
        raise DocumentError("catalog row", f"there is no compression number {number}") from error


def encode_name(name: str) -> bytes:
    """A name or path as the bytes the file system has."""
    return name.encode("utf-8", "surrogateescape")


def decode_name(raw: bytes) -> str:
    """The name or path that these bytes are."""
    return raw.decode("utf-8", "surrogateescape")


def encode_xattrs(xattrs: tuple[tuple[bytes, bytes], ...]) -> bytes | None:
    """The blob of the column `xattr`, None for no attributes (spec §5.7).

    Raises:
        DocumentError: the format cannot hold them: more than 255, an empty key, a NUL in a key, or one longer than 255
            bytes.
    """
    if not xattrs:
        return None
    if len(xattrs) > XATTR_COUNT_MAX:
        raise DocumentError("extended attributes", f"there are {len(xattrs)}, the format holds {XATTR_COUNT_MAX}")
    parts = [bytes((_XATTR_VERSION, len(xattrs)))]
    for key, value in sorted(xattrs):
        if not key or b"\0" in key or len(key) > XATTR_BYTES_MAX or len(value) > XATTR_BYTES_MAX:
            raise DocumentError(
                "extended attributes", f"{key[:40]!r} cannot be stored (at most {XATTR_BYTES_MAX} bytes each)"
            )
        parts += (bytes((len(key), len(value))), key, value)
    return b"".join(parts)


def decode_xattrs(blob: bytes | None) -> tuple[tuple[bytes, bytes], ...]:
    """The attributes of a blob; another version or truncated data is read as none, as real clients do (spec §5.7)."""
    if not blob or len(blob) < 2 or blob[0] != _XATTR_VERSION:
        return ()
    found: list[tuple[bytes, bytes]] = []
    position = 2
    for _ in range(blob[1]):
        head = blob[position : position + 2]
        if len(head) < 2 or head == b"\0\0":
            return ()
        key_end = position + 2 + head[0]
        position = key_end + head[1]
        if position > len(blob):
            return ()
        found.append((blob[key_end - head[0] : key_end], blob[key_end:position]))
    return tuple(found)
