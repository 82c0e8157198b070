"""What the operator's monitoring reads, made from plain counters when it asks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from platform import python_version

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from cdn import __version__
from edge.cache.disk_cache import DiskCache
from edge.cache.memory_cache import MemoryCache
from edge.documents.repository_states import RepositoryStates
from edge.upstream.metrics import upstream_metrics
from edge.upstream.servers import UpstreamHealth
from edge.watching.statistics import Result, Statistics


@dataclass(frozen=True, slots=True)
class Gauges:
    """What is so right now.

    Args:
        memory: the memory tier.
        disk: the disk tier.
        health: of the upstreams.
        fetches: fetches under way.
        now: seconds of the monotonic clock.
        repositories: what is known of them.
        purges: purges whose files are still being removed.
        date: seconds since the epoch.
    """

    memory: MemoryCache
    disk: DiskCache
    health: UpstreamHealth
    fetches: int
    now: float
    repositories: RepositoryStates
    purges: int
    date: float


class EdgeCollector(Collector):
    """Turns statistics into metrics.

    Args:
        statistics: the counters.
        gauges: the present state.
    """

    def __init__(self, statistics: Statistics, gauges: Gauges) -> None:
        self._counted = statistics
        self._gauges = gauges

    def collect(self) -> Iterable[Metric]:
        """Yields every metric."""
        counted = self._counted
        yield self._requests()
        yield _counters("edge_responses", "Answers by status.", "status", counted.statuses)
        yield _counters("edge_upstream_requests", "Requests to upstreams.", "server", counted.fetches)
        yield _counters("edge_upstream_failures", "Failed requests to upstreams.", "server", counted.fetch_failures)
        for name, text, value in (
            ("edge_bytes_served", "Bytes of bodies sent to clients.", counted.bytes_served),
            ("edge_bytes_fetched", "Bytes of bodies fetched from upstreams.", counted.bytes_fetched),
            ("edge_hash_failures", "Bodies from upstreams with a wrong digest.", counted.hash_failures),
            ("edge_disk_failures", "Damaged bodies found on our own disk.", counted.disk_failures),
            ("edge_older_manifests", "Manifests and whitelists older than known.", counted.older_manifests),
            ("edge_storage_failures", "Answers that could not be stored.", counted.storage_failures),
            ("edge_prefetches", "Objects asked for because a new manifest names them.", counted.prefetches),
            ("edge_manifests_held_back", "Manifests whose objects cannot be had.", counted.manifests_held_back),
            ("edge_purges", "Purges ordered.", counted.purges),
            ("edge_purged_files", "Files removed or outdated by purges.", counted.purged_files),
            ("edge_connections", "Connections accepted.", counted.connections),
            ("edge_connections_refused", "Connections over the limit.", counted.connections_refused),
            ("edge_handshakes_failed", "TLS handshakes that did not succeed.", counted.handshakes_failed),
            ("edge_requests_limited", "Requests refused as too many of an address.", counted.requests_limited),
            ("edge_slow_readers_cut", "Clients cut off because too much waited for them.", counted.slow_readers_cut),
            ("edge_timeouts", "Connections ended because the client was too slow.", counted.timeouts),
            ("edge_aborted_answers", "Answers that broke off.", counted.aborted_answers),
            ("edge_failures", "Requests that failed by a mistake of this program.", counted.failures),
            ("edge_relayed", "Requests that one worker answered for another.", counted.relayed),
            ("edge_relay_failures", "Requests answered without the worker they belong to.", counted.relay_failures),
            ("edge_log_lines_dropped", "Lines missing from the access log.", counted.log_lines_dropped),
        ):
            yield CounterMetricFamily(name, text, value)
        reloads = {"good": counted.reloads_good, "failed": counted.reloads_failed}
        yield _counters("edge_reloads", "Reloads of the configuration.", "result", reloads)
        evictions = {"memory": self._gauges.memory.evictions, "disk": counted.evictions}
        yield _counters("edge_evictions", "Responses dropped to make room.", "tier", evictions)
        yield from self._of_repositories()
        yield from self._durations()
        yield from self._present()

    def _requests(self) -> Metric:
        family = CounterMetricFamily("edge_requests", "Requests by result and kind.", labels=["result", "kind"])
        from_memory = self._counted.tallies.hits_by_label()
        for (result, kind), number in list(self._counted.requests.items()):
            if result is not Result.HIT or kind not in from_memory:
                family.add_metric([result.value, kind], number)
        for kind, number in from_memory.items():
            before = self._counted.requests.get((Result.HIT, kind), 0)
            family.add_metric([Result.HIT.value, kind], number + before)
        return family

    def _of_repositories(self) -> Iterable[Metric]:
        counted, states = self._counted.tallies.by_repository(), list(self._gauges.repositories)
        requests = {name: count for name, (count, _) in counted.items()}
        yield _counters("edge_repository_requests", "Requests by repository.", "repository", requests)
        sent = {name: size for name, (_, size) in counted.items()}
        yield _counters("edge_repository_bytes", "Bytes sent by repository.", "repository", sent)
        revisions = {name: state.revision for name, state in states if state.revision is not None}
        yield _gauges("edge_manifest_revision", "Newest revision given out.", "repository", revisions)
        ends = {name: state.whitelist_expires_at for name, state in states if state.whitelist_expires_at is not None}
        left = {name: end - self._gauges.date for name, end in ends.items()}
        yield _gauges("edge_whitelist_seconds_left", "Until the whitelist expires; negative after.", "repository", left)

    def _durations(self) -> Iterable[Metric]:
        seconds = HistogramMetricFamily(
            "edge_request_seconds", "Time to answer what was not ready in memory.", labels=["result"]
        )
        for result, durations in self._counted.seconds.items():
            seconds.add_metric([result], durations.buckets(), durations.sum)
        lag = HistogramMetricFamily("edge_loop_lag_seconds", "How late the event loop comes to what is due.")
        lag.add_metric([], self._counted.lag.buckets(), self._counted.lag.sum)
        yield from (seconds, lag)

    def _present(self) -> Iterable[Metric]:
        gauges = self._gauges
        used = {"memory": gauges.memory.used_bytes, "disk": gauges.disk.used_bytes}
        yield _gauges("edge_cache_bytes", "Bytes in a tier of the cache.", "tier", used)
        limits = {"memory": gauges.memory.bytes_max, "disk": gauges.disk.bytes_max}
        yield _gauges("edge_cache_bytes_max", "Limit of a tier of the cache.", "tier", limits)
        objects = {"memory": len(gauges.memory)}
        if (count := gauges.disk.file_count) is not None:
            objects["disk"] = count
        yield _gauges("edge_cache_objects", "Responses in a tier of the cache.", "tier", objects)
        failures = {server: health.failures for server, health in gauges.health.servers.items()}
        yield _gauges("edge_upstream_failing", "Failures in a row of an upstream.", "server", failures)
        yield from upstream_metrics(gauges.health, gauges.now)
        yield GaugeMetricFamily("edge_connections_open", "Connections open now.", self._counted.connections_open)
        yield GaugeMetricFamily("edge_fetches_open", "Fetches under way.", gauges.fetches)
        yield GaugeMetricFamily("edge_purges_open", "Purges whose files are still being removed.", gauges.purges)
        yield GaugeMetricFamily("edge_bytes_saved", "Bytes served that were not fetched.", self._counted.bytes_saved)
        clients = self._counted.clients.last_hour(gauges.date)
        yield GaugeMetricFamily("edge_clients", "Different client addresses in an hour, about.", clients)
        build = GaugeMetricFamily("edge_build_info", "What runs.", labels=["version", "python"])
        build.add_metric([__version__, python_version()], 1)
        yield build


def _counters(name: str, text: str, label: str, values: Mapping[str, int] | Mapping[int, int]) -> Metric:
    family = CounterMetricFamily(name, text, labels=[label])
    for value, number in list(values.items()):
        family.add_metric([str(value)], number)
    return family


def _gauges(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for value, number in values.items():
        family.add_metric([value], number)
    return family


def render_metrics(statistics: Statistics, gauges: Gauges) -> bytes:
    """Returns all metrics in the text format of Prometheus."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(EdgeCollector(statistics, gauges))
    return generate_latest(registry)
