"""Histories: pages, schema and rows of a stranger's database."""

from __future__ import annotations

import tempfile
from pathlib import Path

from cdn.hashing import Algorithm, digest_of
from cdn.history import Branch, History, Tag
from tests.fuzz.driver import main


def seeds() -> list[bytes]:
    root = digest_of(Algorithm.SHAKE128, b"root")
    small = History("sw.example.org", (Tag("v1", root, 1, 1000, "first", 4096),), previous=root)
    large = History(
        "sw.example.org",
        tuple(Tag(f"v{i}", root, i, i, "x" * (7 * i % 300), 4096) for i in range(300)),
        (Branch("", None, 0), Branch("dev", "", 7)),
    )
    long = History("sw.example.org", (Tag("v1", root, 1, 1000, "y" * 20_000, 4096),))
    with tempfile.TemporaryDirectory() as folder:
        contents = []
        for number, history in enumerate((small, large, long)):
            path = Path(folder, str(number))
            history.write(path)
            contents.append(path.read_bytes())
    return contents


def check(data: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir=_FOLDER) as file:
        file.write(data)
        file.flush()
        history = History.read(file.name)
    history.at(1000)


_FOLDER = "/dev/shm" if Path("/dev/shm").is_dir() else None  # many small files: in memory where that is possible
TOKENS = [
    b"SQLite format 3\0",
    b"CREATE TABLE tags (",
    b"CREATE VIEW ",
    b" AS (1)",
    b"\x05\0\0\0",
    b"\x0d\0\0\0",
    b"\x02\0\0\0",
]

if __name__ == "__main__":
    main("fuzz_history", seeds, check, tokens=TOKENS)
