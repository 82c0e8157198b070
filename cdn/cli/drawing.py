"""Drawing a directory and what is below it as a tree."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cdn.reporting import Listing

if TYPE_CHECKING:
    from cdn.catalog.entries import Entry
    from cdn.client.filesystem import FileSystem


async def draw(
    files: FileSystem,
    path: str,
    depth_max: int | None,
    is_shown: Callable[[Entry], bool],
    listing: Listing,
    drawn: dict[str, int],
) -> None:
    """Draws what is in a directory; of each one entry is read ahead, to know which is the last.

    Args:
        files: where it is.
        path: of the directory.
        depth_max: how many levels are drawn; None for all.
        is_shown: which entries are.
        listing: gets the lines.
        drawn: counts directories and files.
    """
    pending = [await _Branch.of(files, path, "", is_shown)]
    while pending:
        branch = pending[-1]
        entry = branch.waiting
        if entry is None:
            pending.pop()
            continue
        branch.waiting = await _next_shown(branch.entries, is_shown)
        is_last = branch.waiting is None
        target = f" -> {files.target_of(entry)}" if entry.is_symlink else ""
        below = f"{branch.path}/{entry.name}"
        drawn["directories" if entry.is_directory else "files"] += 1
        line = f"{branch.indent}{'└── ' if is_last else '├── '}{entry.name}{target}"
        listing.add({"path": below, "depth": below.count("/")}, line)
        if entry.is_directory and not entry.is_bind_mountpoint and len(pending) != depth_max:
            indent = branch.indent + ("    " if is_last else "│   ")
            pending.append(await _Branch.of(files, below, indent, is_shown))


@dataclass(slots=True)
class _Branch:
    """A directory being drawn: the entry that is next, and where the others come from."""

    path: str
    indent: str
    entries: AsyncIterator[Entry]
    waiting: Entry | None

    @classmethod
    async def of(cls, files: FileSystem, path: str, indent: str, is_shown: Callable[[Entry], bool]) -> _Branch:
        entries = files.listdir(path)
        return cls(path, indent, entries, await _next_shown(entries, is_shown))


async def _next_shown(entries: AsyncIterator[Entry], is_shown: Callable[[Entry], bool]) -> Entry | None:
    async for entry in entries:
        if is_shown(entry):
            return entry
    return None
