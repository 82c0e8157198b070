"""Running an asynchronous program on the fastest event loop there is."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    """What the program returns."""
    try:
        import uvloop
    except ImportError:  # slower, but the same
        return asyncio.run(work)
    return uvloop.run(work)
