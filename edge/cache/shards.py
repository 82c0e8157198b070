"""Which file a response is kept in, in which shard of the cache, and which worker of an edge it belongs to.

What one worker must have together lies in one shard: all variants of a URL, and the manifest, the whitelist and the
other documents beside them of a repository, which are judged by one another.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

SHARDS: Final = 256
PINNED: Final = ".pinned"
_NAMES_MAX: Final = 256
"""A response is looked for, kept in memory and stored within a short time."""
_DOCUMENT: Final = b".cvmfs"
"""How the names of the documents of a repository begin."""


def file_name(key: str, *, pinned: bool = False) -> str:
    """The name of the file for a key; its first two digits are its shard."""
    return _name(key) + PINNED if pinned else _name(key)


@lru_cache(maxsize=_NAMES_MAX)
def _name(key: str) -> str:
    data = key.encode("utf-8", "surrogateescape")
    name, kin = _hashed(data), _kin(data)
    shard = name if kin is data else _hashed(kin)
    return shard[:2] + name[2:48]


def code_of(name: str) -> int:
    """A number that stands for a file, pinned or not."""
    return int(name[2:17], 16)


def _hashed(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _kin(data: bytes) -> bytes:
    """What keys that lie in one shard have in common."""
    if b" " in data:  # what follows tells variants apart
        data = data.partition(b" ")[0]
    directory, _, document = data.rpartition(b"/")
    return directory if document.startswith(_DOCUMENT) else data


def shard_of(name: str) -> int:
    """The shard that a file lies in."""
    return int(name[:2], 16)


@dataclass(frozen=True, slots=True)
class Share:
    """What one worker of an edge has.

    Args:
        index: of the worker, from 0.
        count: how many workers there are.
        generation: what the workers of one supervisor have in common, and those of its successor have not.
    """

    index: int = 0
    count: int = 1
    generation: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether there is only one worker."""
        return self.count == 1

    @property
    def shards(self) -> range:
        """The shards of the disk cache that this worker counts, fills and evicts from."""
        return range(self.index, SHARDS, self.count)

    def shard_after(self, shard: int) -> int:
        """The next of them, and after the last the first."""
        following = shard + self.count
        return following if following < SHARDS else self.index

    def owner_of(self, key: str) -> int:
        """The worker that fetches and keeps what is cached under a key."""
        return shard_of(file_name(key)) % self.count

    def owns(self, key: str) -> bool:
        """Whether this worker is the owner of a key."""
        return self.is_whole or self.owner_of(key) == self.index

    def of(self, number: int) -> int:
        """This worker's part of a limit that holds for all together; at least 1 where there is a limit."""
        return max(1, number // self.count) if number else 0


WHOLE: Final = Share()
