"""Fetching from the file system: ``file://`` URLs, answered as a web server would."""

from __future__ import annotations

import asyncio
import os
import re
import stat
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import unquote_to_bytes, urlsplit

from multidict import CIMultiDict

from cdn.errors import ShortTransferError, UnreachableError
from cdn.transport.base import Request

_READ: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a FIFO must not hang the reader
_PIECE_BYTES: Final = 1 << 20
_RANGE: Final = re.compile(r"bytes=([0-9]{1,19})-([0-9]{1,19})", re.ASCII)
_NOT_FOUND: Final = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
_NO_HEADERS: Final[Mapping[str, str]] = {}


class FileFetcher:
    """Reads ``file://`` URLs; a `Fetcher`. What is absent or no regular file is 404, what may not be read is 403.

    Of the header fields of requests it knows `Range` with one range that has both ends.
    """

    def __init__(self) -> None:
        self._is_closed = False

    @asynccontextmanager
    async def send(self, request: Request) -> AsyncIterator[FileResponse]:
        """Opens the file; see `Fetcher`."""
        if self._is_closed:
            raise UnreachableError(request.url, "this fetcher is closed")
        path = path_of_url(request.url)
        try:
            fd = await asyncio.to_thread(_open, path)
        except _NOT_FOUND:
            yield FileResponse(request, 404)
        except PermissionError:
            yield FileResponse(request, 403)
        except OSError as error:
            raise UnreachableError(request.url, f"the file cannot be read ({error.strerror})") from error
        else:
            with os.fdopen(fd, "rb", buffering=0) as stream:
                yield _answer(request, stream.fileno(), os.fstat(fd).st_size)

    async def close(self) -> None:
        """Refuses everything from now on; see `Fetcher`."""
        self._is_closed = True


class FileResponse:
    """A file as an answer; a `Response`."""

    def __init__(
        self,
        request: Request,
        status: int,
        fd: int | None = None,
        size: int = 0,
        *,
        offset: int = 0,
        headers: Mapping[str, str] = _NO_HEADERS,
    ) -> None:
        self._request = request
        self._fd = fd
        self._offset = offset
        self.status = status
        self.size: int | None = size
        self.headers: Mapping[str, str] = CIMultiDict({**headers, "Content-Length": str(size)})

    @property
    def fields(self) -> tuple[tuple[str, str], ...]:
        """The header fields in the order they came."""
        return tuple(self.headers.items())

    def whole(self) -> bytes | None:
        """Nothing, since the body is not read before it is wanted."""
        return None

    async def chunks(self) -> AsyncIterator[bytes]:
        """The file, piece by piece; see `Response`."""
        if self._fd is None or self._request.method == "HEAD":
            return
        offset = self._offset
        end = offset + (self.size or 0)  # what is appended meanwhile is not part of the answer
        while offset < end:
            try:
                piece = await asyncio.to_thread(os.pread, self._fd, min(_PIECE_BYTES, end - offset), offset)
            except OSError as error:
                raise ShortTransferError(self._request.url, f"the file cannot be read ({error.strerror})") from error
            if not piece:
                raise ShortTransferError(self._request.url, "the file became shorter while it was read")
            offset += len(piece)
            yield piece


def _answer(request: Request, fd: int, size: int) -> FileResponse:
    """The file, or the part of it that is asked for."""
    asked = _RANGE.fullmatch(request.headers.get("Range", ""))
    if asked is None or int(asked[1]) > int(asked[2]):
        return FileResponse(request, 200, fd, size)
    start, end = int(asked[1]), min(int(asked[2]) + 1, size)
    if start >= size:
        return FileResponse(request, 416, headers={"Content-Range": f"bytes */{size}"})
    headers = {"Content-Range": f"bytes {start}-{end - 1}/{size}"}
    return FileResponse(request, 206, fd, end - start, offset=start, headers=headers)


def path_of_url(url: str) -> bytes:
    """The path that a ``file://`` URL names.

    Raises:
        UnreachableError: it names none on this machine.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise UnreachableError(url, "this is no URL") from None
    path = unquote_to_bytes(parts.path)
    if parts.scheme != "file" or parts.netloc not in {"", "localhost"} or not path.startswith(b"/") or b"\0" in path:
        raise UnreachableError(url, "this names no file on this machine: write file:///path")
    return path


def _open(path: bytes) -> int:
    fd = os.open(path, _READ)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise FileNotFoundError(path)
    return fd
