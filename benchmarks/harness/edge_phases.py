"""What is measured of an edge and the caches beside it, phase by phase; nothing here judges or prints."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.client
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.harness import wrk
from benchmarks.harness.caches import Edge, Nginx
from benchmarks.harness.crowd import CrowdFailedError, crowd_before
from benchmarks.harness.machine import kernel_socket_bytes
from benchmarks.harness.objects import MEBIBYTE, CachedObject, mixed_sizes, objects, zipf_sequence
from benchmarks.harness.origin import Origin, origin_of
from benchmarks.harness.profiler import profile
from benchmarks.harness.servers import Budget, CacheServer, ServerFailedError

CONNECTIONS: Final = 32
"""For everything but the hits, which are measured with several numbers."""
_AMPLE: Final = Budget(memory_bytes=2 << 30, disk_bytes=8 << 30)
_TRIES: Final = 20
_SETTLE_SECONDS_MAX: Final = 15.0
_IDLE_SECONDS_PER_SECOND: Final = 0.03


@dataclass(frozen=True, slots=True)
class Scope:
    """How much is measured.

    Args:
        rounds: how often each cell is measured.
        seconds: for how long each time.
        sizes, connections: of the hits.
        zipf_objects, zipf_warm, zipf_slice: objects, requests before the first round, and requests in each round.
        miss_slice: new objects in each round.
        crowd_clients, crowd_readers, crowd_bytes, crowd_rate: clients, those that read all, size of the object, and how
            many bytes of it the origin sends a second.
        memory_objects, memory_sizes: how many objects of each size are cached.
    """

    rounds: int = 5
    seconds: int = 2
    sizes: tuple[int, ...] = (1_000, 8_192, 65_536, MEBIBYTE, 64 * MEBIBYTE)
    connections: tuple[int, ...] = (1, 32, 512)
    zipf_objects: int = 100_000
    zipf_warm: int = 100_000
    zipf_slice: int = 20_000
    miss_slice: int = 10_000
    crowd_clients: int = 10_000
    crowd_readers: int = 64
    crowd_bytes: int = 64 * MEBIBYTE
    crowd_rate: int = 4 * MEBIBYTE
    memory_objects: int = 100_000
    memory_sizes: tuple[int, ...] = (1_000, 8_192)


QUICK: Final = Scope(
    rounds=1,
    seconds=1,
    sizes=(8_192,),
    connections=(32,),
    zipf_objects=200,
    zipf_warm=200,
    zipf_slice=200,
    miss_slice=100,
    crowd_clients=100,
    crowd_readers=4,
    crowd_bytes=2 * MEBIBYTE,
    crowd_rate=4 * MEBIBYTE,
    memory_objects=100,
    memory_sizes=(8_192,),
)


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one server did once in one cell of a phase; `figures` are named with their units last."""

    phase: str
    cell: str
    server: str
    round: int
    figures: dict[str, float]


@dataclass(slots=True)
class Bench:
    """Where and how to measure, and what came of it.

    Args:
        folder: for everything that is written.
        kinds: the servers, ours first.
        scope: how much is measured.
        server_core, load_core: where the measured server runs, and where all else does.
        say: is told of each measurement.
    """

    folder: Path
    kinds: Sequence[type[CacheServer]]
    scope: Scope
    server_core: int | None
    load_core: int | None
    say: Callable[[str], None]
    found: list[Measurement] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    configurations: dict[str, dict[str, str]] = field(default_factory=dict)

    def record(self, phase: str, cell: str, server: str, number: int, figures: dict[str, float]) -> None:
        """Keeps a measurement."""
        self.found.append(Measurement(phase, cell, server, number, figures))
        shown = ", ".join(f"{key} {value:,.6g}" for key, value in figures.items())
        self.say(f"{phase} {cell} round {number} {server}: {shown}")

    def problem(self, text: str) -> None:
        """Keeps what went wrong; measuring goes on without it."""
        self.problems.append(text)
        self.say(f"PROBLEM {text}")


def size_text(size: int) -> str:
    """A size as cells are named by it."""
    if size >= MEBIBYTE:
        return f"{size // MEBIBYTE} MiB"
    return f"{round(size / 1024) or 1} KB"


# ---------------------------------------------------------------------------------------------------- servers, checked


@contextmanager
def _origin(bench: Bench, held: list[CachedObject], rate: int = 0) -> Iterator[Origin]:
    with origin_of(held, bench.folder, bench.load_core, rate) as origin:
        yield origin


@contextmanager
def _running(bench: Bench, phase: str, servers: Sequence[CacheServer]) -> Iterator[list[CacheServer]]:
    """Those of the servers that start, until the end of the block."""
    started: list[CacheServer] = []
    try:
        for server in servers:
            with _problems_of(bench, f"{phase}: {server.name}"):
                server.start()
                started.append(server)
                bench.configurations.setdefault(server.name, server.described())
        _settle(started)
        yield started
    finally:
        for server in servers:
            server.stop()
            shutil.rmtree(server.folder, ignore_errors=True)


def _settle(servers: Sequence[CacheServer]) -> None:
    """Waits until none of them is busy with its own start any more."""
    end = time.monotonic() + _SETTLE_SECONDS_MAX
    while time.monotonic() < end:
        before = sum(server.cpu_seconds() for server in servers)
        time.sleep(1)  # the stretch of time that is looked at
        if sum(server.cpu_seconds() for server in servers) - before <= _IDLE_SECONDS_PER_SECOND:
            return


@contextmanager
def _problems_of(bench: Bench, what: str) -> Iterator[None]:
    try:
        yield
    except (ServerFailedError, wrk.LoadFailedError, CrowdFailedError, OSError, http.client.HTTPException) as error:
        bench.problem(f"{what}: {error or type(error).__name__}")


def _made(bench: Bench, phase: str, kinds: Sequence[type[CacheServer]], port: int, budget: Budget) -> list[CacheServer]:
    return [
        kind(bench.folder / f"{phase}-{kind.name.replace(' ', '-')}", port, budget, bench.server_core) for kind in kinds
    ]


def _checked(
    bench: Bench, servers: list[CacheServer], origin: Origin, held: Sequence[CachedObject]
) -> list[CacheServer]:
    """Those that give the right bytes of all objects, and give them without the origin the next time."""
    good = []
    for server in servers:
        with _problems_of(bench, server.name):
            for each in held:
                _check(server, origin, each)
            good.append(server)
    return good


def _check(server: CacheServer, origin: Origin, wanted: CachedObject) -> None:
    for _ in range(_TRIES):
        before = origin.counted().requests
        if _digest_got(server, wanted.path) != wanted.digest:
            raise ServerFailedError(f"{server.name} gave wrong bytes of {wanted.size}")
        if origin.counted().requests == before:
            return
    raise ServerFailedError(f"{server.name} does not cache {wanted.size} bytes")


def _digest_got(server: CacheServer, path: str) -> str:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        digest = hashlib.sha1(usedforsecurity=False)
        while piece := answer.read(MEBIBYTE):
            digest.update(piece)
        return digest.hexdigest()


def _figures(server: CacheServer, origin: Origin, load: Callable[[], wrk.Load], size: int = 0) -> dict[str, float]:
    """Runs a load, and tells what it was for both sides; with a `size`, parts of answers count, too."""
    asked, used = origin.counted(), server.cpu_seconds()
    seen = load()
    used, asked = server.cpu_seconds() - used, origin.counted().since(asked)
    answers = max(seen.requests, seen.bytes_read / size if size else 0)
    return {
        "requests_per_second": answers / seen.seconds,
        "megabytes_per_second": seen.bytes_read / seen.seconds / 1e6,
        "p50_ms": seen.p50_us / 1000,
        "p99_ms": seen.p99_us / 1000,
        "cpu_us_per_request": used / answers * 1e6 if answers else 0.0,
        "server_busy": used / seen.seconds,
        "client_busy": seen.client_cpu_seconds / seen.seconds,
        "whole_answers": seen.requests,
        "origin_requests": asked.requests,
        "errors": seen.errors,
    }


def _in_turn(servers: Sequence[CacheServer], number: int) -> list[CacheServer]:
    return list(servers) if number % 2 else list(reversed(servers))


# -------------------------------------------------------------------------------------------------------------- phases


def hits(bench: Bench) -> None:
    """One object of each size, asked for by one, some and many connections."""
    scope, held = bench.scope, objects(bench.scope.sizes)
    cells = [(each, connections) for each in held for connections in scope.connections]
    with (
        _origin(bench, held) as origin,
        _running(bench, "hits", _made(bench, "hits", bench.kinds, origin.port, _AMPLE)) as started,
    ):
        servers = _checked(bench, started, origin, held)
        urls = {(server.name, each.path): _better_url(bench, server, each) for server in servers for each in held}
        for number in range(1, scope.rounds + 1):
            for each, connections in cells:
                for server in _in_turn(servers, number):
                    _hit(bench, "hits", origin, server, each, urls[server.name, each.path], connections, number)


def _better_url(bench: Bench, server: CacheServer, wanted: CachedObject) -> str:
    """Of the settings that a server offers the one that gives more of an object, and says so."""
    urls = server.urls(wanted.path)
    if len(urls) == 1:
        return urls[0]
    rates = {}
    for url in urls:
        with _problems_of(bench, server.name):
            seen = wrk.repeat(url, CONNECTIONS, 1, bench.load_core)
            rates[url] = seen.bytes_read / seen.seconds
    better = max(rates, key=lambda url: rates[url], default=urls[0])
    bench.say(
        f"hits: {server.name} serves {size_text(wanted.size)} with setting {urls.index(better) + 1} of {len(urls)}"
    )
    return better


def _hit(
    bench: Bench,
    phase: str,
    origin: Origin,
    server: CacheServer,
    wanted: CachedObject,
    url: str,
    connections: int,
    number: int,
) -> None:
    cell = f"{size_text(wanted.size)}, {connections}"
    with _problems_of(bench, f"{phase} {cell} {server.name}"):
        partly = wanted.size if wanted.size > MEBIBYTE else 0
        seconds = bench.scope.seconds
        figures = _figures(server, origin, lambda: wrk.repeat(url, connections, seconds, bench.load_core), partly)
        bench.record(phase, cell, server.name, number, figures)


def zipf(bench: Bench) -> None:
    """Many objects asked for as unevenly as readers do, with a cache that holds a tenth of their bytes."""
    scope = bench.scope
    held = objects(mixed_sizes(scope.zipf_objects, "zipf"), 1_000_000)
    order = zipf_sequence(len(held), scope.zipf_warm + scope.rounds * scope.zipf_slice, "zipf")
    tenth = max(8 * MEBIBYTE, sum(each.size for each in held) // 10)
    budget = Budget(tenth, tenth, object_bytes_max=4 * MEBIBYTE)
    steps = wrk.Walk.written(bench.folder, held, order)
    with (
        _origin(bench, held) as origin,
        _running(bench, "zipf", _made(bench, "zipf", bench.kinds, origin.port, budget)) as started,
    ):
        servers = _checked(bench, started, origin, held[:3])
        for server in servers:
            _walk(bench, "zipf", "warming up", server, origin, steps, (0, scope.zipf_warm), 0)
        for number in range(1, scope.rounds + 1):
            part = (scope.zipf_warm + (number - 1) * scope.zipf_slice, scope.zipf_slice)
            for server in _in_turn(servers, number):
                _walk(bench, "zipf", "a tenth", server, origin, steps, part, number)


def misses(bench: Bench) -> None:
    """Objects that nobody asked for before."""
    scope = bench.scope
    held = objects([8_192] * (scope.miss_slice * scope.rounds + 1), 2_000_000)
    steps = wrk.Walk.written(bench.folder, held, range(len(held)))
    with (
        _origin(bench, held) as origin,
        _running(bench, "misses", _made(bench, "misses", bench.kinds, origin.port, _AMPLE)) as started,
    ):
        servers = _checked(bench, started, origin, held[-1:])
        for number in range(1, scope.rounds + 1):
            part = ((number - 1) * scope.miss_slice, scope.miss_slice)
            for server in _in_turn(servers, number):
                _walk(bench, "misses", "8 KB", server, origin, steps, part, number)


def _walk(
    bench: Bench,
    phase: str,
    cell: str,
    server: CacheServer,
    origin: Origin,
    steps: wrk.Walk,
    part: tuple[int, int],
    number: int,
) -> None:
    """One slice of a walk; also tells which share of its requests the origin never saw, and what is stored after it."""
    with _problems_of(bench, f"{phase} {cell} {server.name}"):
        figures = _figures(
            server, origin, lambda: wrk.walk(server.urls("/")[-1], steps, *part, CONNECTIONS, bench.load_core)
        )
        figures["hit_ratio"] = 1 - min(1.0, figures["origin_requests"] / part[1])
        bench.record(phase, cell, server.name, number, figures)


def memory(bench: Bench) -> None:
    """What a cached object takes of memory: all objects are asked for twice, and the growth is shared among them."""
    for size in bench.scope.memory_sizes:
        held = objects([size] * bench.scope.memory_objects, 3_000_000)
        steps = wrk.Walk.written(bench.folder, held, range(len(held)))
        with _origin(bench, held) as origin:
            for kind in bench.kinds:
                server = _made(bench, "memory", [kind], origin.port, _AMPLE)[0]
                with _running(bench, "memory", [server]) as started:
                    for one in _checked(bench, started, origin, held[-1:]):
                        _fill(bench, one, origin, steps, size, len(held))


def _fill(bench: Bench, server: CacheServer, origin: Origin, steps: wrk.Walk, size: int, count: int) -> None:
    with _problems_of(bench, f"memory {size_text(size)} {server.name}"):
        before = server.memory_bytes()
        for _ in range(2):
            asked = origin.counted()
            wrk.walk(server.url("/"), steps, 0, count, CONNECTIONS, bench.load_core)
        grown = server.memory_bytes() - before
        figures = {
            "bytes_per_object": grown / count,
            "overhead_bytes_per_object": grown / count - size,
            "before_megabytes": before / 1e6,
            "second_time_origin_requests": origin.counted().since(asked).requests,
        }
        bench.record("memory", f"{count:,} of {size_text(size)}", server.name, 1, figures)


def cold(bench: Bench) -> None:
    """A crowd that asks for one large object that nobody has yet, while it arrives slowly."""
    scope = bench.scope
    for kind in bench.kinds:
        held = objects([1_000, scope.crowd_bytes], 4_000_000)
        with _origin(bench, held, scope.crowd_rate) as origin:
            server = _made(bench, "cold", [kind], origin.port, _AMPLE)[0]
            with _running(bench, "cold", [server]) as started:
                for one in _checked(bench, started, origin, held[:1]):
                    with _problems_of(bench, f"cold: {one.name}"):
                        _crowd(bench, one, origin, held[1])


def _crowd(bench: Bench, server: CacheServer, origin: Origin, wanted: CachedObject) -> None:
    scope, asked, used = bench.scope, origin.counted(), server.cpu_seconds()
    before, kernel_before = server.memory_bytes(), kernel_socket_bytes()
    most = [before, kernel_before]

    def look() -> None:
        most[0] = max(most[0], server.memory_bytes())
        most[1] = max(most[1], kernel_socket_bytes())

    seen = crowd_before(
        server.port,
        wanted.path,
        wanted.digest,
        clients=scope.crowd_clients,
        readers=scope.crowd_readers,
        first_bytes=64 << 10,
        seconds_max=round(6 * scope.crowd_bytes / scope.crowd_rate) + 10,
        core=bench.load_core,
        while_waiting=look,
    )
    figures = {
        "upstream_requests": origin.counted().since(asked).requests,
        "clients": seen.clients,
        "asked": seen.asked,
        "got_first_bytes": seen.answered,
        "readers": seen.readers,
        "verified": seen.verified,
        "failed": seen.failed,
        "asked_seconds": seen.asked_seconds,
        "first_seconds": seen.first_seconds,
        "whole_seconds": seen.whole_seconds,
        "memory_before_megabytes": before / 1e6,
        "memory_grown_megabytes": (most[0] - before) / 1e6,
        "kernel_socket_megabytes": (most[1] - kernel_before) / 1e6,
        "cpu_seconds": server.cpu_seconds() - used,
    }
    bench.record("cold", f"{scope.crowd_clients:,} clients, {size_text(wanted.size)}", server.name, 1, figures)


def workers(bench: Bench) -> None:
    """One process against two, on all cores, which the load then shares with them."""
    if not Edge.has_workers():
        bench.problem("workers: this edge serves with one process only")
        return
    held = objects([size for size in (8_192, MEBIBYTE) if size in bench.scope.sizes])
    kinds = [kind for kind in bench.kinds if kind in {Edge, Nginx}]
    unpinned = Bench(
        bench.folder, kinds, bench.scope, None, None, bench.say, bench.found, bench.problems, bench.configurations
    )
    with _origin(unpinned, held) as origin:
        made = []
        for count in (1, 2):
            budget = Budget(_AMPLE.memory_bytes, _AMPLE.disk_bytes, workers=count)
            for server in _made(unpinned, f"workers-{count}", kinds, origin.port, budget):
                server.name = f"{server.name}, {count} worker{'s' * (count > 1)}"
                made.append(server)
        with _running(unpinned, "workers", made) as started:
            servers = _checked(unpinned, started, origin, held)
            for number in range(1, bench.scope.rounds + 1):
                for each in held:
                    for server in _in_turn(servers, number):
                        _hit(unpinned, "workers", origin, server, each, server.url(each.path), CONNECTIONS, number)


def profile_of_hits(bench: Bench) -> str:
    """Where ours spends its time while it serves hits of 8 KB."""
    held, seconds = objects([8_192]), 3 * bench.scope.seconds
    with (
        _origin(bench, held) as origin,
        _running(bench, "profile", _made(bench, "profile", [Edge], origin.port, _AMPLE)) as started,
        _problems_of(bench, "profile"),
    ):
        (server,) = _checked(bench, started, origin, held) or [None]
        if server is not None:
            load = functools.partial(wrk.repeat, server.url(held[0].path), CONNECTIONS, seconds + 1, bench.load_core)
            return profile(server.pids[0], seconds, load)
    return ""


PHASES: Final[dict[str, Callable[[Bench], None]]] = {
    "hits": hits,
    "misses": misses,
    "zipf": zipf,
    "cold": cold,
    "memory": memory,
    "workers": workers,
}


def seconds_expected(phase: str, scope: Scope, servers: int) -> float:
    """About how long a phase takes; rates are those of a slow machine."""
    turns = servers * scope.rounds
    return {
        "hits": turns * len(scope.sizes) * len(scope.connections) * (scope.seconds + 0.2),
        "misses": 10 + turns * scope.miss_slice / 2_500,
        "zipf": 10 + servers * scope.zipf_warm / 5_000 + turns * scope.zipf_slice / 7_000,
        "cold": servers * (scope.crowd_bytes / scope.crowd_rate + 6),
        "memory": servers * len(scope.memory_sizes) * scope.memory_objects / 3_500,
        "workers": 10 + 4 * scope.rounds * 2 * (scope.seconds + 0.2),
    }[phase]
