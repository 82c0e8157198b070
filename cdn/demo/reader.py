"""A client of the demonstration, in a process of its own: it does what it is told and tells what it saw.

One JSON object a line comes in on standard input, one or more go out on standard output; the end of the input ends it.

    {"do": "open", "cache": FOLDER, "servers": URLS, "key": FILE}   finds its edge, verifies the newest revision
    {"do": "read", "expected": FILE, "only": [PATH, …] or null}     compares the tree with what it must be, reads files
    {"do": "refresh"}                                               looks for a newer revision
    {"do": "close"}

A read may also have "hold": [NUMBER, FILE]: no more files than that are begun before the file is there.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cdn.client.config import ClientSettings
from cdn.client.fetchers import default_fetcher
from cdn.client.files import pieces_of
from cdn.client.repository import MountedRepository, open_repository
from cdn.client.source_list import parse_servers
from cdn.client.sources import SourcePolicy
from cdn.demo.naming import GeoResolver
from cdn.demo.tree import Expected, Facts
from cdn.errors import CdnError
from cdn.objects import MANIFEST_PATH
from cdn.transport.base import Fetcher, Request, Response
from cdn.transport.retry import RetryPolicy

if TYPE_CHECKING:
    from cdn.catalog.entries import Entry

TOGETHER: Final = 24
"""Files read at the same time."""
_SAY_EVERY: Final = 25
_TOLD_MAX: Final = 20
_HOLD_SECONDS: Final = 30.0
_POLL_SECONDS: Final = 0.01
_PATIENCE: Final = SourcePolicy(rounds=RetryPolicy(10, 0.25, 2.0))
"""How long a reader goes on asking when its only name leads to a dead edge: until DNS has noticed."""
_EDGE: Final = re.compile(r'"([^"]{1,100})"(; hit)?')


class WatchedFetcher:
    """A fetcher that counts which edge answered, and how; a `Fetcher`.

    It also asks caches for a manifest that is no older than a second, since a demonstration has no time to wait until
    they look again by themselves (61 s).

    Args:
        inner: sends the requests.
    """

    def __init__(self, inner: Fetcher) -> None:
        self._inner = inner
        self.answers: Counter[str] = Counter()
        self.hits: Counter[str] = Counter()

    @asynccontextmanager
    async def send(self, request: Request) -> AsyncIterator[Response]:
        """Sends a request; see `Fetcher`."""
        if request.url.endswith(f"/{MANIFEST_PATH}") and "Cache-Control" not in request.headers:
            request = replace(request, headers={**request.headers, "Cache-Control": "max-age=1"})
        async with self._inner.send(request) as response:
            self._count(response.headers)
            yield response

    async def close(self) -> None:
        """Gives up all connections; see `Fetcher`."""
        await self._inner.close()

    def _count(self, headers: Mapping[str, str]) -> None:
        found = _EDGE.match(headers.get("Cache-Status", ""))
        edge = found[1] if found else "no edge"
        self.answers[edge] += 1
        self.hits[edge] += bool(found and found[2])


class Reading:
    """One pass over the tree.

    Args:
        repository: what is read.
        expected: what must be found.
        only: these files alone; None for all.
        hold: after how many files to wait, and for which file to be there.
    """

    def __init__(
        self,
        repository: MountedRepository,
        expected: Expected,
        only: Sequence[str] | None,
        hold: tuple[int, str] | None = None,
    ) -> None:
        self._repository = repository
        self._expected = expected
        self._only = None if only is None else frozenset(only)
        self._hold = hold
        self._begun = 0
        self._left = set(expected.files) | set(expected.links)
        self._found: asyncio.Queue[tuple[str, Entry] | None] = asyncio.Queue(TOGETHER * 4)
        self._say_every = max(1, min(_SAY_EVERY, len(self._only or expected.files) // 20))
        self.files = self.bytes = 0
        self.failed: list[str] = []
        self.wrong: list[str] = []

    async def run(self) -> dict[str, Any]:
        """Walks the whole tree, reads the files, and tells what was wrong."""
        async with asyncio.TaskGroup() as group:
            for _ in range(TOGETHER):
                group.create_task(self._read_found())
            try:
                await self._walk()
            finally:
                for _ in range(TOGETHER):
                    await self._found.put(None)
        self.wrong += [f"{path}: it is missing" for path in sorted(self._left)]
        return {
            "files": self.files,
            "bytes": self.bytes,
            "failed": len(self.failed),
            "wrong": len(self.wrong),
            "examples": (self.failed + self.wrong)[:_TOLD_MAX],
        }

    async def _walk(self) -> None:
        async for path, entry in self._repository.files.walk():
            self._left.discard(path)
            if entry.is_symlink:
                if self._expected.links.get(path) != entry.symlink:
                    self.wrong.append(f"{path}: it links to {entry.symlink[:100]!r}")
            elif entry.is_file:
                await self._take(path, entry)

    async def _take(self, path: str, entry: Entry) -> None:
        facts = self._expected.files.get(path)
        if facts is None:
            self.wrong.append(f"{path}: it should not be there")
        elif entry.size != facts.size:
            self.wrong.append(f"{path}: it has {entry.size} bytes instead of {facts.size}")
        elif self._only is None or path in self._only:
            await self._held_back()
            await self._found.put((path, entry))
            self._begun += 1

    async def _held_back(self) -> None:
        """Waits where it was told to, so that however small the tree, something happens in the middle."""
        if self._hold is not None and self._begun >= self._hold[0]:
            async with asyncio.timeout(_HOLD_SECONDS):
                while not await asyncio.to_thread(os.path.exists, self._hold[1]):  # noqa: ASYNC110  # another process
                    await asyncio.sleep(_POLL_SECONDS)
            self._hold = None

    async def _read_found(self) -> None:
        while (found := await self._found.get()) is not None:
            path, entry = found
            try:
                await self._read(path, entry, self._expected.files[path])
            except (CdnError, OSError) as error:
                self.failed.append(f"{path}: {error}")
            self.files += 1
            if self.files % self._say_every == 0:
                say({"progress": self.files})

    async def _read(self, path: str, entry: Entry, facts: Facts) -> None:
        digest = hashlib.sha256()
        async with self._repository.files.open_entry(path, entry) as file:
            async for piece in pieces_of(file):
                digest.update(piece)
                self.bytes += len(piece)
        if digest.hexdigest() != facts.sha256:
            self.wrong.append(f"{path}: its SHA-256 is {digest.hexdigest()} instead of {facts.sha256}")


class Reader:
    """Does what it is told.

    Args:
        fqrn: the repository.
        resolver: finds the edge.
    """

    def __init__(self, fqrn: str, resolver: GeoResolver) -> None:
        self._fqrn = fqrn
        self._resolver = resolver
        self._fetcher: WatchedFetcher | None = None
        self._repository: MountedRepository | None = None

    async def obey(self, order: dict[str, Any]) -> dict[str, Any]:
        """Does one thing and tells what came of it."""
        match order["do"]:
            case "open":
                return await self._open(order)
            case "read":
                return await self._read(order)
            case "refresh":
                found = await self._opened.refresh()
                return {"found": found.value, "revision": self._opened.revision}
            case "close":
                await self.close()
                return {}
        raise CdnError(f"a reader cannot do {order['do']!r}")

    async def close(self) -> None:
        """Lets go of the repository."""
        repository, self._repository = self._repository, None
        if repository is not None:
            await repository.close()

    @property
    def _opened(self) -> MountedRepository:
        if self._repository is None:
            raise CdnError("the reader has nothing open")
        return self._repository

    async def _open(self, order: dict[str, Any]) -> dict[str, Any]:
        await self.close()
        urls = parse_servers(order["servers"], self._fqrn)
        self._fetcher = WatchedFetcher(default_fetcher(urls, self._resolver))
        self._repository = await open_repository(
            self._fqrn,
            servers=urls,
            keys=[order["key"]],
            settings=ClientSettings(cache=Path(order["cache"]), policy=_PATIENCE),
            fetcher=self._fetcher,
        )
        return {"revision": self._repository.revision, "answers": dict(self._fetcher.answers)}

    async def _read(self, order: dict[str, Any]) -> dict[str, Any]:
        assert self._fetcher is not None
        before, hits = Counter(self._fetcher.answers), Counter(self._fetcher.hits)
        expected = await asyncio.to_thread(Expected.load, Path(order["expected"]))
        result = await Reading(self._opened, expected, order.get("only"), order.get("hold")).run()
        return {
            **result,
            "revision": self._opened.revision,
            "answers": dict(self._fetcher.answers - before),
            "hits": dict(self._fetcher.hits - hits),
        }


def say(document: dict[str, Any]) -> None:
    """Tells the demonstration something."""
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


async def _run(fqrn: str, host: str, port: int, network: str) -> None:
    reader = Reader(fqrn, GeoResolver((host, port), network))
    try:
        while line := await asyncio.to_thread(sys.stdin.readline):
            try:
                say({"result": await reader.obey(json.loads(line))})
            except* (CdnError, OSError) as errors:
                say({"error": "; ".join(str(error) for error in errors.exceptions)})
    finally:
        await reader.close()


def main() -> None:
    """Runs a reader: repository, address and port of GeoDNS, and the network it is in."""
    from cdn.transport.loop import run

    fqrn, host, port, network = sys.argv[1:]
    run(_run(fqrn, host, int(port), network))


if __name__ == "__main__":
    main()
