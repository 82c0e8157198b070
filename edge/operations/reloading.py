"""Reading again what an edge is told, while it runs."""

from __future__ import annotations

import asyncio
from pathlib import Path

from cdn.errors import CdnError
from cdn.telemetry import event
from edge.config import EdgeConfig, load


async def read_again(path: Path) -> EdgeConfig | None:
    """The configuration as it is now; None if there is a mistake in it, which is told: the edge goes on as before."""
    try:
        return await asyncio.to_thread(load, path)
    except CdnError as error:
        event("edge.reload.refused", level="error", reason=str(error))
        return None
