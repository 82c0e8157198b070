"""The commands, in one process."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from cdn.errors import CdnError, ConfigError, TransportError, UnreachableError, UsageError
from edge.cli import edge
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
    assert (out.document["upstreams"], out.document["servers"]) == (3, 6)
    assert out.warnings == []


def test_what_is_allowed_but_seldom_meant_is_warned_of(tmp_path):
    path = tmp_path / "edge.toml"
    path.write_text(
        '[admin]\nlisten = "0.0.0.0:9154"\n[[upstreams]]\nname = "a"\nurls = ["http://a/@fqrn@"]\n'
        '[cache]\ndisk_bytes = "1MiB"\n[log]\naccess = "log"\n'
    )
    warnings = " ".join(command("check-config", "--config", str(path)).warnings)
    for word in ("open to everybody", "only server", "larger than the one on disk", "relative"):
        assert word in warnings


def test_mistakes_are_told(tmp_path):
    path = tmp_path / "edge.toml"
    path.write_text("nonsense = 1\n")
    assert isinstance(refused("run", "--config", str(path)), ConfigError)


async def test_the_status_of_a_running_edge_is_shown(tmp_path):
    import asyncio

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
