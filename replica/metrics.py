"""What the operator's monitoring reads about replicas, made from plain counters when it asks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from replica.plan import SyncReport
from replica.schedule import Job


@dataclass(slots=True)
class RepositoryStatistics:
    """What happened to one replica since the daemon began."""

    syncs: int = 0
    failures: int = 0
    objects: int = 0
    bytes: int = 0
    seconds: float = 0.0
    revision: int = 0
    succeeded_at: float = 0.0
    whitelist_expires_at: int = 0


class Statistics:
    """Counters of all replicas."""

    def __init__(self) -> None:
        self.repositories: dict[str, RepositoryStatistics] = {}

    def succeeded(self, report: SyncReport, now: float) -> None:
        """Counts a run that ended well."""
        counted = self._of(report.fqrn)
        counted.syncs += 1
        counted.objects += report.objects
        counted.bytes += report.bytes
        counted.seconds = report.seconds
        counted.revision = report.revision
        counted.succeeded_at = now
        counted.whitelist_expires_at = report.whitelist_expires_at

    def failed(self, fqrn: str) -> None:
        """Counts a run that failed."""
        counted = self._of(fqrn)
        counted.syncs += 1
        counted.failures += 1

    def _of(self, fqrn: str) -> RepositoryStatistics:
        return self.repositories.setdefault(fqrn, RepositoryStatistics())


def render_metrics(statistics: Statistics) -> bytes:
    """All metrics in the text format of Prometheus."""
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector

    counters = {
        "syncs": "Runs, failed ones included.",
        "failures": "Runs that failed.",
        "objects": "Objects fetched.",
        "bytes": "Bytes fetched.",
    }
    gauges = {
        "revision": "The revision that is served.",
        "seconds": "How long the last run took.",
        "succeeded_at": "When the last run ended well, in seconds since the epoch.",
        "whitelist_expires_at": "When the whitelist expires, in seconds since the epoch.",
    }

    class Replicas(Collector):
        def collect(self) -> Iterable[Metric]:
            for kind, names in ((CounterMetricFamily, counters), (GaugeMetricFamily, gauges)):
                for name, text in names.items():
                    family = kind(f"replica_{name}", text, labels=["repository"])
                    for fqrn, counted in statistics.repositories.items():
                        family.add_metric([fqrn], getattr(counted, name))
                    yield family

    registry = CollectorRegistry()
    registry.register(Replicas())
    return generate_latest(registry)


def status_document(jobs: list[Job], statistics: Statistics) -> dict[str, object]:
    """The same for people and programs: every replica with its state."""
    return {
        "replicas": {
            job.fqrn: {
                "state": job.state.value,
                "failures_in_a_row": job.failures,
                "revision": counted.revision,
                "succeeded_at": counted.succeeded_at,
                "objects": counted.objects,
                "bytes": counted.bytes,
            }
            for job in jobs
            for counted in [statistics.repositories.get(job.fqrn, RepositoryStatistics())]
        }
    }
