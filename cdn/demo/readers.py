"""The demonstration's end of the talk with a reader process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from cdn.demo.places import REPOSITORY, ClientPlace
from cdn.demo.processes import Processes
from cdn.demo.report import DemoFailedError

ANSWER_SECONDS: Final = 60.0
READ_SECONDS: Final = 180.0


def _ignore(_files: int) -> None:
    pass


@dataclass(frozen=True, slots=True)
class ReadResult:
    """What a reader saw in one pass over the tree.

    Args:
        files: how many it read.
        bytes: how many bytes they had.
        failed: how many could not be read.
        wrong: how many were not as they must be.
        examples: sentences about those.
        revision: what it read.
        answers: how many answers it had from each edge.
        hits: how many of them came from the edge's cache.
    """

    files: int
    bytes: int
    failed: int
    wrong: int
    examples: list[str]
    revision: int
    answers: dict[str, int] = field(default_factory=dict)
    hits: dict[str, int] = field(default_factory=dict)


class ReaderHandle:
    """A reader process.

    Args:
        place: where the client is.
        process: talks through its standard input and output.
        name: of the process, for messages.
    """

    def __init__(self, place: ClientPlace, process: asyncio.subprocess.Process, name: str) -> None:
        self.place = place
        self.name = name
        self._process = process

    @classmethod
    async def start(cls, processes: Processes, place: ClientPlace, dns: tuple[str, int]) -> ReaderHandle:
        """Starts the reader of a place."""
        name = f"client-{place.name}"
        arguments = (REPOSITORY, dns[0], str(dns[1]), place.network)
        return cls(place, await processes.converse(name, "cdn.demo.reader", *arguments), name)

    async def open(self, cache: str, servers: str, key: str) -> dict[str, Any]:
        """Opens the repository with a cache folder, and says which revision and edge it got.

        Raises:
            DemoFailedError: it cannot.
        """
        return await self._do({"do": "open", "cache": cache, "servers": servers, "key": key}, ANSWER_SECONDS)

    async def read(
        self,
        expected: str,
        only: tuple[str, ...] | None = None,
        on_progress: Callable[[int], None] = _ignore,
        hold: tuple[int, str] | None = None,
    ) -> ReadResult:
        """Compares the whole tree with what it must be and reads its files, or only some.

        Args:
            expected: what it must be, a file.
            only: which files to read; None for all.
            on_progress: told how many were read.
            hold: after how many files to wait, and for which file to be there.

        Raises:
            DemoFailedError: it could not even try.
        """
        order = {"do": "read", "expected": expected, "only": only, "hold": hold}
        return ReadResult(**await self._do(order, READ_SECONDS, on_progress))

    async def refresh(self) -> dict[str, Any]:
        """Looks for a newer revision.

        Raises:
            DemoFailedError: it cannot.
        """
        return await self._do({"do": "refresh"}, ANSWER_SECONDS)

    async def _do(
        self, order: dict[str, Any], seconds: float, on_progress: Callable[[int], None] = _ignore
    ) -> dict[str, Any]:
        try:
            async with asyncio.timeout(seconds):
                return await self._converse(order, on_progress)
        except TimeoutError:
            raise DemoFailedError(f"{self.name} did not {order['do']} within {seconds:g} s") from None

    async def _converse(self, order: dict[str, Any], on_progress: Callable[[int], None]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(ConnectionError):  # that it ended is seen below
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            await self._process.stdin.drain()
        while line := await self._process.stdout.readline():
            said: dict[str, Any] = json.loads(line)
            if "progress" in said:
                on_progress(said["progress"])
            elif "error" in said:
                raise DemoFailedError(f"{self.name} cannot {order['do']}: {said['error']}")
            else:
                result: dict[str, Any] = said["result"]
                return result
        raise DemoFailedError(f"{self.name} ended by itself")
