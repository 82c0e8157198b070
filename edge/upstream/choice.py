"""Which of several equal servers is asked: the power of two choices. Pure.

Two of them are drawn, and the one whose answers cost less is likely taken: its latency, times the requests that wait
for it already. Likely and not always: a server twice as costly gets a fifth of the draws, one ten times as costly a
hundredth. So a server that becomes slower loses traffic as it does, there is no point at which all of it moves at once,
and a slow one is asked often enough to learn that it has become fast.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from edge.upstream.health import ServerHealth

T = TypeVar("T")

PROBING_SHARE: Final = 0.02
"""Of the draws of two, how many the costlier one wins at least."""


def preference(first: ServerHealth, second: ServerHealth) -> float:
    """How likely the first of two servers is taken, from `PROBING_SHARE` up."""
    one, other = first.latency.seconds, second.latency.seconds
    if one is None or other is None:  # nothing is known of one: they count as equally fast
        one = other = 1.0
    cost, other_cost = one * (first.in_flight + 1), other * (second.in_flight + 1)
    likely = other_cost**2 / (cost**2 + other_cost**2)
    return min(max(likely, PROBING_SHARE), 1.0 - PROBING_SHARE)


def in_turn(candidates: Sequence[T], health: Callable[[T], ServerHealth], chance: Callable[[], float]) -> list[T]:
    """The candidates in the order to ask them, drawn two by two."""
    left, order = list(candidates), []
    while len(left) > 1:
        first = left.pop(int(chance() * len(left)))
        place = int(chance() * len(left))
        second = left[place]
        if chance() >= preference(health(first), health(second)):
            left[place], first = first, second
        order.append(first)
    return order + left
