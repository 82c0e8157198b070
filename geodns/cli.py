"""The commands ``cdn geodns …``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cdn.reporting import Output, Table

if TYPE_CHECKING:
    from geodns.config import GeoDnsConfig
    from geodns.explanation import Explanation
    from geodns.routing import HealthView

_CONFIG = click.option(
    "--config",
    "config_path",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The configuration, a TOML file.",
)


@click.group()
def geodns() -> None:
    """Answer DNS queries with the nearest healthy edge."""


@geodns.command()
@_CONFIG
@click.pass_obj
def run(out: Output, config_path: Path) -> None:
    """Answer queries until told to stop.

    SIGHUP reads the configuration, the map and the database again, and keeps the old ones if the new have a mistake.
    SIGTERM and SIGINT stop.
    """
    from geodns.config import load
    from geodns.running import run_until_stopped

    config = load(config_path)
    out.serving()
    run_until_stopped(config_path, config, on_ready=out.note)


@geodns.command("check-config")
@_CONFIG
@click.pass_obj
def check_config(out: Output, config_path: Path) -> None:
    """Read the configuration and every file it names, and say what is wrong."""
    from geodns.assembly import build_content
    from geodns.config import load
    from geodns.geography_files import load_geography

    config = load(config_path)
    load_geography(config.geography)
    build_content(config)
    for warning in _doubts(config):
        out.warning(warning)
    edges = sum(len(site.edges) for site in config.sites)
    names = [geo.name for zone in config.zones for geo in zone.geo]
    out.result(
        {
            "config": str(config_path),
            "zones": [zone.name for zone in config.zones],
            "geo_names": len(names),
            "sites": len(config.sites),
            "edges": edges,
        },
        f"{config_path} is good: {len(config.zones)} zone(s), {len(names)} geo name(s), "
        f"{len(config.sites)} site(s), {edges} edge(s)",
    )


@geodns.command()
@_CONFIG
@click.argument("name")
@click.option("--from", "client", required=True, metavar="ADDRESS", help="The client's address.")
@click.option("--down", multiple=True, metavar="EDGE", help="Suppose that this edge is down; repeatable.")
@click.option("--slow", multiple=True, metavar="EDGE", help="Suppose that this edge is slow; repeatable.")
@click.pass_obj
def lookup(
    out: Output, config_path: Path, name: str, client: str, down: tuple[str, ...], slow: tuple[str, ...]
) -> None:
    """Say what a client would be answered for NAME, and why.

    All edges are taken to be well unless --down or --slow says otherwise; `cdn geodns status` shows how they are.
    """
    from cdn.errors import UsageError
    from geodns.assembly import build_content
    from geodns.config import load
    from geodns.explanation import explain
    from geodns.geo import packed_address
    from geodns.geography_files import load_geography
    from geodns.routing import HealthView
    from geodns.wire import Name

    config = load(config_path)
    try:
        wanted, packed = Name.from_text(name).folded, packed_address(client)
    except ValueError as error:
        raise UsageError(str(error)) from error
    known = {edge.name for site in config.sites for edge in site.edges}
    for edge in (*down, *slow):
        if edge not in known:
            raise UsageError(f"there is no edge {edge!r}; known are {', '.join(sorted(known)) or 'none'}")
    content = build_content(config)
    health = HealthView(frozenset(down), frozenset(slow))
    explanation = explain(content.zones, load_geography(config.geography), health, wanted, packed)
    if explanation is None:
        raise UsageError(f"{name} is no geo name of this configuration: everybody gets the same answer, or none")
    out.result(
        _explanation_document(name, client, explanation, health), *_explanation_text(name, client, explanation, health)
    )


@geodns.command()
@click.option("--admin", required=True, metavar="URL", help="The operator's listener, e.g. http://127.0.0.1:9153.")
@click.pass_obj
def status(out: Output, admin: str) -> None:
    """Show how the edges of a running server are."""
    from geodns.running import fetch_status

    document = fetch_status(admin)
    edges = document.get("edges")
    rows = [
        (name, str(mark.get("state")), mark.get("latency_seconds"), str(mark.get("reason") or ""))
        for name, mark in (edges.items() if isinstance(edges, dict) else ())
    ]
    zones = document.get("zones")
    served = ", ".join(str(zone) for zone in zones) if isinstance(zones, list) else ""
    out.result(document, f"zones: {served}", Table(("edge", "state", "seconds", "reason"), rows))


# ----------------------------------------------------------------------------------------------------------------- text


def _doubts(config: GeoDnsConfig) -> list[str]:
    """What is allowed but seldom meant."""
    doubts = []
    if not (config.geography.networks or config.geography.map or config.geography.database):
        doubts.append("no map and no database: every client is at an unknown position and gets the first site")
    unchecked = [edge.name for site in config.sites for edge in site.edges if not edge.check]
    if unchecked:
        doubts.append(f"these edges have no check and are never taken out: {', '.join(unchecked)}")
    for family, mark in (("IPv4", "."), ("IPv6", ":")):
        without = [site.name for site in config.sites if not any(mark in a for e in site.edges for a in e.addresses)]
        if without and len(without) < len(config.sites):
            doubts.append(f"without an {family} address, clients that use it are sent past: {', '.join(without)}")
    return doubts


def _explanation_document(name: str, client: str, explanation: Explanation, health: HealthView) -> dict[str, object]:
    position = explanation.location.position
    answers: dict[str, object] = {}
    for family, record_type in ((4, "A"), (6, "AAAA")):
        route = explanation.routes[family]
        answers[record_type] = {
            "site": route.site.name if route.site is not None else None,
            "edges": [edge.name for edge in route.edges],
            "addresses": [_address_text(address) for edge in route.edges for address in edge.addresses(family)],
            "why": route.choice.value,
        }
    return {
        "name": name,
        "geo_name": explanation.name.text,
        "client": client,
        "position": None if position is None else {"latitude": position.latitude, "longitude": position.longitude},
        "prefix_length": explanation.location.prefix_length,
        "answers": answers,
        "sites": [
            {
                "site": ranked.site.name,
                "distance_km": None if ranked.distance_km is None else round(ranked.distance_km, 1),
                "edges": {edge.name: _edge_state(edge.name, health) for edge in ranked.site.edges},
            }
            for ranked in explanation.ranking
        ],
    }


def _explanation_text(name: str, client: str, explanation: Explanation, health: HealthView) -> tuple[str | Table, ...]:
    position = explanation.location.position
    where = f"at {position.latitude:.2f} {position.longitude:.2f}" if position is not None else "at an unknown position"
    lines: list[str | Table] = [f"{client} is {where} (the same for its whole /{explanation.location.prefix_length})"]
    for family, record_type in ((4, "A"), (6, "AAAA")):
        route = explanation.routes[family]
        addresses = " ".join(_address_text(address) for edge in route.edges for address in edge.addresses(family))
        site = f"{route.site.name}: {addresses}" if route.site is not None else "no data"
        lines.append(f"{name} {record_type} -> {site} ({route.choice.value})")
    rows = [
        (
            ranked.site.name,
            None if ranked.distance_km is None else round(ranked.distance_km),
            ", ".join(f"{edge.name} {_edge_state(edge.name, health)}" for edge in ranked.site.edges),
        )
        for ranked in explanation.ranking
    ]
    return (*lines, Table(("site", "km", "edges"), rows))


def _edge_state(edge: str, health: HealthView) -> str:
    if edge in health.down:
        return "down"
    return "slow" if edge in health.slow else "up"


def _address_text(address: bytes) -> str:
    import ipaddress

    return str(ipaddress.ip_address(address))
