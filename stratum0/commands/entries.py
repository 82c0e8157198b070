"""Entries of the tree as commands show them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cdn.reporting import size_text

if TYPE_CHECKING:
    from cdn.catalog.entries import Entry


def entry_document(entry: Entry) -> dict[str, object]:
    """An entry for ``--json``."""
    return {
        "type": type_of(entry),
        "mode": f"{entry.mode & 0o7777:04o}",
        "uid": entry.uid,
        "gid": entry.gid,
        "size": entry.size,
        "mtime": entry.mtime,
        "mtime_ns": entry.mtime_ns,
        "digest": entry.digest.text if entry.digest is not None else None,
        "chunks": len(entry.chunks),
        "symlink": entry.symlink or None,
    }


def type_of(entry: Entry) -> str:
    """What kind of entry it is, in a word."""
    if entry.is_directory:
        return "directory"
    if entry.is_symlink:
        return "symlink"
    return "file" if entry.is_file else "special"


def difference_text(before: Entry | None, after: Entry | None) -> str:
    """What is worth a word of the difference between two entries of one path."""
    if before is None or after is None:
        entry = after or before
        assert entry is not None
        return size_text(entry.size) if entry.is_file else f"-> {entry.symlink}" if entry.is_symlink else ""
    if type_of(before) != type_of(after):
        return f"{type_of(before)} -> {type_of(after)}"
    said = []
    if before.size != after.size and after.is_file:
        said.append(f"{size_text(before.size)} -> {size_text(after.size)}")
    elif before.digest != after.digest or before.chunks != after.chunks:
        said.append("content")
    if before.symlink != after.symlink:
        said.append(f"-> {after.symlink}")
    if before.mode != after.mode:
        said.append(f"mode {before.mode & 0o7777:04o} -> {after.mode & 0o7777:04o}")
    if (before.uid, before.gid) != (after.uid, after.gid):
        said.append(f"owner {before.uid}:{before.gid} -> {after.uid}:{after.gid}")
    if before.xattrs != after.xattrs:
        said.append("attributes")
    if not said and (before.mtime, before.mtime_ns) != (after.mtime, after.mtime_ns):
        said.append("time")
    return ", ".join(said)
