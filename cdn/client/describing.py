"""An entry for people and programs: one line as `ls -l` has it, a JSON object, a list of everything known. Pure."""

from __future__ import annotations

import stat
from datetime import UTC, datetime
from typing import Final

from cdn.catalog.entries import Entry
from cdn.reporting import size_text

_TYPES: Final = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
}
_SECONDS_MAX: Final = 253_402_300_799  # the year 9999
_SECONDS_MIN: Final = -62_135_596_800  # the year 1


def kind_of(entry: Entry) -> str:
    """What an entry is, in a word or two."""
    return _TYPES.get(stat.S_IFMT(entry.mode), "unknown")


def time_text(seconds: int) -> str:
    """A time for people, in UTC."""
    if not _SECONDS_MIN <= seconds <= _SECONDS_MAX:
        return str(seconds)
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")


def long_line(entry: Entry, name: str, target: str, *, human: bool = False) -> str:
    """A line like those of ``ls -l``.

    Args:
        entry: of the path.
        name: what to call it.
        target: of a symlink, its variables replaced.
        human: whether sizes have units.
    """
    if entry.device:
        size = f"{entry.device >> 8 & 0xFFF}, {entry.device & 0xFF | entry.device >> 12 & 0xFFF00}"
    else:
        size = size_text(entry.size) if human else str(entry.size)
    arrow = f" -> {target}" if entry.is_symlink else ""
    return (
        f"{stat.filemode(entry.mode)} {entry.link_count:>4} {entry.uid:>5} {entry.gid:>5} {size:>12} "
        f"{time_text(entry.mtime)} {name}{arrow}"
    )


def entry_document(path: str, entry: Entry, target: str = "") -> dict[str, object]:
    """A JSON object for one path.

    Bytes of names that are no UTF-8 are written as lone surrogates, as Python and many other readers take them.
    """
    document: dict[str, object] = {
        "path": path or "/",
        "type": kind_of(entry),
        "mode": f"{stat.S_IMODE(entry.mode):04o}",
        "size_bytes": entry.size,
        "mtime": entry.mtime,
        "mtime_ns": entry.mtime_ns,
        "uid": entry.uid,
        "gid": entry.gid,
        "links": entry.link_count,
    }
    if entry.is_symlink:
        document |= {"target": target, "target_raw": entry.symlink}
    if entry.device:
        document["device"] = entry.device
    return document


def full_document(path: str, entry: Entry, target: str = "") -> dict[str, object]:
    """Everything known about one path."""
    document = entry_document(path, entry, target)
    if entry.is_file:
        document |= {
            "digest": entry.digest.text if entry.digest is not None else None,
            "sha256": entry.plain_digest.hex() if entry.plain_digest is not None else None,
            "compression": entry.compression.option,
            "is_external": entry.is_external,
            "chunks": [
                {"offset": chunk.offset, "size_bytes": chunk.size, "digest": chunk.digest.text}
                for chunk in entry.chunks
            ],
        }
    if entry.is_directory:
        document |= {"is_nested_catalog": entry.is_nested_mountpoint, "is_bind_mountpoint": entry.is_bind_mountpoint}
    document["is_hidden"] = entry.is_hidden
    document["xattrs"] = {key.decode("utf-8", "backslashreplace"): value.hex() for key, value in entry.xattrs}
    return document
