"""How objects travel: one small asynchronous interface, and the vocabulary of a request and its answer.

A `Fetcher` sends one request and hands back whatever answer came, status included; it raises only when there was no
answer. What an answer *means* (a missing object, a wrong digest, the next server's turn) is decided above:
`cdn.transport.download` reads and verifies bodies, `cdn.transport.retry` tries again, `cdn.client.sources` chooses
servers. The contract is tests/contracts/fetcher.py.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping

_NO_HEADERS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Request:
    """A request, of GET or HEAD unless somebody passes another one on.

    Args:
        url: absolute, `http`, `https` or `file`.
        method: such as ``GET`` or ``HEAD``.
        headers: request headers.
        proxy: URL of an HTTP proxy to send it through, or None for a direct request.
        body: sent after the head, as fast as it comes and the peer takes it; its size is a ``Content-Length`` in
            `headers`, or nobody knows it. It can be sent once.
        on_interim: told status and fields of each interim answer (1xx) that comes before the answer.
    """

    url: str
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=lambda: _NO_HEADERS)
    proxy: str | None = None
    body: AsyncIterable[bytes] | None = None
    on_interim: Callable[[int, tuple[tuple[str, str], ...]], None] | None = None


class Response(Protocol):
    """An answer whose body is still arriving; valid only inside the `send` block it came from."""

    @property
    def status(self) -> int:
        """The HTTP status code."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """The header fields; keys compare without regard to case."""
        ...

    @property
    def size(self) -> int | None:
        """The body's size in bytes, where the peer said it."""
        ...

    @property
    def fields(self) -> tuple[tuple[str, str], ...]:
        """The header fields in the order they came, names as they were written."""
        ...

    def whole(self) -> bytes | None:
        """The whole body, if all of it is here already and `chunks` was not begun; None says nothing about it."""
        ...

    def chunks(self) -> AsyncIterator[bytes]:
        """The body, piece by piece.

        Raises:
            ShortTransferError, SlowPeerError: it did not arrive whole.
        """
        ...


class Fetcher(Protocol):
    """Sends requests."""

    def send(self, request: Request) -> AbstractAsyncContextManager[Response]:
        """Sends a request; the answer's head has arrived when the block is entered.

        Raises:
            UnreachableError, SlowPeerError, ShortTransferError, MalformedAnswerError: no answer came.
        """
        ...

    async def close(self) -> None:
        """Gives up all connections; the fetcher cannot be used afterwards."""
        ...


class Begun(AbstractAsyncContextManager[Response], Protocol):
    """A request that was sent without waiting, and whose answer may be taken without waiting.

    Either `finish` ends it, or it is entered as the block that `Fetcher.send` gives, which then goes on from here.
    """

    def taken_whole(self) -> Response | None:
        """The answer, if all of it is here: then its `whole` is no None."""
        ...

    def is_worth_waiting(self, size_max: int) -> bool:
        """Whether nothing went wrong yet, and the body has no more than so many bytes as far as is known."""
        ...

    def finish(self) -> None:
        """Ends it once the whole answer was taken, or when nobody wants it any more."""
        ...


class PromptFetcher(Protocol):
    """Sends requests at once, where it can."""

    def begin(self, request: Request, on_change: Callable[[], None]) -> Begun | None:
        """Sends a request if nothing has to be waited for: neither a connection nor a turn; None if something has.

        Args:
            request: what to send.
            on_change: called each time that something of the answer came or something went wrong, and never from
                within this method; not called any more once the block is entered or `finish` was called.
        """
        ...
