"""What an operator should be alarmed by, in the text format of Prometheus.

Each command that opens a repository writes ``ROOT/metrics/<name>.prom`` for the textfile collector of a node exporter;
`cdn serve --metrics-port` and `cdn repo metrics` answer with the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cdn.errors import CdnError
from cdn.keyfiles import write_file
from stratum0.expiry import expiries
from stratum0.repository import Repository
from stratum0.revisions import tags_of

if TYPE_CHECKING:
    from stratum0.config import Home

_PUBLIC_MODE: Final = 0o644


@dataclass(frozen=True, slots=True)
class Gauge:
    """One number of one repository."""

    name: str
    help: str
    repository: str
    value: float


def gauges(repository: Repository) -> Iterator[Gauge]:
    """The numbers of a repository; what cannot be read is left out, and ``stratum0_readable`` says so."""
    name = repository.name
    for expiry in expiries(repository):
        said = f"When the {expiry.thing} expires, in seconds since the epoch."
        yield Gauge(f"stratum0_{expiry.thing}_expires_timestamp_seconds", said, name, expiry.at)
    try:
        head = repository.head()
    except (CdnError, OSError):
        yield Gauge("stratum0_readable", "Whether the current revision can be read and verified.", name, 0)
        return
    yield Gauge("stratum0_readable", "Whether the current revision can be read and verified.", name, 1)
    yield Gauge("stratum0_revision", "Number of the current revision.", name, head.revision)
    published = head.manifest.timestamp
    yield Gauge("stratum0_published_timestamp_seconds", "When the manifest was signed last.", name, published)
    yield Gauge("stratum0_tags", "How many tags there are.", name, len(tags_of(head).tags))


def text_of(values: Iterable[Gauge]) -> str:
    """The numbers in the text format, grouped by name."""
    grouped: dict[str, list[Gauge]] = {}
    for gauge in values:
        grouped.setdefault(gauge.name, []).append(gauge)
    lines = []
    for name, group in grouped.items():
        lines += [f"# HELP {name} {group[0].help}", f"# TYPE {name} gauge"]
        lines += [f'{name}{{repository="{gauge.repository}"}} {gauge.value:.15g}' for gauge in group]
    return "".join(f"{line}\n" for line in lines)


def write_metrics(repository: Repository) -> None:
    """Writes a repository's numbers; that they cannot be written is no reason for a command to fail."""
    folder = repository.home.metrics
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{repository.name}.prom"
        write_file(file, text_of(gauges(repository)).encode(), _PUBLIC_MODE, replace=True)
        repository.give_to_owner(file)


def gauges_of(home: Home) -> list[Gauge]:
    """The numbers of all repositories."""
    found: list[Gauge] = []
    for name in home.names():
        with suppress(CdnError, OSError):
            found += gauges(Repository.peek(name, home))
    return found


def metrics_of(home: Home) -> str:
    """The numbers of all repositories in the text format."""
    return text_of(gauges_of(home))


def remove_metrics(home: Home, name: str) -> None:
    """Forgets the numbers of a repository that is no more."""
    with suppress(OSError):
        os.unlink(home.metrics / f"{name}.prom")
