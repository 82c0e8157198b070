"""What the operator's monitoring reads about upstreams."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from edge.upstream.health import CircuitState
from edge.upstream.latency import BUCKETS_SECONDS, Latency
from edge.upstream.servers import UpstreamHealth


def upstream_metrics(upstreams: UpstreamHealth, now: float) -> Iterator[Metric]:
    """Yields every metric about upstreams and siblings."""
    states = GaugeMetricFamily(
        "edge_upstream_state", "How many workers have the circuit in this state.", labels=["server", "state"]
    )
    in_flight = GaugeMetricFamily("edge_upstream_in_flight", "Requests under way to an upstream.", labels=["server"])
    openings = CounterMetricFamily("edge_upstream_openings", "How often a circuit opened.", labels=["server"])
    latencies = HistogramMetricFamily(
        "edge_upstream_latency_seconds", "How long upstreams took to answer.", labels=["server"]
    )
    for server, health in upstreams.servers.items():
        for state in CircuitState:
            states.add_metric([server, state.value], float(health.state(now) is state))
        in_flight.add_metric([server], health.in_flight)
        openings.add_metric([server], health.openings)
        latencies.add_metric([server], list(_buckets(health.latency)), health.latency.total_seconds)
    yield from (states, in_flight, openings, latencies)
    yield _hedges(upstreams)


def _buckets(latency: Latency) -> Iterable[tuple[str, float]]:
    limits = (*(str(limit) for limit in BUCKETS_SECONDS), "+Inf")
    return zip(limits, map(float, accumulate(latency.counts)), strict=True)


def _hedges(upstreams: UpstreamHealth) -> Metric:
    family = CounterMetricFamily(
        "edge_hedges",
        "Second requests, sent beside a first one that was slow, by which of both won.",
        labels=["result"],
    )
    family.add_metric(["won"], upstreams.hedges_won)
    family.add_metric(["lost"], upstreams.hedges_lost)
    family.add_metric(["other"], max(0, upstreams.hedged - upstreams.hedges_won - upstreams.hedges_lost))
    return family
