"""The commands, in one process."""

import asyncio
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from cdn.errors import CdnError, ConfigError, TransportError, UnreachableError, UsageError
from edge.cli import edge
from edge.operations.operating import line_of, sample_of
from tests.fakes.edge import edge_world
from tests.fakes.reporting import RecordingOutput

EXAMPLE = str(Path(__file__).parents[3] / "examples" / "edge.toml")


def command(*arguments: str) -> RecordingOutput:
    out = RecordingOutput()
    CliRunner().invoke(edge, arguments, obj=out, catch_exceptions=False)
    return out


def refused(*arguments: str) -> CdnError:
    error = CliRunner().invoke(edge, arguments, obj=RecordingOutput()).exception
    assert isinstance(error, CdnError)
    return error


def test_the_example_is_checked_without_a_doubt():
    out = command("check-config", "--config", EXAMPLE)
    assert out.document is not None
    assert (out.document["upstreams"], out.document["servers"]) == (3, 7)
    assert out.warnings == []


def test_what_is_allowed_but_seldom_meant_is_warned_of(tmp_path):
    path = tmp_path / "edge.toml"
    path.write_text(
        '[admin]\nlisten = "0.0.0.0:9154"\n[[upstreams]]\nname = "a"\nurls = ["http://a/@fqrn@"]\n'
        '[[upstreams]]\nname = "b"\nurls = ["http://b/@fqrn@", "http://c/@fqrn@"]\n'
        '[cache]\ndisk_bytes = "1MiB"\n[log]\naccess = "log"\n'
    )
    warnings = " ".join(command("check-config", "--config", str(path)).warnings)
    for word in ("open to everybody", "only server", "larger than the one on disk", "relative", "group b is never"):
        assert word in warnings


def test_what_the_machine_does_not_have_is_warned_of(tmp_path):
    path = tmp_path / "edge.toml"
    path.write_text(
        '[[upstreams]]\nname = "a"\nurls = ["http://a/@fqrn@", "http://b/@fqrn@"]\n'
        f'[cache]\ndirectory = "."\ndisk_bytes = 9000000000000000000\n[log]\naccess = "{tmp_path}/logs/access"\n'
    )
    folder, disk = command("check-config", "--config", str(path)).warnings
    assert f"the folder {tmp_path}/logs of log.access is not there" in folder
    assert "cache.disk_bytes is more than the" in disk


def test_mistakes_are_told(tmp_path):
    path = tmp_path / "edge.toml"
    path.write_text("nonsense = 1\n")
    assert isinstance(refused("run", "--config", str(path)), ConfigError)


async def test_the_status_of_a_running_edge_is_shown(tmp_path):
    async with edge_world(tmp_path) as world:
        target, _ = world.publish(b"hello")
        await world.get(target)
        assert world.edge.admin_address is not None
        url = "http://{}:{}".format(*world.edge.admin_address)
        out = await asyncio.to_thread(command, "status", "--admin", url)
        assert out.document is not None
        assert out.document["requests"]["misses"] == 1
        public = "http://{}:{}".format(*world.edge.address)
        assert isinstance(await asyncio.to_thread(refused, "status", "--admin", public), TransportError)


@pytest.mark.parametrize(("url", "kind"), [("http://127.0.0.1:1", UnreachableError), ("file:///etc", UsageError)])
def test_an_edge_that_is_not_there_is_told(url, kind):
    assert isinstance(refused("status", "--admin", url), kind)


# ------------------------------------------------------------------------------------------------- a running edge


@pytest.fixture
async def world(tmp_path):
    async with edge_world(tmp_path) as world:
        yield world


async def ran(world, *arguments: str) -> RecordingOutput:
    return await asyncio.to_thread(command, *arguments, "--admin", "http://{}:{}".format(*world.edge.admin_address))


async def told(world, *arguments: str) -> str:
    url = "http://{}:{}".format(*world.edge.admin_address)
    return str(await asyncio.to_thread(refused, *arguments, "--admin", url))


async def test_a_purge_is_ordered_and_waited_for(world):
    targets = [world.publish(b"%d" % number)[0] for number in range(3)]
    for target in targets:
        await world.get(target)
    await world.settled()
    out = await ran(world, "purge", "--url", targets[0], "--repository", "sw.example.org")
    assert out.document is not None
    assert [(each["memory"], each["disk"]) for each in out.document["purges"]] == [(1, 1), (2, 0)]
    assert out.document["files_removed"] == 2
    assert not world.cached_files()
    assert all(unit == "parts of the cache" for progress in out.progresses for _, unit in progress.phases)


async def test_a_purge_of_everything_wants_a_yes(world):
    target, _ = world.publish(b"hello")
    await world.get(target)
    assert "say --yes if that is meant" in await told(world, "purge", "--all")
    assert (await ran(world, "purge", "--all", "--soft")).parts[1] == "outdated, with 1 more file(s)"
    out = await ran(world, "purge", "--all", "--yes", "--no-wait")
    assert out.document["files_removed"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "say what to purge"),
        (("--revision", "1"), "--revision goes with one --repository"),
        (("--repository", "a", "--repository", "b", "--revision", "1"), "--revision goes with one --repository"),
        (("--repository", "a/b"), "no name of a repository"),
        (("--url", "http://elsewhere.example/"), "cannot be asked for here"),
        (("--repository", "sw.example.org", "--revision", "3"), "nothing cached says what revision 3"),
    ],
)
async def test_a_purge_that_cannot_be_meant_is_refused(world, arguments, message):
    assert message in await told(world, "purge", *arguments)


async def test_an_edge_is_watched_line_by_line(world):
    out = await ran(world, "status", "--watch", "--interval", "0.1", "--count", "2")
    heading, *samples = out.listings["samples"].documents
    assert heading == {}
    assert [sample["draining"] for sample in samples] == [False, False]
    assert all(len(line.split()) >= 8 for line in out.listings["samples"].lines)


async def test_an_edge_without_its_cache_directory_is_alive_but_not_ready(world):
    from urllib.error import HTTPError
    from urllib.request import urlopen

    def answer(path: str) -> tuple[int, str]:
        try:
            with urlopen("http://{}:{}{}".format(*world.edge.admin_address, path)) as reply:
                return reply.status, reply.read().decode()
        except HTTPError as error:
            with error:
                return error.code, error.read().decode()

    assert await asyncio.to_thread(answer, "/readyz") == (200, "ready\n")
    shutil.rmtree(world.directory)
    status, reason = await asyncio.to_thread(answer, "/readyz")
    assert (status, "is not there or not writable" in reason) == (503, True)
    assert await asyncio.to_thread(answer, "/healthz") == (200, "ok\n")


def test_a_sample_tells_rates():
    def status(requests: int, hits: int, failures: int = 0) -> dict[str, object]:
        return {
            "requests": {"all": requests, "hits": hits},
            "bytes": {"served": requests * 1024, "fetched": 0},
            "connections": 3,
            "fetches": 1,
            "draining": False,
            "upstreams": {"http://a": {"failures": failures}},
        }

    sample = sample_of(status(10, 10), status(30, 25, failures=2), 2.0)
    assert (sample["requests_per_second"], sample["hit_ratio"]) == (10.0, 0.75)
    assert (sample["bytes_served_per_second"], sample["upstreams_failing"]) == (10240, 1)
    assert line_of(sample).split()[:2] == ["10.0", "75.0%"]
    assert sample_of(status(30, 25), status(10, 10), 2.0)["hit_ratio"] is None, "the edge was started again"
