"""When a peer counts as too slow: a rule over bytes and waiting times, without a clock of its own."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SpeedLimit:
    """The least a peer must send.

    Args:
        bytes_per_second: the average below which it is too slow; 0 for no such limit.
        window_seconds: over how much waiting the average is taken.
    """

    bytes_per_second: int = 1024
    window_seconds: float = 10.0


class SpeedGauge:
    """Watches one transfer.

    Only the time spent waiting for the peer counts. A reader that is itself slow to take what has arrived must not make
    the peer look slow.
    """

    __slots__ = ("_bytes", "_limit", "_waited")

    def __init__(self, limit: SpeedLimit) -> None:
        self._limit = limit
        self._bytes = 0
        self._waited = 0.0

    def is_too_slow(self, size: int, waited_seconds: float) -> bool:
        """Takes one piece, and says whether the window it completes was too slow."""
        self._bytes += size
        self._waited += waited_seconds
        if self._waited < self._limit.window_seconds:
            return False
        too_slow = self._bytes < self._limit.bytes_per_second * self._waited
        self._bytes = 0
        self._waited = 0.0
        return too_slow
