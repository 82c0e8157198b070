"""What every test may count on: a known environment, repeatable property tests, and the shared vectors where they
are."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from cdn.telemetry import install_fault_hook, install_sink

SHARED = Path(__file__).resolve().parents[2] / "shared"

# A deadline would be an assertion on elapsed time. In CI the same examples run every time, and a failure says how to
# repeat it.
settings.register_profile("default", deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("default"), derandomize=True, print_blob=True)
settings.register_profile("thorough", settings.get_profile("default"), max_examples=5000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "default"))

# What the person who runs the tests has set for `cdn` must not change what is tested.
for name in [name for name in os.environ if name.startswith(("CDN_", "_CDN_"))]:
    del os.environ[name]
os.environ.pop("PYTHONUNBUFFERED", None)  # programs under test buffer what they say, as they do for their users
# Nor do they compile themselves anew each of the thousand times that one is started: that costs more than they do.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


def pytest_xdist_auto_num_workers() -> int:
    """Half as many processes again as there are processors: tests wait a third of their time, for disks and others."""
    return -(-3 * _processors() // 2)


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@pytest.fixture(autouse=True)
def _quiet_telemetry() -> Iterator[None]:
    """Whatever a test made the process listen to or fail at ends with the test."""
    yield
    install_sink(None)
    install_fault_hook(None)


@pytest.fixture(autouse=True)
def _plain_garbage() -> Iterator[None]:
    """What a test arranged of the search for garbage ends with it: Hypothesis asks that search who holds what."""
    thresholds, callbacks = gc.get_threshold(), list(gc.callbacks)
    yield
    if gc.get_threshold() != thresholds or gc.get_freeze_count():
        gc.set_threshold(*thresholds)
        gc.callbacks[:] = callbacks
        gc.unfreeze()


@pytest.fixture(autouse=True)
def _closed_publishers() -> Iterator[None]:
    """What a test opened of a publisher is closed with the test, as Python 3.13 wants of databases."""
    yield
    publishers = sys.modules.get("tests.fakes.publishers")
    if publishers is not None:
        publishers.close_all()


@pytest.fixture(scope="session")
def vectors() -> Path:
    """The repositories made by CernVM-FS; the test is skipped where they are absent."""
    return _shared("vectors")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Large inputs that are not part of the source tree; the test is skipped where they are absent."""
    return _shared("data")


def _shared(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"../shared/{name} is not beside this source tree")
    return folder
