"""Compression: complete zlib streams (RFC 1950) or raw bytes, through the fastest library present (spec §4).

libdeflate (package `deflate`) deflates, except at level 1, the fastest, which is ISA-L's (package `isal`), as is
inflating; where one is absent the standard library does the same work. libdeflate would inflate small objects a quarter
faster, but its package does not tell that bytes follow the end of a stream. Nothing here allocates by a length that a
stranger wrote: every way of inflating takes the caller's limit.
"""

from __future__ import annotations

import zlib
from contextlib import contextmanager
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from cdn.errors import DocumentError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Buffer

try:
    import deflate as _libdeflate
except ImportError:  # pragma: no cover  # a platform without wheels: slower, same bytes accepted
    _libdeflate = None  # type: ignore[assignment]  # absent
try:
    from isal import isal_zlib as _stream_zlib
except ImportError:  # pragma: no cover
    _stream_zlib = zlib  # type: ignore[misc]  # the same interface

LEVEL_DEFAULT: Final = 6
LEVEL_FASTEST: Final = 1
"""Five times as fast as the default, for an eighth more bytes (docs/decisions/0008-fast-compression.md)."""
_ISAL_LEVEL: Final = 2
_STREAM_ERRORS: Final[tuple[type[Exception], ...]] = tuple({zlib.error, getattr(_stream_zlib, "error", zlib.error)})
_PIECE_BYTES: Final = 256 << 10
_TRAILING: Final = "bytes follow the end of its zlib stream"
_TRUNCATED: Final = "its zlib stream ends too early"


class Compression(Enum):
    """How an object is stored; the value is the compression id of catalog flags."""

    ZLIB = 0
    NONE = 1

    @property
    def option(self) -> str:
        """The name used in options and listings."""
        return self.name.lower()


def compress(
    data: Buffer, compression: Compression = Compression.ZLIB, level: int = LEVEL_DEFAULT
) -> bytes | bytearray:
    """The stored form of these bytes.

    Args:
        data: the plain bytes.
        compression: how to store them.
        level: 0 (store) to 9, the levels of zlib; ignored for `Compression.NONE`.
    """
    if compression is Compression.NONE:
        return bytes(data)
    if level == LEVEL_FASTEST and _stream_zlib is not zlib:
        fast: bytes = _stream_zlib.compress(data, _ISAL_LEVEL)
        return fast
    if _libdeflate is not None:
        return _libdeflate.zlib_compress(data, level)
    return zlib.compress(data, level)


def compress_reproducibly(data: Buffer) -> bytes:
    """The one stream that zlib itself makes of these bytes at its default level.

    A CernVM-FS replica does not copy the objects of a manifest's certificate and metainfo: it inflates them, deflates
    them again by this very recipe, and stores the result under the name it read in the manifest. Any other stream
    would leave it with an object that does not match its name, and its clients with no certificate.
    """
    return zlib.compress(data, zlib.Z_DEFAULT_COMPRESSION)


def decompress(
    data: Buffer,
    compression: Compression = Compression.ZLIB,
    *,
    size_max: int,
    size_expected: int | None = None,
    document: str = "object",
) -> bytes:
    """The plain bytes of a stored object.

    Args:
        data: the stored bytes.
        compression: how they are stored.
        size_max: more plain bytes than this are refused.
        size_expected: how many there should be, where that is known, spares copying; a wrong number only costs time.
        document: what to call the bytes in an error.

    Raises:
        DocumentError: no complete stream, bytes after its end, or more than `size_max` plain bytes.
    """
    if compression is Compression.NONE:
        plain = bytes(data)
    else:
        expected = size_max if size_expected is None else min(max(size_expected, 0), size_max)
        plain = _inflate(data, size_max, expected, document)
    if len(plain) > size_max:
        raise DocumentError(document, f"it is larger than the limit of {size_max} bytes")
    return plain


class Decompressor:
    """Inflates a stream piece by piece in bounded memory.

    Args:
        compression: how the object is stored.
        size_max: more plain bytes than this are refused.
        document: what to call the bytes in an error.
    """

    __slots__ = ("_document", "_left", "_stream")

    def __init__(self, compression: Compression = Compression.ZLIB, *, size_max: int, document: str = "object") -> None:
        self._stream: Any = _stream_zlib.decompressobj() if compression is Compression.ZLIB else None
        self._left = size_max
        self._document = document

    def feed(self, data: Buffer) -> Iterator[bytes]:
        """Yields the plain bytes that this piece completes, at most 256 KiB at a time.

        Raises:
            DocumentError: as `decompress`.
        """
        if self._stream is None:
            if plain := bytes(data):
                yield self._counted(plain)
            return
        pending: Any = data
        while not self._stream.eof:
            with _zlib_errors(self._document):
                plain = self._stream.decompress(pending, _PIECE_BYTES)
            pending = self._stream.unused_data if self._stream.eof else self._stream.unconsumed_tail
            if plain:
                yield self._counted(plain)
            elif not self._stream.eof:
                return
        if len(pending):
            raise DocumentError(self._document, _TRAILING)

    def finish(self) -> None:
        """Says that no more bytes come.

        Raises:
            DocumentError: the stream is not complete.
        """
        if self._stream is not None and not self._stream.eof:
            raise DocumentError(self._document, _TRUNCATED)

    def _counted(self, plain: bytes) -> bytes:
        self._left -= len(plain)
        if self._left < 0:
            raise DocumentError(self._document, "it is larger than its limit")
        return plain


def _inflate(data: Buffer, size_max: int, size_expected: int, document: str) -> bytes:
    """The whole stream, or one byte more than the limit (to the library, a limit of 0 bytes means none)."""
    stream: Any = _stream_zlib.decompressobj()
    with _zlib_errors(document):
        plain: bytes = stream.decompress(data, size_expected + 1)
        if not stream.eof and size_expected < len(plain) <= size_max:
            plain += stream.decompress(stream.unconsumed_tail, size_max + 1 - len(plain))
    if len(plain) <= size_max:
        if not stream.eof:
            raise DocumentError(document, _TRUNCATED)
        if stream.unused_data:
            raise DocumentError(document, _TRAILING)
    return plain


@contextmanager
def _zlib_errors(document: str) -> Iterator[None]:
    try:
        yield
    except _STREAM_ERRORS as error:
        raise DocumentError(document, f"it is no zlib stream ({error})") from error
