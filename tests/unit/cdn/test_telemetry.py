"""Steps, events and fault points."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import signal
import subprocess
import sys

import pytest

from cdn import telemetry
from cdn.errors import ConfigError
from cdn.telemetry import (
    Fault,
    FaultInjected,
    event,
    fault_point,
    faults_armed,
    faults_seen,
    install_sink,
    log_to,
    step,
)


@pytest.fixture
def told():
    lines = []
    install_sink(lambda level, name, fields: lines.append((level, name, dict(fields))))
    yield lines
    install_sink(None)


@pytest.fixture
def stream():
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield io.StringIO()
    install_sink(None)
    root.handlers[:], root.level = before


def names(told):
    return [name for _, name, _ in told]


def test_a_step_that_ends_well_tells_its_start_and_its_completion(told):
    with step("stratum0.manifest.sign", repository="a.example.org"):
        pass
    assert names(told) == ["stratum0.manifest.sign.started", "stratum0.manifest.sign.complete"]
    assert told[0] == ("debug", "stratum0.manifest.sign.started", {"repository": "a.example.org"})
    assert told[1][2]["seconds"] >= 0


def test_a_step_that_fails_tells_the_error_and_lets_it_through(told):
    with pytest.raises(ValueError, match="no such tag"), step("stratum0.tag.find"):
        raise ValueError("no such tag")
    assert names(told) == ["stratum0.tag.find.started", "stratum0.tag.find.failed"]
    assert told[1][2]["error"] == "ValueError: no such tag"


def test_what_became_known_on_the_way_stands_in_the_last_line(told):
    with step("replica.object.fetch", path="data/ab") as fetching:
        fetching.add(size_bytes=3)
    assert told[1][2]["path"] == "data/ab"
    assert told[1][2]["size_bytes"] == 3


async def test_a_cancelled_step_has_failed(told):
    async def work():
        with step("edge.body.fetch"):
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)  # it is within the step now
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert names(told) == ["edge.body.fetch.started", "edge.body.fetch.failed"]


def test_fields_may_be_called_name_and_level_does_not_collide(told):
    event("edge.upstream.lost", level="warning", name="berlin")
    assert told == [("warning", "edge.upstream.lost", {"name": "berlin"})]


def test_events_below_the_level_asked_for_do_not_reach_the_sink():
    lines = []
    install_sink(lambda level, name, fields: lines.append(name), level="warning")
    event("edge.request.served", level="info")
    event("edge.upstream.lost", level="error")
    install_sink(None)
    assert lines == ["edge.upstream.lost"]


def test_nothing_is_told_where_nobody_listens():
    event("edge.upstream.lost")
    with step("edge.body.fetch"):
        pass


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_hostile_name_can_neither_forge_a_log_line_nor_steer_a_terminal(stream, log_format):
    log_to(stream, level="info", log_format=log_format)
    event("edge.request.refused", url="/a\n2026 edge.request.served\x1b[2J\x9b\x7f")
    written = stream.getvalue()
    assert written.count("\n") == 1
    assert "\x1b" not in written
    assert "\x9b" not in written


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_password_in_a_url_is_not_logged(stream, log_format):
    log_to(stream, level="info", log_format=log_format)
    event("edge.upstream.failed", url="http://reader:secret@one.example.org/x")
    assert "secret" not in stream.getvalue()
    assert "one.example.org" in stream.getvalue()


def test_json_lines_carry_level_time_name_and_fields(stream):
    log_to(stream, level="info", log_format="json")
    event("edge.upstream.lost", level="warning", url="http://a/", event="no", size=3, where=ValueError("x"))
    line = json.loads(stream.getvalue())
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "edge.upstream.lost", "level": "warning", "url": "http://a/", "size": 3, "where": "x"}


def test_what_libraries_log_goes_the_same_way(stream):
    log_to(stream, level="warning", log_format="json")
    logging.getLogger("aiohttp.access").info("not this")
    try:
        raise OSError("broken")
    except OSError:
        logging.getLogger("asyncio").critical("it %s", "failed", exc_info=True)
    line = json.loads(stream.getvalue())
    assert (line["event"], line["level"], line["message"]) == ("asyncio", "error", "it failed")
    assert line["error"] == "OSError: broken"
    assert "Traceback" in line["exception"]


def test_a_log_nobody_can_read_does_not_stop_the_service():
    class Broken:
        def write(self, text, /):
            raise BrokenPipeError

        def flush(self):
            raise BrokenPipeError

    log_to(Broken(), level="info", log_format="json")
    event("edge.upstream.lost")
    install_sink(None)


def test_importing_telemetry_and_configuring_it_does_not_import_structlog():
    program = (
        "import sys; from cdn import telemetry; telemetry.log_to(sys.stderr, level='debug', log_format='json');"
        "assert 'structlog' not in sys.modules; telemetry.event('a.b.c'); assert 'structlog' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, stderr=subprocess.PIPE)


def test_fault_points_do_nothing_unless_armed():
    fault_point("commit.manifest.stored")


def test_an_armed_fault_point_raises_at_the_occurrence_asked_for():
    with faults_armed("commit.object.stored@2:raise"):
        fault_point("commit.object.stored")
        fault_point("commit.manifest.stored")
        with pytest.raises(FaultInjected, match=r"commit\.object\.stored"):
            fault_point("commit.object.stored")
        fault_point("commit.object.stored")
    fault_point("commit.object.stored")


def test_a_fault_point_armed_to_kill_kills_at_once_and_nothing_is_cleaned_up():
    program = (
        "from cdn.telemetry import *\n"
        "install_fault_hook(Fault.parse('commit.manifest.stored').hook())\n"
        "try:\n    fault_point('commit.manifest.stored')\nfinally:\n    print('cleaned up', flush=True)\n"
    )
    died = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=False)
    assert died.returncode == -signal.SIGKILL
    assert died.stdout == b""


def test_a_test_can_learn_the_names_of_the_fault_points_passed():
    with faults_seen() as seen:
        fault_point("a")
        fault_point("b")
        fault_point("a")
    assert seen == ["a", "b", "a"]
    assert telemetry.install_fault_hook(None) is None


@pytest.mark.parametrize("text", ["", ":raise", "@2", "a@", "a@0", "a@-1", "a@x", "a:kill", "a:raise@2"])
def test_a_misspelt_fault_is_refused_rather_than_never_happening(text):
    with pytest.raises(ConfigError, match="names no fault point"):
        Fault.parse(text)
