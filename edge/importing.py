"""What an edge needs only once it answers, imported when it does: a hit then waits for nothing that it does not use."""

from __future__ import annotations

from importlib import import_module
from typing import Final

THE_REST: Final = (
    "aiohttp.web",
    "cdn.certificate",
    "cdn.signing",
    "cdn.whitelist",
    "edge.documents.revision_objects",
    "edge.metrics",
)
"""Modules that are imported inside functions, for operators, signed documents and requests that are not plain."""


def import_the_rest() -> None:
    """Imports them, so that none is waited for in the middle of a request; called in a thread."""
    for name in THE_REST:
        import_module(name)
