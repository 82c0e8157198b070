"""The story of the demonstration, step by step; what each step must show is checked in it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cdn.demo.addresses import check_addresses
from cdn.demo.damage import find_victim, flip
from cdn.demo.network import Network, wait_until
from cdn.demo.places import CLIENTS, EDGE_ADDRESSES, EDGE_NAME, EDGES, REPLICAS, REPOSITORY, edge_at, edge_named
from cdn.demo.readers import ReaderHandle, ReadResult
from cdn.demo.report import Recorder
from cdn.demo.settings import DNS_TTL_SECONDS
from cdn.demo.tree import Edit, Expected, copy_libraries, edit, size_limit
from cdn.reporting import duration_text, size_text
from cdn.telemetry import fault_point

KILL_AT: Final = 0.3
"""When the edge dies: the part of the files that its reader has read."""
_HOLD_AT: Final = 0.6
"""Where the reader waits for the death, should it be faster."""
_KILL_FILES_MAX: Final = 3_000
_SAMPLE_FILES_MAX: Final = 50
_LYON, _, _OSAKA = CLIENTS


@dataclass(frozen=True, slots=True)
class _Killed:
    """An edge that was killed.

    Args:
        files: how many its reader had read.
        at: when, on the loop's clock.
        status: what it told its operator just before.
    """

    files: int
    at: float
    status: Mapping[str, Any]


class Scenario:
    """Tells the story.

    Args:
        network: the servers.
        recorder: keeps what was seen.
        files_max: how many files are published at most.
    """

    def __init__(self, network: Network, recorder: Recorder, *, files_max: int) -> None:
        self._network = network
        self._workspace = network.workspace
        self._record = recorder
        self._files_max = files_max
        self._expected = Expected()
        self._readers: dict[str, ReaderHandle] = {}
        self._revision = 0
        self._lost: list[Mapping[str, Any]] = []
        self._read_files = self._read_bytes = 0

    async def run(self) -> None:
        """Tells it from beginning to end.

        Raises:
            DemoFailedError: a step could not be done.
        """
        for title, tell in STEPS:
            with self._record.step(title):
                await tell(self)

    # -------------------------------------------------------------------------- publishing

    async def copy(self) -> None:
        """Takes the software and the digest of every file."""
        check_addresses(EDGE_ADDRESSES)
        limit = size_limit(self._workspace.root)
        tree = self._workspace.tree
        stop = threading.Event()
        copying = asyncio.ensure_future(
            asyncio.to_thread(copy_libraries, tree, files_max=self._files_max, bytes_max=limit, is_stopped=stop.is_set)
        )
        try:
            self._expected, found = await asyncio.shield(copying)
        except asyncio.CancelledError:
            stop.set()  # a thread cannot be cancelled, and must not copy what is being removed
            await asyncio.wait([copying])
            raise
        fault_point("demo.tree.copied")
        files, size = len(self._expected.files), size_text(self._expected.size_bytes)
        part = "" if found <= files + len(self._expected.links) else f", of {found:,} there are"
        self._record.say(f"copied this Python's standard library and site-packages: {files:,} files, {size}{part}")
        self._record.outcome(f"{files:,} files, {size}")

    async def publish(self) -> None:
        """Makes a repository and its first real revision."""
        await self._network.create_repository()
        self._record.say(f"made {REPOSITORY}: keys, certificate, whitelist, an empty first revision")
        done = await self._network.publish("publish-1")
        self._revision = done["revision"]
        stored = size_text(done["bytes_stored"])
        self._record.say(
            f"published revision {self._revision}: {done['files_read']:,} files read, "
            f"{size_text(done['bytes_read'])}, {stored} stored, {done['catalogs_written']} catalog(s)"
        )
        wanted = len(self._expected.files)
        was_read = f"{done['files_read']:,} of {wanted:,}"
        self._record.check("every file was published", is_good=done["files_read"] == wanted, seen=was_read)
        self._save_expected()
        await self._network.serve_stratum0()
        self._record.say(f"serving it at {self._network.stratum0_url}/cvmfs/{REPOSITORY}")
        self._record.outcome(f"revision {self._revision}, {stored} stored")

    async def replicate(self) -> None:
        """Makes two full copies and has them prove that they are."""
        reports = await self._network.replicate()
        for name, report in zip(REPLICAS, reports, strict=True):
            amount = f"{report['objects']:,} objects, {size_text(report['bytes'])} in {report['seconds']:.1f} s"
            self._record.say(f"{name.title()} fetched and verified {amount}")
            is_current = report["revision"] == self._revision
            self._record.check(f"{name} has the revision", is_good=is_current, seen=f"revision {report['revision']}")
        checked = await asyncio.gather(*(self._network.check_replica(name) for name in REPLICAS))
        for name, found in zip(REPLICAS, checked, strict=True):
            seen = f"{found['objects']:,} objects read again, {len(found['problems'])} problems"
            self._record.check(f"{name} is complete and right", is_good=found["ok"], seen=seen)
        await self._network.serve_replicas()
        for name in REPLICAS:
            self._record.say(f"{name.title()} serves it at {self._network.replica_url(name)} and follows stratum 0")
        self._record.outcome(f"{len(REPLICAS)} full copies of {reports[0]['objects']:,} objects")

    # -------------------------------------------------------------------------- reading

    async def route(self) -> None:
        """Starts edges and GeoDNS, and asks it from three places."""
        await self._network.start_edges()
        for place in EDGES:
            self._record.say(f"the edge in {place.name.title()} answers at {self._network.edge_url(place.name)}")
        await self._network.start_geodns()
        await self._all_up()
        self._record.say("GeoDNS answers at {} port {}; it finds every edge well".format(*self._network.dns))
        for client in CLIENTS:
            got = ", ".join(map(edge_at, await self._network.located(client.network)))
            self._record.say(f"{EDGE_NAME} from {client.name.title()} ({client.network}) is {got.title()}")
            self._record.check(f"{client.name} is sent to {client.nearest}", is_good=got == client.nearest, seen=got)
        self._record.outcome(f"{len(EDGES)} edges; each client is sent to the nearest")

    async def read(self) -> None:
        """Three clients read and verify every file, all at the same time."""
        for client in CLIENTS:
            self._readers[client.name] = await ReaderHandle.start(self._network.processes, client, self._network.dns)
        await asyncio.gather(*(self._open(client.name, "first") for client in CLIENTS))
        together = _Together(self._record, len(CLIENTS) * len(self._expected.files))
        results = await asyncio.gather(
            *(self._read(client.name, on_progress=together.of(client.name)) for client in CLIENTS)
        )
        for client, result in zip(CLIENTS, results, strict=True):
            self._check_whole(client.name, result)
            edges = ", ".join(sorted(result.answers))
            is_own = set(result.answers) == {client.nearest}
            self._record.check(f"{client.name} read through {client.nearest} alone", is_good=is_own, seen=edges)
            requests = sum(result.answers.values())
            amount = f"{result.files:,} files, {size_text(result.bytes)}"
            self._record.say(f"{client.name.title()} read {amount} in {requests:,} requests to {edges.title()}")
        files = sum(result.files for result in results)
        self._record.outcome(f"{files:,} files read, every SHA-256 as in the source")

    # -------------------------------------------------------------------------- when things break

    async def kill(self) -> None:
        """Kills an edge while its client reads."""
        client, edge = _LYON, _LYON.nearest
        loop = asyncio.get_running_loop()
        await self._open(client.name, "second")
        wanted = self._sample(_KILL_FILES_MAX)
        total = len(wanted)
        sign = self._workspace.root / "killed"
        due = asyncio.Event()
        seen = 0

        def on_progress(files: int) -> None:
            nonlocal seen
            seen = files
            self._record.progress(files, total, "files")
            if files >= total * KILL_AT:
                due.set()

        async def kill_when_due() -> _Killed:
            await due.wait()
            status = await self._network.edge_status(edge)
            self._network.processes.kill(f"edge-{edge}")
            killed = _Killed(seen, loop.time(), status)
            await asyncio.to_thread(sign.touch)
            return killed

        async def read() -> ReadResult:
            hold = (int(total * _HOLD_AT), str(sign))
            try:
                return await self._read(client.name, only=wanted, on_progress=on_progress, hold=hold)
            finally:
                due.set()  # however short the reading was, the killing is not waited for in vain

        killing = asyncio.ensure_future(kill_when_due())
        killed, noticed, result = await asyncio.gather(killing, self._noticed(client.network, killing), read())
        self._lost.append(killed.status)
        self._record.say(
            f"killed the edge in {edge.title()} (SIGKILL) when {client.name.title()} had read {killed.files:,} of "
            f"{total:,} files; GeoDNS named another after {duration_text(noticed - killed.at)}"
        )
        before, after = result.answers.get(edge, 0), result.answers.get(client.next_nearest, 0)
        shares = f"{before:,} answers from {edge.title()}, then {after:,} from {client.next_nearest.title()}"
        hits, answers = sum(result.hits.values()), sum(result.answers.values())
        self._record.say(f"{client.name.title()} read on: {shares}; {hits:,} of {answers:,} came from their caches")
        self._record.check("it was killed in the middle", is_good=0 < killed.files < total, seen=f"{killed.files:,}")
        self._check_whole(client.name, result)
        self._record.check("both edges took part", is_good=before > 0 and after > 0, seen=shares)
        self._record.outcome(f"{result.failed} of {result.files:,} reads failed; {after:,} answers from the next edge")

    async def _noticed(self, network: str, killing: asyncio.Future[_Killed]) -> float:
        """When GeoDNS first named another edge than the one that was killed."""
        await asyncio.shield(killing)
        dead = edge_named(_LYON.nearest).address

        async def is_named_another() -> bool:
            return dead not in await self._network.located(network)

        await wait_until(is_named_another, "GeoDNS still names the dead edge")
        return asyncio.get_running_loop().time()

    async def bring_back(self) -> None:
        """Starts the edge again; its client comes back to it, and so does its cache."""
        client, edge = _LYON, _LYON.nearest
        await self._network.restart_edge(edge)
        await self._all_up()
        await asyncio.sleep(DNS_TTL_SECONDS)  # so long the client's resolver may keep what it heard
        await self._open(client.name, "third")
        result = await self._read(client.name, only=self._sample(_SAMPLE_FILES_MAX))
        self._check_whole(client.name, result)
        answers, hits = result.answers.get(edge, 0), result.hits.get(edge, 0)
        others = sorted(set(result.answers) - {edge})
        seen = f"{hits:,} of {answers:,} answers from the cache it had before" + (f"; also {others}" if others else "")
        self._record.say(f"{client.name.title()} reads through {edge.title()} again: {seen}")
        self._record.check(f"{client.name} is back at {edge}", is_good=answers > 0 and not others, seen=seen)
        self._record.check(f"the cache of {edge} survived", is_good=hits > 0, seen=seen)
        self._record.outcome(seen)

    def _sample(self, files_max: int) -> tuple[str, ...]:
        """Some of the files, from everywhere."""
        paths = sorted(self._expected.files)
        return tuple(paths[:: -(-len(paths) // files_max)])

    async def republish(self) -> None:
        """Publishes a second revision, which every client sees."""
        made = await asyncio.to_thread(edit, self._expected, self._workspace.tree)
        before = self._revision
        done = await self._network.publish("publish-2")
        self._revision = done["revision"]
        self._save_expected()
        self._record.say(
            f"published revision {self._revision}: {len(made.added)} file added, {len(made.changed)} changed, "
            f"{len(made.removed)} removed; of {len(self._expected.files):,} files {done['files_read']} were read, in "
            f"{done['seconds']:.2f} s"
        )
        read_as_few = done["files_read"] == len(made.added) + len(made.changed)
        self._record.check("only what changed was read", is_good=read_as_few, seen=f"{done['files_read']} files")
        await self._network.replicas_at(self._revision)
        self._record.say("both replicas fetched it by themselves")
        for name in self._readers:
            await self._see(name, before, made)
        self._record.outcome(f"revision {self._revision} at {len(REPLICAS)} replicas and {len(self._readers)} clients")

    async def _see(self, name: str, before: int, made: Edit) -> None:
        """Has a client look for the new revision, and read what is new in it."""
        reader = self._readers[name]
        found: dict[str, Any] = {}

        async def is_newer() -> bool:
            found.update(await reader.refresh())
            return bool(found["revision"] > before)

        await wait_until(is_newer, f"{name} does not see the second revision")
        result = await self._read(name, only=(*made.added, *made.changed))
        is_current = result.revision == self._revision
        self._record.check(f"{name} sees revision {self._revision}", is_good=is_current, seen=str(result.revision))
        self._check_whole(name, result)

    async def rot(self) -> None:
        """Damages a cached object on an edge's disk; it is caught, and healed."""
        client, edge = _OSAKA, _OSAKA.nearest
        paths = {facts.sha256: path for path, facts in self._expected.files.items()}
        victim = await asyncio.to_thread(find_victim, self._workspace.edge_cache(edge), paths)
        before = (await self._network.edge_status(edge))["damage"]["disk"]
        offset = await asyncio.to_thread(flip, victim)
        what = f"{victim.key.rpartition('/data/')[2]} ({size_text(victim.size)}), which is {victim.path}"
        self._record.say(f"flipped a bit of byte {offset:,} of an object in the cache of {edge.title()}: {what}")
        self._record.check("the cache is damaged", is_good=not victim.is_whole(), seen=victim.file.name)
        await self._open(client.name, "fresh")
        result = await self._read(client.name, only=(victim.path,))
        self._check_whole(client.name, result)
        caught = (await self._network.edge_status(edge))["damage"]["disk"] - before
        self._record.check(f"{edge} caught it", is_good=caught >= 1, seen=f"{caught} damaged bodies found on disk")
        await wait_until(_async(victim.is_whole), f"{edge} did not heal its cache", seconds=10)
        self._record.check(f"{edge} healed its cache", is_good=victim.is_whole(), seen=f"{victim.path} is whole again")
        self._record.say(
            f"{edge.title()} noticed, fetched the object anew, and served {client.name.title()} the right bytes"
        )
        self._record.outcome("caught at the first read, healed from a replica, no reader saw it")

    async def add_up(self) -> None:
        """Says what all of it came to, as the servers tell it."""
        edges = [*self._lost, *[await self._network.edge_status(place.name) for place in EDGES]]
        hits, misses, collapsed = (sum(edge["requests"][kind] for edge in edges) for kind in _COUNTED)
        requests = hits + misses + collapsed
        ports = self._network.replica_ports
        replicas = sum([await self._network.web_requests(ports[name][1]) for name in REPLICAS])
        stratum0 = await self._network.web_requests(self._network.ports.stratum0_metrics)
        self._record.totals = {
            "files_published": len(self._expected.files),
            "bytes_published": self._expected.size_bytes,
            "files_read": self._read_files,
            "bytes_read": self._read_bytes,
            "requests_to_edges": requests,
            "requests_to_replicas": replicas,
            "requests_to_stratum_0": stratum0,
            "edge_hits": hits,
            "edge_misses": misses,
            "edge_collapsed": collapsed,
            "edge_hit_ratio": round(hits / max(1, requests), 3),
        }
        broken = sum(edge["damage"]["upstream"] for edge in edges)
        self._record.check("no server sent a wrong object", is_good=not broken, seen=f"{broken} wrong")
        self._record.outcome(f"{requests:,} requests to edges, {replicas:,} to replicas, {stratum0:,} to stratum 0")

    # -------------------------------------------------------------------------- what they share

    async def _all_up(self) -> None:
        async def are_up() -> bool:
            states = await self._network.edge_states()
            return set(states.values()) == {"up"} and len(states) == len(EDGES)

        await wait_until(are_up, "GeoDNS does not find every edge well")

    async def _open(self, client: str, run: str) -> None:
        """Opens the repository at a client, with an empty cache."""
        cache = self._workspace.client_cache(client, run)
        opened = await self._readers[client].open(cache, self._network.reader_url, str(self._workspace.key))
        seen = f"revision {opened['revision']}"
        self._record.check(f"{client} opened it", is_good=opened["revision"] == self._revision, seen=seen)

    async def _read(
        self,
        client: str,
        *,
        only: Sequence[str] | None = None,
        on_progress: Callable[[int], None] = lambda _: None,
        hold: tuple[int, str] | None = None,
    ) -> ReadResult:
        expected = str(self._workspace.expected(self._revision))
        paths = None if only is None else tuple(only)
        result = await self._readers[client].read(expected, paths, on_progress, hold)
        self._read_files += result.files
        self._read_bytes += result.bytes
        return result

    def _check_whole(self, client: str, result: ReadResult) -> None:
        """Checks that no read failed and that everything was as in the source."""
        example = f"; {result.examples[0]}" if result.examples else ""
        failed = f"{result.failed:,} of {result.files:,} failed"
        wrong = f"{result.wrong:,} differ from the source{example}"
        self._record.check(f"no read of {client} failed", is_good=not result.failed, seen=failed)
        self._record.check(f"{client} found what the source has", is_good=not result.wrong, seen=wrong)

    def _save_expected(self) -> None:
        self._expected.save(self._workspace.expected(self._revision))


class _Together:
    """Adds up how far several readers are.

    Args:
        recorder: is told.
        total: files in all.
    """

    def __init__(self, recorder: Recorder, total: int) -> None:
        self._record = recorder
        self._total = total
        self._done: dict[str, int] = {}

    def of(self, name: str) -> Callable[[int], None]:
        """Takes how far one of them is."""

        def on_progress(files: int) -> None:
            self._done[name] = files
            self._record.progress(sum(self._done.values()), self._total, "files")

        return on_progress


def _async(test: Callable[[], bool]) -> Callable[[], Awaitable[bool]]:
    async def holds() -> bool:
        return await asyncio.to_thread(test)

    return holds


_COUNTED: Final = ("hits", "misses", "collapsed")
STEPS: Final[tuple[tuple[str, Callable[[Scenario], Awaitable[None]]], ...]] = (
    ("Take real software", Scenario.copy),
    ("Publish it on stratum 0", Scenario.publish),
    ("Copy it to two replicas", Scenario.replicate),
    ("Start three edges and GeoDNS", Scenario.route),
    ("Three clients read every file", Scenario.read),
    ("Kill an edge in the middle of reading", Scenario.kill),
    ("Bring the edge back", Scenario.bring_back),
    ("Publish a second revision", Scenario.republish),
    ("Flip a bit in an edge's cache", Scenario.rot),
    ("Add it up", Scenario.add_up),
)
