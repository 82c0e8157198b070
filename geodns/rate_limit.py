"""A limit on replies per client network, so that forged queries cannot turn this server against a victim.

Each network has a bucket of tokens that refills steadily. While it is empty every second reply becomes a truncated
one, as long as its question, which an honest client follows up over TCP, and the rest are not sent. Only UDP is
limited: over TCP the sender's address is proven.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

NETWORKS_MAX: Final = 50_000
"""More networks than this at once share the fate of starting anew: the table is emptied rather than grown."""


class Verdict(Enum):
    """What to do with a reply."""

    SEND = "send"
    TRUNCATE = "truncate"
    DROP = "drop"


class ReplyLimiter:
    """Token buckets by client network: IPv4 /24, IPv6 /56.

    Args:
        replies_per_second: how fast a bucket refills; it holds one second's worth.
    """

    def __init__(self, replies_per_second: float) -> None:
        self._rate = replies_per_second
        self._buckets: dict[str, tuple[float, float]] = {}
        self._slip = False

    def judge(self, host: str, now: float) -> Verdict:
        """Takes one token from the bucket of the client's network.

        Args:
            host: the client's address as text.
            now: a monotonic time in seconds.
        """
        network = network_of(host)
        tokens, then = self._buckets.get(network, (self._rate, now))
        tokens = min(self._rate, tokens + (now - then) * self._rate)
        if len(self._buckets) >= NETWORKS_MAX and network not in self._buckets:
            self._buckets.clear()
        if tokens >= 1:
            self._buckets[network] = (tokens - 1, now)
            return Verdict.SEND
        self._buckets[network] = (tokens, now)
        self._slip = not self._slip
        return Verdict.TRUNCATE if self._slip else Verdict.DROP


def network_of(host: str) -> str:
    """Returns a text that is the same for all addresses of a network, cheaply rather than prettily."""
    if ":" not in host:
        return host.rpartition(".")[0]
    groups = host.split(":")
    head = groups[: groups.index("")] if "" in groups else groups
    padded = (head + ["0"] * 4)[:4]
    padded[3] = padded[3].rjust(4, "0")[:2]
    return ":".join(padded)
