"""How an edge is just now, for people and for monitoring."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge.parts import Parts

if TYPE_CHECKING:
    from edge.metrics import Gauges


def gauges_of(parts: Parts) -> Gauges:
    """The present state, as metrics are made from it."""
    from edge.metrics import Gauges

    supplies = parts.supplies
    return Gauges(
        supplies.memory,
        supplies.disk,
        supplies.health,
        len(parts.flights),
        supplies.clock.monotonic(),
        parts.documents.repositories,
        len(parts.purger.under_way()),
        supplies.clock.now(),
    )


def described(parts: Parts) -> dict[str, object]:
    """The parts of an edge as a document."""
    supplies, counted = parts.supplies, parts.supplies.statistics
    return {
        "name": supplies.edge_name,
        "requests": {
            "all": counted.requests_answered,
            "hits": counted.hits,
            "misses": counted.misses,
            "collapsed": counted.collapsed,
            **{f"{result.value}": counted.of(result) for result, _ in counted.requests},
        },
        "bytes": {"served": counted.bytes_served, "fetched": counted.bytes_fetched},
        "cache": {
            "memory_bytes": supplies.memory.used_bytes,
            "memory_bytes_max": supplies.memory.bytes_max,
            "disk_bytes": supplies.disk.used_bytes,
            "disk_bytes_max": supplies.disk.bytes_max,
        },
        "purges": parts.purger.under_way(),
        "purged_files": counted.purged_files,
        "damage": {"upstream": counted.hash_failures, "disk": counted.disk_failures},
        "connections": counted.connections_open,
        "fetches": len(parts.flights),
        "upstreams": supplies.health.described(supplies.clock.monotonic()),
    }
