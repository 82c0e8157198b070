"""What the operator's monitoring reads, made from plain counters when it asks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from geodns.edge_health import OUT_OF_USE, EdgeHealth
from geodns.statistics import Statistics


class GeoDnsCollector(Collector):
    """Turns statistics and health marks into metrics.

    Args:
        statistics: the counters.
        marks: gives what is known of each edge.
    """

    def __init__(self, statistics: Statistics, marks: Callable[[], Mapping[str, EdgeHealth]]) -> None:
        self._statistics = statistics
        self._marks = marks

    def collect(self) -> Iterable[Metric]:
        """Yields every metric."""
        counted = self._statistics
        yield _counters(
            "geodns_replies",
            "Replies by transport.",
            "transport",
            {"udp": counted.udp_replies, "tcp": counted.tcp_replies},
        )
        yield _counters("geodns_replies_by_code", "Replies by response code.", "code", counted.by_code)
        yield _counters("geodns_replies_by_type", "Replies by the record type asked for.", "type", counted.by_type)
        yield _counters("geodns_replies_by_site", "Replies that name a site's edges.", "site", counted.by_site)
        yield CounterMetricFamily("geodns_cache_hits", "Replies that were ready to send.", counted.cache_hits)
        yield CounterMetricFamily("geodns_packets_ignored", "Packets that must not be answered.", counted.dropped)
        yield CounterMetricFamily(
            "geodns_rate_limited", "UDP queries above the rate limit of their network.", counted.rate_limited
        )
        yield CounterMetricFamily(
            "geodns_failures", "Queries that failed by a mistake of this server.", counted.failures
        )
        yield CounterMetricFamily("geodns_tcp_connections", "TCP connections accepted.", counted.tcp_connections)
        yield CounterMetricFamily("geodns_tcp_refused", "TCP connections over a limit.", counted.tcp_refused)
        yield GaugeMetricFamily("geodns_tcp_open", "TCP connections open now.", counted.tcp_open)
        reloads = {"good": counted.reloads_good, "failed": counted.reloads_failed}
        yield _counters("geodns_reloads", "Reloads of the configuration.", "result", reloads)
        yield from self._edges()

    def _edges(self) -> Iterable[Metric]:
        usable = GaugeMetricFamily("geodns_edge_usable", "Whether an edge may be named in answers.", labels=["edge"])
        state = GaugeMetricFamily("geodns_edge_state", "1 for the state an edge is in.", labels=["edge", "state"])
        latency = GaugeMetricFamily("geodns_edge_latency_seconds", "How long the last check took.", labels=["edge"])
        for edge, mark in self._marks().items():
            usable.add_metric([edge], mark.state not in OUT_OF_USE)
            state.add_metric([edge, mark.state.value], 1)
            if mark.latency_seconds is not None:
                latency.add_metric([edge], mark.latency_seconds)
        return (usable, state, latency)


def _counters(name: str, text: str, label: str, values: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(name, text, labels=[label])
    for value, number in values.items():
        family.add_metric([value], number)
    return family


def render_metrics(statistics: Statistics, marks: Callable[[], Mapping[str, EdgeHealth]]) -> bytes:
    """Returns all metrics in the text format of Prometheus."""
    registry = CollectorRegistry()
    registry.register(GeoDnsCollector(statistics, marks))
    return generate_latest(registry)
