"""Replies per network."""

from geodns.rate_limit import NETWORKS_MAX, ReplyLimiter, Verdict, network_of


def test_a_network_gets_its_share_and_then_every_second_reply_is_truncated():
    limiter = ReplyLimiter(2)
    verdicts = [limiter.judge("192.0.2.1", 0.0) for _ in range(6)]
    assert verdicts[:2] == [Verdict.SEND] * 2
    assert verdicts[2:] == [Verdict.TRUNCATE, Verdict.DROP] * 2


def test_addresses_of_one_network_share_and_others_do_not():
    limiter = ReplyLimiter(1)
    assert limiter.judge("192.0.2.1", 0.0) is Verdict.SEND
    assert limiter.judge("192.0.2.200", 0.0) is not Verdict.SEND
    assert limiter.judge("192.0.3.1", 0.0) is Verdict.SEND


def test_a_bucket_refills_with_time_and_no_further_than_a_second():
    limiter = ReplyLimiter(2)
    for _ in range(5):
        limiter.judge("192.0.2.1", 0.0)
    assert limiter.judge("192.0.2.1", 0.5) is Verdict.SEND
    sent = [limiter.judge("192.0.2.1", 1000.0) for _ in range(4)].count(Verdict.SEND)
    assert sent == 2


def test_the_table_stays_bounded_under_forged_addresses():
    limiter = ReplyLimiter(1)
    for number in range(NETWORKS_MAX + 10):
        limiter.judge(f"{number >> 16}.{number >> 8 & 255}.{number & 255}.1", 0.0)
    assert len(limiter._buckets) <= NETWORKS_MAX


def test_networks_are_a_24_or_a_56():
    assert network_of("192.0.2.1") == network_of("192.0.2.9") != network_of("192.0.3.1")
    assert network_of("2001:db8:0:1200::1") == network_of("2001:db8:0:12ff:1:2:3:4") != network_of("2001:db8:0:1300::1")
    assert network_of("2001:db8::1") == network_of("2001:db8::2")
    assert network_of("::1") == network_of("::2")
