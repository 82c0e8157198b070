"""RIPEMD-160 in plain Python, for machines whose OpenSSL lacks it (Dobbertin, Bosselaers, Preneel 1996).

Some hundreds of times slower than OpenSSL: enough to read a repository that uses it, no way to publish one.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Buffer, Callable  # type: ignore[attr-defined]  # typeshed has it from 3.12 on

_BLOCK_BYTES: Final = 64
_LENGTH_BYTES: Final = 8
_MASK: Final = 0xFFFFFFFF
_START: Final = (0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0)


def _table(digits: str) -> tuple[int, ...]:
    return tuple(int(digit, 16) for digit in digits.replace(" ", ""))


# Five rounds of sixteen steps, in two lines that run beside each other.
_WORDS = (  # which word of the block a step takes
    _table("0123456789abcdef 74d1a6f3c0952eb8 3ae49f812706db5c 19ba08c4d37fe562 40597c2ae138b6fd"),
    _table("5e7092b4d6f81a3c 6b370d5aef8c4912 f5137e69b8c2a04d 86413bf05c2d97ae cfa4158762de039b"),
)
_TURNS = (  # how far it rotates
    _table("befc5879bdef6798 768db97f7cf9b7dc bd67e9dfe8d65c75 bcefef989e56865c 9f5b68dc5cdeb856"),
    _table("899bdff5778beec6 9df7c89b77c76fdb 97fb866ecd5edd75 f58bee6e69c9c5f8 85c9c5e68d65fdbb"),
)
_ADDED = (  # what a round adds
    (0x00000000, 0x5A827999, 0x6ED9EBA1, 0x8F1BBCDC, 0xA953FD4E),
    (0x50A28BE6, 0x5C4DD124, 0x6D703EF3, 0x7A6D76E9, 0x00000000),
)
_FUNCTIONS: Final[tuple[Callable[[int, int, int], int], ...]] = (
    lambda x, y, z: x ^ y ^ z,
    lambda x, y, z: x & y | ~x & z,
    lambda x, y, z: (x | ~y) ^ z,
    lambda x, y, z: x & z | y & ~z,
    lambda x, y, z: x ^ (y | ~z),
)
_STEPS: Final = tuple(  # the right line takes the functions in reverse order
    tuple(
        (_WORDS[side][i], _TURNS[side][i], _FUNCTIONS[i // 16 if side == 0 else 4 - i // 16], _ADDED[side][i // 16])
        for i in range(80)
    )
    for side in range(2)
)


class Ripemd160:
    """Computes a digest piece by piece, as the objects of `hashlib` do."""

    __slots__ = ("_length", "_pending", "_state")

    def __init__(self) -> None:
        self._state: tuple[int, ...] = _START
        self._pending = b""
        self._length = 0

    def update(self, data: Buffer, /) -> None:
        """Takes the next piece."""
        view = memoryview(data).cast("B")
        self._length += len(view)
        if self._pending:
            missing = _BLOCK_BYTES - len(self._pending)
            self._pending += bytes(view[:missing])
            view = view[missing:]
            if len(self._pending) < _BLOCK_BYTES:
                return
            self._state = _compress(self._state, self._pending)
        whole = len(view) - len(view) % _BLOCK_BYTES
        for start in range(0, whole, _BLOCK_BYTES):
            self._state = _compress(self._state, view[start : start + _BLOCK_BYTES])
        self._pending = bytes(view[whole:])

    def digest(self) -> bytes:
        """The 20 bytes for everything taken so far."""
        zeros = -(len(self._pending) + 1 + _LENGTH_BYTES) % _BLOCK_BYTES
        tail = (
            self._pending
            + b"\x80"
            + bytes(zeros)
            + (8 * self._length & (1 << 64) - 1).to_bytes(_LENGTH_BYTES, "little")
        )
        state = self._state
        for start in range(0, len(tail), _BLOCK_BYTES):
            state = _compress(state, tail[start : start + _BLOCK_BYTES])
        return struct.pack("<5I", *state)


def _compress(state: tuple[int, ...], block: Buffer) -> tuple[int, ...]:
    words = struct.unpack("<16I", block)
    left = _line(state, words, 0)
    right = _line(state, words, 1)
    return tuple((state[(i + 1) % 5] + left[(i + 2) % 5] + right[(i + 3) % 5]) & _MASK for i in range(5))


def _line(state: tuple[int, ...], words: tuple[int, ...], side: int) -> tuple[int, ...]:
    a, b, c, d, e = state
    for word, turn, function, added in _STEPS[side]:
        mixed = a + function(b, c, d) + words[word] + added & _MASK
        a, b, c, d, e = e, (mixed << turn | mixed >> 32 - turn) + e & _MASK, b, (c << 10 | c >> 22) & _MASK, d
    return a, b, c, d, e
