"""Fetching from memory: what a test or a demonstration says a peer answers, its failures included."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from multidict import CIMultiDict

from cdn.errors import ShortTransferError, TransportError, UnreachableError
from cdn.transport.base import Request

_PIECE_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Answer:
    """What a peer answers.

    Args:
        body: its body.
        status: the HTTP status code.
        headers: header fields besides Content-Length.
        error: fail with this instead of answering.
        cut_after: the connection ends after this many bytes of the body.
        tells_size: whether the answer has a Content-Length.
        head_gate: the head arrives when this event is set.
        body_gate: the rest of the body after its first half arrives when this event is set.
    """

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    error: TransportError | None = None
    cut_after: int | None = None
    tells_size: bool = True
    head_gate: asyncio.Event | None = None
    body_gate: asyncio.Event | None = None

    def flipped(self, offset: int) -> Answer:
        """The same answer with one bit of its body turned over."""
        damaged = bytearray(self.body)
        damaged[offset] ^= 0x01
        return replace(self, body=bytes(damaged))


class MemoryFetcher:
    """Answers requests from memory; a `Fetcher`.

    Args:
        answers: the answer to each URL (anything else is 404), or a function that answers. A body alone is an answer of
        status
            200; an error is raised.
    """

    def __init__(self, answers: Mapping[str, Answer | bytes] | Callable[[Request], Answer | bytes]) -> None:
        self._answers = answers
        self._is_closed = False
        self.requests: deque[Request] = deque(maxlen=100_000)
        """What was asked for, oldest first."""
        self.bodies: deque[bytes] = deque(maxlen=1000)
        """What was sent with requests that had a body."""

    @asynccontextmanager
    async def send(self, request: Request) -> AsyncIterator[MemoryResponse]:
        """Answers a request; see `Fetcher`."""
        if self._is_closed:
            raise UnreachableError(request.url, "this fetcher is closed")
        self.requests.append(request)
        if request.body is not None:
            self.bodies.append(b"".join([piece async for piece in request.body]))
        answer = self._answer(request)
        if answer.head_gate is not None:
            await answer.head_gate.wait()
        if answer.error is not None:
            raise answer.error
        yield MemoryResponse(request, answer)

    async def close(self) -> None:
        """Refuses everything from now on; see `Fetcher`."""
        self._is_closed = True

    def _answer(self, request: Request) -> Answer:
        if callable(self._answers):
            answer = self._answers(request)
        else:
            answer = self._answers.get(request.url, Answer(b"not found", 404))
        return answer if isinstance(answer, Answer) else Answer(answer)


class MemoryResponse:
    """An answer from memory; a `Response`."""

    def __init__(self, request: Request, answer: Answer) -> None:
        self._request = request
        self._answer = answer
        self.status = answer.status
        self.size = len(answer.body) if answer.tells_size else None
        self.headers: Mapping[str, str] = CIMultiDict(answer.headers)
        if self.size is not None:
            self.headers = CIMultiDict(answer.headers, **{"Content-Length": str(self.size)})

    @property
    def fields(self) -> tuple[tuple[str, str], ...]:
        """The header fields in the order they came."""
        return tuple(self.headers.items())

    def whole(self) -> bytes | None:
        """Nothing, since the body is not read before it is wanted."""
        return None

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body, piece by piece; see `Response`."""
        if self._request.method == "HEAD":
            return
        answer = self._answer
        body = answer.body[: answer.cut_after]
        half = len(body) // 2 if answer.body_gate is not None else len(body)
        for start, end in ((0, half), (half, len(body))):
            for offset in range(start, end, _PIECE_BYTES):
                await asyncio.sleep(0)  # as a socket does, this lets others run
                yield body[offset : min(offset + _PIECE_BYTES, end)]
            if answer.body_gate is not None:
                await answer.body_gate.wait()
        if answer.cut_after is not None and answer.cut_after < len(answer.body):
            raise ShortTransferError(self._request.url, "the connection ended early")
