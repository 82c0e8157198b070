"""How much each address takes of several workers together, in memory that they share.

The memory is a table of buckets, each with so many slots. An address has one slot in the bucket that its name says; the
name is a hash with a salt, so that strangers cannot choose buckets. A slot holds what the address may still ask, and
how many connections it has at each worker. A worker that is gone left nothing but its own numbers, which whoever
notices that takes out.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

NAME_BYTES: Final = 16
SLOTS: Final = 16
"""In a bucket."""
_NOBODY: Final = bytes(NAME_BYTES)
_SLOTS_MIN: Final = 1 << 16
_ROOM: Final = 4
"""How many slots there are for each connection, so that no bucket is ever full of addresses with connections."""


@dataclass(frozen=True, slots=True)
class TableShape:
    """How large a table is.

    Args:
        workers: how many count in it.
        buckets: how many buckets it has, a power of two.
    """

    workers: int
    buckets: int

    @classmethod
    def of(cls, workers: int, connections_max: int) -> TableShape:
        """The shape for so many workers and connections in all."""
        slots = max(_SLOTS_MIN, _ROOM * connections_max)
        return cls(workers, 1 << (-(-slots // SLOTS) - 1).bit_length())

    @property
    def slot_bytes(self) -> int:
        """Size of what a slot holds besides its name."""
        return 16 + 4 * self.workers

    @property
    def bucket_bytes(self) -> int:
        """Size of a bucket: first all names, then what the slots hold."""
        return SLOTS * (NAME_BYTES + self.slot_bytes)

    @property
    def bytes(self) -> int:
        """Size of the whole."""
        return self.buckets * self.bucket_bytes


@dataclass(frozen=True, slots=True)
class Slot:
    """Where an address is counted.

    Args:
        bucket: number of the bucket.
        place: where in the memory the slot begins.
    """

    bucket: int
    place: int


class ClientTable:
    """The table, as one worker uses it.

    Args:
        memory: what the workers share, at first all zero.
        shape: of the table.
        index: of this worker.
        salt: what all workers hash with, and nobody else knows.
        hold: keeps all others from one bucket while a block runs.
    """

    def __init__(
        self,
        memory: bytearray,
        shape: TableShape,
        index: int,
        salt: bytes,
        hold: Callable[[int], AbstractContextManager[None]],
    ) -> None:
        self._memory = memory
        self._shape = shape
        self.salt = salt
        """What all workers hash with."""
        self._hold = hold
        self._own = 16 + 4 * index
        self._state = struct.Struct(f"<dd{shape.workers}I")

    def enter(self, key: str, connections_max: int, tokens: float, now: float) -> Slot | None:
        """Counts one more connection of an address here; None if it has as many as it may, or there is no room.

        Args:
            key: the address.
            connections_max: how many it may have at all workers; 0 for any number.
            tokens: how many requests it may make if nothing is known of it.
            now: on a clock that all workers share.
        """
        name = hashlib.blake2b(key.encode(), digest_size=NAME_BYTES, key=self.salt).digest()
        bucket = int.from_bytes(name[:4], "little") & (self._shape.buckets - 1)
        with self._hold(bucket):
            place = self._place_of(bucket, name)
            if place is None and (place := self._free_place(bucket, name, tokens, now)) is None:
                return None
            _, _, *connections = self._state.unpack_from(self._memory, place)
            if connections_max and sum(connections) >= connections_max:
                return None
            self._add(place, 1)
        return Slot(bucket, place)

    def leave(self, slot: Slot) -> None:
        """Counts one connection less."""
        with self._hold(slot.bucket):
            self._add(slot.place, -1)

    def take(self, slot: Slot, rate: float, burst: float, now: float) -> float:
        """Counts a request of an address with a connection; how many seconds too early it comes, and 0 if it may."""
        with self._hold(slot.bucket):
            tokens, updated_at = struct.unpack_from("<dd", self._memory, slot.place)
            tokens = min(burst, tokens + max(0.0, now - updated_at) * rate)
            is_early = tokens < 1.0
            struct.pack_into("<dd", self._memory, slot.place, tokens - (not is_early), now)
        return (1.0 - tokens) / rate if is_early else 0.0

    def clear(self, index: int) -> None:
        """Forgets the connections at a worker that is gone."""
        shape, nobody = self._shape, bytes(SLOTS * NAME_BYTES)
        for bucket in range(shape.buckets):
            start = bucket * shape.bucket_bytes
            if self._memory[start : start + len(nobody)] == nobody:
                continue
            with self._hold(bucket):
                for number in range(SLOTS):
                    place = self._place(bucket, number) + 16 + 4 * index
                    struct.pack_into("<I", self._memory, place, 0)

    # ------------------------------------------------------------------------------------------------ places

    def _add(self, place: int, number: int) -> None:
        (own,) = struct.unpack_from("<I", self._memory, place + self._own)
        struct.pack_into("<I", self._memory, place + self._own, max(0, own + number))

    def _place(self, bucket: int, number: int) -> int:
        return bucket * self._shape.bucket_bytes + SLOTS * NAME_BYTES + number * self._shape.slot_bytes

    def _place_of(self, bucket: int, name: bytes) -> int | None:
        start = bucket * self._shape.bucket_bytes
        names = bytes(self._memory[start : start + SLOTS * NAME_BYTES])
        at = names.find(name)
        while at >= 0 and at % NAME_BYTES:
            at = names.find(name, at + 1)
        return None if at < 0 else self._place(bucket, at // NAME_BYTES)

    def _free_place(self, bucket: int, name: bytes, tokens: float, now: float) -> int | None:
        """Takes an empty slot, or that of the address without connections that has asked nothing for longest."""
        place, number, oldest = self._place_of(bucket, _NOBODY), None, 0.0
        if place is not None:
            number = (place - self._place(bucket, 0)) // self._shape.slot_bytes
        else:
            for each in range(SLOTS):
                _, updated_at, *connections = self._state.unpack_from(self._memory, self._place(bucket, each))
                if not any(connections) and (number is None or updated_at < oldest):
                    number, oldest = each, updated_at
        if number is None:
            return None
        place = self._place(bucket, number)
        self._state.pack_into(self._memory, place, tokens, now, *([0] * self._shape.workers))
        start = bucket * self._shape.bucket_bytes + number * NAME_BYTES
        self._memory[start : start + NAME_BYTES] = name
        return place
