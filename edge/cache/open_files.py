"""Large objects that were asked for lately: their files stay open, so that the next hit needs neither task nor thread.

A file is in use only while it is what it was when it was verified: one that was evicted, purged, replaced or written to
is let go at its next hit, or within a second or so. Each is let go after a minute in any case, so that the disk cache
learns that it is still used, and hashes it again when it is time for that.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from edge.cache.disk_cache import OpenFile
from edge.http.answering import HIT, Representation, answer_from, render_head
from edge.http.request import Request

FILES_MAX: Final = 256
OPEN_SECONDS: Final = 60.0


class OpenObject:
    """One object and its open file.

    Args:
        file: closed when this is let go.
        source: what answers are made from.
        until: when it is let go, in seconds since the epoch.
    """

    __slots__ = ("_head", "_head_second", "file", "source", "until")

    def __init__(self, file: OpenFile, source: Representation, until: float) -> None:
        self.file = file
        self.source = source
        self.until = until
        self._head_second = -1
        self._head = b""

    def plain_head(self, request: Request, now: float, edge_name: str) -> bytes:
        """The head of the answer to a plain request, made once a second."""
        second = int(now)
        if second != self._head_second:
            self._head = render_head(answer_from(self.source, request, now, HIT, edge_name), request, keeps_alive=True)
            self._head_second = second
        return self._head


class OpenFiles:
    """Open files by key.

    Args:
        count_max: how many.
    """

    def __init__(self, count_max: int = FILES_MAX) -> None:
        self._count_max = count_max
        self._objects: OrderedDict[str, OpenObject] = OrderedDict()
        self._generation = 0

    def __len__(self) -> int:
        return len(self._objects)

    def get(self, key: str, now: float) -> OpenObject | None:
        """What is open under a key, if the file is as it was."""
        found = self._objects.get(key)
        if found is None or not self._is_in_use(key, found, now):
            return None
        self._objects.move_to_end(key)
        return found

    def _is_in_use(self, key: str, found: OpenObject, now: float) -> bool:
        if now < found.until and found.file.is_unchanged():
            return True
        self.remove(key)
        return False

    def instead_of(self, file: OpenFile, key: str, now: float) -> OpenFile:
        """The same file by the descriptor that others use, if it is open already; one descriptor then serves all."""
        found = self.get(key, now)
        if found is None or found.file is file or found.file.identity != file.identity:
            return file
        file.close()
        return found.file.keep()

    def put(self, key: str, file: OpenFile, source: Representation, now: float) -> None:
        """Keeps a file open."""
        self.remove(key)
        self._objects[key] = OpenObject(file.keep(), source, now + OPEN_SECONDS)
        if len(self._objects) > self._count_max:
            self.remove(next(iter(self._objects)))

    def remove(self, key: str) -> None:
        """Lets a file go."""
        found = self._objects.pop(key, None)
        if found is not None:
            found.file.close()

    def let_go_before(self, generation: int) -> None:
        """Lets all files go if something was purged since: each must be found anew, under the rules that hold now."""
        if generation != self._generation:
            self._generation = generation
            self.close()

    def tidy(self, now: float) -> None:
        """Lets files go whose time is over or that changed, above all those that are no longer in the cache."""
        for key, found in list(self._objects.items()):
            self._is_in_use(key, found, now)

    def close(self) -> None:
        """Lets all files go."""
        for key in list(self._objects):
            self.remove(key)
