"""Tarballs, compressed or not: every member staged below the subtree, or the whole refused."""

from __future__ import annotations

import gzip
import io
import lzma
import tarfile
from collections.abc import Callable, Iterable
from typing import Any

import zstandard

from cdn.catalog.entries import Entry
from cdn.compression import Compression
from cdn.errors import DocumentError, StorageError, UsageError
from stratum0.changes import Change, is_at_or_below
from stratum0.content import StoredContent
from stratum0.tar_stream import opened_tarball
from stratum0.tarball import TarballReader
from tests.fuzz.driver import main

SUBTREE = "/sub"
BYTES_MAX = 8 << 20


class RecordingTransaction:
    """Holds what is staged, and asserts that it stays where it belongs."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry | None] = {}

    def stage(self, changes: Iterable[Change], objects: Iterable[str]) -> None:
        list(objects)
        for change in changes:
            assert is_at_or_below(change.path, SUBTREE)
            assert not {"", ".", ".."} & set(change.path[1:].split("/"))
            self._entries[change.path] = change.entry

    def find(self, path: str) -> Entry | None:
        return self._entries.get(path)


class CountingPipeline:
    """Reads content and keeps none."""

    def store_stream(self, stream: Any, size: int, done: Callable[[StoredContent], None]) -> None:
        read = 0
        while read < min(size, BYTES_MAX) and (part := stream.read(1 << 16)):
            read += len(part)
        if read != size:
            raise UsageError(f"a file of {size} bytes ended after {read}")
        done(StoredContent(size, Compression.NONE))

    def drain(self) -> None:
        pass


def seeds() -> list[bytes]:
    plain = [archive(form) for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)]
    packed = [gzip.compress(plain[2]), lzma.compress(plain[2]), zstandard.ZstdCompressor().compress(plain[2])]
    return [*plain, *packed]


def archive(form: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name, kind, data in (
            ("d", tarfile.DIRTYPE, b""),
            ("d/f", tarfile.REGTYPE, b"hello"),
            ("d" * 90 + "/" + "n" * 90, tarfile.REGTYPE, b"x" * 600),
            ("link", tarfile.SYMTYPE, b""),
            ("hard", tarfile.LNKTYPE, b""),
            ("null", tarfile.CHRTYPE, b""),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname = kind, len(data), "d/f" if kind != tarfile.REGTYPE else ""
            if form == tarfile.PAX_FORMAT:
                info.pax_headers = {"mtime": "1700000000.5", "SCHILY.xattr.user.a": "b"}
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def check(data: bytes) -> None:
    with opened_tarball(io.BytesIO(data)) as stream:
        reader = TarballReader(
            stream,
            RecordingTransaction(),  # type: ignore[arg-type]  # the two methods that are used
            CountingPipeline(),  # type: ignore[arg-type]
            to=SUBTREE,
            with_xattrs=True,
        )
        reader.run()


if __name__ == "__main__":
    main(
        "fuzz_tarball",
        seeds,
        check,
        allowed=(DocumentError, UsageError, StorageError),
        tokens=[b"ustar\0", b"../", b"0000000", b"path=", b"mtime=", b"size=", b"\xff" * 8, b"\x80" + bytes(7)],
    )
