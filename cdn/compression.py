"""Compression: complete zlib streams (RFC 1950) or raw bytes, through the fastest library present (spec §4).

Whole objects go through libdeflate (package `deflate`), streams through ISA-L (package `isal`); where one is absent
the standard library does the same work. Nothing here allocates by a length that a stranger wrote: every way of
inflating takes the caller's limit.
"""

from __future__ import annotations

import zlib
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from cdn.errors import DocumentError

if TYPE_CHECKING:
    from collections.abc import Buffer, Iterator  # type: ignore[attr-defined]

try:
    import deflate as _libdeflate
except ImportError:  # pragma: no cover  # a platform without wheels: slower, same bytes accepted
    _libdeflate = None  # type: ignore[assignment]
try:
    from isal import isal_zlib as _stream_zlib
except ImportError:  # pragma: no cover
    _stream_zlib = zlib  # type: ignore[misc]

LEVEL_DEFAULT: Final = 6
ONE_SHOT_BYTES_MAX: Final = 32 << 20
"""Above this many plain bytes `decompress` streams, so that a wrong size cannot make it reserve more."""

_STREAM_ERRORS: Final[tuple[type[Exception], ...]] = tuple({zlib.error, getattr(_stream_zlib, "error", zlib.error)})
_PIECE_BYTES: Final = 256 << 10


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
    if _libdeflate is not None:
        return _libdeflate.zlib_compress(data, level)
    return zlib.compress(data, level)


def decompress(
    data: Buffer,
    compression: Compression = Compression.ZLIB,
    *,
    size_max: int,
    size_expected: int | None = None,
    document: str = "object",
) -> bytes | bytearray:
    """The plain bytes of a stored object.

    Args:
        data: the stored bytes.
        compression: how they are stored.
        size_max: more plain bytes than this are refused.
        size_expected: how many there should be, where that is known; a wrong number only costs time.
        document: what to call the bytes in an error.

    Raises:
        DocumentError: no complete stream, bytes after its end, or more than `size_max` plain bytes.
    """
    if compression is Compression.NONE:
        plain = bytes(data)
        if len(plain) > size_max:
            raise DocumentError(document, f"it is larger than the limit of {size_max} bytes")
        return plain
    if _libdeflate is not None and size_expected is not None and size_expected <= min(size_max, ONE_SHOT_BYTES_MAX):
        try:
            return _libdeflate.zlib_decompress(data, max(size_expected, 1))
        except _libdeflate.DeflateError:
            pass  # the expectation or the stream is wrong: the stream decoder tells which
    decoder = Decompressor(compression, size_max=size_max, document=document)
    plain = b"".join(decoder.feed(data))
    decoder.finish()
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
            yield self._counted(bytes(data))
            return
        pending: Any = data
        while True:
            if self._stream.eof:
                if len(pending):
                    raise DocumentError(self._document, "bytes follow the end of its zlib stream")
                return
            try:
                plain = self._stream.decompress(pending, _PIECE_BYTES)
            except _STREAM_ERRORS as error:
                raise DocumentError(self._document, f"it is no zlib stream ({error})") from error
            pending = self._stream.unused_data if self._stream.eof else self._stream.unconsumed_tail
            if plain:
                yield self._counted(plain)
            elif not self._stream.eof:
                return

    def finish(self) -> None:
        """Says that no more bytes come.

        Raises:
            DocumentError: the stream is not complete.
        """
        if self._stream is not None and not self._stream.eof:
            raise DocumentError(self._document, "its zlib stream ends too early")

    def _counted(self, plain: bytes) -> bytes:
        self._left -= len(plain)
        if self._left < 0:
            raise DocumentError(self._document, "it inflates to more than its limit")
        return plain


def compressor(level: int = LEVEL_DEFAULT) -> Any:
    """A streaming zlib compressor with `compress` and `flush`, for content whose size is not known beforehand."""
    return zlib.compressobj(level)
