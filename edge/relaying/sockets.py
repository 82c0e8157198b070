"""Where the workers of one edge listen for one another: sockets in the cache directory."""

from __future__ import annotations

from pathlib import Path

from edge.cache.shards import Share
from edge.connection.listeners import is_answered


def socket_path(directory: Path, share: Share, index: int) -> str:
    """Where one of the workers listens for the others.

    Args:
        directory: the cache.
        share: which worker asks.
        index: of the worker that is asked.
    """
    return str(directory / f"worker{index}-{share.generation}.sock")


def clear_sockets(directory: Path) -> None:
    """Removes the sockets on which nobody listens any more, since a whole edge was killed."""
    for path in directory.glob("worker*.sock"):
        if not is_answered(path):
            path.unlink(missing_ok=True)
