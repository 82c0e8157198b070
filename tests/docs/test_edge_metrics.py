"""The edge's metrics are those its documentation lists, and what watches them asks for metrics that there are."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.fakes.edge import BASE, edge_world
from tests.fakes.origin import Reply
from tests.fakes.signer import Signer

ROOT = Path(__file__).resolve().parents[2]
NAME = re.compile(r"\b(?:edge|process)_[a-z_]+")
PARTS = ("_bucket", "_sum", "_count", "_created")


@pytest.fixture
async def rendered(tmp_path) -> set[str]:
    """Names of all metrics, as they stand in queries; those of a family with parts without them."""
    async with edge_world(tmp_path) as world:
        target, _ = world.publish(b"hello")
        signer = Signer("sw.example.org", now=int(world.clock.now()))
        world.origin.replies[f"{BASE}/.cvmfspublished"] = Reply(signer.manifest())
        world.origin.replies[f"{BASE}/.cvmfswhitelist"] = Reply(signer.whitelist())
        for each in (target, target, f"{BASE}/.cvmfspublished", f"{BASE}/.cvmfswhitelist"):
            await world.get(each)
        text = world.edge.metrics().decode()
    return {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in text_string_to_metric_families(text)
    }


def documented() -> set[str]:
    page = (ROOT / "docs" / "operations" / "edge.md").read_text()
    cells = re.findall(r"^\| (`(?:edge|process)_[^|]*) \|", page, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([a-z_]+)`", cell)}


async def test_every_metric_is_documented_and_every_documented_one_exists(rendered):
    of_the_process = {name for name in documented() if name.startswith("process_")}
    assert rendered | of_the_process == documented(), "those of the process are there on Linux only"


async def test_alerts_and_dashboard_ask_for_metrics_that_exist(rendered):
    rules = (ROOT / "packaging" / "prometheus" / "edge-alerts.yaml").read_text()
    dashboard = json.loads((ROOT / "packaging" / "grafana" / "edge.json").read_text())
    queries = re.findall(r"^ +expr: (.*)$", rules, re.MULTILINE)
    queries += [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    queries += [each["query"] for each in dashboard["templating"]["list"]]
    asked = {name for query in queries for name in NAME.findall(query)}
    known = rendered | {f"{name}{part}" for name in rendered for part in PARTS}
    assert len(queries) > 30
    assert asked <= known


def test_every_alert_has_a_summary_and_a_severity():
    rules = (ROOT / "packaging" / "prometheus" / "edge-alerts.yaml").read_text()
    count = len(re.findall(r"^ +- alert: Edge[A-Za-z]+$", rules, re.MULTILINE))
    assert count == len(re.findall(r"^ +expr: \S", rules, re.MULTILINE))
    assert count == len(re.findall(r"^ +labels: {severity: (?:warning|critical)}$", rules, re.MULTILINE))
    assert count == len(re.findall(r'^ +summary: ".+"$', rules, re.MULTILINE))
