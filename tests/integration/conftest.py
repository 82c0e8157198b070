"""Servers run on uvloop where there is one and on asyncio elsewhere; what promises to work on both is tried on both."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest

try:
    import uvloop
except ImportError:  # asyncio alone, then
    uvloop = None  # type: ignore[assignment]

_ON_BOTH = ("test_edge_serving", "test_edge_fetching", "test_edge_sites")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    if uvloop is not None and item.path.stem in _ON_BOTH:
        return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}
