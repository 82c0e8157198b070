"""Replicas of repositories made by CernVM-FS: the same objects, byte for byte, and everything a reader needs."""

from __future__ import annotations

import pytest

from cdn.client.bootstrap import Authority
from cdn.client.keys import load_keys
from cdn.client.source_list import parse_servers
from cdn.client.sources import Sources
from cdn.clock import ManualClock
from cdn.objects import MANIFEST_PATH, REFLOG_PATH, WHITELIST_PATH, Kind
from cdn.reflog import Reflog
from cdn.storage.local import LocalStore
from cdn.transport.file import FileFetcher
from replica.check import ReplicaCheck
from replica.config import ReplicaConfig
from replica.mirror import Mirror

pytestmark = pytest.mark.vectors

REPOSITORIES = {"sha1": "test.local.org", "shake128": "shake.local.org"}
NOW = 1_795_500_000.0


@pytest.mark.parametrize("which", REPOSITORIES)
async def test_a_replica_has_the_same_objects_and_is_whole(vectors, tmp_path, which):
    fqrn, source = REPOSITORIES[which], vectors / which / "repo"
    store = LocalStore(tmp_path / "store")
    mirror = Mirror(
        Authority(fqrn, load_keys([vectors / which / f"{fqrn}.pub"], fqrn)),
        store,
        tmp_path / "state",
        Sources(parse_servers(str(source), fqrn)),
        FileFetcher(),
        config=ReplicaConfig(str(source)),
        clock=ManualClock(NOW),
    )
    report = await mirror.sync()
    assert (report.revision, report.skipped) == (6, ())
    for path in (MANIFEST_PATH, WHITELIST_PATH):
        assert store.read(path, size_max=1 << 20) == (source / path).read_bytes()
    copied = {stored.path for stored in store.list("data/")}
    for path in copied:
        assert store.read(path, size_max=1 << 30) == (source / path).read_bytes()
    left_out = {path.relative_to(source).as_posix() for path in source.glob("data/*/*")} - copied
    assert {path[-1] for path in left_out} <= {"C", "H", "X"} | set("0123456789abcdef"), (
        "old tag lists and certificates, untagged revisions"
    )
    check = ReplicaCheck(mirror, tmp_path / "state", now=NOW)
    assert [problem async for problem in check.run()] == []
    assert check.counts.revisions == 6
    reflog = Reflog.from_bytes(store.read(REFLOG_PATH, size_max=1 << 20))
    assert len(reflog.of_kind(Kind.CATALOG)) == 6
    assert all(store.exists(entry.name.path) for entry in reflog.entries)
    again = await mirror.sync()
    assert (again.objects, again.is_new) == (0, False)
