"""A start of an edge waits for nothing that its first hit does not need."""

import subprocess
import sys

import pytest

from edge.importing import THE_REST

HEAVY = {"aiodns", "aiohttp", "cryptography", "prometheus_client", "rich", "sqlite3", "structlog", "urllib.request"}
PROGRAM = "import sys, importlib\nfor name in sys.argv[1:]: importlib.import_module(name)\nprint(*sys.modules)"


def modules_after(*names):
    done = subprocess.run([sys.executable, "-c", PROGRAM, *names], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["edge.alone", "edge.workers.worker"])
def test_what_serves_imports_nothing_heavy(module):
    assert not HEAVY & modules_after(module)


def test_a_supervisor_does_not_import_what_its_workers_serve_with():
    loaded = modules_after("edge.running", "edge.workers.supervisor")
    assert not (HEAVY | {"edge.server", "edge.serving.service", "edge.connection.protocol"}) & loaded


def test_the_rest_are_modules_that_serving_did_not_import():
    assert not set(THE_REST) & modules_after("edge.alone")
    assert set(THE_REST) <= modules_after("edge.alone", *THE_REST)
