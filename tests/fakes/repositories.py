"""A whole signed repository in memory, and a network of servers that serve it, lie, die or dawdle."""

from __future__ import annotations

import copy
import itertools
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from cdn.catalog.entries import Chunk, Entry
from cdn.catalog.nesting import CATALOG_MARKER
from cdn.catalog.reader import Catalog
from cdn.catalog.schema import Counters, NestedReference
from cdn.catalog.writer import CatalogBuilder
from cdn.compression import Compression, compress
from cdn.errors import UnreachableError
from cdn.hashing import Algorithm, Digest, digest_of
from cdn.history import History, Tag
from cdn.metainfo import Metainfo
from cdn.objects import MANIFEST_PATH, MASTER_REPLICA_PATH, WHITELIST_PATH, Kind, ObjectName
from cdn.transport.base import Request
from cdn.transport.memory import Answer, MemoryFetcher
from tests.fakes.catalogs import directory_entry, file_entry
from tests.fakes.signer import FQRN, NOW, Signer

CHUNK = 64 << 10


class Publication:
    """A repository as a publisher serves it: `served` maps each path to its bytes; `publish` adds a revision.

    Catalogs are made with the real builder, everything is signed with real keys, all of it in memory but for the time a
    catalog is written.
    """

    def __init__(self, fqrn: str = FQRN, algorithm: Algorithm = Algorithm.SHAKE128) -> None:
        self.fqrn = fqrn
        self.signer = Signer(fqrn, algorithm)
        self.algorithm = algorithm
        self.served: dict[str, bytes] = {MASTER_REPLICA_PATH: b"\n", WHITELIST_PATH: self.signer.whitelist()}
        self.revision = 0
        self.root: Digest | None = None
        self.tags: tuple[Tag, ...] = ()
        self.contents: dict[str, bytes] = {}
        self._counters: dict[Digest, Counters] = {}
        self._numbers = itertools.count()
        self.put(Kind.CERTIFICATE, self.signer.certificate.pem)

    @property
    def keys(self) -> list[object]:
        return list(self.signer.master_keys)

    def put(self, kind: Kind, plain: bytes, compression: Compression = Compression.ZLIB) -> Digest:
        """Stores an object and gives its digest."""
        stored = bytes(compress(plain, compression))
        digest = digest_of(self.algorithm, stored)
        self.served[ObjectName(digest, kind).path] = stored
        return digest

    def file(self, content: bytes, compression: Compression = Compression.ZLIB, **fields: object) -> Entry:
        """The entry of a file whose content is stored as one object."""
        return file_entry(content, digest=self.put(Kind.FILE, content, compression), compression=compression, **fields)

    def chunked(self, content: bytes, chunk_bytes: int = CHUNK, **fields: object) -> Entry:
        """The entry of a file whose content is stored in chunks."""
        starts = range(0, len(content), chunk_bytes)
        chunks = tuple(
            Chunk(
                start,
                len(content[start : start + chunk_bytes]),
                self.put(Kind.CHUNK, content[start : start + chunk_bytes]),
            )
            for start in starts
        )
        return file_entry(content, digest=None, chunks=chunks, is_chunked=True, **fields)

    def publish(
        self,
        tree: Mapping[str, Entry | bytes],
        mountpoints: Iterable[str] = (),
        *,
        tag: str | None = None,
        ttl_seconds: int | None = None,
        **changes: object,
    ) -> Digest:
        """Makes the next revision: entries, or contents, by path; directories come by themselves."""
        self.contents = {path: content for path, content in tree.items() if isinstance(content, bytes)}
        entries = {path: self.file(entry) if isinstance(entry, bytes) else entry for path, entry in tree.items()}
        previous, self.revision = self.root, self.revision + 1
        with tempfile.TemporaryDirectory() as folder:
            self.root, size = self._catalogs(
                Path(folder), _with_parents(entries), set(mountpoints), previous, ttl_seconds
            )
            if tag is not None:
                new = Tag(tag, self.root, self.revision, NOW + self.revision, root_catalog_bytes=size)
                self.tags = (*(other for other in self.tags if other.name != tag), new)
            history = self._history(Path(folder)) if self.tags else None
        metainfo = self.put(Kind.METAINFO, Metainfo(administrator="somebody").to_bytes())
        values = {
            "root_catalog": self.root,
            "root_catalog_bytes": size,
            "revision": self.revision,
            "history": history,
            "metainfo": metainfo,
            "timestamp": NOW + self.revision,
            "garbage_collectable": True,
        }
        self.served[MANIFEST_PATH] = self.signer.manifest(**(values | changes))
        return self.root

    def twin(self) -> Publication:
        """Another publisher that has come as far; from now on each goes its own way."""
        made = copy.copy(self)
        made.signer, made.served, made.contents = copy.copy(self.signer), dict(self.served), dict(self.contents)
        made._counters = dict(self._counters)
        return made

    def copy(self) -> dict[str, bytes]:
        """What is served now; later revisions do not change it."""
        return dict(self.served)

    def _catalogs(
        self,
        folder: Path,
        tree: dict[str, Entry],
        mountpoints: set[str],
        previous: Digest | None,
        ttl_seconds: int | None,
    ) -> tuple[Digest, int]:
        def file() -> Path:
            return folder / f"{next(self._numbers)}.catalog"

        def totals(reference: NestedReference) -> Counters:
            return self._counters[reference.digest]

        builder = CatalogBuilder.create(file(), root_prefix="", root=tree.get("", directory_entry()), totals=totals)
        builder.insert_many((path, entry) for path, entry in tree.items() if path)
        for path in sorted(mountpoints, key=len, reverse=True):
            child = builder.split(path, file())
            child.insert(f"{path}/{CATALOG_MARKER}", self.file(b""))
            finished = child.finish(revision=1, previous=None, last_modified=NOW)
            digest = self.put(Kind.CATALOG, Path(finished.file).read_bytes())
            self._counters[digest] = finished.total
            builder.attach(NestedReference(path, digest, finished.size), finished.total, root=finished.root)
        finished = builder.finish(revision=self.revision, previous=previous, last_modified=NOW, ttl_seconds=ttl_seconds)
        return self.put(Kind.CATALOG, Path(finished.file).read_bytes()), finished.size

    def _history(self, folder: Path) -> Digest:
        file = folder / "history"
        History(self.fqrn, self.tags).write(file)
        return self.put(Kind.HISTORY, file.read_bytes())

    def catalog(self, digest: Digest, folder: Path) -> Catalog:
        """A stored catalog, opened."""
        from cdn.compression import decompress

        path = folder / f"{digest}.opened"
        path.write_bytes(decompress(self.served[ObjectName(digest, Kind.CATALOG).path], size_max=1 << 30))
        return Catalog.open(path)

    def write_to(self, folder: Path) -> Path:
        """Lays everything into a folder, as a web server would serve it; the manifest comes last."""
        for path in sorted(self.served, key=lambda path: path == MANIFEST_PATH):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / f"{path}.new").write_bytes(self.served[path])
            (folder / f"{path}.new").replace(folder / path)
        return folder


def _with_parents(tree: dict[str, Entry]) -> dict[str, Entry]:
    every = dict(tree)
    for path in tree:
        while path:
            path = path.rpartition("/")[0]  # noqa: PLW2901
            every.setdefault(path, directory_entry())
    order = sorted(every, key=lambda path: path.encode("utf-8", "surrogateescape").split(b"/"))
    return {path: every[path] for path in order}


# ------------------------------------------------------------------------------------------------------------- servers


@dataclass
class Server:
    """One server of the network.

    Args:
        served: bytes by path below the base URL.
        is_dead: whether it refuses connections.
        answers: what it says instead of what it serves, by path; a function is given the true answer.
    """

    served: Mapping[str, bytes]
    is_dead: bool = False
    answers: dict[str, Callable[[Answer, Request], Answer]] = field(default_factory=dict)
    every: Callable[[Answer, Request], Answer] | None = None
    asked: list[Request] = field(default_factory=list)

    def lie(self, path: str, change: Callable[[Answer, Request], Answer]) -> None:
        """Changes the answer for one path."""
        self.answers[path] = change

    def answer(self, path: str, request: Request) -> Answer:
        self.asked.append(request)
        if self.is_dead:
            return Answer(error=UnreachableError(request.url, "connection refused"))
        answer = Answer(self.served[path]) if path in self.served else Answer(b"", 404)
        change = self.answers.get(path, self.every)
        return answer if change is None else change(answer, request)


class Network(MemoryFetcher):
    """Servers by base URL; a `Fetcher`. Proxies are servers whose `every` says what they do to answers."""

    def __init__(self, servers: Mapping[str, Server], proxies: Mapping[str, Server] | None = None) -> None:
        super().__init__(self._route)
        self.servers = dict(servers)
        self.proxies = dict(proxies or {})

    def _route(self, request: Request) -> Answer:
        base = next((base for base in self.servers if request.url.startswith(f"{base}/")), None)
        if base is None:
            return Answer(error=UnreachableError(request.url, "no such host"))
        path = request.url[len(base) + 1 :]
        if request.proxy is None:
            return self.servers[base].answer(path, request)
        proxy = self.proxies[request.proxy]
        proxy.asked.append(request)
        if proxy.is_dead:
            return Answer(error=UnreachableError(request.url, "the proxy refused the connection"))
        answer = self.servers[base].answer(path, request)
        return answer if proxy.every is None else proxy.every(answer, request)


def flipped(answer: Answer, request: Request) -> Answer:
    """With one bit in the middle turned over."""
    return answer.flipped(len(answer.body) // 2) if answer.body else answer


def cut(answer: Answer, request: Request) -> Answer:
    """With its second half missing, though the length said otherwise."""
    return replace(answer, cut_after=len(answer.body) // 2)


def emptied(answer: Answer, request: Request) -> Answer:
    """With nothing in it, and the length to match."""
    return replace(answer, body=b"")


def endless(answer: Answer, request: Request) -> Answer:
    """With far more after it, without saying how much."""
    return replace(answer, body=answer.body + bytes(4 << 20), tells_size=False)


def error_500(answer: Answer, request: Request) -> Answer:
    return Answer(b"", 500)
