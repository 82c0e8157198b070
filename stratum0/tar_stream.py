"""The bytes of a tarball, inflated on the way: whatever compressed it, damage is told in one way, memory limited."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, BinaryIO, Final, cast

from cdn.errors import DocumentError, UsageError

_GZIP_MAGIC: Final = b"\x1f\x8b"
_XZ_MAGIC: Final = b"\xfd7zXZ\0"
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_BZIP2_MAGIC: Final = b"BZh"
_ZSTD_WINDOW_BYTES_MAX: Final = 128 << 20
_XZ_MEMORY_BYTES_MAX: Final = 256 << 20
_BUFFER_BYTES: Final = 1 << 20


@contextmanager
def opened_tarball(tarball: str | os.PathLike[str] | BinaryIO) -> Iterator[IO[bytes]]:
    """The uncompressed stream of a tarball given by path or as a stream.

    Raises:
        UsageError: there is no such file.
    """
    if not isinstance(tarball, (str, os.PathLike)):
        yield _uncompressed(cast("IO[bytes]", tarball))
        return
    try:
        stream = open(tarball, "rb")  # noqa: SIM115  closed below
    except OSError as error:
        raise UsageError(f"cannot read {os.fspath(tarball)}: {error.strerror}") from error
    with stream:
        yield _uncompressed(stream)


def _uncompressed(stream: IO[bytes]) -> IO[bytes]:
    """The stream itself or one that inflates it, by its first bytes."""
    buffered = io.BufferedReader(_Raw(stream), _BUFFER_BYTES)
    head = buffered.peek(len(_XZ_MAGIC))
    if head.startswith(_GZIP_MAGIC):
        from isal import igzip

        return _inflating(cast("Any", igzip.GzipFile)(fileobj=buffered, mode="rb"))
    if head.startswith(_XZ_MAGIC):
        return _inflating(_XzReader(buffered))
    if head.startswith(_ZSTD_MAGIC):
        import zstandard

        decoder = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES_MAX)
        return _inflating(decoder.stream_reader(buffered, read_across_frames=True))
    if head.startswith(_BZIP2_MAGIC):
        import bz2

        return _inflating(bz2.BZ2File(buffered))
    return buffered


class _Raw(io.RawIOBase):
    """Any stream that can be read as one that can be buffered."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _inflating(stream: Any) -> IO[bytes]:
    return cast("IO[bytes]", _Inflating(stream))


class _Inflating:
    """A stream of inflated bytes; every decoder's way of saying that its stream is damaged becomes ours."""

    def __init__(self, stream: Any) -> None:
        import lzma
        import zlib

        import zstandard
        from isal import isal_zlib

        self._stream = stream
        self._damage: tuple[type[Exception], ...] = (
            EOFError,
            lzma.LZMAError,
            zlib.error,
            zstandard.ZstdError,
            cast("type[Exception]", isal_zlib.error),
        )

    def read(self, size: int) -> bytes:
        try:
            data: bytes = self._stream.read(size)
        except self._damage as error:
            raise DocumentError("tarball", f"its compressed stream is damaged ({error})") from error
        except OSError as error:
            if error.errno is not None:  # the disk
                raise
            raise DocumentError("tarball", f"its compressed stream is damaged ({error})") from error
        return data


class _XzReader:
    """Inflates xz with a limit on the memory that the stream may ask for; streams may follow one another."""

    def __init__(self, stream: IO[bytes]) -> None:
        import lzma

        self._lzma = lzma
        self._stream = stream
        self._decoder = self._new()
        self._pending = b""

    def _new(self) -> Any:
        return self._lzma.LZMADecompressor(self._lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_BYTES_MAX)

    def read(self, size: int) -> bytes:
        while True:
            if self._decoder.eof:
                self._pending = (self._decoder.unused_data or self._stream.read(_BUFFER_BYTES)).lstrip(b"\0")
                if not self._pending:
                    return b""
                self._decoder = self._new()
            elif self._decoder.needs_input and not self._pending:
                self._pending = self._stream.read(_BUFFER_BYTES)
                if not self._pending:
                    raise EOFError("its xz stream ends too early")
            data: bytes = self._decoder.decompress(self._pending, size)
            self._pending = b""
            if data:
                return data
