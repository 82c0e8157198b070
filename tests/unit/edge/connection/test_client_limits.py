"""How much one address may take, with literals and a clock that is a number."""

import pytest

from edge.connection import client_limits
from edge.connection.client_limits import ClientLimits, address_key


@pytest.mark.parametrize(
    ("address", "other", "are_one"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("fe80::1%eth0", "fe80::2%eth0", True),
    ],
)
def test_what_counts_as_one_client(address, other, are_one):
    assert (address_key(address) == address_key(other)) is are_one


def test_an_address_has_so_many_connections_and_gets_them_back():
    limits = ClientLimits(connections_max=2)
    first, second = limits.admit("192.0.2.1", 0), limits.admit("192.0.2.1", 0)
    assert first is second is not None
    assert limits.admit("192.0.2.1", 0) is None
    assert limits.admit("192.0.2.2", 0) is not None
    limits.leave(first, 0)
    assert limits.admit("192.0.2.1", 0) is not None


def test_nobody_is_remembered_who_has_nothing():
    limits = ClientLimits(connections_max=2)
    client = limits.admit("192.0.2.1", 0)
    assert client is not None
    limits.leave(client, 0)
    assert len(limits) == 0


@pytest.mark.parametrize(
    ("address", "is_limited"),
    [("10.1.2.3", False), ("::ffff:10.1.2.3", False), ("11.1.2.3", True), ("2001:db8::1", False), ("unix", False)],
)
def test_limits_are_not_for_everybody(address, is_limited):
    limits = ClientLimits(connections_max=1, exempt=("10.0.0.0/8", "2001:db8::/32"))
    assert limits.is_limited(address) is is_limited


def test_without_limits_nobody_is_limited():
    assert not ClientLimits().is_limited("192.0.2.1")


def test_requests_come_in_a_burst_and_then_at_the_rate():
    limits = ClientLimits(requests_per_second=2, burst=3)
    client = limits.admit("192.0.2.1", 100)
    assert client is not None
    assert [limits.wait_seconds(client, 100) for _ in range(4)] == [0, 0, 0, 0.5]
    assert [limits.wait_seconds(client, 100.5) for _ in range(2)] == [0, 0.5]
    assert [limits.wait_seconds(client, 1000) for _ in range(4)] == [0, 0, 0, 0.5]


def test_closing_and_opening_connections_gives_no_new_burst():
    limits = ClientLimits(requests_per_second=1, burst=2)
    for _ in range(2):
        client = limits.admit("192.0.2.1", 100)
        assert client is not None
        limits.wait_seconds(client, 100)
        limits.leave(client, 100)
    client = limits.admit("192.0.2.1", 100)
    assert client is not None
    assert limits.wait_seconds(client, 100) == 1


def test_the_table_of_addresses_is_bounded(monkeypatch):
    monkeypatch.setattr(client_limits, "ADDRESSES_MAX", 10)
    limits = ClientLimits(requests_per_second=1, burst=2)
    for number in range(50):
        client = limits.admit(f"192.0.2.{number}", 0)
        assert client is not None
        limits.wait_seconds(client, 0)
        limits.leave(client, 0)
    assert len(limits) == 10
