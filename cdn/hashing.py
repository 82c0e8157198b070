"""Digests: the algorithms of the repository format, their text form and how it is parsed (spec §3).

A digest is always over the bytes on the wire, that is the stored, usually compressed, bytes. The *plain digest*
(SHA-256 over uncompressed bytes) is our extension and described in docs/formats/plain-digest.md.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final, Protocol

from cdn.errors import DocumentError

if TYPE_CHECKING:
    from typing_extensions import Buffer


class _Hash(Protocol):
    def update(self, data: Buffer, /) -> None: ...
    def digest(self) -> bytes: ...


class Algorithm(Enum):
    """A hash algorithm of the format: its id, its digest's size in bytes and what the digest's text form ends with."""

    SHA1 = (1, 20, "")
    RMD160 = (2, 20, "-rmd160")
    SHAKE128 = (3, 20, "-shake128")

    def __init__(self, number: int, size: int, identifier: str) -> None:
        self.number: Final = number
        self.size: Final = size
        self.identifier: Final = identifier
        self.text_length: Final = 2 * size + len(identifier)

    @property
    def option(self) -> str:
        """The name used in options and configuration files: ``sha1``, ``rmd160`` or ``shake128``."""
        return self.name.lower()

    @classmethod
    def from_option(cls, name: str) -> Algorithm:
        """The algorithm of this option name.

        Raises:
            ValueError: for any other name.
        """
        for algorithm in cls:
            if algorithm.option == name:
                return algorithm
        raise ValueError(f"unknown hash algorithm {name!r}: use sha1, rmd160 or shake128")

    @classmethod
    def from_number(cls, number: int) -> Algorithm:
        """The algorithm with this id (catalog flags hold the id minus one, spec §5.5).

        Raises:
            DocumentError: no algorithm has it.
        """
        algorithm = _BY_NUMBER.get(number)
        if algorithm is None:
            raise DocumentError("digest", f"there is no hash algorithm number {number}")
        return algorithm


_BY_NUMBER: Final = {algorithm.number: algorithm for algorithm in Algorithm}
_BY_TEXT_LENGTH: Final = {algorithm.text_length: algorithm for algorithm in Algorithm}
_HELD_BYTES: Final = 2047
"""Up to this size `hashlib` hashes without letting other threads run."""
_HELD_BYTES_MAX: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class Digest:
    """A hash algorithm and a value it gave."""

    algorithm: Algorithm
    value: bytes

    def __str__(self) -> str:
        return self.text

    @property
    def text(self) -> str:
        """Lower-case hex digits and the algorithm's identifier (spec §3.2)."""
        return self.value.hex() + self.algorithm.identifier

    @property
    def is_null(self) -> bool:
        """Whether every byte is zero, which the format reads as "not set"."""
        return not any(self.value)

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Reads the text form; the algorithm follows from the length (spec §3.2).

        Raises:
            DocumentError: the text is no digest.
        """
        algorithm = _BY_TEXT_LENGTH.get(len(text))
        if algorithm is None or not text.endswith(algorithm.identifier):
            raise DocumentError("digest", f"{text[:80]!r} is not the text form of a digest")
        digits = text[: 2 * algorithm.size]
        try:
            value = bytes.fromhex(digits)
        except ValueError:
            value = b""
        if value.hex() != digits:
            raise DocumentError("digest", f"{text[:80]!r} has characters other than lower-case hex digits")
        return cls(algorithm, value)

    def is_of_at_once(self, data: bytes) -> bool:
        """Whether it is that of these bytes; if they are few, no other thread runs meanwhile."""
        hasher = Hasher(self.algorithm)
        hasher.update_at_once(data)
        return hasher.value() == self.value


class Hasher:
    """Computes a digest piece by piece."""

    __slots__ = ("_hash", "algorithm")

    def __init__(self, algorithm: Algorithm) -> None:
        self.algorithm = algorithm
        self._hash: _Hash = _new(algorithm)

    def update(self, data: Buffer) -> None:
        """Takes the next piece."""
        self._hash.update(data)

    def update_at_once(self, data: bytes) -> None:
        """Takes the next piece and, if it is small, lets no other thread run meanwhile.

        In a busy event loop waiting to go on would take a hundred times as long as hashing does.
        """
        if len(data) > _HELD_BYTES_MAX:
            self._hash.update(data)
            return
        view = memoryview(data)
        for start in range(0, len(view), _HELD_BYTES):
            self._hash.update(view[start : start + _HELD_BYTES])

    def digest(self) -> Digest:
        """The digest of everything taken so far."""
        return Digest(self.algorithm, self.value())

    def value(self) -> bytes:
        """The same, without the name of the algorithm."""
        if self.algorithm is Algorithm.SHAKE128:
            return self._hash.digest(self.algorithm.size)  # type: ignore[call-arg]  # a XOF takes a length
        return self._hash.digest()


def digest_of(algorithm: Algorithm, data: Buffer) -> Digest:
    """The digest of these bytes."""
    if algorithm is Algorithm.SHAKE128:  # every object of a new repository: twice as fast as through a `Hasher`
        return Digest(algorithm, hashlib.shake_128(data, usedforsecurity=False).digest(20))
    hasher = Hasher(algorithm)
    hasher.update(data)
    return hasher.digest()


def plain_digest_of(data: Buffer) -> bytes:
    """SHA-256 of uncompressed bytes, 32 bytes: the plain digest extension."""
    return hashlib.sha256(data).digest()


_PATH_KEY: Final = struct.Struct("<qq")


def path_key(path: str | bytes) -> tuple[int, int]:
    """The key of a repository path in catalogs: its MD5 as two signed little-endian 64-bit integers (spec §5.4).

    Args:
        path: absolute, without a trailing slash; the root is the empty string. Text is encoded with surrogateescape.
    """
    raw = path if isinstance(path, bytes) else path.encode("utf-8", "surrogateescape")
    return _PATH_KEY.unpack(hashlib.md5(raw, usedforsecurity=False).digest())


def _new(algorithm: Algorithm) -> _Hash:
    if algorithm is Algorithm.SHA1:
        return hashlib.sha1(usedforsecurity=False)
    if algorithm is Algorithm.SHAKE128:
        return hashlib.shake_128(usedforsecurity=False)  # type: ignore[return-value]  # its digest takes a length
    try:
        return hashlib.new("ripemd160", usedforsecurity=False)
    except ValueError:  # OpenSSL builds without the algorithm: slow, but such repositories can be read
        from cdn.ripemd160 import Ripemd160

        return Ripemd160()
