"""Keeping the search for garbage from stopping the edge: what a cache holds is looked at once, not over and over.

Everything here is freed when the last reference to it goes; the search is for cycles only, of which serving makes none.
With 100,000 responses in memory one whole search takes half a second, in which nobody is answered. So what survives one
is not looked at again.
"""

from __future__ import annotations

import gc
from typing import Final

_THRESHOLDS: Final = (5000, 5, 5)


def settle() -> None:
    """Arranges that; once, when a process that serves has started."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
    if _keep_survivors not in gc.callbacks:
        gc.callbacks.append(_keep_survivors)


def _keep_survivors(phase: str, info: dict[str, int]) -> None:
    if phase == "stop" and info["generation"] == 2:
        gc.freeze()
