"""What an edge is told about how much clients may cost."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from cdn.config import Duration, Size
from edge.settings.checks import check_positive, in_key


@dataclass(frozen=True, slots=True)
class LimitSettings:
    """How much clients may cost.

    Args:
        connections_max: connections open at once.
        connections_per_address: of these from one address, or one /64 network with IPv6; 0 for any number.
        requests_per_second_per_address: how many requests it may make on average; 0 for any number.
        requests_burst: how many it may make at once, after having made none for a while.
        addresses_exempt: networks such as ``10.0.0.0/8`` to which neither applies: edges below, load balancers.
        pipelined_max: how many requests of one connection are answered before others have their turn.
        unsent_bytes_max: how much may wait in memory for clients that do not take it; beyond, the slowest are cut off.
        head_bytes_max: size of a request's head.
        fields_max: number of its header fields.
        target_bytes_max: length of its target.
        head_timeout: for a whole head to arrive, from its first byte.
        handshake_timeout: for a TLS handshake.
        body_timeout: how long a client may send nothing of a request's body.
        idle_timeout: how long a connection may be unused.
        send_timeout: how long a client may take nothing of an answer.
        drain_delay: how long an edge that shall stop goes on serving after it began to say so at ``/healthz``, for
            GeoDNS and load balancers to turn to others.
        drain_timeout: how long answers may go on after that.
    """

    connections_max: int = 16_384
    connections_per_address: int = 1000
    requests_per_second_per_address: float = 0.0
    requests_burst: int = 1000
    addresses_exempt: tuple[str, ...] = ()
    pipelined_max: int = 64
    unsent_bytes_max: Size = 256 << 20
    head_bytes_max: Size = 16384
    fields_max: int = 100
    target_bytes_max: Size = 8000
    head_timeout: Duration = 10.0
    handshake_timeout: Duration = 10.0
    body_timeout: Duration = 30.0
    idle_timeout: Duration = 75.0
    send_timeout: Duration = 60.0
    drain_delay: Duration = 0.0
    drain_timeout: Duration = 30.0

    def __post_init__(self) -> None:
        check_positive(self, "connections_max", "head_bytes_max", "fields_max", "target_bytes_max")
        check_positive(self, "requests_burst", "pipelined_max", "unsent_bytes_max")
        for name in ("connections_per_address", "requests_per_second_per_address"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: must not be less than zero")
        for network in self.addresses_exempt:
            with in_key("addresses_exempt"):
                ipaddress.ip_network(network)
        check_positive(self, "head_timeout", "handshake_timeout", "body_timeout", "idle_timeout", "send_timeout")
        if self.target_bytes_max > self.head_bytes_max:
            raise ValueError("target_bytes_max: is larger than head_bytes_max")
