"""A client's request that waits without a task of its own."""

from __future__ import annotations

import time

from edge.connection.shared import Awaited
from edge.http.request import Request


class Waiting:
    """A request that waits without a task, in the place of one.

    Args:
        request: what was asked.
        awaited: what comes.
    """

    __slots__ = ("awaited", "began_at", "is_over", "request")

    def __init__(self, request: Request, awaited: Awaited) -> None:
        self.request = request
        self.awaited = awaited
        self.began_at = time.perf_counter()
        self.is_over = False

    def cancel(self) -> None:
        """Waits no more."""
        self.is_over = True
        self.awaited.leave()
