"""Parts of a file over a socket without reading them into memory: `sendfile`, driven by the event loop.

The loop's transport keeps its descriptor to itself, so a second one for the same socket is used, and only while the
transport has nothing to send. What is in the page cache is sent at once; what is not is first brought there by a
thread, so that a slow disk stops nobody else. Before the last bytes go out the file must be what was verified: if
somebody wrote to it, it is hashed again, and if it is damaged the answer stays incomplete.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Protocol

from edge.cache.disk_cache import DamagedFileError, OpenFile
from edge.http.ranges import Segment

TURN_BYTES: Final = 1 << 20
"""How much one connection may send before others have their turn."""
_WARM_BYTES: Final = 256 << 10
_SAMPLES: Final = 8
_PROBE: Final = [bytearray(1)]
_MORE: Final = getattr(socket, "MSG_MORE", 0)
_NO_WAIT: Final = getattr(os, "RWF_NOWAIT", 0)


class Ended(Protocol):
    """What is called when everything was sent, or nothing more can be."""

    def __call__(self, error: Exception | None) -> None:
        """Takes the reason why it was not."""


class FileSender:
    """One sending.

    Args:
        sock: the socket, by another descriptor than the transport's; it stays open.
        file: kept open while this lasts.
        segments: parts of the file, and bytes that go before, between and behind them.
        confirm: hashes the file again, and says whether it is right; called in a thread.
        on_end: called if the end does not come within `start`.
    """

    def __init__(
        self,
        sock: socket.socket,
        file: OpenFile,
        segments: Sequence[Segment],
        confirm: Callable[[OpenFile], bool],
        on_end: Ended,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = sock
        self._out = sock.fileno()
        self._in = file.descriptor
        self._file = file.keep()
        self._segments = segments
        self._confirm = confirm
        self._on_end = on_end
        self._last = _last_range(segments)
        self._index = 0
        self._position = 0
        self._warm_until = 0
        self._is_confirmed = False
        self._is_waiting = False
        self._is_stopped = False
        self.outcome: Exception | None = None
        """Why not everything was sent: `OSError` if the client is gone, `DamagedFileError` if the file is damaged."""
        self.sent = 0
        """Bytes, heads included."""

    def start(self) -> bool:
        """Begins; whether it has ended at once, as `outcome` says."""
        self._go_on()
        return self._is_stopped

    def stop(self) -> None:
        """Sends nothing more."""
        if self._is_stopped:
            return
        self._is_stopped = True
        self._wait_no_more()
        self._file.close()

    # ------------------------------------------------------------------------------------------------ from the loop

    def _go_on(self) -> None:
        """Sends as much as one turn allows."""
        budget = TURN_BYTES
        try:
            while self._index < len(self._segments) and budget > 0:
                count = self._send(budget)
                if count is None:
                    return
                budget -= count
        except BlockingIOError:
            budget = 0
        except (OSError, DamagedFileError) as error:
            self._end(error)
            return
        if self._index >= len(self._segments):
            self._end(None)
        elif not self._is_waiting:
            self._loop.add_writer(self._out, self._turn)
            self._is_waiting = True

    def _turn(self) -> None:
        """One more turn, which says itself when it was the last."""
        self._go_on()
        if self._is_stopped:
            self._on_end(self.outcome)

    def _end(self, error: Exception | None) -> None:
        self.outcome = error.with_traceback(None) if error is not None else None  # which would lead back here
        self.stop()

    def _wait_no_more(self) -> None:
        if self._is_waiting:
            self._loop.remove_writer(self._out)
            self._is_waiting = False

    # ------------------------------------------------------------------------------------------------ sending

    def _send(self, budget: int) -> int | None:
        """Sends some of the next segment; None if a thread is at work first."""
        segment = self._segments[self._index]
        if isinstance(segment, bytes):
            flags = _MORE if self._index < len(self._segments) - 1 else 0
            count, size = self._socket.send(memoryview(segment)[self._position :], flags), len(segment)
        else:
            start, size = segment.start + self._position, segment.size
            wanted = min(size - self._position, budget)
            if not self._may_send(start, wanted, is_end=self._index == self._last and self._position + wanted == size):
                return None
            count = os.sendfile(self._out, self._in, start, wanted)
            if count == 0:  # cut short: hashing it will find so
                self._work(partial(self._confirm, self._file), is_lost=True)
                return None
        self.sent += count
        self._position += count
        if self._position == size:
            self._index, self._position = self._index + 1, 0
        return count

    def _may_send(self, start: int, size: int, *, is_end: bool) -> bool:
        """Whether bytes are in memory and right as far as that can be known."""
        if start + size > self._warm_until and not (
            is_resident(self._in, start) and is_resident(self._in, start + size - 1)
        ):
            self._work(partial(self._warm, start, size))
            return False
        if is_end and not self._is_confirmed and not self._file.is_unchanged():
            self._work(partial(self._confirm, self._file))
            self._is_confirmed = True
            return False
        return True

    def _warm(self, start: int, size: int) -> bool:
        """Brings bytes to the page cache; in a thread."""
        buffer = bytearray(_WARM_BYTES)
        for place in range(start, start + size, _WARM_BYTES):
            os.preadv(self._file.descriptor, [buffer], place)
        self._warm_until = start + size
        return True

    def _work(self, work: Callable[[], bool], *, is_lost: bool = False) -> None:
        """Lets a thread do something first; the file stays open until it is done."""
        self._wait_no_more()
        self._file.keep()
        future = self._loop.run_in_executor(None, work)
        future.add_done_callback(partial(self._worked, is_lost=is_lost))

    def _worked(self, future: asyncio.Future[bool], *, is_lost: bool) -> None:
        self._file.close()
        if self._is_stopped:
            return
        failure = None if future.cancelled() else future.exception()
        if future.cancelled() or failure is not None or is_lost or not future.result():
            self._end(failure if isinstance(failure, Exception) else DamagedFileError(self._file.facts.key))
            self._on_end(self.outcome)
            return
        self._turn()


def _last_range(segments: Sequence[Segment]) -> int:
    """Where the last part of the file is among segments."""
    index = len(segments) - 1
    while index >= 0 and isinstance(segments[index], bytes):
        index -= 1
    return index


def is_resident(descriptor: int, position: int) -> bool:
    """Whether the byte at a position of a file is in the page cache; False where that cannot be known."""
    try:
        os.preadv(descriptor, _PROBE, position, _NO_WAIT)
    except (OSError, AttributeError):
        return False
    return bool(_NO_WAIT)


def is_in_memory(file: OpenFile, start: int, stop: int) -> bool:
    """Whether a part of a file seems to be in the page cache."""
    step = max(1, (stop - start) // _SAMPLES)
    places = (*range(start, stop, step), stop - 1)
    return all(is_resident(file.descriptor, place) for place in places)
