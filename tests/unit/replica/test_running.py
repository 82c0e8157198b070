from __future__ import annotations

import asyncio
import time

import pytest

from cdn.keyfiles import write_public_key
from replica.config import ReplicaConfig, ReplicaHome, config_text
from replica.metrics import render_metrics, status_document
from replica.running import ReplicaDaemon
from tests.fakes.repositories import Publication

GOOD, BAD = "good.example.org", "bad.example.org"


@pytest.fixture
def publication():
    made = Publication(GOOD)
    made.signer.now = int(time.time())
    made.served[".cvmfswhitelist"] = made.signer.whitelist()
    made.publish({"/file": b"one"})
    return made


@pytest.fixture
def home(tmp_path, publication):
    publication.write_to(tmp_path / "source")
    made = ReplicaHome(tmp_path / "root")
    for name, server in ((GOOD, tmp_path / "source"), (BAD, tmp_path / "nowhere")):
        made.keys(name).mkdir(parents=True)
        write_public_key(made.keys(name) / f"{name}.pub", publication.signer.master_keys[0])
        config = ReplicaConfig(str(server), interval=1)
        (made.folder(name) / "replica.toml").write_text(config_text(config))
    return made


async def until(condition) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110  # the daemon tells nobody but its counters
            await asyncio.sleep(0.01)


async def test_every_replica_is_kept_current_and_one_that_fails_does_not_stop_the_others(home, publication, tmp_path):
    daemon = ReplicaDaemon(home, chance=lambda: 0.0)
    running = asyncio.create_task(daemon.run())
    counted = daemon.statistics.repositories
    await until(lambda: GOOD in counted and counted[GOOD].revision == 1 and BAD in counted)
    publication.publish({"/file": b"two"})
    publication.write_to(tmp_path / "source")
    await until(lambda: counted[GOOD].revision == 2)
    running.cancel()
    await asyncio.wait([running])
    assert counted[BAD].failures >= 1
    text = render_metrics(daemon.statistics).decode()
    assert f'replica_revision{{repository="{GOOD}"}} 2.0' in text
    assert f'replica_failures_total{{repository="{BAD}"}}' in text
    assert status_document(daemon.jobs, daemon.statistics)["replicas"][BAD]["failures_in_a_row"] >= 1


async def test_a_reload_finds_new_replicas_and_forgets_removed_ones(home):
    daemon = ReplicaDaemon(home)
    daemon.reload()
    assert {job.fqrn for job in daemon.jobs} == {GOOD, BAD}
    (home.folder(BAD) / "replica.toml").unlink()
    daemon.reload()
    assert {job.fqrn for job in daemon.jobs} == {GOOD}
    (home.folder(GOOD) / "replica.toml").write_text("nonsense")
    daemon.reload()
    assert {job.fqrn for job in daemon.jobs} == {GOOD}, "a mistake keeps the old settings"
