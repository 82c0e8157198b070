"""How many different clients there were, in 4 KiB however many they are (HyperLogLog)."""

from __future__ import annotations

import hashlib
import math
import os
from typing import Final

_INDEX_BITS: Final = 12
_REGISTERS: Final = 1 << _INDEX_BITS
_ALPHA: Final = 0.7213 / (1 + 1.079 / _REGISTERS)
WINDOW_SECONDS: Final = 3600.0


class DistinctCounter:
    """Estimates how many different texts were added; off by 1.6 % as a rule.

    Args:
        salt: makes what strangers choose hash in ways they do not know.
    """

    def __init__(self, salt: bytes) -> None:
        self._salt = salt
        self._registers = bytearray(_REGISTERS)

    def add(self, text: str) -> None:
        """Counts a text."""
        data = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8, key=self._salt).digest()
        value = int.from_bytes(data, "big")
        index, rest = value >> (64 - _INDEX_BITS), value & ((1 << (64 - _INDEX_BITS)) - 1)
        rank = 64 - _INDEX_BITS - rest.bit_length() + 1
        self._registers[index] = max(self._registers[index], rank)

    @property
    def estimate(self) -> int:
        """About how many different ones there were."""
        raw = _ALPHA * _REGISTERS * _REGISTERS / sum(2.0**-rank for rank in self._registers)
        empty = self._registers.count(0)
        if raw <= 2.5 * _REGISTERS and empty:
            return round(_REGISTERS * math.log(_REGISTERS / empty))
        return round(raw)


class ClientCount:
    """How many clients there were in the hour under way, and in the one before."""

    def __init__(self) -> None:
        self._salt = os.urandom(16)
        self._window = -1
        self._now = self._before = DistinctCounter(self._salt)

    def note(self, client: str, now: float) -> None:
        """Takes note of a client, by its address."""
        self._turn(now)
        self._now.add(client)

    def last_hour(self, now: float) -> int:
        """How many there were in the last whole hour, or so far in this one if that are more."""
        self._turn(now)
        return max(self._before.estimate, self._now.estimate)

    def _turn(self, now: float) -> None:
        window = int(now // WINDOW_SECONDS)
        if window != self._window:
            was_just_before = window == self._window + 1
            self._before = self._now if was_just_before else DistinctCounter(self._salt)
            self._now, self._window = DistinctCounter(self._salt), window
