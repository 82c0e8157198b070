"""Programs that the demonstration starts and ends."""

import asyncio
import os
import sys

import pytest

from cdn.demo.processes import PortTakenError, Processes, Program, end_processes, environment
from cdn.demo.report import DemoFailedError


async def never():
    return False


async def at_once():
    return True


def python(code, is_ready=at_once, name="program"):
    return Program(name, [sys.executable, "-c", code], is_ready, is_cdn=False)


def saying(text, processes):
    """Whether the program has said something."""

    async def is_ready():
        return text.encode() in (processes.logs / "program.log").read_bytes()

    return is_ready


@pytest.fixture
async def processes(tmp_path):
    processes = Processes(tmp_path)
    yield processes
    await processes.stop_all()


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_program_that_ends_instead_of_answering_is_told_with_its_last_words(processes):
    with pytest.raises(DemoFailedError, match="program did not start: no such luck"):
        await processes.start(python("import sys; print('line', flush=True); sys.exit('no such luck')", never))


async def test_a_port_that_is_taken_is_told_apart(processes):
    with pytest.raises(PortTakenError):
        await processes.start(python("import sys; sys.exit('cdn: cannot listen on 127.0.0.1 port 1: in use')", never))


async def test_if_one_of_several_fails_the_others_are_ended(processes):
    sleeping = python("import time; time.sleep(600)", name="sleeping")
    with pytest.raises(DemoFailedError):
        await processes.start_together([sleeping, python("import sys; sys.exit('no')", never, name="failing")])
    assert processes.pids == {}


async def test_a_program_that_ignores_the_request_to_end_is_killed(processes, monkeypatch):
    monkeypatch.setattr("cdn.demo.processes.STOP_SECONDS", 0.2)
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    code = f"{deaf}; print('ready', flush=True); time.sleep(600)"
    await processes.start(python(code, saying("ready", processes)))
    pid = processes.pids["program"]
    await processes.stop("program")
    assert not is_alive(pid)


async def test_a_command_that_fails_is_told_with_what_it_said(processes):
    with pytest.raises(DemoFailedError, match=r"`cdn nonsense` failed: .*nonsense|failed: Try"):
        await processes.run("command", "nonsense", seconds=60)


async def test_a_command_that_takes_too_long_is_ended(processes):
    with pytest.raises(DemoFailedError, match="took longer than"):
        await processes.run("command", "serve", "--storage", str(processes.logs), "--port", "0", seconds=0.01)
    assert processes.pids == {}


async def test_only_processes_that_still_are_what_they_were_are_ended_by_number(processes):
    code = "import time; print('ready', flush=True); time.sleep(600)  # of-the-demonstration"
    await processes.start(python(code, saying("ready", processes)))
    pid = processes.pids["program"]
    assert await asyncio.to_thread(end_processes, [pid, os.getpid()], "of-somebody-else-entirely") == 0
    assert is_alive(pid)
    assert await asyncio.to_thread(end_processes, [pid], "of-the-demonstration") == 1


def test_what_a_user_has_set_for_cdn_does_not_reach_the_demonstration(monkeypatch):
    monkeypatch.setenv("CDN_ROOT", "/elsewhere")
    monkeypatch.setenv("LANG", "C")
    assert "CDN_ROOT" not in environment()
    assert environment()["LANG"] == "C"
