"""Symlink targets: whatever they say, resolving ends inside the repository or with a documented error."""

from __future__ import annotations

import asyncio

from cdn.catalog.entries import decode_name
from cdn.client.resolver import Resolver
from cdn.errors import PathKindError, PathMissingError, SymlinkLoopError
from tests.fakes.catalogs import directory_entry, file_entry, symlink_entry
from tests.fuzz.driver import main

TREE = {"": directory_entry(), "/d": directory_entry(), "/d/file": file_entry(), "/back": symlink_entry("link")}


def seeds() -> list[bytes]:
    """Targets as people write them, and as they do not."""
    return [b"d/file", b"/cvmfs/sw.example.org/d", b"$(A:-d)/file", b"../..", b"back", b"$(", b"d/../d/./file/", b""]


def check(data: bytes) -> None:
    """A link with this target leads to an entry that exists, or to an error."""
    tree = TREE | {"/link": symlink_entry(decode_name(data))}

    async def find(path: str) -> object:
        return tree.get(path)

    resolver = Resolver(find, "sw.example.org", {"A": "d", "B": decode_name(data)})  # type: ignore[arg-type]
    found = asyncio.run(resolver.resolve("/link"))
    assert tree[found.path] is found.entry
    assert not found.entry.is_symlink


if __name__ == "__main__":
    main(
        "fuzz_resolver",
        seeds,
        check,
        allowed=(PathKindError, PathMissingError, SymlinkLoopError),
        tokens=(b"$(", b":-", b")", b"/", b"..", b"A", b"B", b"/cvmfs/sw.example.org"),
    )
