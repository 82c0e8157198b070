"""Starting servers on ports that may be taken."""

import sys

import pytest

from cdn.demo.network import Network, Workspace, wait_until
from cdn.demo.processes import PortTakenError, Processes, Program
from cdn.demo.report import DemoFailedError


async def at_once():
    return True


async def never():
    return False


TAKEN = "import sys; sys.exit('cdn: cannot listen on 127.0.0.1 port 1: Address already in use')"


@pytest.fixture
async def network(tmp_path):
    workspace = Workspace(tmp_path / "demo")
    workspace.create()
    processes = Processes(workspace.logs)
    network = Network(workspace, processes)
    yield network
    await network.close()
    await processes.stop_all()


def program(code, is_ready):
    return Program("server", [sys.executable, "-c", code], is_ready, is_cdn=False)


async def test_a_taken_port_is_tried_again_with_another(network):
    attempts = [program(TAKEN, never), program(TAKEN, never), program("import time; time.sleep(600)", at_once)]
    await network._start(lambda: [attempts.pop(0)])
    assert attempts == []
    assert list(network.processes.pids) == ["server"]


async def test_who_never_finds_a_free_port_says_so(network):
    with pytest.raises(PortTakenError, match="Address already in use"):
        await network._start(lambda: [program(TAKEN, never)])


async def test_what_never_becomes_so_is_an_error_that_says_what():
    with pytest.raises(DemoFailedError, match=r"GeoDNS is asleep after 0\.01 s"):
        await wait_until(never, "GeoDNS is asleep", seconds=0.01)


async def test_a_command_that_prints_no_json_is_an_error(network):
    with pytest.raises(DemoFailedError, match="printed no JSON"):
        await network._command("help", "--help")
