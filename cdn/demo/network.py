"""The servers of the demonstration: each a process of its own, started as an operator would start it."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cdn.demo.addresses import free_port
from cdn.demo.naming import ask
from cdn.demo.places import EDGE_ADDRESSES, EDGE_NAME, EDGES, HOME, REPLICAS, REPOSITORY, EdgePlace, edge_named
from cdn.demo.processes import PortTakenError, Processes, Program
from cdn.demo.report import DemoFailedError
from cdn.demo.settings import edge_config, geodns_config
from cdn.errors import TransportError
from cdn.manifest import Manifest
from cdn.objects import MANIFEST_PATH
from cdn.signing import body_of
from cdn.transport.base import Request
from cdn.transport.download import read_body
from cdn.transport.http import HttpFetcher, HttpSettings

COMMAND_SECONDS: Final = 120.0
WAIT_SECONDS: Final = 30.0
_PORT_ATTEMPTS: Final = 5
_STATUS_BYTES_MAX: Final = 4 << 20
_POLL_SECONDS: Final = 0.05
_REPLICA_INTERVAL: Final = "1s"


@dataclass(frozen=True, slots=True)
class Workspace:
    """The folders of the demonstration.

    Args:
        root: holds everything.
    """

    root: Path

    @property
    def tree(self) -> Path:
        """What is published."""
        return self.root / "tree"

    @property
    def stratum0(self) -> Path:
        """The publisher's repositories."""
        return self.root / "stratum0"

    @property
    def logs(self) -> Path:
        """A log for each process."""
        return self.root / "logs"

    @property
    def key(self) -> Path:
        """The repository's public key, as its users get it."""
        return self.root / f"{REPOSITORY}.pub"

    def replica(self, name: str) -> Path:
        """A replica's folder."""
        return self.root / f"replica-{name}"

    def edge_cache(self, name: str) -> Path:
        """An edge's cache."""
        return self.root / f"edge-{name}" / "cache"

    def client_cache(self, name: str, run: str) -> str:
        """A client's cache, anew for each `run`."""
        return str(self.root / f"client-{name}" / run)

    def expected(self, revision: int) -> Path:
        """What a revision must hold."""
        return self.root / f"expected-{revision}.json"

    def create(self) -> None:
        """Makes the folders that nobody else makes."""
        for folder in (self.tree, self.logs, *(self.edge_cache(place.name) for place in EDGES)):
            folder.mkdir(parents=True)


@dataclass(slots=True)
class Ports:
    """Where the servers listen; 0 until they do."""

    stratum0: int = 0
    stratum0_metrics: int = 0
    edge: int = 0
    edge_admin: int = 0
    dns: int = 0
    dns_admin: int = 0


class Network:
    """All servers.

    Args:
        workspace: where their files are.
        processes: starts and ends them.
    """

    def __init__(self, workspace: Workspace, processes: Processes) -> None:
        self.workspace = workspace
        self.processes = processes
        self.ports = Ports()
        self.replica_ports: dict[str, tuple[int, int]] = {}
        self._fetcher = HttpFetcher(HttpSettings(connect_timeout_seconds=2.0, head_timeout_seconds=5.0))

    async def close(self) -> None:
        """Lets go of connections; processes are ended by who started them."""
        await self._fetcher.close()

    # -------------------------------------------------------------------------- where

    @property
    def stratum0_url(self) -> str:
        """Where the publisher serves."""
        return f"http://{HOME}:{self.ports.stratum0}"

    def replica_url(self, name: str) -> str:
        """Where a replica serves."""
        return f"http://{HOME}:{self.replica_ports[name][0]}"

    def edge_url(self, name: str) -> str:
        """Where an edge serves."""
        return f"http://{edge_named(name).address}:{self.ports.edge}"

    def edge_admin_url(self, name: str) -> str:
        """The operator's listener of an edge."""
        return f"http://{edge_named(name).address}:{self.ports.edge_admin}"

    @property
    def reader_url(self) -> str:
        """What clients are told: one name for all edges."""
        return f"http://{EDGE_NAME}:{self.ports.edge}/cvmfs/@fqrn@"

    @property
    def dns(self) -> tuple[str, int]:
        """Where GeoDNS answers."""
        return HOME, self.ports.dns

    # -------------------------------------------------------------------------- stratum 0

    async def create_repository(self) -> None:
        """Makes the repository and hands out its public key."""
        root = str(self.workspace.stratum0)
        made = await self._command("create", "repo", "create", REPOSITORY, "--ttl", "60", "--root", root)
        await asyncio.to_thread(shutil.copyfile, made["public_key_file"], self.workspace.key)

    async def publish(self, name: str) -> dict[str, Any]:
        """Makes the repository equal to the tree, and says what that took."""
        root, tree = str(self.workspace.stratum0), str(self.workspace.tree)
        return await self._command(name, "publish", REPOSITORY, tree, "--root", root)

    async def serve_stratum0(self) -> None:
        """Starts the publisher's web server."""

        def programs() -> Sequence[Program]:
            ports = self.ports
            ports.stratum0, ports.stratum0_metrics = free_port([HOME]), free_port([HOME])
            where = ("--host", HOME, "--port", str(ports.stratum0), "--metrics-port", str(ports.stratum0_metrics))
            arguments = ("serve", "--root", str(self.workspace.stratum0), *where)
            return [Program("stratum0", arguments, self._answers(f"{self.stratum0_url}/cvmfs/info/v1/meta.json"))]

        await self._start(programs)

    # -------------------------------------------------------------------------- replicas

    async def replicate(self) -> list[dict[str, Any]]:
        """Makes the first copy at every replica, all at the same time, and says what that took."""

        async def first_copy(name: str) -> dict[str, Any]:
            root = str(self.workspace.replica(name))
            source = f"{self.stratum0_url}/cvmfs/@fqrn@"
            key, interval = str(self.workspace.key), _REPLICA_INTERVAL
            add = ("replica", "add", REPOSITORY, "--server", source, "--key", key, "--interval", interval)
            await self._command(f"replica-{name}-add", *add, "--root", root)
            done = await self._command(f"replica-{name}-sync", "replica", "sync", REPOSITORY, "--root", root)
            report: dict[str, Any] = done["replicas"][0]
            return report

        return await asyncio.gather(*(first_copy(name) for name in REPLICAS))

    async def check_replica(self, name: str) -> dict[str, Any]:
        """Has a replica prove that it is complete and right."""
        root = str(self.workspace.replica(name))
        return await self._command(f"replica-{name}-check", "replica", "check", REPOSITORY, "--root", root)

    async def serve_replicas(self) -> None:
        """Starts the replicas' web servers, and the daemons that keep them current."""

        def programs() -> Sequence[Program]:
            return [program for name in REPLICAS for program in self._replica_programs(name)]

        await self._start(programs)

    def _replica_programs(self, name: str) -> list[Program]:
        port, metrics_port, daemon_port = (free_port([HOME]) for _ in range(3))
        self.replica_ports[name] = (port, metrics_port)
        root = self.workspace.replica(name)
        where = ("--host", HOME, "--port", str(port), "--metrics-port", str(metrics_port))
        manifest = f"{self.replica_url(name)}/cvmfs/{REPOSITORY}/{MANIFEST_PATH}"
        daemon = ("replica", "run", "--metrics", f"{HOME}:{daemon_port}", "--root", str(root))
        return [
            Program(f"replica-{name}", ("serve", "--storage", str(root / "srv"), *where), self._answers(manifest)),
            Program(f"replica-{name}-daemon", daemon, self._answers(f"http://{HOME}:{daemon_port}/healthz")),
        ]

    async def replicas_at(self, revision: int) -> None:
        """Waits until every replica serves a revision.

        Raises:
            DemoFailedError: some does not in time.
        """

        async def is_there() -> bool:
            return all([await self.revision_at(self.replica_url(name)) >= revision for name in REPLICAS])

        await wait_until(is_there, f"not every replica serves revision {revision}")

    # -------------------------------------------------------------------------- edges, DNS

    async def start_edges(self) -> None:
        """Starts the edges, on one port of three addresses."""

        def programs() -> Sequence[Program]:
            self.ports.edge, self.ports.edge_admin = free_port(EDGE_ADDRESSES), free_port(EDGE_ADDRESSES)
            return [self._edge_program(place) for place in EDGES]

        await self._start(programs)

    async def restart_edge(self, name: str) -> None:
        """Starts an edge again that was killed, with the cache it had."""
        await self.processes.start(self._edge_program(edge_named(name)))

    def _edge_program(self, place: EdgePlace) -> Program:
        cache = self.workspace.edge_cache(place.name)
        path = cache.parent / "edge.toml"
        text = edge_config(
            place,
            port=self.ports.edge,
            admin_port=self.ports.edge_admin,
            upstreams=[self.replica_url(replica) for replica in self._replicas_near(place)],
            cache=str(cache),
        )
        path.write_text(text)
        ready = self._answers(f"{self.edge_url(place.name)}/healthz")
        return Program(f"edge-{place.name}", ("edge", "run", "--config", str(path)), ready)

    def _replicas_near(self, place: EdgePlace) -> tuple[str, ...]:
        """The replicas in the order in which an edge asks them: west of 30° W the one in Vancouver first."""
        return REPLICAS if place.longitude > -30 else tuple(reversed(REPLICAS))

    async def start_geodns(self) -> None:
        """Starts GeoDNS, which looks after the edges from then on."""
        path = self.workspace.root / "geodns.toml"

        def programs() -> Sequence[Program]:
            ports = self.ports
            ports.dns, ports.dns_admin = free_port([HOME], datagrams=True), free_port([HOME])
            path.write_text(geodns_config(port=ports.dns, admin_port=ports.dns_admin, edge_port=ports.edge))
            ready = self._answers(f"http://{HOME}:{ports.dns_admin}/healthz")
            return [Program("geodns", ("geodns", "run", "--config", str(path)), ready)]

        await self._start(programs)

    async def located(self, network: str) -> tuple[str, ...]:
        """The addresses that GeoDNS names to a client in a network."""
        return (await ask(self.dns, EDGE_NAME, network)).addresses

    async def edge_states(self) -> dict[str, str]:
        """How GeoDNS says that each edge is."""
        document = await self.json(f"http://{HOME}:{self.ports.dns_admin}/status")
        return {name: mark["state"] for name, mark in document["edges"].items()}

    # -------------------------------------------------------------------------- asking

    async def edge_status(self, name: str) -> dict[str, Any]:
        """What an edge tells its operator."""
        return await self.json(f"{self.edge_admin_url(name)}/status")

    async def web_requests(self, metrics_port: int) -> int:
        """How many requests a `cdn serve` has answered."""
        text = await self.fetch(f"http://{HOME}:{metrics_port}/metrics")
        lines = [line for line in text.decode().splitlines() if line.startswith("stratum0_web_requests_total{")]
        return int(sum(float(line.rpartition(" ")[2]) for line in lines))

    async def revision_at(self, url: str) -> int:
        """The revision that a server serves now."""
        content = await self.fetch(f"{url}/cvmfs/{REPOSITORY}/{MANIFEST_PATH}")
        return Manifest.parse(body_of(content)).revision

    async def json(self, url: str) -> dict[str, Any]:
        """A JSON document."""
        document: dict[str, Any] = json.loads(await self.fetch(url))
        return document

    async def fetch(self, url: str, size_max: int = _STATUS_BYTES_MAX) -> bytes:
        """The body of an answer.

        Raises:
            TransportError: there is none.
        """
        return await read_body(self._fetcher, Request(url), size_max=size_max)

    def _answers(self, url: str) -> Callable[[], Awaitable[bool]]:
        async def is_ready() -> bool:
            try:
                await self.fetch(url)
            except TransportError:
                return False
            return True

        return is_ready

    # -------------------------------------------------------------------------- starting

    async def _start(self, programs: Callable[[], Sequence[Program]]) -> None:
        """Starts servers; where somebody took a port meanwhile, once more with others.

        Args:
            programs: chooses ports and says what to start.
        """
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            try:
                await self.processes.start_together(programs())
            except PortTakenError:
                if attempt == _PORT_ATTEMPTS:
                    raise
            else:
                return

    async def _command(self, log: str, *arguments: str) -> dict[str, Any]:
        output = await self.processes.run(log, *arguments, "--json", seconds=COMMAND_SECONDS)
        try:
            document: dict[str, Any] = json.loads(output)
        except ValueError:
            raise DemoFailedError(f"`cdn {' '.join(arguments)}` printed no JSON: {output[:200]!r}") from None
        return document


async def wait_until(holds: Callable[[], Awaitable[bool]], complaint: str, seconds: float = WAIT_SECONDS) -> None:
    """Waits until something is so, looking again and again.

    Raises:
        DemoFailedError: it is not in time.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not await holds():
        if loop.time() > deadline:
            raise DemoFailedError(f"{complaint} after {seconds:g} s")
        await asyncio.sleep(_POLL_SECONDS)
