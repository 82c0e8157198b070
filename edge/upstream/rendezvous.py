"""Who among equals keeps what: rendezvous hashing, also known as highest random weight. Pure.

Each member draws a number for each name, always the same one, and the highest has it. All who know the same members
agree without talking; when one is gone, the others keep what they had and share what was its; and a member of twice the
weight has twice as much.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

_DRAW_BITS: Final = 52
"""Few enough that no draw is rounded up to one."""


@dataclass(frozen=True, slots=True)
class Member:
    """One of the equals.

    Args:
        name: the same for all who ask.
        weight: how much it takes, compared with the others.
    """

    name: str
    weight: float = 1.0


def owner(name: str, members: Iterable[Member]) -> Member:
    """The member that has what is called so.

    Raises:
        ValueError: there is no member.
    """
    return max(members, key=lambda member: (_draw(name, member), member.name))


def _draw(name: str, member: Member) -> float:
    drawn = int.from_bytes(blake2b(f"{member.name}\0{name}".encode(), digest_size=8).digest()) >> (64 - _DRAW_BITS)
    return -member.weight / math.log((drawn + 0.5) / 2.0**_DRAW_BITS)
