"""One status and one set of metrics out of those of several workers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from edge.watching.distinct import JointClientCount

if TYPE_CHECKING:
    from prometheus_client.core import Metric

_LARGEST: Final = frozenset(
    {
        "edge_build_info",
        "edge_manifest_revision",
        "edge_purges",
        "edge_purges_open",
        "edge_reloads",
        "edge_upstream_failing",
        "edge_whitelist_seconds_left",
        "process_max_fds",
        "process_start_time_seconds",
    }
)
"""Families of which every worker tells the same, or the worst one counts."""
_EACH: Final = frozenset({"edge_loop_lag_seconds"})
"""Families that mean something only for one worker."""
_COUNTING: Final = frozenset({"counter", "histogram", "summary"})

_CLIENTS: Final = "edge_clients"
"""Of which two workers may have the same."""

Labels = tuple[tuple[str, str], ...]


class Tally:
    """What workers counted, those included that are gone: a total never goes back."""

    def __init__(self) -> None:
        self._newest: dict[int, bytes] = {}
        self._departed = b""
        self._clients = JointClientCount()

    def note(self, index: int, text: bytes, clients: Mapping[str, str] | None = None) -> None:
        """Takes what a worker says now.

        Args:
            index: of the worker.
            text: its metrics.
            clients: what it says of its clients, of whom the others may have had some as well.
        """
        self._newest[index] = text
        self._clients.note(clients or {})

    def depart(self, index: int) -> None:
        """Keeps what a worker counted that is gone; its successor begins at zero."""
        gone = self._newest.pop(index, None)
        if gone is not None:
            self._departed = _rendered(merged([self._departed, gone], indexes=(None, index), only=_COUNTING))

    def render(self, now: float = 0.0) -> bytes:
        """The metrics of all, at a time in seconds since the epoch."""
        workers = [self._newest[index] for index in sorted(self._newest)]
        families = merged([*workers, self._departed], indexes=sorted(self._newest))
        if (clients := families.get(_CLIENTS)) is not None:
            clients.samples.clear()
            clients.add_sample(_CLIENTS, {}, self._clients.last_hour(now))
        return _rendered(families)


def merged(
    texts: Sequence[bytes], *, indexes: Sequence[int | None] = (), only: frozenset[str] | None = None
) -> dict[str, Metric]:
    """The metrics of several workers as one, by name.

    Args:
        texts: of each, in the text format of Prometheus.
        indexes: of the workers, in the same order; what has none is nobody's.
        only: types of metrics that are taken; all if None.
    """
    from prometheus_client.core import Metric
    from prometheus_client.parser import text_string_to_metric_families

    families: dict[str, Metric] = {}
    values: dict[str, dict[tuple[str, Labels], float]] = {}
    for number, text in enumerate(texts):
        index = indexes[number] if number < len(indexes) else None
        for family in text_string_to_metric_families(text.decode()):
            if only is not None and family.type not in only:
                continue
            families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            known = values.setdefault(family.name, {})
            for sample in family.samples:
                labels = dict(sample.labels)
                if family.name in _EACH and index is not None:
                    labels["worker"] = str(index)
                key = (sample.name, tuple(labels.items()))
                before = known.get(key)
                if before is None:
                    known[key] = sample.value
                elif family.name in _LARGEST:
                    known[key] = max(before, sample.value)
                else:
                    known[key] = before + sample.value
    for name, family in families.items():
        for (sample_name, pairs), value in values[name].items():
            family.add_sample(sample_name, dict(pairs), value)
    return families


def _rendered(families: Mapping[str, Metric]) -> bytes:
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.registry import Collector

    class Given(Collector):
        def collect(self) -> Iterable[Metric]:
            yield from families.values()

    registry = CollectorRegistry()
    registry.register(Given())
    return generate_latest(registry)


# ---------------------------------------------------------------------------------------------------- plain values


def merged_values(documents: Sequence[Any], key: str = "") -> Any:
    """One plain value out of several: numbers are added up, objects merged, lists joined without repetition.

    Of words the first counts; of upstreams the one that is worst off; whatever holds for one holds for the whole.
    """
    first = documents[0]
    if len(documents) == 1:
        return first
    if isinstance(first, dict):
        if {"state", "failures"} <= first.keys():
            return _merged_upstreams(documents)
        keys = dict.fromkeys(name for each in documents if isinstance(each, dict) for name in each)
        return {name: merged_values([each[name] for each in documents if name in each], name) for name in keys}
    if isinstance(first, bool):
        return any(documents)
    if isinstance(first, (int, float)):
        return sum(documents)
    if key == "purges":
        return _merged_purges(each for document in documents for each in document)
    if isinstance(first, list):
        joined: list[Any] = []
        for each in (one for document in documents for one in document):
            if each not in joined:
                joined.append(each)
        return joined
    return first


def _merged_upstreams(documents: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the worker says of an upstream to which it is worst off, with what all of them do there."""
    worst = max(documents, key=lambda each: each["failures"])
    added: dict[str, Any] = {
        name: sum(each[name] for each in documents) for name in ("in_flight", "openings") if name in worst
    }
    if "share" in worst:
        added["share"] = round(sum(each["share"] for each in documents) / len(documents), 3)
    return {**worst, **added}


def _merged_purges(purges: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each purge under way once, with the shards that are left in all."""
    by_what: dict[tuple[Any, Any], dict[str, Any]] = {}
    for purge in purges:
        known = by_what.setdefault((purge["what"], purge["soft"]), {**purge, "shards_left": 0})
        known["shards_left"] += purge["shards_left"]
    return list(by_what.values())
