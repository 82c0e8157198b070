"""The commands ``cdn edge …``."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cdn.reporting import Output, Table, size_text

if TYPE_CHECKING:
    from edge.config import EdgeConfig

_CONFIG = click.option(
    "--config",
    "config_path",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The configuration, a TOML file.",
)


@click.group()
def edge() -> None:
    """Serve repositories from a verified cache near their users."""


@edge.command()
@_CONFIG
@click.pass_obj
def run(out: Output, config_path: Path) -> None:
    """Answer requests until told to stop.

    SIGHUP reads the configuration again, and keeps the old one if the new has a mistake; it also opens the access log
    again. SIGTERM and SIGINT let answers under way finish, then stop.
    """
    from edge.config import load
    from edge.running import run_until_stopped

    config = load(config_path)
    out.serving()
    run_until_stopped(config_path, config, on_ready=out.note)


@edge.command("check-config")
@_CONFIG
@click.pass_obj
def check_config(out: Output, config_path: Path) -> None:
    """Read the configuration and say what is wrong."""
    import time

    from edge.config import load
    from edge.connection.tls import certificate_doubts

    config = load(config_path)
    doubts = [doubt for tls in config.listen.tls for doubt in certificate_doubts(tls, time.time())]
    for warning in [*_doubts(config), *doubts]:
        out.warning(warning)
    servers = sum(len(upstream.servers) for upstream in config.upstreams)
    out.result(
        {
            "config": str(config_path),
            "listen": list(config.listen.all_addresses),
            "upstreams": len(config.upstreams),
            "servers": servers,
            "forward": config.forward.enabled,
            "cache": str(config.cache.directory),
        },
        f"{config_path} is good: {len(config.upstreams)} upstream group(s) with {servers} server(s), "
        f"{size_text(config.cache.disk_bytes)} of disk and {size_text(config.cache.memory_bytes)} of memory",
    )


_ADMIN = click.option(
    "--admin",
    default="http://127.0.0.1:9154",
    show_default=True,
    metavar="URL",
    help="The operator's listener.",
)


@edge.command()
@_ADMIN
@click.option("--watch", is_flag=True, help="Go on with a line for each interval, until interrupted.")
@click.option("--interval", default=2.0, show_default=True, metavar="SECONDS", help="Between two lines.")
@click.option("--count", default=0, metavar="N", help="Stop after so many lines.")
@click.pass_obj
def status(out: Output, *, admin: str, watch: bool, interval: float, count: int) -> None:
    """Show how a running edge is doing."""
    from edge.operations.operating import fetch_status, watch_status

    if watch:
        watch_status(out, admin, interval_seconds=max(0.1, interval), count=count)
        return
    document: dict[str, Any] = fetch_status(admin)
    out.result(document, *_status_text(document))


@edge.command()
@_ADMIN
@click.option("--url", "urls", multiple=True, metavar="URL", help="A path or URL, as a client asks for it.")
@click.option("--prefix", "prefixes", multiple=True, metavar="PREFIX", help="All paths or URLs that begin so.")
@click.option("--repository", "repositories", multiple=True, metavar="NAME", help="All of a repository.")
@click.option("--revision", type=int, metavar="N", help="Only what belongs to this revision of the repository.")
@click.option("--all", "is_all", is_flag=True, help="Everything.")
@click.option("--soft", is_flag=True, help="Have it confirmed before it is used again, instead of removing it.")
@click.option("--no-wait", is_flag=True, help="Do not wait until the files are removed.")
@click.option("--yes", is_flag=True, help="Do not ask before purging everything.")
@click.pass_obj
def purge(
    out: Output,
    *,
    admin: str,
    urls: tuple[str, ...],
    prefixes: tuple[str, ...],
    repositories: tuple[str, ...],
    revision: int | None,
    is_all: bool,
    soft: bool,
    no_wait: bool,
    yes: bool,
) -> None:
    """Make a running edge forget what it has cached.

    From the answer on nothing of it is served any more, and nothing that is on its way is kept. Files are then removed
    one after another. With --soft what is cached is kept, but an upstream is asked before it is used, and it stands in
    while none answers: seldom the wrong choice.
    """
    from edge.operations.operating import orders_of, purge_and_wait

    orders = orders_of(urls, prefixes, repositories, revision, is_all=is_all, is_soft=soft)
    if is_all and not (soft or yes):
        _confirm_all(out)
    purge_and_wait(out, admin, orders, waits=not no_wait)


def _confirm_all(out: Output) -> None:
    import sys

    from cdn.errors import UsageError

    if out.json or not sys.stdin.isatty():
        raise UsageError("everything would have to be fetched again: say --yes if that is meant")
    click.confirm("Forget everything, so that all of it has to be fetched again?", abort=True, err=True)


@edge.command()
@_ADMIN
@click.option("--stop", is_flag=True, help="End the process when nobody is left.")
@click.option("--undo", is_flag=True, help="Serve again, if its listeners are still open.")
@click.option("--no-wait", is_flag=True, help="Do not wait until nobody is left.")
@click.pass_obj
def drain(out: Output, *, admin: str, stop: bool, undo: bool, no_wait: bool) -> None:
    """Take a running edge out of service without a client noticing.

    Its /healthz and /readyz say 503 at once, so that GeoDNS and load balancers turn to others. After `drain_delay` it
    accepts no more connections, and answers under way have `drain_timeout` to finish.
    """
    from edge.operations.operating import drain_and_wait

    drain_and_wait(out, admin, undoes=undo, stops=stop, waits=not no_wait)


@edge.command()
@_ADMIN
@click.pass_obj
def upgrade(out: Output, admin: str) -> None:
    """Have a running edge replaced by a new process of the program as it is installed now.

    No connection is refused and no answer breaks off. If the new process does not start, the old one goes on.
    """
    from edge.operations.operating import upgrade_edge

    upgrade_edge(out, admin)


def _status_text(document: dict[str, Any]) -> tuple[str | Table, ...]:
    requests, cache, transferred = document["requests"], document["cache"], document["bytes"]
    upstreams = [_upstream_row(name, each) for name, each in document["upstreams"].items()]
    state = document["phase"]
    disk = f"{size_text(cache['disk_bytes'])} of {size_text(cache['disk_bytes_max'])} on disk"
    memory = f"{size_text(cache['memory_bytes'])} of {size_text(cache['memory_bytes_max'])} in memory"
    under_way = f"{document['connections']} connection(s), {document['fetches']} fetch(es) under way"
    return (
        f"{document['name']}: {state}, {_workers_text(document)}{under_way}",
        f"requests: {requests['hits']} hits, {requests['misses']} misses, {requests['collapsed']} collapsed",
        f"bytes: {size_text(transferred['served'])} served, {size_text(transferred['fetched'])} fetched",
        f"cache: {disk}, {memory}",
        Table(("upstream", "state", "share", "latency", "in flight", "failures", "reason"), upstreams),
    )


def _upstream_row(name: str, each: dict[str, Any]) -> tuple[str, ...]:
    latency = each["latency_seconds"]
    return (
        name,
        each["state"],
        f"{each['share']:.0%}",
        "" if latency is None else f"{latency * 1000:.0f} ms",
        str(each["in_flight"]),
        str(each["failures"]),
        each["reason"],
    )


def _workers_text(document: dict[str, Any]) -> str:
    if "workers" not in document:
        return ""
    ready = sum(worker["ready"] for worker in document["workers"])
    return f"{ready} of {len(document['workers'])} workers, {document['workers_died']} died, "


def _doubts(config: EdgeConfig) -> list[str]:
    """What is allowed but seldom meant."""
    doubts = []
    if any(address.startswith(("0.0.0.0:", "[::]:")) for address in (config.admin.listen,)):
        doubts.append("the operator's listener is open to everybody: give admin.listen a private address")
    lone = [upstream.name for upstream in config.upstreams if len(upstream.servers) == 1]
    if lone:
        doubts.append(f"when their only server fails, these groups serve only what is cached: {', '.join(lone)}")
    if config.cache.memory_bytes > config.cache.disk_bytes:
        doubts.append("the cache in memory is larger than the one on disk")
    for index, upstream in enumerate(config.upstreams):
        earlier = [pattern for each in config.upstreams[:index] if not each.path for pattern in each.repositories]
        if not upstream.path and all(_is_covered(pattern, earlier) for pattern in upstream.repositories):
            doubts.append(f"the group {upstream.name} is never asked: groups before it hold all its repositories")
    if config.log.access and not config.log.access.startswith(("/", "-")):
        doubts.append("log.access is relative to the directory the edge is started in")
    return [*doubts, *_doubts_of_the_machine(config)]


def _is_covered(pattern: str, earlier: list[str]) -> bool:
    """Whether all that a pattern matches is matched by an earlier one."""
    return any(fnmatchcase(pattern, each) for each in earlier if not set("?[") & set(each))


def _doubts_of_the_machine(config: EdgeConfig) -> list[str]:
    """What this machine does not have, at least not yet."""
    import shutil

    doubts = []
    folder = Path(config.log.access).parent
    if config.log.access not in {"", "-"} and not folder.is_dir():
        doubts.append(f"the folder {folder} of log.access is not there; without it the edge does not start")
    if config.cache.directory.is_dir():
        size = shutil.disk_usage(config.cache.directory).total
        if config.cache.disk_bytes > size:
            doubts.append(f"cache.disk_bytes is more than the {size_text(size)} of the file system of cache.directory")
    return doubts
