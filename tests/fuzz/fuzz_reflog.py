"""Reflogs: pages, schema and rows of a stranger's database."""

from __future__ import annotations

import tempfile
from pathlib import Path

from cdn.hashing import Algorithm, digest_of
from cdn.objects import Kind, ObjectName
from cdn.reflog import Reflog
from tests.fuzz.driver import main

_KINDS = (Kind.CATALOG, Kind.CERTIFICATE, Kind.HISTORY, Kind.METAINFO)
_FOLDER = "/dev/shm" if Path("/dev/shm").is_dir() else None  # many small files: in memory where that is possible


def seeds() -> list[bytes]:
    contents = []
    for count in (0, 4, 300):
        names = [ObjectName(digest_of(Algorithm.SHA1, b"%d" % i), _KINDS[i % 4]) for i in range(count)]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "reflog")
            Reflog("sw.example.org").with_objects(names, 1000).write(path)
            contents.append(path.read_bytes())
    return contents


def check(data: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir=_FOLDER) as file:
        file.write(data)
        file.flush()
        reflog = Reflog.read(file.name)
    assert all(entry.name in reflog for entry in reflog.entries)


if __name__ == "__main__":
    main(
        "fuzz_reflog",
        seeds,
        check,
        tokens=[b"CREATE TABLE refs (", b"CREATE INDEX i ON refs (", b"\x05\0\0\0", b"\x0d\0\0\0"],
    )
