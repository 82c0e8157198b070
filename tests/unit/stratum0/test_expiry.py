"""What expires, who is warned, and whitelists that sign themselves anew."""

from __future__ import annotations

import pytest

from cdn.clock import ManualClock
from cdn.errors import ExpiredError
from cdn.whitelist import Whitelist
from stratum0 import expiry
from stratum0.expiry import Expiry, is_due
from tests.fakes.publishers import TODAY, new_publisher

DAY = 86_400
NOW = 1_700_000_000


@pytest.fixture
def clock():
    return ManualClock(TODAY)


@pytest.fixture
def repository(tmp_path, clock):
    return new_publisher(tmp_path, clock)


@pytest.mark.parametrize(
    ("left", "said"),
    [
        (11 * DAY, None),
        (10 * DAY, "expires in 10 d"),
        (90, "expires in 1 min 30 s"),
        (0, "expired 0 ms ago"),
        (-2 * DAY, "expired 2 d ago"),
    ],
)
def test_a_warning_begins_ten_days_before(left, said):
    text = Expiry("sw.example.org", "whitelist", NOW + left, "run something").warning(NOW)
    assert (text is None) == (said is None)
    if said is not None:
        assert text.startswith(f"the whitelist of sw.example.org {said} (")
        assert text.endswith(": run something")


@pytest.mark.parametrize(("days", "due"), [(0, False), (19, False), (21, True), (31, True)])
def test_a_whitelist_is_due_when_less_than_a_third_of_its_life_is_left(days, due):
    whitelist = Whitelist.valid_for("sw.example.org", [], now=NOW, days=30)
    assert is_due(whitelist, NOW + days * DAY) is due


def test_a_fresh_repository_warns_of_nothing(repository):
    assert expiry.warnings(repository) == []


def test_with_the_master_key_here_the_whitelist_signs_itself_anew(repository, clock):
    clock.advance(19 * DAY)
    assert not expiry.resign_if_due(repository)
    clock.advance(2 * DAY)
    assert expiry.resign_if_due(repository)
    assert repository.whitelist().expires_at - clock.now() > 29 * DAY
    assert expiry.warnings(repository) == []


def test_publishing_signs_an_expired_whitelist_anew_first(repository, clock):
    clock.advance(100 * DAY)
    with repository.transaction() as transaction:
        transaction.put_file("/a", b"a")
    assert not repository.whitelist().is_expired(clock.now())


def test_without_the_master_key_an_expired_whitelist_stops_publishing_and_says_what_to_do(repository, clock):
    repository.keys.master_key_file.unlink()
    clock.advance(21 * DAY)
    assert not expiry.resign_if_due(repository)
    (text,) = expiry.warnings(repository)
    assert "whitelist" in text
    assert "cdn repo keys export" in text
    repository.transaction(ephemeral=True).abort()
    clock.advance(10 * DAY)
    with pytest.raises(ExpiredError, match=r"expired on .*: run `cdn repo keys export"):
        repository.transaction()
    assert repository.head().revision == 1


def test_a_certificate_at_its_end_is_warned_of(repository, clock):
    clock.advance(360 * DAY)
    expiry.resign_if_due(repository)
    (text,) = expiry.warnings(repository)
    assert "certificate" in text
    assert "cdn repo keys rotate" in text


def test_a_warning_is_never_what_stops_a_command(repository):
    (repository.settings.storage / ".cvmfswhitelist").write_bytes(b"junk")
    repository.keys.certificate_file.write_bytes(b"junk")
    assert expiry.warnings(repository) == []
    assert not expiry.resign_if_due(repository)


def test_a_resigning_that_fails_is_told_and_stops_nothing(repository, clock):
    repository.keys.master_key_file.write_bytes(b"junk")
    clock.advance(25 * DAY)
    assert not expiry.resign_if_due(repository)
    repository.transaction(ephemeral=True).abort()
