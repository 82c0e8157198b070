"""Several workers, and what edges agree on: siblings that are one cache, manifests that never go back in time."""

import asyncio
import json
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from cdn.hashing import Algorithm
from cdn.manifest import Manifest
from cdn.objects import Kind
from edge.upstream.rendezvous import Member, owner
from tests.fakes.edge import BASE, REPOSITORY, Client, object_of, until
from tests.fakes.edge_process import Process, running, write_config
from tests.fakes.origin import Reply, running_origin
from tests.fakes.repositories import Publication

MANIFEST = f"{BASE}/.cvmfspublished"
OBJECTS = 16
ASKED = 6
"""How often each edge is asked for each object, on connections of their own, so that each worker gets some."""


@pytest.fixture
async def origin():
    async with running_origin() as origin:
        yield origin


async def get(edge: Process, target: str, **more):
    async with Client(edge.address) as client:
        return await client.get(target, **more)


async def bodies(edge: Process, targets, times: int = ASKED) -> set[tuple[str, bytes]]:
    answers = await asyncio.gather(*(get(edge, target) for target in targets for _ in range(times)))
    return set(zip((target for target in targets for _ in range(times)), (each.body for each in answers), strict=True))


def published(origin, first: int) -> dict[str, bytes]:
    """So many objects on the origin that nobody has asked for."""
    objects = {object_of(b"%d" % number): b"%d" % number for number in range(first, first + OBJECTS)}
    origin.replies |= {target: Reply(body) for target, body in objects.items()}
    return objects


def keeper(target: str, urls: list[str]) -> str:
    return owner(f"object:{target.removeprefix('/cvmfs/')}", map(Member, urls)).name


async def reload(edge: Process, directory: Path, url: str, siblings: str) -> None:
    write_config(directory, url, f"[fetch]\nhedge_share = 0.0\n[siblings]\ntimeout = '30s'\n{siblings}", workers=2)
    seen = edge.count("edge.server.reloaded")
    edge.process.send_signal(signal.SIGHUP)
    await asyncio.to_thread(edge.wait_for, "(?s)" + (seen + 2) * "edge.server.reloaded.*?")


async def test_siblings_of_two_workers_each_are_one_cache_and_lose_only_a_share_with_one_of_them(tmp_path, origin):
    async with AsyncExitStack() as stack:
        edges, directories = [], [tmp_path / "a", tmp_path / "b"]
        for directory in directories:
            directory.mkdir()
            path = write_config(directory, origin.url, "[fetch]\nhedge_share = 0.0\n", workers=2)
            edges.append(await stack.enter_async_context(running(path)))
        urls = ["http://{}:{}".format(*edge.address) for edge in edges]
        for edge, directory, own in zip(edges, directories, urls, strict=True):
            await reload(edge, directory, origin.url, f"urls = {json.dumps(urls)}\nown = '{own}'\n")

        objects = published(origin, 0)
        for edge in edges:
            assert await bodies(edge, objects) == set(objects.items())
        assert {origin.count(target) for target in objects} == {1}

        for edge, directory, own, other in zip(edges, directories, urls, urls[::-1], strict=True):
            # each takes the other for the keeper
            weights = f"urls = {json.dumps(urls)}\nown = '{own}'\nweights = {{ '{other}' = 1000.0, '{own}' = 0.001 }}\n"
            await reload(edge, directory, origin.url, weights)
        circling = published(origin, 100)
        for edge in edges:
            assert await bodies(edge, circling) == set(circling.items())
        assert {origin.count(target) for target in circling} <= {1, 2}

        for edge, directory, own in zip(edges, directories, urls, strict=True):
            await reload(edge, directory, origin.url, f"urls = {json.dumps(urls)}\nown = '{own}'\n")
        edges[1].process.kill()
        await asyncio.to_thread(edges[1].process.wait)
        fresh = published(origin, 200)
        assert await bodies(edges[0], fresh) == set(fresh.items())
        assert {origin.count(target) for target in fresh} == {1}
        assert await bodies(edges[0], objects) == set(objects.items())
        asked_again = {target for target in objects if origin.count(target) > 1}
        assert asked_again <= {target for target in objects if keeper(target, urls) == urls[1]}


def revision_of(answer) -> int:
    return Manifest.parse(answer.body).revision


async def test_no_worker_shows_a_revision_before_its_root_catalog_nor_an_older_one_after(tmp_path, origin):
    publication = Publication(REPOSITORY, Algorithm.SHA1)
    path = write_config(tmp_path, origin.url, workers=2)
    path.write_text(path.read_text().replace("prefetch = false", "prefetch_timeout = '30s'"))
    newest, catalogs, is_over = 0, {}, False

    def publish(revision: int) -> None:
        """A revision whose root catalog is not there yet."""
        publication.publish({"/file": publication.file(b"%d" % revision)})
        manifest = Manifest.parse(publication.served[".cvmfspublished"])
        root = next(name.path for name in manifest.objects if name.kind is Kind.CATALOG)
        catalogs[revision] = f"{BASE}/{root}"
        origin.replies |= {f"{BASE}/{path}": Reply(data) for path, data in publication.served.items() if path != root}

    def complete(revision: int) -> None:
        origin.replies[catalogs[revision]] = Reply(publication.served[catalogs[revision].removeprefix(f"{BASE}/")])

    async def read(edge: Process, **more: str) -> None:
        nonlocal newest
        at_least = newest
        answer = await get(edge, MANIFEST, **more)
        assert answer.status == 200
        revision = revision_of(answer)
        assert revision >= at_least
        newest = max(newest, revision)
        assert (await get(edge, catalogs[revision])).status == 200

    async def read_on(edge: Process, number: int) -> None:
        while not is_over:
            await read(edge, **({"Cache_Control": "no-cache"} if number % 2 else {}))

    async with running(path) as edge:
        publish(1)
        complete(1)
        await read(edge)
        async with asyncio.TaskGroup() as readers:
            for number in range(8):
                readers.create_task(read_on(edge, number))
            for revision in range(2, 6):
                publish(revision)
                for _ in range(6):
                    assert revision_of(await get(edge, MANIFEST, Cache_Control="no-cache")) == revision - 1
                complete(revision)
                await until(lambda: newest >= revision)  # noqa: B023 -- awaited at once
            is_over = True
        status = json.loads(await asyncio.to_thread(edge.ask, "/status"))
        assert [worker["ready"] for worker in status["workers"]] == [True, True]
