"""Paths in a repository as catalogs know them: absolute, no slash at the end, the root is empty (spec §5.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cdn.catalog.entries import encode_name
from cdn.errors import DocumentError

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME_BYTES_MAX: Final = 255
"""As Linux file systems have it."""
PATH_BYTES_MAX: Final = 4096
"""As Linux has it; it is also what keeps a walk through a hostile catalog from getting ever deeper."""


def parent_of(path: str) -> str:
    """The path of the directory that holds this one; of the root, the root."""
    return path[: max(path.rfind("/"), 0)]


def name_of(path: str) -> str:
    """The last component; of the root, the empty string."""
    return path[path.rfind("/") + 1 :]


def is_at_or_below(path: str, top: str) -> bool:
    """Whether `path` is `top` or something inside it."""
    return path.startswith(top) and (len(path) == len(top) or path[len(top)] == "/")


def prefixes(path: str) -> Iterator[str]:
    """The path itself, its parent and so on, down to the root."""
    yield path
    while path:
        path = parent_of(path)
        yield path


def order_key(path: str) -> list[bytes]:
    """What to sort paths by to have parents before children and siblings by the bytes of their names."""
    return encode_name(path).split(b"/")


def is_name(name: str) -> bool:
    """Whether a directory can hold this name: no slash, no NUL, not ``.`` or ``..``, not empty, not too long."""
    if not name or "/" in name or "\0" in name or name in (".", ".."):
        return False
    return len(name) <= NAME_BYTES_MAX // 4 or len(encode_name(name)) <= NAME_BYTES_MAX


def is_path(path: str) -> bool:
    """Whether this is a path, the root included."""
    if not path:
        return True
    return path[0] == "/" and len(encode_name(path)) <= PATH_BYTES_MAX and all(map(is_name, path[1:].split("/")))


def check_path(path: str, document: str) -> str:
    """The path, if it is one.

    Raises:
        DocumentError: it is not, so that following it could lead anywhere.
    """
    if not is_path(path):
        raise DocumentError(document, f"{path[:200]!r} is no path within a repository")
    return path


def moved(path: str, origin: str, destination: str) -> str:
    """Where something at `path` is after what lies at `origin` has been put at `destination`.

    This is what bind mountpoints need: paths of a catalog mounted elsewhere than its root prefix (spec §5.4, §5.9).

    Raises:
        ValueError: `path` is not at or below `origin`.
    """
    if not is_at_or_below(path, origin):
        raise ValueError(f"{path!r} is not below {origin!r}")
    return destination + path[len(origin) :]
