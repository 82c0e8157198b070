"""URLs of what a repository serves: the base URL, a slash, and the path with odd bytes percent-encoded (spec §8.1)."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

_PLAIN: Final = "/:.@+-_~[],"


def url_of(base_url: str, path: str | bytes) -> str:
    """The URL of a path below a base URL.

    Args:
        base_url: of the repository, with or without a slash at its end; used as it is.
        path: relative to it. Bytes that are no UTF-8 come as bytes, or as text decoded with surrogateescape.
    """
    raw = path if isinstance(path, bytes) else path.encode("utf-8", "surrogateescape")
    return f"{base_url.rstrip('/')}/{quote(raw, safe=_PLAIN)}"
