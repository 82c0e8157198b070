"""Who accepts connections for a worker that is gone, so that none waits until it is replaced."""

from __future__ import annotations

from collections.abc import Collection


def stand_ins(ready: Collection[int], count: int) -> dict[int, tuple[int, ...]]:
    """For each worker that is ready, for which others it accepts: those that are gone just before it.

    Args:
        ready: the workers that answer requests.
        count: how many workers there should be, from 0.
    """
    tasks: dict[int, list[int]] = {index: [] for index in sorted(ready)}
    for gone in sorted(set(range(count)) - set(ready)) if tasks else ():
        following = (index % count for index in range(gone + 1, gone + count))
        tasks[next(index for index in following if index in tasks)].append(gone)
    return {index: tuple(others) for index, others in tasks.items()}
