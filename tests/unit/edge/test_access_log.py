"""Lines of the access log."""

import json

import pytest

from cdn.errors import UsageError
from edge.access_log import LINES_MAX, Access, AccessLog, combined_line, json_line
from edge.config import LogSettings
from edge.headers import Headers
from edge.request import Request
from edge.statistics import Statistics

REQUEST = Request("GET", "/a", headers=Headers((("User-Agent", 'evil" 200\n\x1b[31m é'),)))
ACCESS = Access("192.0.2.1", REQUEST, 200, 17, "hit", 0.25, 1_700_000_000.0)


def test_a_combined_line_cannot_be_forged():
    line = combined_line(ACCESS)
    assert line == (
        '192.0.2.1 - - [14/Nov/2023:22:13:20 +0000] "GET /a HTTP/1.1" 200 17 "-" '
        '"evil\\" 200\\x0a\\x1b[31m é" hit 0.250000'
    )


def test_what_was_no_request_has_its_line_too():
    assert '"-" 400 0 "-" "-" refused' in combined_line(Access("::1", None, 400, 0, "refused", 0, 0))


def test_a_json_line_is_one_object():
    assert json.loads(json_line(ACCESS))["agent"] == 'evil" 200\n\x1b[31m é'
    assert "\n" not in json_line(ACCESS)


async def test_lines_are_written_at_the_end_and_too_many_are_counted(tmp_path):
    statistics = Statistics()
    log = AccessLog(LogSettings(str(tmp_path / "log"), "json"), statistics)
    log.start()
    for _ in range(LINES_MAX + 3):
        log.add(ACCESS)
    await log.stop()
    assert len((tmp_path / "log").read_text().splitlines()) == LINES_MAX
    assert statistics.log_lines_dropped == 3


async def test_a_log_that_cannot_be_opened_is_told_at_the_start(tmp_path):
    with pytest.raises(UsageError, match="cannot be opened"):
        AccessLog(LogSettings(str(tmp_path / "no" / "log")), Statistics()).start()
