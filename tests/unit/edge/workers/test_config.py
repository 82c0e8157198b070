"""The limits of an edge, shared out among its workers."""

from dataclasses import replace

import pytest

from edge.cache.shards import Share
from edge.config import ForwardSettings
from edge.workers.config import reloaded, worker_config
from tests.fakes.edge import edge_config


@pytest.mark.parametrize("count", [2, 3, 16])
def test_all_workers_together_stay_within_the_limits_of_the_whole(tmp_path, count):
    config = replace(edge_config(tmp_path, "http://a"), workers=count)
    each = worker_config(config, Share(0, count))
    for section, name in (
        ("cache", "disk_bytes"),
        ("cache", "memory_bytes"),
        ("limits", "connections_max"),
        ("limits", "unsent_bytes_max"),
        ("fetch", "connections_max"),
    ):
        whole, part = getattr(getattr(config, section), name), getattr(getattr(each, section), name)
        assert 0 < part * count <= whole
    assert each.cache.memory_object_bytes <= each.cache.memory_bytes
    assert (each.admin.listen, each.workers) == ("", 1)


def test_a_reload_changes_nothing_that_a_running_worker_could_not(tmp_path):
    config = edge_config(tmp_path, "http://a")
    newer = replace(
        edge_config(tmp_path / "other", "http://b"), name="other", forward=ForwardSettings(enabled=False), workers=3
    )
    after = reloaded(config, newer)
    assert (after.upstreams, after.forward) == (newer.upstreams, newer.forward)
    assert (after.cache, after.name, after.workers, after.listen) == (config.cache, config.name, 1, config.listen)
