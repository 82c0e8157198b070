"""What a file of a source folder is as an entry of the repository, and when two entries say the same of it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from cdn.catalog.entries import XATTR_BYTES_MAX, XATTR_COUNT_MAX, Entry, decode_name, encode_name
from cdn.compression import Compression

if TYPE_CHECKING:
    from stratum0.content import StoredContent

_NOT_PUBLISHED_XATTRS: Final = frozenset({"security.selinux", "security.ima", "security.evm"})
_NANO: Final = 1_000_000_000
_DIRECTORY_SIZE: Final = 4096


class SourceEntries:
    """Makes entries of what is in source folders.

    Args:
        with_xattrs: whether extended attributes are published.
        warn: is told, in a sentence, what was left out.
    """

    def __init__(self, *, with_xattrs: bool, warn: Callable[[str], None]) -> None:
        self._with_xattrs = with_xattrs
        self._warn = warn

    def entry(
        self,
        name: str,
        file: bytes,
        status: os.stat_result,
        content: StoredContent | None = None,
        group: int = 0,
        link_count: int = 1,
    ) -> Entry:
        """The entry of a file as it would be published.

        Args:
            name: what it is called in the repository.
            file: where it is.
            status: what was seen of it.
            content: what is stored of a regular file.
            group, link_count: of hard links in its folder.
        """
        mode = status.st_mode
        target = decode_name(os.readlink(file)) if stat.S_ISLNK(mode) else ""
        fields = content.entry_fields if content is not None else _fields_without_content(status, target)
        return Entry(
            name=name,
            mode=mode,
            mtime=status.st_mtime_ns // _NANO,
            mtime_ns=status.st_mtime_ns % _NANO,
            uid=status.st_uid,
            gid=status.st_gid,
            symlink=target,
            hardlink_group=group,
            link_count=link_count,
            xattrs=self._xattrs(file) if self._with_xattrs else (),
            **fields,
        )

    def _xattrs(self, file: bytes) -> tuple[tuple[bytes, bytes], ...]:
        """The extended attributes that the format can hold, in key order."""
        found: list[tuple[bytes, bytes]] = []
        for key in os.listxattr(file, follow_symlinks=False):
            if key in _NOT_PUBLISHED_XATTRS:
                continue
            raw = os.fsencode(key)
            value = os.getxattr(file, key, follow_symlinks=False)
            if len(raw) > XATTR_BYTES_MAX or len(value) > XATTR_BYTES_MAX or len(found) >= XATTR_COUNT_MAX:
                self._warn(
                    f"the extended attribute {key} of {decode_name(file)} is left out: the format cannot hold it"
                )
                continue
            found.append((raw, value))
        return tuple(sorted(found))


def says_the_same(one: Entry, other: Entry) -> bool:
    """Whether two entries are equal in all that is the source's to say.

    That is not: the roles of catalogs, the numbers of groups of hard links, link counts of directories, plain digests.
    """
    return _comparable(one) == _comparable(other)


def _comparable(entry: Entry) -> Entry:
    size = entry.size
    if entry.is_directory:
        size = _DIRECTORY_SIZE
    elif entry.is_symlink:
        size = len(encode_name(entry.symlink))
    return replace(
        entry,
        size=size,
        hardlink_group=0,
        link_count=1 if entry.is_directory else entry.link_count,
        plain_digest=None,
        chunks=tuple(replace(chunk, plain_digest=None) for chunk in entry.chunks),
        is_chunked=bool(entry.chunks),
        compression=entry.compression if entry.is_file else Compression.ZLIB,
        is_nested_mountpoint=False,
        is_nested_root=False,
    )


def _fields_without_content(status: os.stat_result, target: str) -> dict[str, Any]:
    """Size and device of what is no regular file."""
    if stat.S_ISDIR(status.st_mode):
        return {"size": _DIRECTORY_SIZE}
    if stat.S_ISLNK(status.st_mode):
        return {"size": len(encode_name(target))}
    return {"device": status.st_rdev}
