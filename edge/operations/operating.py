"""What operators do with a running edge, over its operator's listener: watch it, and have it forget things."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

from cdn import daemon
from cdn.errors import TransportError, UsageError
from cdn.reporting import Output, Table, size_text

KIND_OF_SERVICE: Final = "an edge"
ADMIN_EXAMPLE: Final = "http://127.0.0.1:9154"
_POLL_SECONDS: Final = 0.2
_DRAIN_SURPLUS_SECONDS: Final = 10.0
_UPGRADE_SECONDS: Final = 130.0
Order = dict[str, object]
"""What `edge.operations.purge_orders.PurgeOrder` reads."""


def fetch_status(admin_url: str) -> dict[str, object]:
    """Asks a running edge how it is; see `daemon.ask_status`."""
    return daemon.ask_status(admin_url, what=KIND_OF_SERVICE, example=ADMIN_EXAMPLE, has="upstreams")


def orders_of(
    urls: Sequence[str],
    prefixes: Sequence[str],
    repositories: Sequence[str],
    revision: int | None,
    *,
    is_all: bool,
    is_soft: bool,
) -> list[Order]:
    """The orders that a command line means.

    Raises:
        UsageError: it names nothing, or a revision of no or of several repositories.
    """
    if revision is not None and len(repositories) != 1:
        raise UsageError("--revision goes with one --repository")
    of_revision = {} if revision is None else {"revision": revision}
    orders: list[Order] = [{"url": each} for each in urls]
    orders += [{"prefix": each} for each in prefixes]
    orders += [{"repository": each, **of_revision} for each in repositories]
    orders += [{"all": True}] if is_all else []
    if not orders:
        raise UsageError("say what to purge: --url, --prefix, --repository or --all")
    return [{**each, "soft": is_soft} for each in orders]


def purge_and_wait(out: Output, admin_url: str, orders: Sequence[Order], *, waits: bool) -> None:
    """Has orders carried out, and says what came of them.

    Args:
        out: told the result.
        admin_url: the operator's listener.
        orders: what to purge.
        waits: whether until the files are removed.

    Raises:
        UsageError: an order is not sound.
        TransportError: the edge does not answer, or could not carry it out.
    """
    before = int(str(fetch_status(admin_url)["purged_files"]))
    told: list[dict[str, Any]] = [
        daemon.send_command(admin_url, "purge", order, what=KIND_OF_SERVICE, example=ADMIN_EXAMPLE) for order in orders
    ]
    removed = None
    if waits:
        after = _wait(out, admin_url, {(each["what"], each["soft"]) for each in told})
        removed = max(0, after - before - sum(each["disk"] for each in told))
    rows = [(each["what"], each["memory"], each["disk"], each["fetches"]) for each in told]
    done = "outdated" if told[0]["soft"] else "forgotten"
    rest = "; files are still being gone through" if removed is None else f", with {removed} more file(s)"
    out.result(
        {"purges": told, "files_removed": removed},
        Table(("purged", "in memory", "on disk", "fetches outdated"), rows),
        done if removed == 0 else done + rest,
    )


def _wait(out: Output, admin_url: str, meant: set[tuple[object, object]]) -> int:
    """Waits until the files are removed; gives how many purges ever removed."""
    with out.progress("Removing files") as progress:
        total = shown = 0
        while True:
            status: dict[str, Any] = fetch_status(admin_url)
            left = sum(each["shards_left"] for each in status["purges"] if (each["what"], each["soft"]) in meant)
            if left and not total:
                total = left
                progress.start(total, "parts of the cache")
            if total and total - left > shown:
                progress.advance(total - left - shown)
                shown = total - left
            if not left:
                return int(status["purged_files"])
            time.sleep(_POLL_SECONDS)


# ------------------------------------------------------------------------------------------------------- leaving


def drain_and_wait(out: Output, admin_url: str, *, undoes: bool, stops: bool, waits: bool) -> None:
    """Takes an edge out of service or back, and says how far it is.

    Args:
        out: told the result.
        admin_url: the operator's listener.
        undoes: whether it shall serve again.
        stops: whether its process shall end.
        waits: whether until nobody is left.

    Raises:
        UsageError: it is too late to undo it.
        TransportError: the edge does not answer.
    """
    order = {"undo": undoes, "stop": stops}
    told = daemon.send_command(admin_url, "drain", order, what=KIND_OF_SERVICE, example=ADMIN_EXAMPLE)
    if waits and not undoes:
        told = _wait_for_drain(out, admin_url, told, stops=stops)
    phase, connections = told["phase"], told["connections"]
    out.result({"phase": phase, "connections": connections}, f"{phase}, {connections} connection(s) open")


def _wait_for_drain(out: Output, admin_url: str, told: dict[str, Any], *, stops: bool) -> dict[str, Any]:
    deadline = time.monotonic() + float(told["seconds_max"]) + _DRAIN_SURPLUS_SECONDS
    seen: tuple[object, object] | None = None
    while time.monotonic() < deadline:
        try:
            told = fetch_status(admin_url)
        except TransportError:
            if not stops:
                raise
            return {"phase": "stopped", "connections": 0}
        if (now := (told["phase"], told["connections"])) != seen:
            out.note(f"{told['phase']}, {told['connections']} connection(s) open")
            seen = now
        if told["phase"] in {"serving", "drained"} and not stops:
            return told
        time.sleep(_POLL_SECONDS)
    raise UsageError("the edge has not drained in the time it has for that; see its log")


def upgrade_edge(out: Output, admin_url: str) -> None:
    """Has an edge replaced by a new process, and says which.

    Raises:
        UsageError: the new process did not take over; the old one goes on.
        TransportError: the edge does not answer.
    """
    told = daemon.send_command(
        admin_url, "upgrade", {}, what=KIND_OF_SERVICE, example=ADMIN_EXAMPLE, seconds=_UPGRADE_SECONDS
    )
    out.result({"pid": told["pid"]}, f"process {told['pid']} serves now")


# ------------------------------------------------------------------------------------------------------- watching


def watch_status(out: Output, admin_url: str, *, interval_seconds: float, count: int) -> None:
    """Says in a line how an edge is doing, again and again.

    Args:
        out: told the lines.
        admin_url: the operator's listener.
        interval_seconds: between two.
        count: after how many it ends; 0 for never.
    """
    before, then = fetch_status(admin_url), time.monotonic()
    with out.listing("samples") as listing:
        if not out.json:
            listing.add({}, _HEADING)
        shown = 0
        while not count or shown < count:
            time.sleep(interval_seconds)
            after, now = fetch_status(admin_url), time.monotonic()
            sample = sample_of(before, after, now - then)
            listing.add(sample, line_of(sample))
            before, then, shown = after, now, shown + 1


_HEADING: Final = "requests/s   hits  served/s    fetched/s   clients  fetches  failing  state"


def sample_of(before: dict[str, Any], after: dict[str, Any], seconds: float) -> dict[str, object]:
    """What happened between two statuses, per second, and how things are now."""

    def rate(*path: str) -> float:
        return max(0.0, _at(after, path) - _at(before, path)) / seconds

    requests, hits = rate("requests", "all"), rate("requests", "hits")
    return {
        "requests_per_second": round(requests, 1),
        "hit_ratio": round(hits / requests, 4) if requests else None,
        "bytes_served_per_second": round(rate("bytes", "served")),
        "bytes_fetched_per_second": round(rate("bytes", "fetched")),
        "connections": after["connections"],
        "fetches": after["fetches"],
        "upstreams_failing": sum(bool(each["failures"]) for each in after["upstreams"].values()),
        "draining": after["draining"],
    }


def _at(document: dict[str, Any], path: tuple[str, ...]) -> float:
    for name in path:
        document = document[name]
    return float(document)  # type: ignore[arg-type]  # numbers lie at the ends


def line_of(sample: dict[str, Any]) -> str:
    """A sample for people."""
    ratio = "-" if sample["hit_ratio"] is None else f"{sample['hit_ratio']:.1%}"
    served, fetched = (size_text(sample[f"bytes_{name}_per_second"]) for name in ("served", "fetched"))
    state = "stopping" if sample["draining"] else "serving"
    return (
        f"{sample['requests_per_second']:>10,.1f} {ratio:>6}  {served:<10}  {fetched:<10} "
        f"{sample['connections']:>8} {sample['fetches']:>8} {sample['upstreams_failing']:>8}  {state}"
    )
