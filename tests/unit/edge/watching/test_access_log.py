"""Lines of the access log."""

import json
from dataclasses import replace

import pytest

from cdn.errors import UsageError
from edge.config import LogSettings
from edge.http.headers import Headers
from edge.http.request import Request
from edge.watching.access_log import LINES_MAX, Access, AccessLog, anonymous, combined_line, json_line
from edge.watching.statistics import Statistics

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


def logged(settings: LogSettings, statuses: list[int]) -> list[int]:
    log = AccessLog(settings, Statistics())
    return [status for status in statuses if log.takes(status)]


def test_everything_is_logged_unless_told_otherwise():
    assert logged(LogSettings("-"), [200] * 5) == [200] * 5
    assert logged(LogSettings(""), [200, 500]) == []


@pytest.mark.parametrize(("sample", "count"), [(0.01, 10), (0.3, 300), (0.5, 500), (0.99, 990)])
def test_a_sample_is_spread_evenly_and_errors_are_all_there(sample, count):
    taken = logged(LogSettings("-", sample=sample), [200] * 1000)
    assert count <= len(taken) <= count + 1
    assert logged(LogSettings("-", sample=sample), [404] * 100 + [502] * 100) == [404] * 100 + [502] * 100
    assert len(logged(LogSettings("-", sample=sample, sample_errors=True), [404] * 1000)) <= count + 1


@pytest.mark.parametrize(
    ("client", "shown"),
    [
        ("192.0.2.17", "192.0.2.0"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1::"),
        ("::ffff:192.0.2.17", "192.0.2.0"),
        ("fe80::1%eth0", "fe80::"),
        ("unix", "unix"),
        ("", ""),
    ],
)
def test_an_address_can_be_made_anonymous(client, shown):
    assert anonymous(client) == shown


async def test_a_log_of_anonymous_clients_names_none(tmp_path):
    log = AccessLog(LogSettings(str(tmp_path / "log"), anonymize=True), Statistics())
    log.start()
    log.add(replace(ACCESS, client="192.0.2.17"))
    await log.stop()
    assert (tmp_path / "log").read_text().startswith("192.0.2.0 - - ")
