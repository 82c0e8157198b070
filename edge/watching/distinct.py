"""How many different clients there were, in 4 KiB however many they are (HyperLogLog)."""

from __future__ import annotations

import base64
import hashlib
import math
import os
from collections.abc import Mapping
from typing import Final

_INDEX_BITS: Final = 12
_REGISTERS: Final = 1 << _INDEX_BITS
_ALPHA: Final = 0.7213 / (1 + 1.079 / _REGISTERS)
WINDOW_SECONDS: Final = 3600.0
_WINDOWS_MAX: Final = 3


class DistinctCounter:
    """Estimates how many different texts were added; off by 1.6 % as a rule.

    Args:
        salt: makes what strangers choose hash in ways they do not know.
    """

    def __init__(self, salt: bytes) -> None:
        self._salt = salt
        self._registers = bytearray(_REGISTERS)

    @property
    def registers(self) -> bytes:
        """All that it knows."""
        return bytes(self._registers)

    def join(self, registers: bytes) -> None:
        """Counts what another one with the same salt has counted; nothing is counted twice."""
        self._registers = bytearray(map(max, self._registers, registers))

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
    """How many clients there were in the hour under way, and in the one before.

    Args:
        salt: the same for all whose counts are put together.
    """

    def __init__(self, salt: bytes | None = None) -> None:
        self._salt = salt or os.urandom(16)
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

    def said(self, now: float) -> dict[str, str]:
        """All that it knows, for `JointClientCount`: registers by the number of the hour, as text."""
        self._turn(now)
        counters = {self._window: self._now, self._window - 1: self._before}
        return {str(window): base64.b64encode(each.registers).decode() for window, each in counters.items()}


class JointClientCount:
    """How many clients several workers had together, those that are gone included."""

    def __init__(self) -> None:
        self._counters: dict[int, DistinctCounter] = {}

    def __len__(self) -> int:
        return len(self._counters)

    def note(self, said: Mapping[str, str]) -> None:
        """Takes what a worker says; it may say it again."""
        for window, text in said.items():
            self._counters.setdefault(int(window), DistinctCounter(b"")).join(base64.b64decode(text))
        for old in sorted(self._counters)[:-_WINDOWS_MAX]:
            del self._counters[old]

    def last_hour(self, now: float) -> int:
        """How many there were in the last whole hour, or so far in this one if that are more."""
        window = int(now // WINDOW_SECONDS)
        counters = (self._counters.get(each) for each in (window - 1, window))
        return max((each.estimate for each in counters if each is not None), default=0)
