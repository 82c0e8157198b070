"""What systemd gives a service, read as `sd_listen_fds(3)` and `sd_watchdog_enabled(3)` say."""

import pytest

from cdn.errors import UsageError
from cdn.systemd import SystemdNotifier, handed_descriptors, successor_environment, watchdog_seconds

HANDED = {"LISTEN_PID": "7", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "http:https"}


def test_sockets_are_counted_from_three_and_named():
    assert handed_descriptors(HANDED, 7) == ((3, "http"), (4, "https"))


@pytest.mark.parametrize("environment", [{}, {"LISTEN_FDS": "1"}, {"LISTEN_PID": "8", "LISTEN_FDS": "1"}])
def test_what_is_meant_for_another_process_is_not_taken(environment):
    assert handed_descriptors(environment, 7) == ()


def test_old_systemd_names_nothing():
    assert handed_descriptors({"LISTEN_PID": "7", "LISTEN_FDS": "1"}, 7) == ((3, "unknown"),)


def test_no_sockets_have_no_names():
    assert handed_descriptors({"LISTEN_PID": "7", "LISTEN_FDS": "0", "LISTEN_FDNAMES": ""}, 7) == ()


@pytest.mark.parametrize("changes", [{"LISTEN_FDS": "x"}, {"LISTEN_FDS": "99999"}, {"LISTEN_FDNAMES": "http"}])
def test_contradictions_are_refused(changes):
    with pytest.raises(UsageError, match="LISTEN_FD"):
        handed_descriptors({**HANDED, **changes}, 7)


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({"WATCHDOG_USEC": "1500000"}, 1.5),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "7"}, 1.5),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_looks_after_the_process_it_names(environment, seconds):
    assert watchdog_seconds(environment, 7) == seconds


def test_a_successor_does_not_get_what_was_meant_for_its_predecessor():
    environment = {**HANDED, "WATCHDOG_PID": "7", "WATCHDOG_USEC": "1", "NOTIFY_SOCKET": "/x", "HOME": "/"}
    assert successor_environment(environment) == {"WATCHDOG_USEC": "1", "NOTIFY_SOCKET": "/x", "HOME": "/"}


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": "vsock:2:1"}, {"NOTIFY_SOCKET": "/nowhere/at/all"}])
def test_where_nobody_listens_nothing_happens(environment):
    notifier = SystemdNotifier(environment, 7)
    notifier.ready("serving")
    notifier.stopping()


def test_a_status_is_one_line(monkeypatch):
    notifier, sent = SystemdNotifier({"NOTIFY_SOCKET": "/x"}, 7), []
    monkeypatch.setattr(notifier, "_send", lambda *lines: sent.extend(lines))
    notifier.status("one\nREADY=1\n" + "x" * 1000)
    assert len(sent) == 1
    assert sent[0].startswith("STATUS=one READY=1 x")
    assert len(sent[0]) < 600
