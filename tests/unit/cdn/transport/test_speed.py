"""When a peer counts as too slow."""

from __future__ import annotations

from cdn.transport.speed import SpeedGauge, SpeedLimit

LIMIT = SpeedLimit(bytes_per_second=100, window_seconds=10)


def test_a_peer_below_the_limit_for_a_whole_window_is_too_slow() -> None:
    gauge = SpeedGauge(LIMIT)
    assert [gauge.is_too_slow(99, 1.0) for _ in range(10)] == [False] * 9 + [True]


def test_a_peer_at_the_limit_is_not_too_slow() -> None:
    gauge = SpeedGauge(LIMIT)
    assert not any(gauge.is_too_slow(100, 1.0) for _ in range(100))


def test_what_arrives_without_waiting_never_counts_against_the_peer() -> None:
    gauge = SpeedGauge(LIMIT)
    assert not any(gauge.is_too_slow(1, 0.0) for _ in range(1000))


def test_a_fast_start_does_not_buy_a_slow_rest() -> None:
    gauge = SpeedGauge(LIMIT)
    assert not gauge.is_too_slow(1_000_000, 10.0)
    assert gauge.is_too_slow(1, 10.0)


def test_without_a_limit_nobody_is_too_slow() -> None:
    assert not SpeedGauge(SpeedLimit(0, 1.0)).is_too_slow(0, 100.0)
