"""Repositories made by CernVM-FS, read through our client: every path of every revision as its listing says."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdn.catalog.entries import Entry, encode_name
from cdn.client.config import ClientSettings
from cdn.client.filesystem import FileSystem
from cdn.client.pins import Pin
from cdn.client.repository import open_repository
from cdn.clock import ManualClock

pytestmark = pytest.mark.vectors

REPOSITORIES = {"sha1": "test.local.org", "shake128": "shake.local.org"}
KINDS = {"f": stat.S_IFREG, "d": stat.S_IFDIR, "l": stat.S_IFLNK, "p": stat.S_IFIFO, "c": stat.S_IFCHR}
NOW = 1_795_500_000.0
"""Some hours after they were published."""


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def listing(path: Path) -> Iterator[dict]:
    with path.open(encoding="ascii") as file:
        yield from map(json.loads, file)


def unescaped(text: str) -> bytes:
    return re.sub(rb"%([0-9A-Fa-f]{2})", lambda match: bytes([int(match[1], 16)]), text.encode("ascii"))


async def described(files: FileSystem, path: str, entry: Entry) -> dict[str, object]:
    """An entry in the words of the listing."""
    found: dict[str, object] = {
        "path": encode_name(path) or b"/",
        "type": next(letter for letter, kind in KINDS.items() if kind == stat.S_IFMT(entry.mode)),
        "mode": f"{stat.S_IMODE(entry.mode):04o}",
        "mtime": entry.mtime,
        "mtime_ns": entry.mtime_ns,
        "uid": entry.uid,
        "gid": entry.gid,
    }
    if entry.is_file:
        content = await files.read(path)
        found |= {"size": len(content), "nlink": entry.link_count, "sha256": hashlib.sha256(content).hexdigest()}
        assert len(content) == entry.size
    if entry.is_symlink:
        found["target"] = encode_name(files.target_of(entry))
        if encode_name(entry.symlink) != found["target"] or "$(" in entry.symlink:
            found["target_raw"] = encode_name(entry.symlink)
    if entry.device:
        found["rdev"] = f"{os.major(entry.device)}:{os.minor(entry.device)}"
    if entry.xattrs:
        found["xattr_hex"] = {key.decode(): value.hex() for key, value in entry.xattrs}
    return found


def wanted(row: dict) -> dict[str, object]:
    changed = {key: unescaped(row[key]) for key in ("path", "target", "target_raw") if key in row}
    return {**row, **changed}


@pytest.mark.parametrize("tag", ["v1", "v2", "v3", "v4", "v5"])
@pytest.mark.parametrize("which", REPOSITORIES)
async def test_every_path_is_as_the_listing_says(vectors, cache, which, tag):
    fqrn = REPOSITORIES[which]
    rows = {row["path"]: row for row in map(wanted, listing(vectors / which / f"manifest-{tag}.jsonl"))}
    async with await open_repository(
        fqrn,
        servers=str(vectors / which / "repo"),
        keys=[vectors / which / f"{fqrn}.pub"],
        pin=Pin(tag=tag),
        settings=ClientSettings(cache=cache),
        variables={"PEER_ARCH": "x86_64"},
        clock=ManualClock(NOW),
    ) as repository:
        found = [await described(repository.files, path, entry) async for path, entry in repository.files.walk()]
    assert len(found) == len(rows)
    for entry in found:
        assert entry == rows[entry["path"]]


@pytest.mark.parametrize("which", REPOSITORIES)
async def test_the_newest_revision_is_that_of_the_last_tag(vectors, which):
    fqrn = REPOSITORIES[which]
    async with await open_repository(
        fqrn,
        servers=str(vectors / which / "repo"),
        keys=[vectors / which / f"{fqrn}.pub"],
        clock=ManualClock(NOW),
    ) as repository:
        history = await repository.history()
        assert repository.revision == 6 == history.tag("v5").revision
        assert (await repository.files.resolve("/links/../software/current")).path == "/software/2.0"
