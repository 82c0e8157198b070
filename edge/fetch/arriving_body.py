"""A body that many clients read while it still arrives, each at its own pace, in bounded memory.

The newest bytes stay in memory, shared by everybody who keeps up; what is older is read from the unfinished file on
disk. So a slow client costs nobody anything, and one that comes late starts at the beginning. Without a disk (none
wanted, or it is full) only the newest bytes are kept, and the upstream is read no faster than the slowest client takes
them.

There may be ten thousand clients. Those who wait are woken a few at a time, and whoever is woken late finds more: what
arrives in small pieces costs no more than what arrives in large ones, and the loop goes on with other work.

While a digest is still to be checked, the last piece is held back: nobody gets a whole body that turns out wrong.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from types import TracebackType
from typing import Final, Self

from cdn.errors import StorageError
from edge.cache.spool_file import SpoolFile

TAIL_BYTES_MAX: Final = 2 << 20
FLUSH_BYTES: Final = 512 << 10
PIECE_BYTES_MAX: Final = 16 << 10
"""What clients get at once, and so what each of them that does not take it may keep in memory."""
WOKEN_MAX: Final = 64
"""How many of those who wait go on before other work has its turn."""
READS_MAX: Final = 8
"""How many wait for the disk at once; the others wait for them."""
BLOCKS_MAX: Final = 64
"""How many pieces of what is older are kept for those who need them next."""
_TURN_BYTES: Final = 512 << 10
"""How much one client takes before others have their turn."""


class NobodyWaits(Exception):  # noqa: N818 -- no failure: the fetch has lost its purpose
    """No client is left, and nothing is kept."""


class ArrivingBody:
    """One body, its writer and its readers, in one event loop.

    Args:
        size: how many bytes it will have, if the upstream said it.
        is_verified: whether its last piece waits for `finish`.
        clients: how many there are, those included that have not begun to read.
    """

    def __init__(self, size: int | None, *, is_verified: bool, clients: Callable[[], int]) -> None:
        self.size = size
        self._clients = clients
        self.arrived = 0
        self.is_complete = False
        self.spool: SpoolFile | None = None
        self.storage_error: StorageError | None = None
        self._is_verified = is_verified
        self._visible = 0
        self._error: Exception | None = None
        self._offsets: list[int] = []
        self._pieces: list[bytes] = []
        self._tail_bytes = 0
        self._tail_start = 0
        self._flushed = 0
        self._readers: set[BodyReader] = set()
        self._hungry: OrderedDict[asyncio.Future[None], None] = OrderedDict()
        self._to_wake = 0
        self._is_waking = False
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._reading = asyncio.Semaphore(READS_MAX)
        self._room: asyncio.Future[None] | None = None

    # ------------------------------------------------------------------------------------------------ the writer

    @property
    def is_whole_in_memory(self) -> bool:
        """Whether nothing has left the memory yet."""
        return self._tail_start == 0

    @property
    def joinable(self) -> bool:
        """Whether a client that comes now can still have the first byte."""
        return self._tail_start <= self._flushed

    def joined(self) -> bytes:
        """All bytes, while they are all in memory."""
        return b"".join(self._pieces)

    async def append(self, piece: bytes) -> None:
        """Takes the next piece; waits where the disk or, without one, the slowest client needs time.

        Raises:
            NobodyWaits: see there.
        """
        if not piece:
            return
        for start in range(0, len(piece), PIECE_BYTES_MAX):
            part = piece[start : start + PIECE_BYTES_MAX]
            self._offsets.append(self.arrived)
            self._pieces.append(part)
            self.arrived += len(part)
        self._tail_bytes += len(piece)
        self._show(self._offsets[-1] if self._is_verified else self.arrived)
        if self._can_flush and self.arrived - self._flushed >= FLUSH_BYTES:
            await self.flush()
        await self._trim()

    async def flush(self) -> None:
        """Writes to disk what is not there yet."""
        if not self._can_flush or self._flushed == self.arrived:
            return
        assert self.spool is not None
        first = bisect_right(self._offsets, self._flushed) - 1
        data, end = b"".join(self._pieces[first:]), self.arrived
        try:
            await asyncio.to_thread(self.spool.write, data)
        except StorageError as error:
            self.storage_error = error
        else:
            self._flushed = end

    @property
    def _can_flush(self) -> bool:
        return self.spool is not None and self.storage_error is None

    def finish(self) -> None:
        """Says that the body is complete and right."""
        self.is_complete = True
        self.size = self.arrived
        self._show(self.arrived)

    def fail(self, error: Exception) -> None:
        """Says that the rest will not come."""
        self._error = error
        self._show(self._visible)

    def _show(self, visible: int) -> None:
        self._visible = visible
        self._to_wake = len(self._hungry)
        if self._to_wake and not self._is_waking:
            self._wake_some()

    def _wake_some(self) -> None:
        """Wakes those who have waited longest; the next ones after what else the loop has to do."""
        self._to_wake = min(self._to_wake, len(self._hungry))
        count = min(self._to_wake, WOKEN_MAX)
        for _ in range(count):
            waiting, _ = self._hungry.popitem(last=False)
            if not waiting.done():
                waiting.set_result(None)
        self._to_wake -= count
        self._is_waking = self._to_wake > 0
        if self._is_waking:
            asyncio.get_running_loop().call_soon(self._wake_some)

    async def _trim(self) -> None:
        """Drops the oldest pieces that are not needed in memory."""
        while self._tail_bytes > TAIL_BYTES_MAX:
            count = self._droppable()
            if count:
                self._drop(count)
            elif self._can_flush:
                await self.flush()
            elif self._clients() == 0:
                raise NobodyWaits
            else:
                self._room = asyncio.get_running_loop().create_future()
                await self._room

    def _droppable(self) -> int:
        """How many of the oldest pieces nobody needs any more; the last one always stays."""
        needed = self._flushed
        if not self._can_flush:
            needed = max(needed, self._slowest())
        count, excess = 0, self._tail_bytes - TAIL_BYTES_MAX
        while excess > 0 and count < len(self._pieces) - 1 and self._offsets[count + 1] <= needed:
            excess -= len(self._pieces[count])
            count += 1
        return count

    def _slowest(self) -> int:
        """How far the slowest client is; whoever has not begun needs the first byte."""
        if self._clients() > len(self._readers):
            return 0
        return min((reader.position for reader in self._readers), default=0)

    def _drop(self, count: int) -> None:
        self._tail_bytes -= sum(len(piece) for piece in self._pieces[:count])
        del self._pieces[:count], self._offsets[:count]
        self._tail_start = self._offsets[0]

    # ------------------------------------------------------------------------------------------------ readers

    def open(self, start: int = 0, stop: int | None = None) -> BodyReader:
        """A new reader, from one byte up to but not including another."""
        return BodyReader(self, start, stop)

    def add_reader(self, reader: BodyReader) -> None:
        """Remembers how far a reader is."""
        self._readers.add(reader)

    def remove_reader(self, reader: BodyReader) -> None:
        """Forgets a reader."""
        self._readers.discard(reader)
        self.make_room()

    def make_room(self) -> None:
        """Lets the writer look again whether it may go on."""
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        self._room = None

    async def piece_at(self, position: int, stop: int | None) -> bytes:
        """Bytes from a position on, as soon as there are some; none at the end.

        Raises:
            Exception: whatever `fail` was given.
        """
        while position >= self._visible:
            if self._error is not None:
                raise self._error
            if self.is_complete:
                return b""
            await self._next_change()
        end = self._visible if stop is None else min(stop, self._visible)
        if position >= self._tail_start:
            index = bisect_right(self._offsets, position) - 1
            piece, offset = self._pieces[index], self._offsets[index]
            if position == offset and len(piece) <= end - position:
                return piece
            return piece[position - offset : end - offset]
        skipped = position % PIECE_BYTES_MAX
        block = await self._block_at(position - skipped)
        return block if not skipped and len(block) <= end - position else block[skipped : skipped + end - position]

    async def _block_at(self, start: int) -> bytes:
        """Older bytes from the disk, the same ones for all who need them at about the same time."""
        block = self._blocks.get(start)
        if block is None:
            size = min(PIECE_BYTES_MAX, self._flushed - start)
            block = await self._from_disk(start, size)
            if len(block) == PIECE_BYTES_MAX:
                self._blocks[start] = block
                if len(self._blocks) > BLOCKS_MAX:
                    self._blocks.popitem(last=False)
        return block

    async def _from_disk(self, start: int, size: int) -> bytes:
        """As a rule it is still in the page cache, and at the latest after one client waited for it."""
        assert self.spool is not None
        data = self.spool.read_at_once(start, size)
        if len(data) == size:
            return data
        async with self._reading:
            data = self.spool.read_at_once(start, size)
            return data if len(data) == size else await asyncio.to_thread(self.spool.read, start, size)

    async def _next_change(self) -> None:
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._hungry[waiting] = None
        try:
            await waiting
        finally:
            self._hungry.pop(waiting, None)


class BodyReader:
    """One client's place in an arriving body; an asynchronous iterator, used as a context manager."""

    def __init__(self, body: ArrivingBody, start: int, stop: int | None) -> None:
        self._body = body
        self._stop = stop
        self.position = start

    def __enter__(self) -> Self:
        self._body.add_reader(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._body.remove_reader(self)

    def go_to(self, start: int, stop: int) -> None:
        """Goes on with another part, which lies behind the one before."""
        self.position, self._stop = start, stop
        self._body.make_room()

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The bytes, piece by piece."""
        turn = 0
        while self._stop is None or self.position < self._stop:
            if turn >= _TURN_BYTES:
                turn = 0
                await asyncio.sleep(0)  # others have their turn
            piece = await self._body.piece_at(self.position, self._stop)
            if not piece:
                return
            yield piece
            self.position += len(piece)
            turn += len(piece)
            self._body.make_room()
