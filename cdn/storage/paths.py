"""Which paths a store has: the names of a repository's layout and no others (spec §1).

Every store checks every path, so nothing a stranger wrote (``..``, an absolute path, a NUL) can reach a file outside
it.
"""

from __future__ import annotations

import re
from typing import Final

from cdn.errors import UsageError

_NAME: Final = r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}"
_OBJECT: Final = r"data/[0-9a-f]{2}/[0-9a-f]{38}(?:-[a-z0-9]{1,16})?[A-Z]?"
_PATH: Final = re.compile(rf"{_OBJECT}|\.cvmfs[A-Za-z0-9._-]{{0,200}}|info/v1/{_NAME}\.json|stats/{_NAME}", re.ASCII)
_PREFIX: Final = re.compile(r"(?:data/(?:[0-9a-f]{2}/)?)?", re.ASCII)

SHARDS: Final = tuple(f"{number:02x}" for number in range(256))
"""The names of the 256 folders that objects are spread over."""


def is_store_path(path: str) -> bool:
    """Whether a store can hold this path: an object, a ``.cvmfs`` document, or a file in ``info/v1/`` or ``stats/``."""
    return _PATH.fullmatch(path) is not None


def checked_path(path: str) -> str:
    """The path itself.

    Raises:
        UsageError: no store has such a path.
    """
    if _PATH.fullmatch(path) is None:
        raise UsageError(f"{path[:200]!r} is not a path in a repository's storage")
    return path


def checked_prefix(prefix: str) -> str:
    """The prefix itself: ``data/``, ``data/ab/``, or nothing for the whole store.

    Raises:
        UsageError: it is something else.
    """
    if _PREFIX.fullmatch(prefix) is None:
        raise UsageError(f"{prefix[:200]!r} is not a folder of a repository's storage: use 'data/' or 'data/ab/'")
    return prefix
