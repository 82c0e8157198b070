"""Checking a repository, and repairing it from a good copy."""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from cdn.catalog.writer import CatalogBuilder
from cdn.clock import ManualClock
from cdn.compression import compress
from cdn.errors import LockHeldError, UsageError
from cdn.hashing import digest_of
from cdn.manifest import Manifest
from cdn.objects import MANIFEST_PATH, MASTER_REPLICA_PATH, REFLOG_PATH, WHITELIST_PATH, Kind, ObjectName
from cdn.signing import SignedText
from stratum0 import check, verification
from stratum0.check import Check, Extent
from stratum0.config import Home, RepositorySettings
from stratum0.documents import REFLOG_CHECKSUM_FILE
from stratum0.information import read_status
from stratum0.locks import FileLock
from stratum0.repair import OBJECT_BYTES_MAX, Repairer
from stratum0.repository import Repository
from stratum0.tags import add_tag
from tests.fakes.publishers import NAME, TODAY, new_publisher, published

DAY = 86_400


@pytest.fixture
def clock():
    return ManualClock(TODAY)


@functools.cache
def template():
    """Two revisions with nested catalogs, the first of them tagged; made once, copied for each test."""
    folder = tempfile.TemporaryDirectory()
    repository = new_publisher(Path(folder.name), auto_tag=False)
    with repository.transaction() as transaction:
        for path in ("/a", "/a/b", "/c"):
            transaction.mkdir(path)
        for path in ("/a", "/a/b"):
            transaction.put_file(f"{path}/.cvmfscatalog", b"")
        for number in range(8):
            transaction.put_file(f"/a/b/{number}", b"content %d" % number)
        transaction.put_file("/c/large", os.urandom(5 << 20))
        transaction.symlink("/c/link", "large")
    add_tag(repository, "v2")
    with repository.transaction() as transaction:
        transaction.remove("/a/b/7")
        transaction.put_file("/new", b"new")
    repository.close()
    return folder


@pytest.fixture
def repository(tmp_path, clock):
    home = Home(tmp_path / "publisher")
    shutil.copytree(template().name, home.root)
    folder = home.folder_of(NAME)
    replace(RepositorySettings.load(folder), storage=home.storage_of(NAME)).save(folder)
    return Repository.peek(NAME, home, clock=clock)


def checked(repository, extent=None, **options):
    """Runs a check; gives its summary and findings."""
    run = Check(repository, extent, **options)
    summary = run.run()
    findings = list(run.findings())
    run.close()
    return summary, findings


def file_of(repository, name):
    return repository.settings.storage / name.path


def objects_of(repository, path):
    """The objects of a file in the current tree."""
    entry = published(repository).tree[path]
    if entry.digest is not None:
        return [ObjectName(entry.digest)]
    return [ObjectName(chunk.digest, Kind.CHUNK) for chunk in entry.chunks]


def rot(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0x10
    file.write_bytes(data)


# ---------------------------------------------------------------------------------------------------------- all is well


def test_what_was_published_is_found_to_be_right(repository):
    summary, findings = checked(repository)
    assert findings == []
    stored = sum(stored.size for stored in repository.store.list("data/"))
    assert (summary.revisions, summary.catalogs) == (2, 6)  # trunk-previous is the tag's revision
    assert 0 < summary.bytes <= stored
    assert summary.objects >= 8 + 2 + 5
    assert read_status(repository)["check_status"] == "succeeded"


def test_nothing_is_left_of_a_finished_check(repository):
    checked(repository)
    assert [path.name for path in (repository.folder / "check").iterdir()] == ["check.lock"]


def test_objects_are_verified_by_processes_too(repository, monkeypatch):
    monkeypatch.setattr(verification, "IN_PROCESS_BYTES_MAX", 0)
    here, _ = checked(repository)
    (name, *_) = objects_of(repository, "/a/b/3")
    rot(file_of(repository, name))
    there, findings = checked(repository)
    assert (there.objects, there.bytes) == (here.objects, here.bytes)
    assert [(finding.rule, finding.subject) for finding in findings] == [("damaged", name.path)]


# -------------------------------------------------------------------------------------------------------- what is wrong


@pytest.mark.parametrize("path", ["/a/b/3", "/c/large", "/a/.cvmfscatalog", "/new"])
@pytest.mark.parametrize("damage", ["rotten", "missing", "empty"])
def test_a_lost_or_rotten_object_is_found(repository, path, damage):
    name = objects_of(repository, path)[-1]
    file = file_of(repository, name)
    {"rotten": rot, "missing": Path.unlink, "empty": lambda file: file.write_bytes(b"")}[damage](file)
    summary, findings = checked(repository)
    assert [(finding.area, finding.subject) for finding in findings] == [("object", name.path)]
    assert findings[0].rule == ("missing" if damage == "missing" else "damaged")
    assert summary.findings == 1
    assert read_status(repository)["check_status"] == "failed"


def test_objects_that_only_a_tag_needs_are_looked_at(repository):
    with repository.catalogs.load(repository.head().history.tag("v2").root_catalog) as root:
        nested = {each.path: each for each in root.nested()}
    with repository.catalogs.load(nested["/a"].digest) as catalog:
        (below,) = catalog.nested()
    with repository.catalogs.load(below.digest) as catalog:
        name = ObjectName(catalog.find("/a/b/7").digest)
    file_of(repository, name).unlink()
    assert [finding.subject for finding in checked(repository)[1]] == [name.path]
    assert checked(repository, Extent(all_revisions=False))[1] == []


def test_how_much_is_looked_at_can_be_less(repository):
    (name,) = objects_of(repository, "/a/b/3")
    rot(file_of(repository, name))
    assert checked(repository, Extent(content=False))[1] == []
    file_of(repository, name).unlink()
    (finding,) = checked(repository, Extent(all_revisions=False, content=False))[1]
    assert (finding.rule, finding.subject) == ("missing", name.path)


def test_a_lost_catalog_is_found_even_if_the_cache_has_it(repository):
    with repository.catalogs.load(repository.head().root) as root:
        (nested,) = root.nested()
    file_of(repository, ObjectName(nested.digest, Kind.CATALOG)).unlink()
    _, findings = checked(repository)
    assert {(finding.area, finding.rule) for finding in findings} == {("object", "missing"), ("catalog", "catalog")}
    assert "what is below it was not looked at" in " ".join(finding.message for finding in findings)


def test_rules_of_catalogs_are_checked(repository):
    """A root catalog with a wrong counter and a wrong link count, put in place as a publisher with a bug would."""
    import sqlite3

    work = repository.folder / "bug"
    repository.catalogs.copy(repository.head().root, work)
    connection = sqlite3.connect(work)
    connection.execute("UPDATE statistics SET value = value + 5 WHERE counter = 'self_regular'")
    connection.execute("UPDATE catalog SET hardlinks = 9 WHERE name = 'c'")
    connection.commit()
    connection.close()
    publish_root(repository, work)
    _, findings = checked(repository)
    assert {(finding.rule, finding.subject) for finding in findings} == {("counters", "/"), ("link-count", "/c")}
    assert all(finding.revision.startswith("revision") for finding in findings)


def publish_root(repository, file, **changes):
    """Signs whatever catalog file this is as the current revision."""
    stored = compress(file.read_bytes())
    digest = digest_of(repository.settings.algorithm, stored)
    repository.store.put(ObjectName(digest, Kind.CATALOG).path, stored)
    from stratum0.documents import publish_manifest, read_reflog, write_reflog

    values = {"root_catalog": digest, "root_catalog_bytes": file.stat().st_size, **changes}
    manifest = replace(repository.head().manifest, **values)
    reflog = read_reflog(repository).with_objects(manifest.objects, manifest.timestamp)
    publish_manifest(repository, replace(manifest, reflog=write_reflog(repository, reflog)))


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"revision": 77}, "revision"),
        ({"timestamp": 5}, "timestamp"),
        ({"root_catalog_bytes": 1}, "size"),
        ({"ttl_seconds": 1}, "ttl"),
    ],
)
def test_what_manifest_and_root_catalog_must_say_alike_is_compared(repository, tmp_path, changes, rule):
    repository.catalogs.copy(repository.head().root, tmp_path / "root")
    publish_root(repository, tmp_path / "root", **changes)
    _, findings = checked(repository)
    assert [(finding.area, finding.rule) for finding in findings] == [("document", rule)]


def test_an_expired_whitelist_is_a_finding(repository, clock):
    clock.advance(31 * DAY)
    _, findings = checked(repository)
    assert [(finding.rule, finding.subject) for finding in findings] == [("whitelist", WHITELIST_PATH)]
    assert "has expired" in findings[0].message


@pytest.mark.parametrize("path", [MANIFEST_PATH, WHITELIST_PATH])
@pytest.mark.parametrize("offset", [5, 100, -1])
def test_a_changed_document_is_found(repository, path, offset):
    file = repository.settings.storage / path
    data = bytearray(file.read_bytes())
    data[offset] ^= 1
    file.write_bytes(data)
    _, findings = checked(repository)
    assert path in {finding.subject for finding in findings}


@pytest.mark.parametrize("path", [MANIFEST_PATH, WHITELIST_PATH, REFLOG_PATH, MASTER_REPLICA_PATH])
def test_a_missing_document_is_found(repository, path):
    (repository.settings.storage / path).unlink()
    _, findings = checked(repository)
    assert path in {finding.subject for finding in findings}


def test_a_reflog_must_have_the_digest_that_was_kept_and_list_what_is_published(repository):
    from stratum0.documents import read_reflog, write_reflog

    reflog = read_reflog(repository)
    write_reflog(repository, reflog.without(repository.head().manifest.objects))
    (repository.folder / REFLOG_CHECKSUM_FILE).write_text("0" * 39 + "1-shake128\n")
    messages = [finding.message for finding in checked(repository)[1]]
    assert sum("does not list" in message for message in messages) == 4
    assert sum("its digest is" in message for message in messages) == 1


def test_a_damaged_reflog_is_a_finding(repository):
    (repository.settings.storage / REFLOG_PATH).write_bytes(b"SQLite no more")
    _, findings = checked(repository)
    assert [(finding.rule, finding.subject) for finding in findings] == [("reflog", REFLOG_PATH)]


def test_a_rotten_history_is_found_and_the_check_says_what_it_could_not_do(repository):
    name = ObjectName(repository.head().manifest.history, Kind.HISTORY)
    rot(file_of(repository, name))
    repository._head = None
    _, findings = checked(repository)
    assert [(finding.area, finding.rule) for finding in findings] == [("object", "damaged"), ("document", "head")]


def test_names_that_are_no_text_are_shown_escaped(repository):
    with repository.transaction() as transaction:
        transaction.put_file("/odd\udcff", b"odd")
    assert checked(repository)[1] == []


# -------------------------------------------------------------------------------------------------------- interruptions


class InterruptedCheckError(Exception):
    pass


@pytest.mark.parametrize("after", [1, 2, 4])
def test_an_interrupted_check_goes_on_where_it_was(repository, monkeypatch, after):
    (name, *_) = objects_of(repository, "/a/b/3")
    rot(file_of(repository, name))
    whole, expected = checked(repository)
    monkeypatch.setattr(check, "_SAVE_EVERY_CATALOGS", 1)
    looked_at = []
    original = check.validate

    def validate(catalog):
        if len(looked_at) == after:
            raise InterruptedCheckError
        looked_at.append(catalog.root_prefix)
        return original(catalog)

    monkeypatch.setattr(check, "validate", validate)
    with pytest.raises(InterruptedCheckError):
        Check(repository).run()
    monkeypatch.setattr(check, "validate", original)
    before = len(looked_at)
    monkeypatch.setattr(
        check, "validate", lambda catalog: (looked_at.append(catalog.root_prefix), original(catalog))[1]
    )
    summary, findings = checked(repository, resume=True)
    assert summary.was_resumed
    assert replace(summary, was_resumed=False) == whole
    assert findings == expected
    # What was open when it stopped is looked at again, nothing that was done.
    assert len(looked_at) - before <= whole.catalogs


def test_objects_already_verified_are_not_verified_again(repository, monkeypatch):
    original = check.verify_all

    def some(root, files, **options):
        for number, result in enumerate(original(root, files, **options)):
            if number == 3:
                raise InterruptedCheckError
            yield result

    monkeypatch.setattr(check, "verify_all", some)
    with pytest.raises(InterruptedCheckError):
        Check(repository).run()
    seen = []
    monkeypatch.setattr(
        check, "verify_all", lambda root, files, **options: (seen.append(files), original(root, files, **options))[1]
    )
    summary, _ = checked(repository, resume=True)
    assert summary.was_resumed
    assert len(seen[0]) == 256 - 3
    assert summary.objects == checked(repository)[0].objects


def test_a_check_of_another_revision_or_extent_is_not_gone_on_with(repository, monkeypatch):
    original = check.verify_all
    monkeypatch.setattr(check, "verify_all", lambda *_, **__: (_ for _ in ()).throw(InterruptedCheckError))
    with pytest.raises(InterruptedCheckError):
        Check(repository).run()
    monkeypatch.setattr(check, "verify_all", original)
    assert not checked(repository, Extent(content=False), resume=True)[0].was_resumed
    monkeypatch.setattr(check, "verify_all", lambda *_, **__: (_ for _ in ()).throw(InterruptedCheckError))
    with pytest.raises(InterruptedCheckError):
        Check(repository).run()
    monkeypatch.setattr(check, "verify_all", original)
    with repository.transaction() as transaction:
        transaction.put_file("/later", b"later")
    assert not checked(repository, resume=True)[0].was_resumed


def test_two_checks_at_once_are_refused(repository):
    (repository.folder / "check").mkdir()
    with FileLock(repository.folder / "check" / "check.lock"), pytest.raises(LockHeldError):
        Check(repository).run()


# ------------------------------------------------------------------------------------------------------------ repairing


@pytest.fixture
def copy(repository, tmp_path):
    """A good copy of what is served, as a URL."""
    shutil.copytree(repository.settings.storage, tmp_path / "copy")
    return tmp_path / "copy"


def test_what_is_missing_or_rotten_is_fetched_from_a_good_copy(repository, copy):
    everything = {stored.path: stored.size for stored in repository.store.list("data/")}
    victims = [name for path in ("/a/b/1", "/a/b/2", "/c/large", "/new") for name in objects_of(repository, path)]
    for number, name in enumerate(victims):
        rot(file_of(repository, name)) if number % 2 else file_of(repository, name).unlink()
    summary, findings = checked(repository, repairer=Repairer(repository, f"file://{copy}"))
    assert (summary.findings, summary.repaired) == (0, len(victims))
    assert all(finding.is_repaired for finding in findings)
    assert checked(repository)[1] == []
    assert {stored.path: stored.size for stored in repository.store.list("data/")} == everything
    aside = list((repository.folder / "quarantine").iterdir())
    assert len(aside) == len(victims) // 2


def test_catalogs_are_repaired_on_the_way_down_so_that_what_is_below_is_found(repository, copy):
    head = repository.head()
    with repository.catalogs.load(head.root) as root:
        (nested,) = root.nested()
    (file,) = objects_of(repository, "/a/b/3")
    for name in (ObjectName(head.root, Kind.CATALOG), ObjectName(nested.digest, Kind.CATALOG), file):
        rot(file_of(repository, name))
    for name in (
        ObjectName(head.manifest.history, Kind.HISTORY),
        ObjectName(head.manifest.certificate, Kind.CERTIFICATE),
    ):
        file_of(repository, name).unlink()
    repository.catalogs.clear()
    repository._head = None
    summary, _ = checked(repository, repairer=Repairer(repository, f"file://{copy}"))
    assert (summary.findings, summary.repaired) == (0, 5)
    assert checked(repository)[1] == []


def test_a_copy_that_is_rotten_too_repairs_nothing_and_the_damaged_object_stays(repository, copy):
    (name,) = objects_of(repository, "/a/b/3")
    rot(file_of(repository, name))
    rot(copy / name.path)
    before = file_of(repository, name).read_bytes()
    summary, (finding,) = checked(repository, repairer=Repairer(repository, f"file://{copy}"))
    assert (summary.findings, summary.repaired) == (1, 0)
    assert "could not be repaired" in finding.message
    assert file_of(repository, name).read_bytes() == before
    assert not [
        path for path in (repository.settings.storage / "data" / "txn").iterdir() if path.name.startswith("repair")
    ]


def test_a_lost_object_is_not_replaced_by_a_lie(repository, copy):
    (name,) = objects_of(repository, "/a/b/3")
    file_of(repository, name).unlink()
    (copy / name.path).write_bytes(b"a lie")
    summary, _ = checked(repository, repairer=Repairer(repository, f"file://{copy}"))
    assert summary.findings == 1
    assert not file_of(repository, name).exists()


def test_a_copy_cannot_fill_the_disk_with_one_object(repository, copy):
    (name,) = objects_of(repository, "/a/b/3")
    file_of(repository, name).unlink()
    os.truncate(copy / name.path, OBJECT_BYTES_MAX + 1)
    _, (finding,) = checked(repository, repairer=Repairer(repository, f"file://{copy}"))
    assert "exceed the limit" in finding.message
    assert OBJECT_BYTES_MAX <= 1 << 30


@pytest.mark.parametrize("url", ["", "/srv/copy", "ftp://host/x", "host/x"])
def test_a_url_that_cannot_be_fetched_from_is_refused_at_once(repository, url):
    with pytest.raises(UsageError, match="no URL to repair from"):
        Repairer(repository, url)


def test_catalog_builders_and_manifests_are_those_of_the_format(repository):
    """Guards the helpers above: what they sign is a manifest, and what they copy a catalog."""
    signed = SignedText.parse("manifest", (repository.settings.storage / MANIFEST_PATH).read_bytes())
    assert Manifest.parse(signed.body) == repository.head().manifest
    repository.catalogs.copy(repository.head().root, repository.folder / "copy")
    CatalogBuilder.modify(repository.folder / "copy").close()
