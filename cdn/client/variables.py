"""Symlinks that differ from client to client: ``$(VAR)`` and ``$(VAR:-default)`` in targets (spec §5.11)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_OPEN: Final = "$("
_CLOSE: Final = ")"
_DEFAULT: Final = ":-"


def expand(target: str, variables: Mapping[str, str]) -> str:
    """The target with its variables replaced.

    A variable that is not set has its default, or else nothing; a set but empty one is empty. What is not closed stays
    as it is.

    Args:
        target: as the catalog has it.
        variables: by name.
    """
    parts: list[str] = []
    position = 0
    while (start := target.find(_OPEN, position)) >= 0:
        end = target.find(_CLOSE, start + len(_OPEN))
        if end < 0:
            break
        name, _, default = target[start + len(_OPEN) : end].partition(_DEFAULT)
        parts += (target[position:start], variables.get(name, default))
        position = end + 1
    parts.append(target[position:])
    return "".join(parts)
