"""Whether an edge wants new clients, and why not."""

from __future__ import annotations

import os
from pathlib import Path


def why_not_ready(phase: str, cache_directory: Path) -> str:
    """Says what speaks against sending clients to an edge; empty if nothing does.

    Args:
        phase: what it does instead of serving; empty if it serves.
        cache_directory: must be there and writable. Without it every request would go to the upstreams.
    """
    if phase:
        return phase
    if not os.access(cache_directory / "v1", os.R_OK | os.W_OK | os.X_OK):
        return f"the cache {cache_directory} is not there or not writable"
    return ""
