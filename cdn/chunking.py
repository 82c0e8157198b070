"""Chunking: where a large file is cut, by content, so that an insertion moves few chunks.

FastCDC chooses the places; the format accepts any (spec §6).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Buffer

CHUNKED_ABOVE_BYTES: Final = 4 << 20
"""Files up to this size are one object (spec §6: files of size at most the minimum are never chunked)."""
CHUNK_BYTES_MIN: Final = 1 << 20
CHUNK_BYTES_AVERAGE: Final = 4 << 20
CHUNK_BYTES_MAX: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class Span:
    """A contiguous part of a file: `size` bytes from `offset`."""

    offset: int
    size: int

    @property
    def end(self) -> int:
        """The offset after the last byte."""
        return self.offset + self.size


def cut(data: Buffer) -> Iterator[Span]:
    """Cuts a buffer (a memory-mapped file, say) into contiguous, non-empty spans that cover it."""
    with memoryview(data) as view:  # the library takes no mapped file as such
        for chunk in _fastcdc().cut_buf(view):
            yield Span(chunk.offset, chunk.length)


def cut_stream(stream: Any) -> Iterator[memoryview]:
    """Cuts what a binary stream gives; each view is valid only until the next one is asked for."""
    for chunk in _fastcdc().cut_stream(stream):
        yield chunk.data


def _fastcdc() -> Any:
    from pyfastcdc import FastCDC

    return FastCDC(CHUNK_BYTES_AVERAGE, min_size=CHUNK_BYTES_MIN, max_size=CHUNK_BYTES_MAX)
